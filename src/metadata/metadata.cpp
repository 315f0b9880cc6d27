#include "metadata/metadata.hpp"

#include <algorithm>

#include "base/units.hpp"
#include "metadata/metadata_internal.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kVolumeSizeMax = std::uint64_t{1} << 50;

Result<void> check_volume_size(std::uint64_t size) {
  if (size != 0 && size % kPageSize == 0 && size <= kVolumeSizeMax) return {};
  return fail(
      Errc::invalid_argument,
      fmt::format("a volume cannot have {} bytes: use a multiple of 4 KiB up to 1 PiB", size));
}

tl::unexpected<Error> no_such_volume(std::string_view name) {
  return fail(
      Errc::not_found,
      fmt::format("there is no volume '{}'; 'agroctl volume list' shows those there are", name));
}

}  // namespace

Task<void> ClusterWatch::changed() {
  const auto events = co_await watch_->next();
  if (!events.has_value() && events.code() != Errc::outcome_unknown) co_return fail(events.error());
  co_return Result<void>();
}

Result<void> check_volume_name(std::string_view name) {
  const auto allowed = [](char letter) {
    return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
           (letter >= '0' && letter <= '9') || letter == '.' || letter == '_' || letter == '-';
  };
  const bool good = !name.empty() && name.size() <= 255 && name[0] != '-' && name[0] != '.' &&
                    std::all_of(name.begin(), name.end(), allowed);
  if (good) return {};
  return fail(Errc::invalid_argument,
              fmt::format("'{}' is no volume name: use 1 to 255 letters, digits, '.', '_' and '-', "
                          "not starting with '-' or '.'",
                          name.substr(0, 300)));
}

Metadata::Metadata(Env& env, Kv& kv) : env_(env), kv_(kv), random_(env.random.fork()) {}

/// Errors: fenced, when a put's lease has ended; too_large, for a record beyond its limit.
Task<Metadata::Outcome> Metadata::commit(std::vector<KvCompare> compares, std::vector<KvOp> ops) {
  for (const KvOp& op : ops) {
    const std::size_t size_max = op.key == keys::kRing ? kRingRecordSizeMax : kRecordSizeMax;
    if (op.value.size() <= size_max) continue;
    co_return fail(Errc::too_large,
                   fmt::format("the record {} would take {} bytes, and {} is the most: too many "
                               "members or labels?",
                               op.key, op.value.size(), size_max));
  }
  const auto result = co_await kv_.transact(std::move(compares), std::move(ops));
  if (result.has_value()) co_return result->committed ? Outcome::committed : Outcome::refused;
  if (result.code() == Errc::outcome_unknown) co_return Outcome::unknown;
  if (result.code() == Errc::not_found) {
    co_return fail(Errc::fenced, "our lease in the metadata store has ended");
  }
  co_return fail(result.error());
}

Task<void> Metadata::init_cluster(ClusterRecord cluster, RingSpec first_ring) {
  if (cluster.id.is_nil()) cluster.id = make_uuid(random_);
  if (cluster.created_unix_ms == 0) cluster.created_unix_ms = env_.clock.unix_time_ms();
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await kv_.get(std::string(keys::kCluster));
    if (!found.has_value()) co_return fail_read(unresolved, found.error());
    if (found->has_value()) {
      if (unresolved && (*found)->value == encode(cluster)) co_return Result<void>();
      co_return fail(Errc::already_exists, "the metadata store already holds a cluster");
    }
    std::vector<KvCompare> compares = {keys::absent(std::string(keys::kCluster))};
    std::vector<KvOp> ops = {keys::put(keys::kCluster, encode(cluster)),
                             keys::put(keys::kRing, encode(first_ring)),
                             keys::put(keys::kNextVolume, "1")};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("init");
}

Task<ClusterRecord> Metadata::cluster() {
  AGRO_CO_TRY(const auto found, co_await kv_.get(std::string(keys::kCluster)));
  if (!found.has_value()) {
    co_return fail(Errc::not_found, "the metadata store holds no cluster; run 'agroctl init'");
  }
  co_return decode_cluster(found->value);
}

