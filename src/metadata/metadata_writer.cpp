// Metadata, the part for the one writer of a volume: lock, epoch, INode pointer.
#include "metadata/metadata_internal.hpp"

namespace agro {
namespace {

tl::unexpected<Error> fail_fenced(VolumeId volume, Epoch epoch, std::string_view why) {
  return fail(Errc::fenced, fmt::format("volume {} is no longer ours (epoch {}): {}", volume.value,
                                        epoch.value, why));
}

}  // namespace

/// Errors: not_found, when there is no such volume.
Task<Metadata::VolumeKeys> Metadata::read_volume_keys(VolumeId volume) {
  AGRO_CO_TRY(const KvRange range, co_await kv_.list(keys::volume_prefix(volume)));
  VolumeKeys found;
  bool has_head = false;
  bool has_epoch = false;
  for (const KeyValue& entry : range.entries) {
    if (entry.key == keys::head(volume)) {
      AGRO_CO_TRY(found.head, decode_volume_head(entry.value));
      found.head_entry = entry;
      has_head = true;
    } else if (entry.key == keys::epoch(volume)) {
      AGRO_CO_TRY(found.epoch.value, keys::parse_number(entry.value, 10, "epoch"));
      found.epoch_entry = entry;
      has_epoch = true;
    } else if (entry.key == keys::lock(volume)) {
      AGRO_CO_TRY(found.lock, decode_volume_lock(entry.value));
      found.lock_entry = entry;
    } else if (entry.key == keys::degraded(volume)) {
      AGRO_CO_TRY(const auto copies, keys::parse_number(entry.value, 10, "copy count"));
      found.degraded_copies = static_cast<std::uint32_t>(copies);
      found.degraded_entry = entry;
    }
  }
  if (!has_head && !has_epoch) {
    co_return fail(Errc::not_found,
                   fmt::format("there is no volume {}; was it deleted?", volume.value));
  }
  if (!has_head || !has_epoch) {
    co_return fail(
        Errc::corrupt,
        fmt::format("the metadata store lost the head or epoch of volume {}", volume.value));
  }
  co_return found;
}

/// Errors: fenced, unless lock and epoch are the caller's.
Task<Metadata::VolumeKeys> Metadata::read_own_keys(VolumeId volume, Epoch epoch,
                                                   std::uint64_t lease) {
  auto found = co_await read_volume_keys(volume);
  if (found.code() == Errc::not_found) co_return fail_fenced(volume, epoch, "it was deleted");
  if (!found.has_value()) co_return fail(found.error());
  if (found->epoch != epoch) {
    co_return fail_fenced(volume, epoch,
                          found->lock ? "it was opened by " + found->lock->holder
                                      : "it was opened by somebody else since");
  }
  if (!found->lock.has_value()) co_return fail_fenced(volume, epoch, "our lease has ended");
  if (found->lock->lease != lease || found->lock->epoch != epoch) {
    co_return fail_fenced(volume, epoch, "its lock is held by " + found->lock->holder);
  }
  co_return std::move(*found);
}

Task<VolumeHead> Metadata::head(VolumeId volume) {
  AGRO_CO_TRY(const VolumeKeys found, co_await read_volume_keys(volume));
  co_return found.head;
}

Task<std::optional<VolumeLock>> Metadata::lock_of(VolumeId volume) {
  AGRO_CO_TRY(const VolumeKeys found, co_await read_volume_keys(volume));
  co_return found.lock;
}

Task<AcquiredVolume> Metadata::acquire_volume(VolumeId volume, std::uint64_t lease,
                                              std::string holder) {
  VolumeLock lock{.holder = std::move(holder),
                  .lease = lease,
                  .epoch = {},
                  .token = random_.next(),
                  .acquired_unix_ms = env_.clock.unix_time_ms()};
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto record = co_await kv_.get(keys::volume(volume));
    if (!record.has_value()) co_return fail_read(unresolved, record.error());
    const auto found = co_await read_volume_keys(volume);
    if (!found.has_value() && found.code() != Errc::not_found) {
      co_return fail_read(unresolved, found.error());
    }
    if (!found.has_value() || !record->has_value()) {
      co_return fail(Errc::not_found,
                     fmt::format("there is no volume {}; was it deleted?", volume.value));
    }
    AGRO_CO_TRY(VolumeRecord decoded, decode_volume((*record)->value));
    if (decoded.state != VolumeState::active) {
      co_return fail(Errc::not_found, fmt::format("volume {} was deleted", volume.value));
    }
    AcquiredVolume acquired{.volume = std::move(decoded),
                            .head = found->head,
                            .epoch = found->epoch,
                            .degraded_copies = found->degraded_copies};
    if (found->lock.has_value()) {
      if (unresolved && found->lock->token == lock.token) co_return acquired;
      co_return fail(Errc::locked, fmt::format("volume '{}' is open by {}", acquired.volume.name,
                                               found->lock->holder));
    }
    acquired.epoch.value += 1;
    lock.epoch = acquired.epoch;
    std::vector<KvCompare> compares = {
        keys::absent(keys::lock(volume)), keys::unchanged(found->epoch_entry),
        keys::unchanged(found->head_entry), keys::unchanged(**record)};
    std::vector<KvOp> ops = {keys::put(keys::lock(volume), encode(lock), lease),
                             keys::put(keys::epoch(volume), std::to_string(acquired.epoch.value))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return acquired;
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("open volume");
}

Task<void> Metadata::resume_volume(VolumeId volume, Epoch epoch, std::uint64_t lease,
                                   std::string holder, std::uint32_t degraded_copies) {
  const VolumeLock lock{.holder = std::move(holder),
                        .lease = lease,
                        .epoch = epoch,
                        .token = random_.next(),
                        .acquired_unix_ms = env_.clock.unix_time_ms()};
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await read_volume_keys(volume);
    if (found.code() == Errc::not_found) co_return fail_fenced(volume, epoch, "it was deleted");
    if (!found.has_value()) co_return fail(found.error());
    if (found->epoch != epoch) {
      co_return fail_fenced(volume, epoch, "it was opened by somebody else since");
    }
    if (found->lock.has_value() && found->lock->lease == lease) co_return Result<void>();
    // A lock of our own epoch under our old lease may still be there: nobody else can have made it.
    std::vector<KvCompare> compares = {keys::unchanged(found->epoch_entry)};
    compares.push_back(found->lock ? keys::unchanged(found->lock_entry)
                                   : keys::absent(keys::lock(volume)));
    std::vector<KvOp> ops = {keys::put(keys::lock(volume), encode(lock), lease)};
    if (degraded_copies != 0) {
      ops.push_back(keys::put(keys::degraded(volume), std::to_string(degraded_copies)));
    }
    const auto outcome = co_await commit(std::move(compares), std::move(ops));
    // The lease is gone, and not the volume: another lease may do.
    if (outcome.code() == Errc::fenced) co_return fail(Errc::unavailable, outcome.error().message);
    if (!outcome.has_value()) co_return fail(outcome.error());
    if (*outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("resume volume");
}

Task<void> Metadata::release_volume(VolumeId volume, Epoch epoch, std::uint64_t lease) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await read_own_keys(volume, epoch, lease);
    if (found.code() == Errc::fenced) co_return Result<void>();
    if (!found.has_value()) co_return fail(found.error());
    std::vector<KvCompare> compares = {keys::unchanged(found->lock_entry)};
    std::vector<KvOp> ops = {keys::remove(keys::lock(volume))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("close volume");
}

Task<void> Metadata::commit_head(VolumeId volume, Epoch epoch, std::uint64_t lease,
                                 VolumeHead head) {
  AGRO_ASSERT(head.epoch <= epoch);
  AGRO_ASSERT(head.checkpoint_epoch <= epoch);
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await read_own_keys(volume, epoch, lease);
    // Fenced with an unresolved transaction: the head may have moved, but we must stop either way.
    if (found.code() == Errc::fenced) co_return fail(found.error());
    if (!found.has_value()) co_return fail_read(unresolved, found.error());
    if (unresolved && found->head == head) co_return Result<void>();
    // Naming the head's revision makes a transaction that arrives late harmless.
    std::vector<KvCompare> compares = {keys::unchanged(found->lock_entry),
                                       keys::unchanged(found->epoch_entry),
                                       keys::unchanged(found->head_entry)};
    std::vector<KvOp> ops = {keys::put(keys::head(volume), encode(head))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("checkpoint");
}

Task<void> Metadata::set_degraded(VolumeId volume, Epoch epoch, std::uint64_t lease,
                                  std::uint32_t copies) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await read_own_keys(volume, epoch, lease);
    if (!found.has_value()) co_return fail(found.error());
    if (copies == 0 && !found->degraded_copies.has_value()) co_return Result<void>();
    // It is put also where it is the same, and its revision is named: a removal that was given up for
    // lost and arrives late must find another.
    std::vector<KvCompare> compares = {keys::unchanged(found->lock_entry),
                                       keys::unchanged(found->epoch_entry)};
    compares.push_back(found->degraded_copies ? keys::unchanged(found->degraded_entry)
                                              : keys::absent(keys::degraded(volume)));
    std::vector<KvOp> ops;
    ops.push_back(copies == 0 ? keys::remove(keys::degraded(volume))
                              : keys::put(keys::degraded(volume), std::to_string(copies)));
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("record of the copy count");
}

Task<void> Metadata::clear_degraded(VolumeId volume, Epoch epoch) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const VolumeKeys found, co_await read_volume_keys(volume));
    if (found.lock.has_value() || found.epoch != epoch) {
      co_return fail(Errc::conflict, fmt::format("volume {} was opened meanwhile", volume.value));
    }
    if (!found.degraded_copies.has_value()) co_return Result<void>();
    std::vector<KvCompare> compares = {keys::absent(keys::lock(volume)),
                                       keys::unchanged(found.epoch_entry),
                                       keys::unchanged(found.degraded_entry)};
    std::vector<KvOp> ops = {keys::remove(keys::degraded(volume))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("record of the copy count");
}

Task<void> Metadata::set_health(VolumeId volume, Epoch epoch, std::uint64_t lease,
                                std::string text) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await read_own_keys(volume, epoch, lease);
    if (!found.has_value()) co_return fail(found.error());
    std::vector<KvCompare> compares = {keys::unchanged(found->lock_entry),
                                       keys::unchanged(found->epoch_entry)};
    std::vector<KvOp> ops;
    ops.push_back(text.empty() ? keys::remove(keys::health(volume))
                               : keys::put(keys::health(volume), text, lease));
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("health of a volume");
}

Task<std::string> Metadata::health_of(VolumeId volume) {
  AGRO_CO_TRY(const auto found, co_await kv_.get(keys::health(volume)));
  co_return found.has_value() ? found->value : std::string();
}

}  // namespace agro
