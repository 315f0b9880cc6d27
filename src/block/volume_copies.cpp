// How many copies: going on with fewer while peers are missing, and making the others again.
//
// Invariant: no block is acknowledged with fewer copies than the MDS says are sure. So the lowered
// count is recorded before the first such acknowledgment, and taken back only after everything that
// the volume needs was seen with all its copies, and nothing was acknowledged with fewer meanwhile.
// Source: DESIGN.md section 5.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "base/parallel.hpp"
#include "block/volume.hpp"

namespace agro {
namespace {

/// A connection that broke is often back at once; then nothing needs to be recorded.
constexpr Duration kReconnectPatience = std::chrono::milliseconds(250);
constexpr std::size_t kRestoredAtOnce = 4;
constexpr Duration kRestoreAgain = std::chrono::seconds(1);

}  // namespace

std::uint32_t Volume::min_copies() const {
  const std::uint32_t wanted = blockset_->copy_count();
  if (options_.min_copies != 0) return std::min(options_.min_copies, wanted);
  return wanted <= 2 ? 1 : wanted - 1;
}

std::string Volume::health() const {
  if (failed_) return "failed: " + std::string(errc_name(failed_->code));
  if (!lease_.valid()) return "suspended: its lease is not confirmed";
  if (short_of_space_) return "suspended: the peers are full";
  if (suspended_ && suspended_->code == Errc::no_quorum) return "suspended: too few peers";
  if (suspended_) return "suspended: " + std::string(errc_name(suspended_->code));
  if (recorded_copies_ == 0 || recorded_copies_ >= blockset_->copy_count()) return "";
  return fmt::format("degraded: {} of {} copies are sure", recorded_copies_,
                     blockset_->copy_count());
}

/// Stores a block with all its copies or, when peers are missing, with fewer that are recorded.
/// Those count only when they were made while the record stood: as long as the MDS says that all
/// are sure, a disk may be lost, and a copy that was made before may have been on it.
Task<void> Volume::store_block(BlockRef ref, SharedBytes block, WriteOptions options) {
  options.min_copies = static_cast<std::uint8_t>(min_copies());
  options.hasty = recorded_copies_ != 0;
  while (true) {
    const std::uint64_t record = record_serial_;
    AGRO_CO_TRY(const std::uint32_t copies, co_await blockset_->write(ref, block, options));
    if (copies >= blockset_->copy_count()) co_return Result<void>();
    if (AGRO_MUTANT(kFewerCopiesSucceed)) co_return Result<void>();
    if (recorded_copies_ != 0 && recorded_copies_ <= copies && record_serial_ == record) {
      // No await from here to the acknowledgment.
      ++thin_count_;
      co_return Result<void>();
    }
    if (options.hasty) {
      AGRO_CO_TRY_OK(co_await record_copies(copies));
      if (stopping_jobs_) co_return fail(Errc::closed, "the volume is closed");
      continue;
    }
    options.hasty = true;
    const TimePoint patience = env_.clock.now() + kReconnectPatience;
    co_await wait_until(backend_.peers_changed(), env_.clock, patience);
  }
}

/// Errors: those of VolumeLease::set_degraded.
Task<void> Volume::record_copies(std::uint32_t copies) {
  const AsyncMutex::Guard guard = co_await record_mutex_.lock();
  if (recorded_copies_ != 0 && recorded_copies_ <= copies) co_return Result<void>();
  record_may_exist_ = true;
  record_changed_.notify_all();  // also when the answer is an error: it may exist
  Result<void> recorded = co_await lease_.set_degraded(copies);
  if (!recorded.has_value()) {
    co_return fail(with_context(std::move(recorded).error(),
                                fmt::format("recording that blocks have {} copies", copies)));
  }
  log_warning("volume {}: peers are missing: it goes on with {} of {} copies", id_.value, copies,
              blockset_->copy_count());
  recorded_copies_ = copies;
  ++record_serial_;
  co_return Result<void>();
}

Job Volume::restore_when_possible() {
  bool told = false;
  while (!stopping_jobs_) {
    if (!record_may_exist_) {
      told = false;
      co_await record_changed_.wait();
      continue;
    }
    const bool enough = backend_.ready_count() >= blockset_->copy_count();
    if (enough && !failed_ && lease_.valid()) {
      const Result<bool> restored = co_await restore_copies();
      if (restored.has_value() && *restored) {
        log_warning("volume {}: all blocks have {} copies again", id_.value,
                    blockset_->copy_count());
        continue;
      }
      if (!restored.has_value() && !stopping_jobs_ && !told) {
        log_warning("volume {}: missing copies are not made yet, will try again: {}", id_.value,
                    restored.error().to_string());
        told = true;
      }
    }
    co_await wait_until(stopping_, env_.clock, env_.clock.now() + kRestoreAgain);
  }
}

/// Blocks that the volume cannot be recovered without, of those that are durable.
std::vector<BlockRef> Volume::needed_refs() const {
  std::vector<BlockRef> refs = inode_.live_refs();
  if (inode_.root().index != 0) refs.push_back(inode_.root());
  refs.insert(refs.end(), doomed_.begin(), doomed_.end());
  for (BlockId id = 0; id < map_.table().id_limit(); ++id) {
    if (map_.table()[id].state == BlockState::durable) refs.push_back(ref_of(id));
  }
  // An ancestor's blocks have had their copies since before this volume was.
  std::erase_if(refs, [this](const BlockRef& ref) { return ref.volume != id_; });
  std::sort(refs.begin(), refs.end());
  return refs;
}

/// False: not everything has all its copies yet.
Task<bool> Volume::restore_copies() {
  const std::uint64_t thin_before = thin_count_;
  // What the log needs for its replay alone is needed no longer.
  AGRO_CO_TRY_OK(co_await checkpoint());
  if (thin_count_ != thin_before) co_return false;
  AGRO_CO_TRY(const bool complete, co_await restore_blocks());
  if (!complete) co_return false;
  const AsyncMutex::Guard guard = co_await record_mutex_.lock();
  if (thin_count_ != thin_before) co_return false;
  // From this step on a block with fewer copies must be recorded anew, after us.
  recorded_copies_ = 0;
  ++record_serial_;
  AGRO_CO_TRY_OK(co_await lease_.set_degraded(0));
  record_may_exist_ = false;
  co_return true;
}

Task<bool> Volume::restore_blocks() {
  const std::vector<BlockRef> needed = needed_refs();
  BlockFilter filter;
  filter.volume = id_;
  AGRO_CO_TRY(const Listing listing, co_await backend_.list(filter));
  std::vector<BlockRef> thin;
  std::size_t seen_count = 0;
  for (const Listing::Entry& entry : listing.entries) {
    const bool is_ours = std::binary_search(needed.begin(), needed.end(), entry.ref);
    if (!is_ours && !is_pinned(entry.ref)) continue;
    if (is_ours) ++seen_count;
    if (entry.copy_count < blockset_->copy_count()) thin.push_back(entry.ref);
  }
  if (!thin.empty()) {
    log_info("volume {}: making the missing copies of {} blocks", id_.value, thin.size());
  }
  AGRO_CO_TRY_OK(co_await for_each_parallel(
      thin.size(), kRestoredAtOnce,
      [this, &thin](std::size_t index) { return restore_block(thin[index]); }));
  // One that nobody listed is on missing peers alone, or was deleted just now. Of what snapshots
  // need only what somebody listed is known here; a peer that comes back makes the copies of its
  // own that are missing.
  co_return seen_count == needed.size();
}

Task<void> Volume::restore_block(BlockRef ref) {
  if (stopping_jobs_) co_return fail(Errc::closed, "the volume is closed");
  AGRO_CO_TRY(const SharedBytes block, co_await blockset_->read_block(ref, {}));
  WriteOptions options;
  options.repair = true;
  AGRO_CO_TRY_OK(co_await blockset_->write(ref, block, options));
  const auto pause = std::chrono::nanoseconds(std::uint64_t{1'000'000'000} * kRestoredAtOnce *
                                              block.size() / options_.restore_rate);
  co_await wait_until(stopping_, env_.clock, env_.clock.now() + pause);
  co_return Result<void>();
}

}  // namespace agro