Task<void> Metadata::wipe() {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    std::vector<KvOp> ops = {keys::remove_prefix(keys::kAll)};
    AGRO_CO_TRY(const Outcome outcome, co_await commit({}, std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail(Errc::outcome_unknown, "the wipe may or may not have happened; run it again");
}

/// Errors: those of create_volume() that its arguments and the view can tell.
Result<void> Metadata::check_new_volume(const NewVolume& wanted, const ClusterView& view) {
  AGRO_TRY_OK(check_volume_name(wanted.name));
  AGRO_TRY_OK(check_volume_size(wanted.size));
  const std::size_t peer_count = ring_peers(view.ring).size();
  if (wanted.replication > peer_count) {
    return fail(Errc::invalid_argument,
                fmt::format("{} copies were asked for and the ring has {} peers",
                            wanted.replication, peer_count));
  }
  return {};
}

/// Gives the volume its id and makes its keys; a clone's while its origin and the snapshot are as
/// they were.
Task<Metadata::Outcome> Metadata::commit_new_volume(VolumeRecord& volume, VolumeHead head,
                                                    const KeyValue* snapshot,
                                                    const KeyValue* origin) {
  AGRO_CO_TRY(const auto counter, co_await kv_.get(std::string(keys::kNextVolume)));
  if (!counter.has_value()) {
    co_return fail(Errc::corrupt, "the metadata store lost its counter of volume ids");
  }
  AGRO_CO_TRY(volume.id.value, keys::parse_number(counter->value, 10, "next volume id"));
  if (volume.id.value == 0 || volume.id.value > kVolumeIdMax) {
    co_return fail(Errc::out_of_space, "all volume ids of this cluster are used up");
  }
  std::vector<KvCompare> compares = {keys::unchanged(*counter),
                                     keys::absent(keys::name(volume.name))};
  std::vector<KvOp> ops = {keys::put(keys::kNextVolume, std::to_string(volume.id.value + 1)),
                           keys::put(keys::name(volume.name), keys::volume_text(volume.id)),
                           keys::put(keys::volume(volume.id), encode(volume)),
                           keys::put(keys::head(volume.id), encode(head)),
                           keys::put(keys::epoch(volume.id), std::to_string(head.epoch.value))};
  if (snapshot != nullptr) {
    const SnapshotRecord start{keys::clone_origin(volume.id), head, volume.created_unix_ms};
    compares.push_back(keys::unchanged(*snapshot));
    // The origin's record is put again as it is, so that its deletion sees that there is a clone
    // now.
    compares.push_back(keys::unchanged(*origin));
    ops.push_back(keys::put(origin->key, origin->value));
    ops.push_back(
        keys::put(keys::snapshot(volume.ancestors.back().volume, start.name), encode(start)));
  }
  co_return co_await commit(std::move(compares), std::move(ops));
}

Task<VolumeRecord> Metadata::create_volume(NewVolume wanted) {
  VolumeRecord volume;
  volume.name = wanted.name;
  volume.size = wanted.size;
  volume.replication = wanted.replication;
  volume.created_unix_ms = env_.clock.unix_time_ms();
  std::string unresolved_value;  // what a transaction without an answer would have written
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto view = co_await this->view();
    if (!view.has_value()) co_return fail_read(!unresolved_value.empty(), view.error());
    for (const VolumeRecord& other : view->volumes) {
      if (other.name != wanted.name) continue;
      if (encode(other) == unresolved_value) co_return other;
      co_return fail(Errc::already_exists, fmt::format("volume '{}' exists already", wanted.name));
    }
    AGRO_CO_TRY(const ClusterRecord cluster, co_await this->cluster());
    AGRO_CO_TRY_OK(check_new_volume(wanted, *view));
    volume.block_spec = wanted.block_spec.empty() ? cluster.block_spec : wanted.block_spec;
    VolumeHead head;
    head.size = volume.size;
    AGRO_CO_TRY(const Outcome outcome, co_await commit_new_volume(volume, head, nullptr, nullptr));
    if (outcome == Outcome::committed) co_return volume;
    if (outcome == Outcome::unknown) unresolved_value = encode(volume);
  }
  co_return fail_contended("create volume");
}

Task<std::vector<VolumeRecord>> Metadata::list_volumes() {
  AGRO_CO_TRY(ClusterView all, co_await view());
  std::erase_if(all.volumes,
                [](const VolumeRecord& one) { return one.state != VolumeState::active; });
  co_return std::move(all.volumes);
}

Task<VolumeRecord> Metadata::find_volume(std::string name) {
  AGRO_CO_TRY(const auto named, co_await kv_.get(keys::name(name)));
  if (!named.has_value()) {
    AGRO_CO_TRY_OK(co_await cluster());  // the better message when there is none
    co_return no_such_volume(name);
  }
  AGRO_CO_TRY(const auto id, keys::parse_number(named->value, 16, "volume id"));
  AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::volume({id})));
  if (!entry.has_value()) co_return no_such_volume(name);  // deleted in between
  co_return decode_volume(entry->value);
}

