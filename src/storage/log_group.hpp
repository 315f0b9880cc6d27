// One commit group, laid out: frames of records and the inline blocks behind them.
//
// Invariants: frames follow each other without a gap and chain by crc; a frame never crosses a slot;
// nothing is copied but the unaligned tail of a block, and what is left of the last page of a frame's first
// block, which goes into the frame's header. No I/O here.
// Format: docs/formats/store.md, "Log".
#pragma once

#include <memory>
#include <vector>

#include "base/disk.hpp"
#include "storage/block_layout.hpp"

namespace agro {

class LogGroup {
 public:
  /// `pages` gives pages for headers and tails.
  LogGroup(LogPosition start, std::uint32_t block_size, std::uint64_t session, BufferPool& pages);

  /// Whether a record with so many inline pages fits only into a new slot: open_slot() first.
  bool needs_slot(std::uint32_t inline_page_count) const;
  /// Goes on in the slot that the log names next; `successor` is the one after it.
  void open_slot(std::uint32_t successor);
  /// Adds a record; an inline block gets its slot and page, and is packed if it can be: then its tail is
  /// returned. Shape: !needs_slot(its pages); `data` is empty unless the record is put_inline with data to carry.
  PackedTail add(StoreRecord& record, const SharedBytes& data);
  /// Makes it a frame without records. Shape: nothing was added, !needs_slot(0).
  void add_seal();

  /// The writes of the group, in order; they point into this object and the blocks. Shape: once.
  std::vector<FileWrite> finish();
  /// Where the next group starts. Shape: after finish().
  LogPosition end() const { return cursor_; }
  std::uint32_t slot() const { return cursor_.slot; }
  std::uint64_t size() const { return size_; }  // bytes of all frames
  std::size_t record_count() const { return record_count_; }

 private:
  void close_frame();
  bool frame_takes(std::uint32_t inline_page_count) const;
  std::uint32_t pages_left() const { return pages_per_slot_ - cursor_.page; }

  LogPosition cursor_;  // of the frame that is open, or comes next
  std::uint32_t block_size_;
  std::uint32_t pages_per_slot_;
  std::uint64_t session_;
  std::uint64_t group_sequence_;
  BufferPool& pool_;

  bool open_ = false;
  std::vector<StoreRecord> records_;
  std::vector<ConstBytes> inline_parts_;
  std::uint32_t inline_page_count_ = 0;
  PackedTail tail_;   // of the frame's first block, and
  ConstBytes packed_;  // that block, if it is packed

  std::vector<FileWrite> writes_;
  std::vector<std::shared_ptr<AlignedBuffer>> owned_pages_;
  std::vector<SharedBytes> owned_blocks_;
  std::uint64_t size_ = 0;
  std::size_t record_count_ = 0;
};

/// The block as whole pages: `data`, and a zero-filled copy of its last, partial page if there is one.
std::vector<ConstBytes> whole_pages(const SharedBytes& data, BufferPool& pool,
                                    std::vector<std::shared_ptr<AlignedBuffer>>& owned_pages);

}  // namespace agro
