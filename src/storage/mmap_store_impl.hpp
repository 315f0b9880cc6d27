// MmapStore, shared by its three sources: mmap_store.cpp (open, put, read, remove, close),
// mmap_commit.cpp (the log), mmap_upkeep.cpp (growth, checkpoints, compaction).
//
// Invariants:
// - One commit group at most is written and not synced; index_ changes only after its sync.
// - A ref that a change is under way for is in busy_, and no second change of it starts.
// - A slot is freed only when the record that emptied it is durable, and no read of it is under way.
// - After a failed write or sync failed_ is set, and nothing is written any more.
// Threading: one loop.
#pragma once

#include <boost/unordered/unordered_flat_set.hpp>
#include <deque>
#include <map>
#include <memory>
#include <unordered_set>

#include "storage/block_index.hpp"
#include "storage/block_layout.hpp"
#include "storage/log_group.hpp"
#include "storage/mmap_store.hpp"
#include "storage/recovery.hpp"
#include "storage/slot_table.hpp"

namespace agro {

class MmapStore final : public BlockStore {
 public:
  MmapStore(Env& env, StoreOptions options, std::unique_ptr<File> file, RecoveredStore recovered,
            SlotTable slots);
  ~MmapStore() override;

  Task<void> put(BlockRef ref, SharedBytes bytes, PutOptions options) override;
  Task<void> repair(BlockRef ref, SharedBytes bytes, PutOptions options) override;
  std::optional<std::uint32_t> find(const BlockRef& ref) const override;
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out) override;
  Task<void> read_stored(BlockRef ref, MutableBytes out) override;
  Task<void> renew_records() override { return checkpoint_now(); }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset,
                                       MutableBytes out) override;
  Task<std::size_t> remove(std::vector<BlockRef> refs) override;
  std::vector<BlockInfo> list(const BlockFilter& filter) const override;
  Task<void> fence(VolumeId volume, Epoch epoch) override;
  Epoch fence_of(VolumeId volume) const override;
  StoreStats stats() const override;
  std::string problem() const override { return failed_ ? failed_->message : std::string(); }
  std::uint32_t block_size() const override { return options_.block_size; }
  Task<void> close() override;

  /// What must happen between recovery and the first call: sync what was read, tell the log what
  /// was dropped, restore a damaged superblock.
  Task<void> start(std::vector<StoreRecord> restated, bool rewrite_superblocks);

  Task<void> checkpoint_now();

  // For tests.
  std::uint64_t checkpoint_count() const { return checkpoint_count_; }
  std::uint64_t relocated_count() const { return relocated_count_; }

 private:
  /// What one caller waits for: all of its entries.
  struct Completion {
    std::size_t remaining = 0;
    std::optional<Error> error;
    Event done;
  };
  /// One record on its way into the log.
  struct Entry {
    StoreRecord record;
    SharedBytes data;  // of an inline block
    PackedTail tail{};  // once it is laid out
    bool fenceable = false;
    bool keep = false;
    std::shared_ptr<Completion> completion;
  };
  struct Fence {
    Epoch durable;
    Epoch wanted;  // refused from the moment it was asked for
  };
  /// Marks a ref busy for a scope.
  class BusyRef;
  /// Counts a call under way, for close().
  class Call;

  // mmap_store.cpp
  Task<void> store_block(BlockRef ref, SharedBytes bytes, PutOptions options, bool repair);
  Task<void> store_own_slot(BlockRef ref, SharedBytes bytes, PutOptions options, bool repair);
  Task<void> store_inline(BlockRef ref, SharedBytes bytes, PutOptions options, bool repair);
  Result<void> check_writable() const;
  Result<void> check_fence(const BlockRef& ref, bool repair) const;
  /// Errors: not_found; invalid_argument (not within the block).
  Result<BlockLocation> locate(const BlockRef& ref, std::uint32_t offset, std::size_t size) const;
  Task<void> read_piece(BlockPieces::Piece piece, FileExtent around);
  /// Two of the largest inline blocks and their headers fit into a slot.
  bool is_inline_size(std::size_t size) const {
    return pages_of(size) <= (pages_per_slot() - 2) / 2;
  }
  Error poison(Error error);
  std::uint64_t offset_of(std::uint32_t slot, std::uint32_t page = 0) const {
    return slot_offset(slot, options_.block_size) + std::uint64_t{page} * kPageSize;
  }
  std::uint32_t pages_per_slot() const { return options_.block_size / kPageSize; }
  std::string file_name() const { return store_path(options_); }

  // mmap_commit.cpp
  void enqueue(Entry entry);
  Task<void> await_completion(std::shared_ptr<Completion> completion);
  Job commit_loop();
  Task<void> commit_group();
  Task<std::vector<Entry>> fill_group(LogGroup& group);
  Task<void> add_seal(LogGroup& group);
  static bool is_small(const std::vector<Entry>& entries, const std::vector<FileWrite>& writes,
                       std::uint64_t size);
  /// Sees to it that a frame follows the last group once the store is idle.
  void seal_when_idle();
  Job seal();
  void apply(const Entry& entry);
  void release(const BlockLocation& location);
  void finish(const Entry& entry, const Result<void>& result);
  void fail_pending(const Error& error);

  // mmap_upkeep.cpp
  std::uint32_t checkpoint_need() const;
  std::uint32_t floor(bool reserve) const;
  std::uint32_t inline_slots_needed(std::uint64_t more_pages) const;
  /// Waits until `slots` can be taken above the floor. Errors: out_of_space.
  Task<void> wait_for_space(std::uint32_t own_slots, std::uint32_t inline_pages, bool reserve);
  Task<std::uint32_t> take_slot(SlotUse use);
  void after_change();
  std::uint32_t growth_watermark() const;
  std::uint32_t takeable_count() const;
  bool wants_growth() const;
  std::uint32_t growth_limit() const;
  Job grow_again();
  Job grow();
  Task<void> grow_once();
  Job prepare_log();
  Task<void> prepare_some();
  bool wants_checkpoint() const;
  bool wants_space() const;
  Job upkeep();
  Task<void> reclaim();
  Task<void> write_checkpoint();
  Task<void> write_superblocks(Superblock superblock);
  void retire_log(std::uint32_t first_needed_slot);
  struct LiveBlock {
    BlockRef ref;
    BlockLocation location;
  };
  std::uint64_t retirable_pages() const;
  bool is_reclaim_exhausted() const;
  std::uint64_t dead_pages_worth_it() const;
  std::vector<std::uint32_t> pick_sparse() const;
  Task<void> compact(std::vector<std::uint32_t> sparse);
  Task<void> relocate(std::vector<LiveBlock> blocks);
  friend class CheckpointWriter;

  Env env_;
  StoreOptions options_;
  std::unique_ptr<File> file_;
  BufferPool page_pool_{kPageSize, 256};
  std::uint64_t session_;

  BlockIndex index_;
  SlotTable slots_;
  std::map<VolumeId, Fence> fences_;
  Superblock superblock_;
  std::vector<std::uint32_t> checkpoint_slots_;

  LogPosition position_;          // of the next group
  LogPosition applied_position_;  // the same, but never past what index_ knows
  std::deque<std::uint32_t> log_slots_;  // from the replay's start to the slot of position_
  std::uint64_t log_size_ = 0;    // bytes of frames since the replay's start

  std::deque<Entry> pending_;
  std::uint64_t pending_pages_ = 0;  // of inline blocks in pending_, with a share for headers
  boost::unordered_flat_set<BlockRef, std::hash<BlockRef>> busy_;
  bool committing_ = false;
  bool sealed_ = true;    // no group, or one without records, is the last
  bool sealing_ = false;  // a job waits for the store to be idle
  bool seal_due_ = false;
  TimePoint idle_since_{};
  Event closing_event_;

  Event progress_;  // something ended: space may be free, a ref may no longer be busy
  bool growing_ = false;
  bool preparing_ = false;
  bool keeping_up_ = false;
  std::uint32_t space_waiter_count_ = 0;
  bool reclaim_exhausted_ = false;
  std::uint64_t exhausted_retirable_pages_ = 0;  // that it left
  std::uint64_t dead_pages_ = 0;  // died since reclaiming last found nothing to gain
  std::unordered_set<std::uint32_t> unreadable_slots_;
  static constexpr std::uint32_t kColdReadSize = 16 * 1024;
  BufferPool cold_reads_{kColdReadSize, 64};
  bool file_system_full_ = false;  // was: count_max() is what the file could be grown to so far
  TimePoint grow_again_at_{};      // and growing it is tried again then

  std::optional<Error> failed_;
  bool closing_ = false;
  std::size_t call_count_ = 0;
  Histogram& put_latency_;
  Histogram& sync_latency_;
  TaskGroup tasks_;

  std::uint64_t sync_count_ = 0;
  std::uint64_t bytes_written_ = 0;
  std::uint64_t checkpoint_count_ = 0;
  std::uint64_t relocated_count_ = 0;
};

class MmapStore::Call {
 public:
  explicit Call(MmapStore& store) : store_(store) { ++store.call_count_; }
  ~Call() {
    if (--store_.call_count_ == 0) store_.progress_.notify_all();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  MmapStore& store_;
};

class MmapStore::BusyRef {
 public:
  BusyRef(MmapStore& store, const BlockRef& ref) : store_(store), ref_(ref) {
    const bool added = store.busy_.insert(ref).second;
    AGRO_ASSERT(added);
  }
  ~BusyRef() {
    store_.busy_.erase(ref_);
    store_.progress_.notify_all();
  }
  BusyRef(const BusyRef&) = delete;
  BusyRef& operator=(const BusyRef&) = delete;

 private:
  MmapStore& store_;
  BlockRef ref_;
};

}  // namespace agro
