// The log of a MmapStore: records gather in pending_ while one group is written and synced.
#include <algorithm>

#include "base/log.hpp"
#include "storage/mmap_store_impl.hpp"

namespace agro {
namespace {

/// Large enough that a sync is shared well, small enough that the next group need not wait long.
constexpr std::size_t kGroupRecordsMax = 64 * kFrameRecordsMax;
constexpr std::uint64_t kGroupPagesMax = 8 * kMiB / kPageSize;
/// Up to here a group is one write that is durable by itself.
constexpr std::uint64_t kSmallGroupSize = 64 * kKiB;
/// Idle for so long.
constexpr Duration kSealAfter = std::chrono::seconds(1);

/// Pages that an entry may take: its own, and its share of headers.
std::uint64_t pages_charged(std::size_t data_size) {
  return data_size == 0 ? 0 : std::uint64_t{pages_of(data_size)} + 1;
}

}  // namespace

void MmapStore::enqueue(Entry entry) {
  ++entry.completion->remaining;
  if (failed_.has_value()) {
    finish(entry, fail(Errc::io_error, "the store takes no writes since: " + failed_->message));
    return;
  }
  pending_pages_ += pages_charged(entry.data.size());
  pending_.push_back(std::move(entry));
  if (committing_) return;
  committing_ = true;
  tasks_.spawn(commit_loop());
}

Task<void> MmapStore::await_completion(std::shared_ptr<Completion> completion) {
  while (completion->remaining > 0) co_await completion->done.wait();
  if (completion->error.has_value()) co_return fail(*completion->error);
  co_return Result<void>();
}

void MmapStore::finish(const Entry& entry, const Result<void>& result) {
  Completion& completion = *entry.completion;
  if (!result.has_value() && !completion.error.has_value()) completion.error = result.error();
  if (--completion.remaining == 0) completion.done.notify_all();
}

void MmapStore::fail_pending(const Error& error) {
  while (!pending_.empty()) {
    const Entry entry = std::move(pending_.front());
    pending_.pop_front();
    finish(entry, fail(error));
  }
  pending_pages_ = 0;
}

Job MmapStore::commit_loop() {
  co_await yield_to_loop();  // what else this turn brings shares the first sync
  while ((!pending_.empty() || seal_due_) && !failed_.has_value()) {
    const Result<void> committed = co_await commit_group();
    if (!committed.has_value()) break;
  }
  if (failed_.has_value()) fail_pending(*failed_);
  committing_ = false;
  progress_.notify_all();
}

/// Moves entries from pending_ into `group`, until it is full or nothing is left. An entry that can
/// not be stored is answered at once.
Task<std::vector<MmapStore::Entry>> MmapStore::fill_group(LogGroup& group) {
  std::vector<Entry> entries;
  std::uint64_t page_count = 0;
  while (!pending_.empty() && entries.size() < kGroupRecordsMax && page_count < kGroupPagesMax) {
    const std::uint32_t inline_pages = pages_of(pending_.front().data.size());
    Result<void> allowed;
    if (pending_.front().fenceable) allowed = check_fence(pending_.front().record.ref(), false);
    if (allowed.has_value() && group.needs_slot(inline_pages)) {
      const Result<std::uint32_t> successor = co_await take_slot(SlotUse::log);
      if (successor.has_value()) {
        group.open_slot(*successor);
        log_slots_.push_back(group.slot());
        continue;  // much may have changed meanwhile
      }
      if (!entries.empty()) break;
      allowed = fail(successor.error());
    }
    Entry entry = std::move(pending_.front());
    pending_.pop_front();
    pending_pages_ -= pages_charged(entry.data.size());
    if (!allowed.has_value()) {
      finish(entry, allowed);
      continue;
    }
    entry.tail = group.add(entry.record, entry.data);
    page_count += inline_pages;
    entry.data = {};  // the group holds it now
    entries.push_back(std::move(entry));
  }
  co_return std::move(entries);
}

/// Errors: out_of_space.
Task<void> MmapStore::add_seal(LogGroup& group) {
  if (group.needs_slot(0)) {
    AGRO_CO_TRY(const std::uint32_t successor, co_await take_slot(SlotUse::log));
    group.open_slot(successor);
    log_slots_.push_back(group.slot());
  }
  group.add_seal();
  co_return Result<void>();
}

/// A frame behind the last group proves that the group was synced: what is wrong in it later has
/// rotted, and is not taken for a crash.
void MmapStore::seal_when_idle() {
  if (sealed_ || sealing_ || closing_) return;
  sealing_ = true;
  tasks_.spawn(seal());
}

Job MmapStore::seal() {
  while (!sealed_ && !closing_ && !failed_.has_value()) {
    const TimePoint due = idle_since_ + kSealAfter;
    if (env_.clock.now() < due) {
      co_await wait_until(closing_event_, env_.clock, due);
      continue;
    }
    idle_since_ = env_.clock.now();  // without space it is tried again later
    seal_due_ = true;
    if (std::exchange(committing_, true)) continue;
    tasks_.spawn(commit_loop());
  }
  sealing_ = false;
}

/// Nothing but the group itself is to become durable with it: blocks in slots of their own are not.
bool MmapStore::is_small(const std::vector<Entry>& entries, const std::vector<FileWrite>& writes,
                         std::uint64_t size) {
  return size <= kSmallGroupSize && writes.size() == 1 &&
         std::none_of(entries.begin(), entries.end(), [](const Entry& entry) {
           return entry.record.kind == RecordKind::put_slot && (entry.record.flags & kRecordDurable) == 0;
         });
}

Task<void> MmapStore::commit_group() {
  LogGroup group(position_, options_.block_size, session_, page_pool_);
  Result<std::vector<Entry>> filled = co_await fill_group(group);
  AGRO_ASSERT(filled.has_value());
  std::vector<Entry> entries = std::move(filled).value();
  bool seals = std::exchange(seal_due_, false) && entries.empty();
  if (seals) {
    const Result<void> added = co_await add_seal(group);
    seals = added.has_value();
  }
  std::vector<FileWrite> writes = group.finish();
  const bool keep =
      std::any_of(entries.begin(), entries.end(), [](const Entry& entry) { return entry.keep; });
  for (FileWrite& write : writes) write.keep = keep;
  Result<void> written;
  if (!writes.empty()) {
    const ScopedLatency latency(env_.clock, sync_latency_);
    if (is_small(entries, writes, group.size())) {
      written = co_await file_->write_durably(std::move(writes.front()));
    } else {
      written = co_await file_->write_and_sync(std::move(writes));
    }
    ++sync_count_;
    bytes_written_ += group.size();
  }
  if (!written.has_value()) {
    const Error error = poison(std::move(written).error());
    for (const Entry& entry : entries) {
      // The record may be there when the store is opened again: nobody may rely on that block any more.
      if (entry.record.kind == RecordKind::remove) index_.remove(entry.record.ref());
      finish(entry, fail(error));
    }
    co_return fail(error);
  }
  position_ = group.end();
  applied_position_ = position_;
  log_size_ += group.size();
  if (group.size() > 0) sealed_ = seals;
  idle_since_ = env_.clock.now();
  seal_when_idle();
  for (const Entry& entry : entries) apply(entry);
  for (const Entry& entry : entries) finish(entry, Result<void>());
  after_change();
  co_return Result<void>();
}

void MmapStore::apply(const Entry& entry) {
  const StoreRecord& record = entry.record;
  const BlockRef ref = record.ref();
  if (record.kind == RecordKind::fence) {
    Fence& fence = fences_[ref.volume];
    fence.durable = std::max(fence.durable, ref.epoch);
    fence.wanted = std::max(fence.wanted, ref.epoch);
    return;
  }
  if (record.is_durable()) return;  // restates what index_ says already
  if (record.kind == RecordKind::remove) {
    if (const auto old = index_.remove(ref)) release(*old);
    return;
  }
  const BlockLocation location = location_of(record, entry.tail);
  if (location.is_inline()) slots_.add_live(location.slot, pages_of(location.size));
  if (const auto old = index_.put(ref, location)) release(*old);
}

void MmapStore::release(const BlockLocation& location) {
  if (location.is_inline()) {
    slots_.drop_live(location.slot, pages_of(location.size));
    dead_pages_ += pages_of(location.size);
    if (dead_pages_ >= dead_pages_worth_it()) reclaim_exhausted_ = false;
  } else {
    slots_.set_use(location.slot, SlotUse::free);
  }
}

}  // namespace agro
