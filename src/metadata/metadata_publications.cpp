// Metadata, the part about where an orchestrator (CSI) allows volumes to be used, and the fence of a node that is gone.
//
// Invariants: a volume is published to one node at most; once it is unpublished from a node no writer of that node can get
// the lock back that it had, whether it is dead, cut off or slow: its epoch is no longer the last. Source: DESIGN.md section 4.
#include "metadata/metadata_internal.hpp"

#include "base/log.hpp"

namespace agro {

Task<void> Metadata::register_node(std::string id) {
  if (!check_volume_name(id).has_value()) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("'{}' is no node name: use 1 to 255 letters, digits, '.', '_' and '-', not starting with '-' or '.'",
                               id.substr(0, 300)));
  }
  const NodeRecord node{id, env_.clock.unix_time_ms()};
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    std::vector<KvOp> ops = {keys::put(keys::node(id), encode(node))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit({}, std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("register node");
}

Task<NodeRecord> Metadata::find_node(std::string id) {
  AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::node(id)));
  if (entry.has_value()) co_return decode_node(entry->value);
  co_return fail(Errc::not_found, fmt::format("no agrocsi ever ran as node '{}'", id));
}

Task<std::vector<Publication>> Metadata::publications(VolumeId volume) {
  AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::published(volume)));
  if (!entry.has_value()) co_return std::vector<Publication>();
  co_return decode_publications(entry->value);
}

Task<std::map<VolumeId, VolumeUse>> Metadata::volume_uses() {
  AGRO_CO_TRY(const KvRange range, co_await kv_.list(std::string(keys::kVolumeState)));
  std::map<VolumeId, VolumeUse> all;
  for (const KeyValue& entry : range.entries) {
    const std::string_view rest = std::string_view(entry.key).substr(keys::kVolumeState.size());
    const std::size_t slash = rest.find('/');
    if (slash == std::string_view::npos) continue;
    const std::string_view what = rest.substr(slash + 1);
    if (what != "published" && what != "health") continue;
    AGRO_CO_TRY(const std::uint64_t id, keys::parse_number(rest.substr(0, slash), 16, "volume id"));
    if (what == "health") {
      all[VolumeId{id}].health = entry.value;
    } else {
      AGRO_CO_TRY(all[VolumeId{id}].publications, decode_publications(entry.value));
    }
  }
  co_return all;
}

Task<void> Metadata::publish_volume(VolumeId volume, Publication publication) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const auto record, co_await kv_.get(keys::volume(volume)));
    if (!record.has_value()) co_return fail(Errc::not_found, fmt::format("there is no volume {}", volume.value));
    AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::published(volume)));
    if (entry.has_value()) {
      AGRO_CO_TRY(const std::vector<Publication> present, decode_publications(entry->value));
      for (const Publication& one : present) {
        if (one == publication) co_return Result<void>();
        if (one.node == publication.node) {
          co_return fail(Errc::already_exists,
                         fmt::format("volume {} is published to node '{}' already, in another way", volume.value, one.node));
        }
        co_return fail(Errc::locked, fmt::format("volume {} is published to node '{}'; unpublish it there first",
                                                 volume.value, one.node));
      }
    }
    std::vector<KvCompare> compares = {keys::unchanged(*record)};
    compares.push_back(entry ? keys::unchanged(*entry) : keys::absent(keys::published(volume)));
    std::vector<KvOp> ops = {keys::put(keys::published(volume), encode(std::vector<Publication>{publication}))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("publish volume");
}

Task<std::optional<VolumeLock>> Metadata::unpublish_volume(VolumeId volume, std::string node, std::string holder) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::published(volume)));
    if (!entry.has_value()) co_return std::nullopt;
    AGRO_CO_TRY(std::vector<Publication> left, decode_publications(entry->value));
    if (std::erase_if(left, [&](const Publication& one) { return one.node == node; }) == 0) co_return std::nullopt;
    AGRO_CO_TRY(const VolumeKeys found, co_await read_volume_keys(volume));
    const bool evicts = found.lock.has_value() && found.lock->holder.starts_with(holder);
    std::vector<KvCompare> compares = {keys::unchanged(*entry), keys::unchanged(found.epoch_entry)};
    compares.push_back(found.lock ? keys::unchanged(found.lock_entry) : keys::absent(keys::lock(volume)));
    std::vector<KvOp> ops;
    ops.push_back(left.empty() ? keys::remove(entry->key) : keys::put(entry->key, encode(left)));
    if (evicts) ops.push_back(keys::remove(found.lock_entry.key));
    // Somebody else's lock stays valid, and with it the epoch.
    if (evicts || !found.lock.has_value())
      ops.push_back(keys::put(keys::epoch(volume), std::to_string(found.epoch.value + 1)));
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome != Outcome::committed) continue;
    if (!evicts) co_return std::nullopt;
    // Only so that a writer that lives hears of it soon, and ends its reads: its lock is gone already.
    const Result<void> revoked = co_await kv_.revoke_lease(found.lock->lease);
    if (!revoked.has_value()) log_warning("the lease of {} stays: {}", found.lock->holder, revoked.error().to_string());
    co_return found.lock;
  }
  co_return fail_contended("unpublish volume");
}

}  // namespace agro
