// Checkpoints: the INode follows the log, and what it no longer needs is deleted.
#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "block/volume.hpp"

namespace agro {
namespace {

constexpr std::size_t kRemovesAtOnce = 4096;
constexpr std::uint64_t kDeadPartOfSpace = 128;  // waits to be deleted at most, where there is little
constexpr std::size_t kEvictRoundsOfCheckpoint = 1024;
/// A volume nobody writes to gets its checkpoint soon, so that the next opening replays nothing.
constexpr Duration kIdleCheckpoint = std::chrono::seconds(5);
/// An open one, and what a write of a whole buffer may open.
constexpr std::uint64_t kSegmentsToGoOn = 3;

}  // namespace

/// So many that a checkpoint would let the map shrink.
bool Volume::has_many_dirty_pages() const {
  constexpr std::size_t kFew = 8;
  const std::size_t dirty = map_.dirty_map_page_count();
  return dirty >= kFew && dirty >= map_.map().resident_pages().size() / 4;
}

std::uint64_t Volume::dead_bytes() const {
  return (map_.dead_sector_count() + map_.dead_count()) * kSectorSize;
}

/// A batch of some MiB, or less where space is short.
bool Volume::freeing_is_due() const {
  if (map_.dead_count() == 0) return false;
  if (short_of_space_) return true;
  std::uint64_t batch = options_.dead_bytes_max / 8;
  const Space space = backend_.space();
  if (space.size != 0) batch = std::min(batch, space.size / kDeadPartOfSpace / blockset_->copy_count());
  return dead_bytes() >= std::min(dead_bytes_left_, dead_bytes()) + batch;
}

/// Deletes, without a checkpoint, dead blocks that the committed one covers. It names them still, but who recovers from it
/// replays the log that says that they are dead, and reads none of them; the log is durable that far, with all of its copies.
void Volume::free_covered_blocks() {
  if (!is_open_ || !is_usable() || recorded_copies_ != 0) return;
  const std::uint64_t durable = AGRO_MUTANT(kFreedBeforeDurable) ? UINT64_MAX : durable_sequence_;
  const std::uint64_t before = dead_bytes();
  std::vector<BlockRef> refs = map_.take_dead(lineage_, {lease_.epoch(), covered_sequence_}, durable);
  dead_bytes_left_ = dead_bytes();
  delete_blocks(std::move(refs), before - dead_bytes_left_);
}

/// Whether what is dead would be a good part of what is left.
bool Volume::dead_bytes_are_missed() const {
  const double some = static_cast<double>(backend_.space().size) * kScarceShare / 2;
  const double dead = static_cast<double>(dead_bytes());
  return is_space_scarce() && dead >= std::min(static_cast<double>(options_.dead_bytes_max) / 4,
                                               some / blockset_->copy_count());
}

bool Volume::checkpoint_is_due() const {
  return log_bytes_ >= options_.checkpoint_after_bytes ||
         log_blocks_ >= options_.checkpoint_after_blocks ||
         (map_share_.is_over() && has_many_dirty_pages()) ||
         dead_bytes() >= options_.dead_bytes_max || (short_of_space_ && map_.dead_count() > 0) ||
         dead_bytes_are_missed();
}

Task<void> Volume::checkpoint() {
  const AsyncMutex::Guard guard = co_await checkpoint_mutex_.lock();
  co_return co_await checkpoint_locked();
}

Task<void> Volume::checkpoint_locked() {
  AGRO_CO_TRY_OK(check_usable());
  // The instant of the checkpoint: no await from here to begin_checkpoint().
  seal();
  const std::uint64_t covered = last_sequence_;
  free_covered_blocks();
  doomed_bytes_ += dead_bytes();
  const std::vector<BlockRef> dead = map_.take_dead(lineage_);
  doomed_.insert(doomed_.end(), dead.begin(), dead.end());
  if (AGRO_MUTANT(kFreedBeforeCommit)) delete_blocks(std::exchange(doomed_, {}));
  std::vector<PageKey> moving;
  for (const PageKey key : inode_.pages_to_move()) {
    if (key.kind == PageKind::table || map_.is_page_loaded(key.index)) {
      map_.mark_dirty(key);
    } else {
      moving.push_back(key);
    }
  }
  map_.begin_checkpoint();
  const std::uint64_t log_bytes = std::exchange(log_bytes_, 0);
  const std::uint64_t log_blocks = std::exchange(log_blocks_, 0);
  std::vector<PageKey> taken;
  BlockRef root;
  const std::uint64_t bytes_before = inode_.bytes_written();
  Result<void> written = co_await write_inode(taken, std::move(moving), covered, root);
  metric_checkpoint_bytes_.add(inode_.bytes_written() - bytes_before);
  const LogHead head{lease_.epoch(), root.epoch, root.index, covered};
  if (written.has_value()) written = co_await lease_.commit(head);
  if (!written.has_value()) {
    map_.abort_checkpoint(taken);
    log_bytes_ += log_bytes;
    log_blocks_ += log_blocks;
    if (written.code() == Errc::fenced) fail_device(written.error());
    co_return written;
  }
  map_.end_checkpoint(taken);
  map_share_.settle(kEvictRoundsOfCheckpoint);
  covered_sequence_ = covered;
  committed_head_ = head;
  // Of doomed_, what died after the instant came in through a later take_dead(), which the mutex
  // keeps out: all of it was dead at the instant.
  std::vector<BlockRef> refs = std::exchange(doomed_, {});
  const std::vector<BlockRef> garbage = inode_.take_garbage();
  refs.insert(refs.end(), garbage.begin(), garbage.end());
  delete_blocks(std::move(refs), std::exchange(doomed_bytes_, 0));
  co_return Result<void>();
}

Task<void> Volume::write_inode(std::vector<PageKey>& taken, std::vector<PageKey> moving,
                               std::uint64_t covered, BlockRef& root) {
  AGRO_CO_TRY_OK(co_await wait_durable(covered));
  PageKey key;
  std::vector<std::byte> bytes;
  std::size_t count = 0;
  while (map_.take_page(key, bytes)) {
    taken.push_back(key);
    AGRO_CO_TRY_OK(co_await inode_.put_page(key, std::move(bytes), lease_.epoch()));
    bytes = {};
    if (++count % 16 == 0) co_await yield_to_loop();
  }
  AGRO_CO_TRY_OK(co_await move_pages(std::move(moving)));
  InodeMeta meta{id_, size_bytes_, covered, lease_.epoch(), options_.description};
  AGRO_CO_TRY(root, co_await inode_.finish(std::move(meta)));
  co_return Result<void>();
}

/// Deletes what nobody needs but perhaps a snapshot or another volume: what is one of those is gc's.
void Volume::delete_blocks(std::vector<BlockRef> refs, std::uint64_t size) {
  std::erase_if(refs, [this](const BlockRef& ref) { return is_pinned(ref); });
  if (refs.empty()) return;
  ++removal_count_;
  removing_bytes_ += size;
  jobs_.spawn(remove_blocks(std::move(refs), size));
}

Job Volume::remove_blocks(std::vector<BlockRef> refs, std::uint64_t size) {
  for (std::size_t begin = 0; begin < refs.size(); begin += kRemovesAtOnce) {
    const std::size_t end = std::min(begin + kRemovesAtOnce, refs.size());
    std::vector<BlockRef> batch(refs.begin() + static_cast<std::ptrdiff_t>(begin),
                                refs.begin() + static_cast<std::ptrdiff_t>(end));
    const Result<void> removed = co_await backend_.remove(std::move(batch));
    // Copies that stay behind cost space, not correctness: the sweep of the next opening finds them.
    if (!removed.has_value()) {
      log_warning("volume {}: dead blocks stay until the volume is opened again: {}", id_.value,
                  removed.error().to_string());
    }
  }
  --removal_count_;
  removing_bytes_ -= size;
  progress_.notify_all();
}

/// What is on its way is waited for. A checkpoint only where it alone gives something back.
Task<void> Volume::free_dead_blocks() {
  seal();
  AGRO_CO_TRY_OK(co_await wait_durable(last_sequence_));
  free_covered_blocks();
  if (removal_count_ == 0 && map_.dead_count() > 0) {
    AGRO_CO_TRY_OK(co_await checkpoint());
  }
  while (removal_count_ > 0 && !stopping_jobs_) co_await progress_.wait();
  co_return Result<void>();
}

Job Volume::checkpoint_when_due() {
  Duration pause = options_.retry_after;  // longer after each failure: they cost space, too
  while (!stopping_jobs_) {
    const TimePoint wake_at = env_.clock.now() + kIdleCheckpoint;
    co_await wait_until(checkpoint_wanted_, env_.clock, wake_at);
    if (stopping_jobs_ || failed_) continue;
    // Users who wait for space are not busy, but not idle either: then there are calls.
    const bool idle = env_.clock.now() >= wake_at && !is_busy() && (log_blocks_ > 0 || map_.dead_count() > 0);
    // What died before a failed one is counted nowhere else, and users may be waiting for its space.
    const bool failed_before = pause != options_.retry_after;
    free_covered_blocks();
    if (!checkpoint_is_due() && !idle && !failed_before) continue;
    const Result<void> done = co_await checkpoint();
    if (done.has_value()) pause = options_.retry_after;
    if (!done.has_value() && !stopping_jobs_ && !failed_) {
      log_warning("volume {}: checkpoint failed, will try again: {}", id_.value,
                  done.error().to_string());
      co_await wait_until(stopping_, env_.clock, env_.clock.now() + pause);
      pause = std::min(pause * 2, kIdleCheckpoint);
    }
  }
}

void Volume::note_space_shortage() {
  if (!short_of_space_) log_warning("volume {}: the peers are full: writes wait for space", id_.value);
  short_of_space_ = true;
  free_covered_blocks();
  clean_wanted_.notify_all();
  checkpoint_wanted_.notify_all();
}

bool Volume::nothing_to_free() const {
  return in_flight_.empty() && map_.dead_count() == 0 && doomed_.empty() && removal_count_ == 0 &&
         !cleaning_gains();
}

/// Users go on when the peers have room again, beyond the reserve: a good deal of it, or what there is once
/// nothing more can be freed, if it is enough for a write.
void Volume::end_space_shortage() {
  if (!short_of_space_) return;
  const std::uint64_t plenty =
      std::uint64_t{2} * blockset_->copy_count() * options_.in_flight_size_max / 4;
  const std::uint64_t least = space_of(kSegmentsToGoOn);
  const std::uint64_t enough = std::max(std::min(plenty, backend_.space().size / 16) + 1, least);
  if (!has_space_for_in_flight(enough) && !(has_space_for_in_flight(least) && nothing_to_free())) return;
  if (env_.clock.now() < space_known_at_) return;  // that may be what they had before they refused
  log_warning("volume {}: there is space again: writes go on", id_.value);
  short_of_space_ = false;
  progress_.notify_all();
}

}  // namespace agro
