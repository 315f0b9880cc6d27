#include "metadata/metadata.hpp"

#include <algorithm>

#include "base/units.hpp"
#include "metadata/metadata_internal.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kVolumeSizeMax = std::uint64_t{1} << 50;

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

/// Errors: fenced, when a put's lease has ended; too_large, for a record beyond kRecordSizeMax.
Task<Metadata::Outcome> Metadata::commit(std::vector<KvCompare> compares, std::vector<KvOp> ops) {
  for (const KvOp& op : ops) {
    if (op.value.size() <= kRecordSizeMax) continue;
    co_return fail(Errc::too_large,
                   fmt::format("the record {} would take {} bytes, and {} is the most: too many "
                               "members or labels?",
                               op.key, op.value.size(), kRecordSizeMax));
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
  if (wanted.size == 0 || wanted.size % kPageSize != 0 || wanted.size > kVolumeSizeMax) {
    return fail(Errc::invalid_argument,
                fmt::format("a volume cannot have {} bytes: use a multiple of 4 KiB up to 1 PiB",
                            wanted.size));
  }
  const std::size_t peer_count = ring_peers(view.ring).size();
  if (wanted.replication > peer_count) {
    return fail(Errc::invalid_argument,
                fmt::format("{} copies were asked for and the ring has {} peers",
                            wanted.replication, peer_count));
  }
  return {};
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
    AGRO_CO_TRY(const auto counter, co_await kv_.get(std::string(keys::kNextVolume)));
    if (!counter.has_value()) {
      co_return fail(Errc::corrupt, "the metadata store lost its counter of volume ids");
    }
    AGRO_CO_TRY(volume.id.value, keys::parse_number(counter->value, 10, "next volume id"));
    if (volume.id.value == 0 || volume.id.value > kVolumeIdMax) {
      co_return fail(Errc::out_of_space, "all volume ids of this cluster are used up");
    }
    VolumeHead head;
    head.size = volume.size;
    std::vector<KvCompare> compares = {keys::unchanged(*counter),
                                       keys::absent(keys::name(volume.name))};
    std::vector<KvOp> ops = {keys::put(keys::kNextVolume, std::to_string(volume.id.value + 1)),
                             keys::put(keys::name(volume.name), keys::volume_text(volume.id)),
                             keys::put(keys::volume(volume.id), encode(volume)),
                             keys::put(keys::head(volume.id), encode(head)),
                             keys::put(keys::epoch(volume.id), "0")};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return volume;
    if (outcome == Outcome::unknown) unresolved_value = encode(volume);
  }
  co_return fail_contended("create volume");
}

Task<std::vector<VolumeRecord>> Metadata::list_volumes() {
  AGRO_CO_TRY(ClusterView all, co_await view());
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

Task<Tombstone> Metadata::delete_volume(std::string name) {
  std::optional<Tombstone> unresolved;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto view = co_await this->view();
    if (!view.has_value()) co_return fail_read(unresolved.has_value(), view.error());
    const auto volume =
        std::find_if(view->volumes.begin(), view->volumes.end(),
                     [&name](const VolumeRecord& record) { return record.name == name; });
    const bool gone = volume == view->volumes.end();
    if (unresolved && (gone || volume->id != unresolved->volume)) co_return *unresolved;
    if (gone) {
      AGRO_CO_TRY_OK(co_await cluster());
      co_return no_such_volume(name);
    }
    const auto found = co_await read_volume_keys(volume->id);
    if (!found.has_value()) {
      if (found.code() == Errc::not_found) continue;  // somebody else deleted it just now
      co_return fail_read(unresolved.has_value(), found.error());
    }
    if (found->lock.has_value()) {
      co_return fail(Errc::locked, fmt::format("volume '{}' is open by {}; close it there first",
                                               name, found->lock->holder));
    }
    Tombstone tombstone{.volume = volume->id,
                        .name = name,
                        .peers = ring_peers(view->ring),
                        .deleted_unix_ms = env_.clock.unix_time_ms()};
    for (const PeerView& peer : view->peers) tombstone.peers.push_back(peer.record.id);
    std::sort(tombstone.peers.begin(), tombstone.peers.end());
    tombstone.peers.erase(std::unique(tombstone.peers.begin(), tombstone.peers.end()),
                          tombstone.peers.end());
    std::vector<KvCompare> compares = {keys::unchanged(found->epoch_entry),
                                       keys::absent(keys::lock(volume->id)),
                                       keys::present(keys::volume(volume->id))};
    std::vector<KvOp> ops = {keys::remove(keys::name(name)), keys::remove(keys::volume(volume->id)),
                             keys::remove_prefix(keys::volume_prefix(volume->id))};
    if (!tombstone.peers.empty()) {
      ops.push_back(keys::put(keys::tombstone(volume->id), encode(tombstone)));
    }
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return tombstone;
    if (outcome == Outcome::unknown) unresolved = tombstone;
  }
  co_return fail_contended("delete volume");
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
