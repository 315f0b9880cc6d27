// Metadata, the part about snapshots and clones.
//
// A snapshot is made by who has the volume open, because only that one knows what was acknowledged.
// Others ask for it by a key in the view. Invariant: while a snapshot's key is there, nothing that
// its head needs is deleted; a clone has such a key of its own among those of its origin.
#include "metadata/metadata_internal.hpp"

namespace agro {
namespace {

tl::unexpected<Error> no_such_snapshot(const VolumeRecord& volume, std::string_view name) {
  return fail(Errc::not_found, fmt::format("volume '{}' has no snapshot '{}'; 'agroctl block "
                                           "snapshot list {}' shows those there are",
                                           volume.name, name, volume.name));
}

}  // namespace

Task<std::uint64_t> Metadata::request_snapshot(VolumeId volume, std::string name,
                                               std::optional<StateId> origin) {
  AGRO_CO_TRY_OK(check_volume_name(name));
  SnapshotRequest request{volume, name, random_.next(), "", env_.clock.unix_time_ms(), origin};
  const std::string key = keys::snapshot_request(volume, name);
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const auto present, co_await kv_.get(key));
    AGRO_CO_TRY(const auto made, co_await kv_.get(keys::snapshot(volume, name)));
    if (present.has_value()) {
      AGRO_CO_TRY(const SnapshotRequest other, decode_snapshot_request(present->value));
      if (other.token == request.token) co_return request.token;
    }
    if (present.has_value() || made.has_value()) {
      co_return fail(Errc::already_exists,
                     fmt::format("snapshot '{}' {}", name,
                                 made ? "exists already" : "is being made by somebody else"));
    }
    std::vector<KvCompare> compares = {keys::absent(key),
                                       keys::absent(keys::snapshot(volume, name)),
                                       keys::present(keys::volume(volume))};
    std::vector<KvOp> ops = {keys::put(key, encode(request))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return request.token;
  }
  co_return fail_contended("snapshot");
}

Task<std::optional<SnapshotRecord>> Metadata::poll_snapshot(VolumeId volume, std::string name,
                                                            std::uint64_t token) {
  AGRO_CO_TRY(const auto asked, co_await kv_.get(keys::snapshot_request(volume, name)));
  if (asked.has_value()) {
    AGRO_CO_TRY(const SnapshotRequest request, decode_snapshot_request(asked->value));
    if (request.token == token && request.problem.empty()) co_return std::nullopt;
    if (request.token == token) {
      AGRO_CO_TRY_OK(co_await withdraw_snapshot(volume, name, token));
      co_return fail(Errc::unavailable, request.problem);
    }
  }
  AGRO_CO_TRY(const auto made, co_await kv_.get(keys::snapshot(volume, name)));
  if (!made.has_value()) {
    co_return fail(Errc::not_found, fmt::format("snapshot '{}' was asked for, but is gone", name));
  }
  co_return decode_snapshot(made->value);
}

Task<void> Metadata::withdraw_snapshot(VolumeId volume, std::string name, std::uint64_t token) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const auto present, co_await kv_.get(keys::snapshot_request(volume, name)));
    if (!present.has_value()) co_return Result<void>();
    AGRO_CO_TRY(const SnapshotRequest request, decode_snapshot_request(present->value));
    if (request.token != token) co_return Result<void>();
    std::vector<KvCompare> compares = {keys::unchanged(*present)};
    std::vector<KvOp> ops = {keys::remove(present->key)};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("snapshot");
}

