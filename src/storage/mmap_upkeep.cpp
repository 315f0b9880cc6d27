// What keeps a MmapStore going: it grows the file ahead of use, writes zeros where the log will go, writes
// the index so that the log can be forgotten, and empties sparse log slots when free ones run low.
#include <algorithm>
#include <set>

#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "storage/mmap_store_impl.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kGrowStepMin = 16 * kMiB;
constexpr std::size_t kSparseSlotsMax = 16;     // emptied in one round
constexpr std::size_t kRelocatedRecordsMax = 64;  // in one batch
constexpr std::uint32_t kRelocatedPagesMax = 256;
constexpr std::uint32_t kLogSlotsKept = 4;      // for records while nothing else can be stored
constexpr Duration kGrowAgainAfter = std::chrono::seconds(10);  // a full file system
constexpr std::uint64_t kGrownAheadWhenFull = 64 * kMiB;
constexpr std::uint64_t kLeftToOthers = 8 * kMiB;  // of a full file system, for metadata stores

}  // namespace

// Space

std::uint32_t MmapStore::checkpoint_need() const {
  const std::uint64_t records = index_.size() + fences_.size() + pending_.size();
  return static_cast<std::uint32_t>(records / checkpoint_records_max(options_.block_size)) + 2;
}

std::uint32_t MmapStore::floor(bool reserve) const {
  const std::uint32_t always = checkpoint_need() + kLogSlotsKept;
  return reserve ? always : always + std::max(2U, slots_.count_max() / 50);
}

std::uint32_t MmapStore::inline_slots_needed(std::uint64_t more_pages) const {
  const std::uint64_t pages = pending_pages_ + more_pages + (more_pages > 0 ? 1 : 0);
  if (pages == 0) return 0;
  if (pending_pages_ == 0 && pages <= pages_per_slot() - position_.page) return 0;
  // A slot is filled at least by half: a block that does not fit takes less than half a slot.
  return static_cast<std::uint32_t>(1 + 2 * pages / pages_per_slot());
}

Task<void> MmapStore::wait_for_space(std::uint32_t own_slots, std::uint32_t inline_pages,
                                     bool reserve) {
  while (true) {
    AGRO_CO_TRY_OK(check_writable());
    const std::uint32_t needed = own_slots + inline_slots_needed(inline_pages);
    if (slots_.free_count() >= floor(reserve) + needed) {
      if (takeable_count() >= own_slots) co_return Result<void>();
    } else if (file_system_full_ && (growing_ || wants_growth())) {
      // It was full a while ago: what growing brings now is to be seen.
    } else if (is_reclaim_exhausted()) {
      co_return fail(Errc::out_of_space, file_name() + " is full");
    } else {
      ++space_waiter_count_;
    }
    after_change();
    co_await progress_.wait();
  }
}

Task<std::uint32_t> MmapStore::take_slot(SlotUse use) {
  while (true) {
    if (failed_.has_value()) co_return fail(*failed_);
    if (const auto slot = slots_.take(use)) {
      after_change();
      co_return *slot;
    }
    if (slots_.free_count() == 0) {
      co_return fail(Errc::out_of_space, file_name() + " is full to its last slot");
    }
    after_change();
    co_await progress_.wait();
  }
}

void MmapStore::after_change() {
  if (failed_.has_value()) return;
  if (!growing_ && wants_growth()) {
    growing_ = true;
    tasks_.spawn(grow());
  }
  if (!closing_ && !preparing_ && slots_.wants_log_slots()) {
    preparing_ = true;
    tasks_.spawn(prepare_log());
  }
  if (!closing_ && !keeping_up_ && (wants_checkpoint() || wants_space())) {
    keeping_up_ = true;
    tasks_.spawn(upkeep());
  }
}

// Growth

std::uint32_t MmapStore::growth_watermark() const {
  const std::uint64_t ahead = std::min(std::uint64_t{slots_.grown_count()} * options_.block_size,
                                       options_.grow_step_max) / 2;
  return std::max(4U, static_cast<std::uint32_t>(ahead / options_.block_size));
}

std::uint32_t MmapStore::growth_limit() const {
  return file_system_full_ ? slots_in(options_.size, options_.block_size) : slots_.count_max();
}

/// Slots that blocks can have now. As long as the file grows they leave the log its own.
std::uint32_t MmapStore::takeable_count() const {
  const bool grows = !file_system_full_ && slots_.grown_count() < growth_limit();
  return grows ? slots_.free_beyond_log_count() : slots_.free_grown_count();
}