/// Removes all keys of a volume, or, while clones need its blocks, those that make it a volume of
/// users. `tombstone` gets the peers that are to purge it: none, when it is kept.
Task<Metadata::Outcome> Metadata::remove_volume(const KeyValue& entry, const VolumeRecord& volume,
                                                const VolumeKeys& found, bool is_needed,
                                                Tombstone& tombstone) {
  std::vector<KvCompare> compares = {keys::unchanged(found.epoch_entry),
                                     keys::absent(keys::lock(volume.id)), keys::unchanged(entry)};
  std::vector<KvOp> ops = {keys::remove_prefix(keys::snapshot_requests_prefix(volume.id))};
  if (!volume.name.empty()) ops.push_back(keys::remove(keys::name(volume.name)));
  if (is_needed) {
    VolumeRecord kept = volume;
    kept.state = VolumeState::kept;
    kept.name.clear();
    ops.push_back(keys::put(entry.key, encode(kept)));
    co_return co_await commit(std::move(compares), std::move(ops));
  }
  AGRO_CO_TRY(const ClusterView view, co_await this->view());
  tombstone.peers = ring_peers(view.ring);
  for (const PeerView& peer : view.peers) tombstone.peers.push_back(peer.record.id);
  std::sort(tombstone.peers.begin(), tombstone.peers.end());
  tombstone.peers.erase(std::unique(tombstone.peers.begin(), tombstone.peers.end()),
                        tombstone.peers.end());
  ops.push_back(keys::remove(entry.key));
  ops.push_back(keys::remove_prefix(keys::volume_prefix(volume.id)));
  if (!volume.ancestors.empty()) {
    const VolumeId origin = volume.ancestors.back().volume;
    ops.push_back(keys::remove(keys::snapshot(origin, keys::clone_origin(volume.id))));
  }
  if (!tombstone.peers.empty())
    ops.push_back(keys::put(keys::tombstone(volume.id), encode(tombstone)));
  co_return co_await commit(std::move(compares), std::move(ops));
}