Task<void> Metadata::record_snapshot(Epoch epoch, std::uint64_t lease, SnapshotRequest request,
                                     VolumeHead head, std::uint64_t note_index) {
  const VolumeId volume = request.volume;
  const SnapshotRecord snapshot{request.name, head, env_.clock.unix_time_ms(), request.origin,
                                note_index};
  VolumeHead start = head;
  start.log_end = 0;
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await read_own_keys(volume, epoch, lease);
    if (!found.has_value()) co_return fail(found.error());
    const auto made = co_await kv_.get(keys::snapshot(volume, request.name));
    if (!made.has_value()) co_return fail_read(unresolved, made.error());
    if (unresolved && made->has_value() && (*made)->value == encode(snapshot))
      co_return Result<void>();
    const auto asked = co_await kv_.get(keys::snapshot_request(volume, request.name));
    if (!asked.has_value()) co_return fail_read(unresolved, asked.error());
    if (!asked->has_value() || made->has_value()) {
      co_return fail(Errc::not_found,
                     fmt::format("snapshot '{}' is not asked for any more", request.name));
    }
    AGRO_CO_TRY(const SnapshotRequest present, decode_snapshot_request((*asked)->value));
    if (present.token != request.token)
      co_return fail(Errc::not_found, "another snapshot was asked for");
    VolumeHead committed = found->head;
    committed.size = start.size;  // it may have grown since its checkpoint
    if (committed != start) co_return fail(Errc::conflict, "the volume has a newer checkpoint");
    std::vector<KvCompare> compares = {keys::unchanged(found->lock_entry),
                                       keys::unchanged(found->epoch_entry),
                                       keys::unchanged(found->head_entry), keys::unchanged(**asked),
                                       keys::absent(keys::snapshot(volume, request.name))};
    std::vector<KvOp> ops = {keys::put(keys::snapshot(volume, request.name), encode(snapshot)),
                             keys::remove((*asked)->key)};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("snapshot");
}

Task<void> Metadata::refuse_snapshot(SnapshotRequest request, std::string problem) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const auto asked,
                co_await kv_.get(keys::snapshot_request(request.volume, request.name)));
    if (!asked.has_value()) co_return Result<void>();
    AGRO_CO_TRY(SnapshotRequest present, decode_snapshot_request(asked->value));
    if (present.token != request.token || present.problem == problem) co_return Result<void>();
    present.problem = problem;
    std::vector<KvCompare> compares = {keys::unchanged(*asked)};
    std::vector<KvOp> ops = {keys::put(asked->key, encode(present))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("snapshot");
}

Task<std::vector<SnapshotRecord>> Metadata::snapshots(VolumeId volume, bool clone_origins) {
  AGRO_CO_TRY(const KvRange range, co_await kv_.list(keys::snapshots_prefix(volume)));
  std::vector<SnapshotRecord> all;
  for (const KeyValue& entry : range.entries) {
    AGRO_CO_TRY(SnapshotRecord snapshot, decode_snapshot(entry.value));
    if (clone_origins || !snapshot.is_clone_origin()) all.push_back(std::move(snapshot));
  }
  co_return all;
}

Task<SnapshotRecord> Metadata::find_snapshot(VolumeRecord volume, std::string name) {
  AGRO_CO_TRY(const auto entry, co_await kv_.get(keys::snapshot(volume.id, name)));
  if (!entry.has_value() || name.starts_with('@')) co_return no_such_snapshot(volume, name);
  co_return decode_snapshot(entry->value);
}

Task<void> Metadata::delete_snapshot(VolumeRecord volume, std::string name) {
  if (name.starts_with('@')) co_return no_such_snapshot(volume, name);
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto entry = co_await kv_.get(keys::snapshot(volume.id, name));
    if (!entry.has_value()) co_return fail_read(unresolved, entry.error());
    if (!entry->has_value() && unresolved) co_return Result<void>();
    if (!entry->has_value()) co_return no_such_snapshot(volume, name);
    std::vector<KvCompare> compares = {keys::unchanged(**entry)};
    std::vector<KvOp> ops = {keys::remove((*entry)->key)};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("delete snapshot");
}