bool MmapStore::wants_growth() const {
  if (slots_.grown_count() >= growth_limit()) return false;
  if (!file_system_full_) return slots_.free_beyond_log_count() < growth_watermark();
  // As much as volumes that wait for space want to see before they go on.
  const auto ahead = static_cast<std::uint32_t>(kGrownAheadWhenFull / options_.block_size);
  return env_.clock.now() >= grow_again_at_ &&
         slots_.free_grown_count() < std::max(growth_watermark(), floor(false) + ahead);
}

/// While the file system is full nobody may be left who asks for space: users wait until they see
/// that there is some.
Job MmapStore::grow_again() {
  TimePoint next = grow_again_at_;
  while (file_system_full_ && !closing_ && !failed_.has_value()) {
    co_await wait_until(progress_, env_.clock, next);
    if (env_.clock.now() < next) continue;
    after_change();
    next = env_.clock.now() + kGrowAgainAfter;
  }
}

Job MmapStore::grow() {
  co_await yield_to_loop();  // spawn() starts a job at once, in the middle of its caller
  while (!failed_.has_value() && wants_growth()) {
    const Result<void> grown = co_await grow_once();
    if (!grown.has_value()) break;
    progress_.notify_all();
  }
  growing_ = false;
  progress_.notify_all();
}

Task<void> MmapStore::grow_once() {
  const std::uint64_t block_size = options_.block_size;
  const std::uint32_t old_count = slots_.grown_count();
  const std::uint64_t step = std::clamp(old_count * block_size,
                                        std::min(kGrowStepMin, options_.grow_step_max),
                                        options_.grow_step_max);
  const auto step_slots = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, step / block_size));
  const std::uint32_t new_count = std::min(growth_limit(), old_count + step_slots);
  std::uint64_t at = offset_of(old_count);
  const std::uint64_t end = offset_of(new_count);
  // What a full file system has no room for it may have in halves.
  Result<void> reserved;
  for (std::uint64_t chunk = end - at; at < end && chunk >= kPageSize;) {
    const std::uint64_t size = std::min(chunk, end - at);
    reserved = co_await file_->allocate(at, size);
    if (reserved.has_value()) {
      at += size;
    } else if (reserved.code() == Errc::out_of_space) {
      chunk = round_down(chunk / 2, kPageSize);
    } else {
      co_return fail(poison(std::move(reserved).error()));
    }
  }
  const bool full = at < end;
  if (full) {
    const std::uint64_t kept = at - std::min(at - offset_of(old_count), kLeftToOthers);
    at = offset_of(slots_in(kept, options_.block_size));
    if (Result<void> cut = co_await file_->resize(at); !cut.has_value()) {
      co_return fail(poison(std::move(cut).error()));
    }
  }
  Result<void> synced = co_await file_->sync();
  if (!synced.has_value()) co_return fail(poison(std::move(synced).error()));
  ++sync_count_;
  slots_.grow_to(slots_in(at, options_.block_size));
  if (full || file_system_full_) slots_.set_count_max(slots_.grown_count());
  if (!full) {
    if (slots_.grown_count() == growth_limit()) file_system_full_ = false;
    co_return Result<void>();
  }
  log_warning("{} cannot grow: {}", file_name(), reserved.error().message);
  grow_again_at_ = env_.clock.now() + kGrowAgainAfter;
  if (!std::exchange(file_system_full_, true)) tasks_.spawn(grow_again());
  co_return fail(std::move(reserved).error());
}

Job MmapStore::prepare_log() {
  co_await yield_to_loop();
  while (!failed_.has_value() && !closing_ && slots_.wants_log_slots()) {
    const Result<void> prepared = co_await prepare_some();
    if (!prepared.has_value()) break;
  }
  preparing_ = false;
  progress_.notify_all();
}

/// Writes zeros into slots for the log: a sync of what is written there later has no extents to convert.
Task<void> MmapStore::prepare_some() {
  constexpr std::size_t kZerosSize = 64 * kKiB;
  constexpr std::size_t kSlotsAtOnce = 8;
  AlignedBuffer zeros(kZerosSize);
  std::memset(zeros.data(), 0, zeros.size());
  std::vector<std::uint32_t> slots;
  Result<void> result;
  while (slots.size() < kSlotsAtOnce && result.has_value()) {
    const std::optional<std::uint32_t> slot = slots_.begin_preparing();
    if (!slot.has_value()) break;
    slots.push_back(*slot);
    result = co_await file_->write(offset_of(*slot), std::vector<ConstBytes>(options_.block_size / kZerosSize, zeros.bytes()));
    bytes_written_ += options_.block_size;
  }
  if (result.has_value()) result = co_await file_->sync();
  if (!result.has_value()) co_return fail(poison(std::move(result).error()));
  ++sync_count_;
  for (const std::uint32_t slot : slots) slots_.end_preparing(slot);
  progress_.notify_all();
  co_return Result<void>();
}