Task<Tombstone> Metadata::delete_volume(std::string name, bool with_snapshots) {
  std::optional<Tombstone> unresolved;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto named = co_await find_volume(name);
    const bool gone = named.code() == Errc::not_found;
    if (!named.has_value() && !gone) co_return fail_read(unresolved.has_value(), named.error());
    if (unresolved && (gone || named->id != unresolved->volume)) co_return *unresolved;
    if (gone) co_return fail(named.error());
    const auto entry = co_await kv_.get(keys::volume(named->id));
    if (!entry.has_value()) co_return fail_read(unresolved.has_value(), entry.error());
    const auto found = co_await read_volume_keys(named->id);
    if (!entry->has_value() || found.code() == Errc::not_found)
      continue;  // somebody else deleted it just now
    if (!found.has_value()) co_return fail_read(unresolved.has_value(), found.error());
    AGRO_CO_TRY(const VolumeRecord volume, decode_volume((*entry)->value));
    if (volume.name != name) continue;  // it was renamed just now
    if (found->lock.has_value()) {
      co_return fail(Errc::locked, fmt::format("volume '{}' is open by {}; close it there first",
                                               name, found->lock->holder));
    }
    const auto snapshots = co_await this->snapshots(volume.id, true);
    if (!snapshots.has_value()) co_return fail_read(unresolved.has_value(), snapshots.error());
    bool is_needed = false;
    for (const SnapshotRecord& snapshot : *snapshots) {
      is_needed = is_needed || snapshot.is_clone_origin();
      if (snapshot.is_clone_origin()) continue;
      if (!with_snapshots) {
        co_return fail(Errc::conflict,
                       fmt::format("volume '{}' has snapshots ('{}'); delete them first, or give "
                                   "--snapshots to delete them with it",
                                   name, snapshot.name));
      }
      const auto removed = co_await delete_snapshot(volume, snapshot.name);
      if (!removed.has_value() && removed.code() != Errc::not_found)
        co_return fail(removed.error());
    }
    Tombstone tombstone{volume.id, name, {}, env_.clock.unix_time_ms()};
    const auto outcome = co_await remove_volume(**entry, volume, *found, is_needed, tombstone);
    if (!outcome.has_value()) co_return fail_read(unresolved.has_value(), outcome.error());
    if (*outcome == Outcome::unknown) unresolved = tombstone;
    if (*outcome != Outcome::committed) continue;
    AGRO_CO_TRY_OK(co_await reap_after(volume, is_needed));
    co_return tombstone;
  }
  co_return fail_contended("delete volume");
}

/// After a volume was removed or kept: what nobody needs any more for that reason.
Task<void> Metadata::reap_after(const VolumeRecord& volume, bool was_kept) {
  // The last clone may have gone while it was being kept.
  if (was_kept) co_return co_await reap_kept_volume(volume.id);
  if (volume.ancestors.empty()) co_return Result<void>();
  co_return co_await reap_kept_volume(volume.ancestors.back().volume);
}

Task<void> Metadata::reap_kept_volume(VolumeId id) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::volume(id)));
    if (!entry.has_value()) co_return Result<void>();
    AGRO_CO_TRY(const VolumeRecord volume, decode_volume(entry->value));
    if (volume.state != VolumeState::kept) co_return Result<void>();
    AGRO_CO_TRY(const std::vector<SnapshotRecord> snapshots, co_await this->snapshots(id, true));
    if (!snapshots.empty()) co_return Result<void>();
    const auto found = co_await read_volume_keys(id);
    if (found.code() == Errc::not_found) continue;
    if (!found.has_value()) co_return fail(found.error());
    Tombstone tombstone{id, "", {}, env_.clock.unix_time_ms()};
    AGRO_CO_TRY(const Outcome outcome,
                co_await remove_volume(*entry, volume, *found, false, tombstone));
    if (outcome != Outcome::committed) continue;
    if (volume.ancestors.empty()) co_return Result<void>();
    id = volume.ancestors.back().volume;  // which may have been kept for this one alone
    attempt = 0;
  }
  co_return fail_contended("delete volume");
}