/// The epoch moves too, so that no block of before is taken for the log of what comes.
Task<void> Metadata::restore_snapshot(VolumeRecord volume, std::string name) {
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto entry = co_await kv_.get(keys::snapshot(volume.id, name));
    if (!entry.has_value()) co_return fail_read(unresolved, entry.error());
    if (!entry->has_value() || name.starts_with('@')) co_return no_such_snapshot(volume, name);
    AGRO_CO_TRY(const SnapshotRecord snapshot, decode_snapshot((*entry)->value));
    const auto record = co_await kv_.get(keys::volume(volume.id));
    if (!record.has_value()) co_return fail_read(unresolved, record.error());
    const auto found = co_await read_volume_keys(volume.id);
    if (!found.has_value()) co_return fail_read(unresolved, found.error());
    if (unresolved && found->head == snapshot.head) co_return Result<void>();
    if (found->lock.has_value()) {
      co_return fail(Errc::locked, fmt::format("volume '{}' is open by {}; close it there first",
                                               volume.name, found->lock->holder));
    }
    if (!record->has_value()) co_return fail(Errc::not_found, "the volume was deleted");
    AGRO_CO_TRY(VolumeRecord resized, decode_volume((*record)->value));
    resized.size = snapshot.head.size;
    const std::string next_epoch = std::to_string(found->epoch.value + 1);
    std::vector<KvCompare> compares = {
        keys::unchanged(**entry), keys::unchanged(**record), keys::absent(keys::lock(volume.id)),
        keys::unchanged(found->epoch_entry), keys::unchanged(found->head_entry)};
    std::vector<KvOp> ops = {keys::put(keys::head(volume.id), encode(snapshot.head)),
                             keys::put(keys::volume(volume.id), encode(resized)),
                             keys::put(keys::epoch(volume.id), next_epoch)};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("restore snapshot");
}

Task<VolumeRecord> Metadata::clone_volume(NewClone wanted) {
  std::string unresolved_value;  // what a transaction without an answer would have written
  VolumeRecord clone = wanted.origin;
  clone.name = wanted.name;
  clone.created_unix_ms = env_.clock.unix_time_ms();
  clone.iops_max = clone.bandwidth_max = 0;
  clone.aoe_config.clear();
  clone.read_only = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto named = co_await find_volume(wanted.name);
    if (named.has_value()) {
      if (encode(*named) == unresolved_value) co_return *named;
      co_return fail(Errc::already_exists, fmt::format("volume '{}' exists already", wanted.name));
    }
    if (named.code() != Errc::not_found)
      co_return fail_read(!unresolved_value.empty(), named.error());
    const auto entry = co_await kv_.get(keys::snapshot(wanted.origin.id, wanted.snapshot));
    if (!entry.has_value()) co_return fail_read(!unresolved_value.empty(), entry.error());
    if (!entry->has_value() || wanted.snapshot.starts_with('@')) {
      co_return no_such_snapshot(wanted.origin, wanted.snapshot);
    }
    AGRO_CO_TRY(const SnapshotRecord snapshot, decode_snapshot((*entry)->value));
    const auto origin = co_await kv_.get(keys::volume(wanted.origin.id));
    if (!origin.has_value()) co_return fail_read(!unresolved_value.empty(), origin.error());
    if (!origin->has_value()) co_return fail(Errc::not_found, "the volume was deleted");
    clone.size = snapshot.head.size;
    clone.ancestors = wanted.origin.ancestors;
    clone.ancestors.push_back({wanted.origin.id, snapshot.head.epoch});
    AGRO_CO_TRY_OK(check_new_volume({clone.name, clone.size, clone.block_spec, 0}, {}));
    AGRO_CO_TRY(const Outcome outcome,
                co_await commit_new_volume(clone, snapshot.head, &**entry, &**origin));
    if (outcome == Outcome::committed) co_return clone;
    if (outcome == Outcome::unknown) unresolved_value = encode(clone);
  }
  co_return fail_contended("clone volume");
}

}  // namespace agro