// Checkpoints

/// Writes records into a chain of slots.
class CheckpointWriter {
 public:
  CheckpointWriter(MmapStore& store, std::uint64_t generation)
      : store_(store), buffer_(store.options_.block_size) {
    header_.generation = generation;
  }

  Task<void> add(const std::vector<StoreRecord>& records) {
    for (const StoreRecord& record : records) {
      if (record_count_ == checkpoint_records_max(store_.options_.block_size)) {
        AGRO_CO_TRY(const std::uint32_t next, co_await store_.take_slot(SlotUse::checkpoint));
        slots_.push_back(next);
        AGRO_CO_TRY_OK(co_await write_slot(slots_[slots_.size() - 2], next));
      } else if (slots_.empty()) {
        AGRO_CO_TRY(const std::uint32_t first, co_await store_.take_slot(SlotUse::checkpoint));
        slots_.push_back(first);
      }
      std::memcpy(records_at(record_count_), &record, sizeof record);
      ++record_count_;
      ++total_count_;
    }
    co_return Result<void>();
  }

  Task<void> finish() {
    if (slots_.empty()) co_return Result<void>();
    co_return co_await write_slot(slots_.back(), kNoSlot);
  }

  std::vector<std::uint32_t>& slots() { return slots_; }
  std::uint64_t record_count() const { return total_count_; }

 private:
  std::byte* records_at(std::uint32_t index) {
    return buffer_.data() + kPageSize + std::size_t{index} * sizeof(StoreRecord);
  }

  Task<void> write_slot(std::uint32_t slot, std::uint32_t next) {
    const std::size_t used = std::size_t{record_count_} * sizeof(StoreRecord);
    const std::size_t whole = round_up(used, kPageSize);
    std::memset(records_at(0) + used, 0, whole - used);
    header_.next_slot = next;
    encode_checkpoint(header_, {records_at(0), used}, buffer_.bytes().first(kPageSize));
    std::vector<ConstBytes> parts = {buffer_.bytes().first(kPageSize + whole)};
    store_.bytes_written_ += kPageSize + whole;
    Result<void> written = co_await store_.file_->write(store_.offset_of(slot), std::move(parts));
    if (!written.has_value()) co_return fail(store_.poison(std::move(written).error()));
    record_count_ = 0;
    ++header_.chain_index;
    co_return Result<void>();
  }

  MmapStore& store_;
  AlignedBuffer buffer_;
  CheckpointHeader header_;
  std::vector<std::uint32_t> slots_;
  std::uint32_t record_count_ = 0;  // in buffer_
  std::uint64_t total_count_ = 0;
};

bool MmapStore::wants_checkpoint() const {
  const std::uint64_t last_size = std::uint64_t{superblock_.checkpoint_records} * sizeof(StoreRecord);
  return log_size_ >= std::max(options_.checkpoint_log_size, 4 * last_size);
}

Task<void> MmapStore::write_superblocks(Superblock superblock) {
  AlignedBuffer page(kPageSize);
  encode_superblock(superblock, page.bytes());
  // One after the other: whatever a crash does to the one, the other is whole. Nothing that the old
  // state needs is freed before both are durable, so either will do.
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{kPageSize}}) {
    std::vector<FileWrite> writes;
    writes.push_back({offset, {page.bytes()}});
    Result<void> written = co_await file_->write_and_sync(std::move(writes));
    if (!written.has_value()) co_return fail(poison(std::move(written).error()));
    ++sync_count_;
    bytes_written_ += kPageSize;
  }
  co_return Result<void>();
}

/// Records of one shard, or with shard == kShardCount the fences.
static std::vector<StoreRecord> shard_records(const BlockIndex& index, std::size_t shard) {
  std::vector<StoreRecord> records;
  index.visit_shard(shard, [&](const BlockRef& ref, const BlockLocation& location) {
    records.push_back(durable_record(ref, location));
  });
  return records;
}