Task<void> Metadata::rename_volume(std::string name, std::string new_name) {
  AGRO_CO_TRY_OK(check_volume_name(new_name));
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto volume = co_await find_volume(name);
    if (volume.code() == Errc::not_found && unresolved) co_return Result<void>();
    if (!volume.has_value()) co_return fail_read(unresolved, volume.error());
    if (name == new_name) co_return Result<void>();
    const auto entry = co_await kv_.get(keys::volume(volume->id));
    if (!entry.has_value()) co_return fail_read(unresolved, entry.error());
    const auto lock = co_await kv_.get(keys::lock(volume->id));
    if (!lock.has_value()) co_return fail_read(unresolved, lock.error());
    if (lock->has_value()) {
      AGRO_CO_TRY(const VolumeLock holder, decode_volume_lock((*lock)->value));
      co_return fail(Errc::locked,
                     fmt::format("volume '{}' is open by {}, which knows it by its name; "
                                 "close it there first",
                                 name, holder.holder));
    }
    const auto taken = co_await kv_.get(keys::name(new_name));
    if (!taken.has_value()) co_return fail_read(unresolved, taken.error());
    if (taken->has_value()) {
      co_return fail(Errc::already_exists, fmt::format("volume '{}' exists already", new_name));
    }
    if (!entry->has_value() || (*entry)->value != encode(*volume)) continue;
    VolumeRecord renamed = *volume;
    renamed.name = new_name;
    std::vector<KvCompare> compares = {keys::unchanged(**entry), keys::absent(keys::name(new_name)),
                                       keys::absent(keys::lock(volume->id))};
    std::vector<KvOp> ops = {keys::remove(keys::name(name)),
                             keys::put(keys::name(new_name), keys::volume_text(volume->id)),
                             keys::put(keys::volume(volume->id), encode(renamed))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("rename volume");
}

/// Adds to `compares` what must stay as it is seen here. The checkpoint's size tells whether what was cut off is
/// still in the map: the volume was closed before it was made smaller, and any opening since wrote another.
Task<void> Metadata::check_resize(VolumeRecord volume, std::uint64_t old_size, VolumeChange change,
                                  std::vector<KvCompare>& compares) {
  if (volume.size == old_size) co_return Result<void>();
  AGRO_CO_TRY(const VolumeKeys found, co_await read_volume_keys(volume.id));
  if (volume.size > old_size) {
    if (found.head.size <= old_size) co_return Result<void>();
    co_return fail(Errc::conflict,
                   fmt::format("volume '{0}' was made smaller and has not been opened since, so that what was beyond "
                               "its end is still there; 'agroctl block snapshot create {0}@NAME' opens it, for one",
                               volume.name));
  }
  if (!change.shrink_after.has_value()) {
    co_return fail(Errc::invalid_argument, fmt::format("volume '{}' has {} bytes; {} would be less, and what is beyond "
                                                       "is lost",
                                                       volume.name, old_size, volume.size));
  }
  if (found.lock.has_value()) {
    co_return fail(Errc::locked, fmt::format("volume '{}' is open by {}; close it there first", volume.name,
                                             found.lock->holder));
  }
  if (found.epoch != *change.shrink_after) {
    co_return fail(Errc::conflict, fmt::format("volume '{}' was opened meanwhile; try again", volume.name));
  }
  compares.push_back(keys::absent(keys::lock(volume.id)));
  compares.push_back(keys::unchanged(found.epoch_entry));
  co_return Result<void>();
}

Task<VolumeRecord> Metadata::change_volume(std::string name, VolumeChange change) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(VolumeRecord volume, co_await find_volume(name));
    AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::volume(volume.id)));
    if (!entry.has_value() || entry->value != encode(volume)) continue;
    std::vector<KvCompare> compares = {keys::unchanged(*entry)};
    const std::uint64_t old_size = volume.size;
    volume.size = change.size.value_or(volume.size);
    volume.read_only = change.read_only.value_or(volume.read_only);
    volume.iops_max = change.iops_max.value_or(volume.iops_max);
    volume.bandwidth_max = change.bandwidth_max.value_or(volume.bandwidth_max);
    volume.aoe_config = change.aoe_config.value_or(volume.aoe_config);
    AGRO_CO_TRY_OK(check_volume_size(volume.size));
    AGRO_CO_TRY_OK(co_await check_resize(volume, old_size, change, compares));
    std::vector<KvOp> ops = {keys::put(entry->key, encode(volume))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return volume;
  }
  co_return fail_contended("change volume");
}

Task<std::vector<Tombstone>> Metadata::tombstones() {
  AGRO_CO_TRY(ClusterView all, co_await view());
  co_return std::move(all.tombstones);
}

Task<void> Metadata::purge_done(VolumeId volume, PeerId peer) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const auto found, co_await kv_.get(keys::tombstone(volume)));
    if (!found.has_value()) co_return Result<void>();
    AGRO_CO_TRY(Tombstone tombstone, decode_tombstone(found->value));
    if (std::erase(tombstone.peers, peer) == 0) co_return Result<void>();
    std::vector<KvCompare> compares = {keys::unchanged(*found)};
    std::vector<KvOp> ops;
    ops.push_back(tombstone.peers.empty() ? keys::remove(found->key)
                                          : keys::put(found->key, encode(tombstone)));
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("purge");
}

}  // namespace agro
