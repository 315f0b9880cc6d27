// Slots of a store file: what each is used for, which are free, which are being read, which were written.
//
// Invariants: a slot is free only when nothing durable needs it and nobody reads it. take() gives
// the lowest free slot, but leaves some that were written to the log: syncing them is fast. Slots from
// grown_count() on are not in the file yet.
// Threading: one loop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/assert.hpp"

namespace agro {

enum class SlotUse : std::uint8_t {
  free = 0,
  block,       // one large block
  log,         // frames that a replay needs; with inline blocks, live or not
  segment,     // inline blocks only: lies before the replay's start
  checkpoint,  // part of an index checkpoint
};

/// A set of slots that gives its lowest.
class SlotSet {
 public:
  void resize(std::uint32_t slot_limit) { bits_.resize((std::size_t{slot_limit} + 63) / 64); }
  void add(std::uint32_t slot);
  void remove(std::uint32_t slot);
  /// Shape: not empty.
  std::uint32_t lowest();
  std::uint32_t count() const { return count_; }
  std::uint64_t memory() const { return bits_.capacity() * sizeof(std::uint64_t); }

 private:
  std::vector<std::uint64_t> bits_;
  std::size_t hint_ = 0;  // none in a word before this one
  std::uint32_t count_ = 0;
};

class SlotTable {
 public:
  /// `slot_count_max` is what the store's size allows; up to `log_slots_ahead` free slots are written for the log
  /// ahead of use, and as many that were written, or `log_slots_kept`, are left to it.
  SlotTable(std::uint32_t slot_count_max, std::uint32_t log_slots_ahead, std::uint32_t log_slots_kept = 0)
      : count_max_(slot_count_max), log_slots_ahead_(log_slots_ahead), log_slots_kept_(log_slots_kept) {}

  std::uint32_t count_max() const { return count_max_; }
  std::uint32_t grown_count() const { return static_cast<std::uint32_t>(slots_.size()); }
  /// Adds free slots up to `count`; a file that cannot grow further lowers count_max().
  void grow_to(std::uint32_t count);
  void set_count_max(std::uint32_t count) { count_max_ = count; }

  /// Those that take() can give now.
  std::uint32_t free_grown_count() const { return raw_.count() + written_.count(); }
  /// Of those, what is not kept for the log.
  std::uint32_t free_beyond_log_count() const { return free_grown_count() - std::min(written_.count(), kept_share()); }
  std::uint32_t free_count() const {
    return free_grown_count() + preparing_count_ +
           (count_max_ > grown_count() ? count_max_ - grown_count() : 0);
  }
  std::uint32_t count(SlotUse use) const { return counts_[static_cast<std::size_t>(use)]; }

  /// The lowest free slot, now used for `use`; nullopt when the file must grow first. The log gets one
  /// that was written if there is one, others only what is beyond the log's share of those, or the last.
  std::optional<std::uint32_t> take(SlotUse use);
  /// All of the slot was written since the file grew: syncs of it cost no more than the data.
  void set_written(std::uint32_t slot);
  /// Few are left for the log, and there are others that could be written.
  bool wants_log_slots() const {
    return written_.count() <= log_share() / 2 && raw_.count() > 0;
  }
  /// Takes a free slot to write zeros over it; nullopt when the log has its share. It still counts as free.
  std::optional<std::uint32_t> begin_preparing();
  void end_preparing(std::uint32_t slot);
  SlotUse use(std::uint32_t slot) const { return slots_[slot].use; }
  /// Changes the use of a slot that is not free; `free` gives it back, at the last unpin().
  void set_use(std::uint32_t slot, SlotUse use);
  /// Takes a free slot that recovery found in use.
  void claim(std::uint32_t slot, SlotUse use);

  /// Pages of live inline blocks in a log slot or segment.
  std::uint32_t live_pages(std::uint32_t slot) const { return slots_[slot].live_pages; }
  void add_live(std::uint32_t slot, std::uint32_t pages) {
    slots_[slot].live_pages = static_cast<std::uint16_t>(slots_[slot].live_pages + pages);
    live_page_count_ += pages;
  }
  /// A segment without live pages is freed.
  void drop_live(std::uint32_t slot, std::uint32_t pages);
  std::uint64_t live_page_count() const { return live_page_count_; }

  /// Keeps a slot's bytes from being overwritten while they are read.
  void pin(std::uint32_t slot) { ++pins_[slot]; }
  void unpin(std::uint32_t slot);

  std::uint64_t memory() const;

 private:
  struct Slot {
    SlotUse use = SlotUse::free;
    bool leaving : 1 = false;  // free once unpinned
    bool written : 1 = false;
    std::uint16_t live_pages = 0;
  };
  static_assert(sizeof(Slot) == 4);
  /// Of a small store not all is for the log.
  std::uint32_t log_share() const {
    return std::min(log_slots_ahead_, std::max(2U, grown_count() / 8));
  }
  std::uint32_t kept_share() const { return std::max(log_share(), log_slots_kept_); }
  SlotSet& free_set(std::uint32_t slot) { return slots_[slot].written ? written_ : raw_; }

  std::uint32_t count_max_;
  std::uint32_t log_slots_ahead_;
  std::uint32_t log_slots_kept_;
  std::vector<Slot> slots_;
  SlotSet raw_;      // free, space only
  SlotSet written_;  // free, and was written
  std::uint32_t preparing_count_ = 0;
  std::uint64_t live_page_count_ = 0;
  std::uint32_t counts_[5] = {};
  std::unordered_map<std::uint32_t, std::uint32_t> pins_;
};

/// Pins a slot for its scope.
class SlotPin {
 public:
  SlotPin(SlotTable& table, std::uint32_t slot) : table_(table), slot_(slot) { table.pin(slot); }
  ~SlotPin() { table_.unpin(slot_); }
  SlotPin(const SlotPin&) = delete;
  SlotPin& operator=(const SlotPin&) = delete;

 private:
  SlotTable& table_;
  std::uint32_t slot_;
};

}  // namespace agro