Task<void> MmapStore::write_checkpoint() {
  // Shards are written at different times, all after `start`; a replay from there brings them all
  // to the same state, for each record says what is, not what changed.
  const LogPosition start = applied_position_;
  const std::uint64_t covered_size = log_size_;
  CheckpointWriter writer(*this, superblock_.generation + 1);
  std::vector<StoreRecord> records;
  for (const auto& [volume, fence] : fences_) {
    if (fence.durable.value == 0) continue;
    StoreRecord record;
    record.kind = RecordKind::fence;
    record.set_ref({.volume = volume, .epoch = fence.durable, .index = 0, .type = BlockType{}});
    records.push_back(record);
  }
  Result<void> written = co_await writer.add(records);
  for (std::size_t shard = 0; shard < BlockIndex::kShardCount && written.has_value(); ++shard) {
    records = shard_records(index_, shard);
    written = co_await writer.add(records);
    co_await yield_to_loop();
  }
  if (written.has_value()) written = co_await writer.finish();
  if (written.has_value()) {
    written = co_await file_->sync();
    ++sync_count_;
    if (!written.has_value()) co_return fail(poison(std::move(written).error()));
  }
  if (!written.has_value()) {
    if (!failed_.has_value()) {
      for (const std::uint32_t slot : writer.slots()) slots_.set_use(slot, SlotUse::free);
    }
    co_return written;
  }
  Superblock next = superblock_;
  ++next.generation;
  next.set_log_start(start);
  next.checkpoint_records = writer.record_count();
  next.checkpoint_slot = writer.slots().empty() ? kNoSlot : writer.slots().front();
  AGRO_CO_TRY_OK(co_await write_superblocks(next));
  superblock_ = next;
  for (const std::uint32_t slot : checkpoint_slots_) slots_.set_use(slot, SlotUse::free);
  checkpoint_slots_ = std::move(writer.slots());
  retire_log(start.slot);
  log_size_ -= covered_size;
  ++checkpoint_count_;
  progress_.notify_all();
  co_return Result<void>();
}

void MmapStore::retire_log(std::uint32_t first_needed_slot) {
  while (log_slots_.front() != first_needed_slot) {
    const std::uint32_t slot = log_slots_.front();
    log_slots_.pop_front();
    slots_.set_use(slot, slots_.live_pages(slot) == 0 ? SlotUse::free : SlotUse::segment);
  }
}

Task<void> MmapStore::checkpoint_now() {
  const Call call(*this);
  while (keeping_up_) co_await progress_.wait();
  AGRO_CO_TRY_OK(check_writable());
  keeping_up_ = true;
  Result<void> written = co_await write_checkpoint();
  keeping_up_ = false;
  progress_.notify_all();
  co_return written;
}

// Compaction

bool MmapStore::wants_space() const {
  if (is_reclaim_exhausted()) return false;
  return space_waiter_count_ > 0 ||
         slots_.free_count() < floor(false) + std::max(2U, slots_.count_max() / 50);
}

Job MmapStore::upkeep() {
  co_await yield_to_loop();  // as in grow(): who asked for space must be waiting already
  Result<void> result;
  while (!failed_.has_value() && !closing_ && result.has_value()) {
    if (wants_space()) {
      result = co_await reclaim();
    } else if (wants_checkpoint()) {
      result = co_await write_checkpoint();
    } else {
      break;
    }
  }
  if (!result.has_value() && result.code() != Errc::closed) {
    log_warning("{}: upkeep: {}", file_name(), result.error().message);
  }
  keeping_up_ = false;
  space_waiter_count_ = 0;  // who still waits asks again
  progress_.notify_all();
}

Task<void> MmapStore::reclaim() {
  space_waiter_count_ = 0;
  dead_pages_ = 0;
  const std::uint32_t before = slots_.free_count();
  if (retirable_pages() >= pages_per_slot()) {
    const Result<void> written = co_await write_checkpoint();
    if (!written.has_value() && written.code() != Errc::out_of_space) co_return written;
  }
  const std::uint64_t relocated_before = relocated_count_;
  AGRO_CO_TRY_OK(co_await compact(pick_sparse()));
  const bool gained = slots_.free_count() > before || relocated_count_ > relocated_before;
  reclaim_exhausted_ = !gained && dead_pages_ < dead_pages_worth_it();
  exhausted_retirable_pages_ = retirable_pages();
  progress_.notify_all();
  co_return Result<void>();
}

/// Dead pages that a checkpoint would make free, or at least movable.
std::uint64_t MmapStore::retirable_pages() const {
  std::uint64_t pages = 0;
  for (const std::uint32_t slot : log_slots_) {
    if (slot != position_.slot) pages += pages_per_slot() - slots_.live_pages(slot);
  }
  return pages;
}

/// Reclaiming gained nothing, and since then too little died, or joined the log as headers and records.
bool MmapStore::is_reclaim_exhausted() const {
  return reclaim_exhausted_ && retirable_pages() < exhausted_retirable_pages_ + dead_pages_worth_it();
}

/// So many before it is tried again: a slot, and what a checkpoint writes.
std::uint64_t MmapStore::dead_pages_worth_it() const {
  return pages_per_slot() + index_.size() * sizeof(StoreRecord) / kPageSize;
}

std::vector<std::uint32_t> MmapStore::pick_sparse() const {
  std::vector<std::uint32_t> sparse;
  for (std::uint32_t slot = 0; slot < slots_.grown_count(); ++slot) {
    if (slots_.use(slot) == SlotUse::segment &&
        slots_.live_pages(slot) <= pages_per_slot() * 3 / 4 && !unreadable_slots_.contains(slot)) {
      sparse.push_back(slot);
    }
  }
  std::sort(sparse.begin(), sparse.end(), [&](std::uint32_t left, std::uint32_t right) {
    return std::pair(slots_.live_pages(left), left) < std::pair(slots_.live_pages(right), right);
  });
  if (sparse.size() > kSparseSlotsMax) sparse.resize(kSparseSlotsMax);
  return sparse;
}

Task<void> MmapStore::compact(std::vector<std::uint32_t> sparse) {
  const std::set<std::uint32_t> chosen(sparse.begin(), sparse.end());
  if (chosen.empty()) co_return Result<void>();
  std::vector<LiveBlock> blocks;
  for (std::size_t shard = 0; shard < BlockIndex::kShardCount; ++shard) {
    index_.visit_shard(shard, [&](const BlockRef& ref, const BlockLocation& location) {
      if (location.is_inline() && chosen.contains(location.slot)) blocks.push_back({ref, location});
    });
    co_await yield_to_loop();
  }
  std::sort(blocks.begin(), blocks.end(), [](const LiveBlock& left, const LiveBlock& right) {
    return std::pair(left.location.slot, left.location.page) <
           std::pair(right.location.slot, right.location.page);
  });
  // Lay them out on paper first: blocks of awkward sizes may need as many slots as they have.
  std::uint32_t slots_filled = 1;
  std::uint32_t page = 0;
  std::vector<LiveBlock> batch;
  std::vector<std::vector<LiveBlock>> batches;
  std::uint32_t batch_pages = 0;
  for (const LiveBlock& block : blocks) {
    const std::uint32_t pages = pages_of(block.location.size);
    if (batch.size() == kRelocatedRecordsMax || batch_pages + pages > kRelocatedPagesMax) {
      batches.push_back(std::exchange(batch, {}));
      batch_pages = 0;
    }
    if (batch.empty()) ++page;  // its header
    if (page + pages > pages_per_slot()) {
      ++slots_filled;
      page = 1;
    }
    page += pages;
    batch_pages += pages;
    batch.push_back(block);
  }
  if (!batch.empty()) batches.push_back(std::move(batch));
  if (slots_filled >= chosen.size()) co_return Result<void>();
  for (std::vector<LiveBlock>& each : batches) {
    if (closing_) break;
    AGRO_CO_TRY_OK(co_await relocate(std::move(each)));
  }
  co_return Result<void>();
}

Task<void> MmapStore::relocate(std::vector<LiveBlock> blocks) {
  std::deque<BusyRef> ours;
  std::vector<Entry> entries;
  auto completion = std::make_shared<Completion>();
  for (const LiveBlock& block : blocks) {
    // Changed or gone since it was picked, or about to be.
    if (busy_.contains(block.ref) || index_.find(block.ref) != block.location) continue;
    ours.emplace_back(*this, block.ref);
    auto buffer = std::make_shared<AlignedBuffer>(block.location.size);
    const MutableBytes bytes = buffer->bytes().first(block.location.size);
    Result<void> read = co_await read_pieces(*file_, block.location, options_.block_size, 0, bytes);
    if (read.code() == Errc::closed) co_return fail(read.error());
    if (read.has_value() && options_.is_damaged && options_.is_damaged(block.ref, bytes)) {
      read = fail(Errc::corrupt, "it does not verify");
    }
    if (!read.has_value()) {
      log_warning("{}: {} stays where it is: {}", file_name(), block.ref.to_string(),
                  read.error().message);
      unreadable_slots_.insert(block.location.slot);
      ours.pop_back();
      continue;
    }
    Entry entry;
    entry.record.kind = RecordKind::put_inline;
    entry.record.size = block.location.size;
    entry.record.data_crc = crc32c(bytes);
    entry.record.set_ref(block.ref);
    entry.data = {buffer, bytes};
    entry.completion = completion;
    entries.push_back(std::move(entry));
  }
  const std::size_t count = entries.size();
  for (Entry& entry : entries) enqueue(std::move(entry));
  AGRO_CO_TRY_OK(co_await await_completion(completion));
  relocated_count_ += count;
  co_return Result<void>();
}

}  // namespace agro
