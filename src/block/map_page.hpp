// Map page: which block holds each of 1,024 sectors, in little memory whatever was written.
//
// One allocation in one of two forms. List: sorted runs of 12 bytes. Cells: a bitmap of the mapped
// sectors and 5 bytes for each of them, in order. A list that grows larger than the cells would be
// turns into cells; cells stay cells until the page is evicted. So sectors mapped in sequence cost
// bytes per run, and those mapped one by one at most 12 bytes while there are few (18 in a page) and
// 5 to 8 when there are many. Allocations come in the sizes that allocators round to.
// Invariants: runs do not overlap, and neighbours that continue each other are one. A page without
// runs has no memory.
// Threading: one loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.hpp"

namespace agro {

/// A block's number in its volume's block table.
using BlockId = std::uint32_t;
/// Sectors that were never written, or trimmed.
inline constexpr BlockId kHoleBlock = 0xFFFFFFFF;
/// Sectors that were written as zeros.
inline constexpr BlockId kZeroBlock = 0xFFFFFFFE;
/// A cell has 28 bits for a block, and 12 for the sector in it.
inline constexpr BlockId kBlockIdLimit = 0x0FFFFF00;
inline constexpr std::uint32_t kSectorsPerBlockMax = 4096;

/// Sectors [lba, lba + count) lie in block `block` from its sector `sector` on.
struct MapRun {
  std::uint64_t lba = 0;
  std::uint32_t count = 0;
  BlockId block = kHoleBlock;
  std::uint32_t sector = 0;  // 0 for kHoleBlock and kZeroBlock
  bool operator==(const MapRun&) const = default;
};

class MapPage {
 public:
  static constexpr std::uint32_t kSectorCount = 1024;

  struct Run {
    BlockId block;
    std::uint16_t start;   // sector within the page
    std::uint16_t count;   // 1 to 1024
    std::uint16_t sector;  // within the block
    std::uint16_t zero;
  };
  static_assert(sizeof(Run) == 12);

  /// Nothing is mapped.
  MapPage() = default;
  /// Shape: sorted, not overlapping, without holes.
  explicit MapPage(std::span<const Run> runs);

  bool empty() const { return memory_ == nullptr; }
  std::size_t memory_bytes() const;

  /// The run that starts at `start`, at most `limit` sectors. Shape: start + limit <= kSectorCount.
  Run lookup(std::uint32_t start, std::uint32_t limit) const;
  /// Puts a run (or a hole) in the place of what is there, which is appended to `replaced` without
  /// holes and zeros, with `base` added to its sectors.
  void assign(const Run& added, std::uint64_t base, std::vector<MapRun>& replaced);

  // For whoever keeps a list of pages in memory. Shape: not empty().
  std::uint32_t place() const { return memory_->place; }
  void set_place(std::uint32_t place) { memory_->place = place; }
  /// Whether it was looked at or changed since the last call.
  bool take_used() { return std::exchange(memory_->used, false); }

 private:
  struct Header {
    std::uint32_t place;
    std::uint32_t capacity;      // bytes after the header
    std::uint16_t run_count;     // of the list
    std::uint16_t mapped_count;  // sectors of the runs; the number of cells
    bool has_cells;
    bool used;
  };
  static_assert(sizeof(Header) == 16);
  struct Free {
    void operator()(Header* memory) const { ::operator delete(memory); }
  };
  using Memory = std::unique_ptr<Header, Free>;

  static Memory allocate(std::size_t content_bytes);
  std::byte* contents() const { return reinterpret_cast<std::byte*>(memory_.get() + 1); }
  std::size_t content_bytes() const;
  void reserve(std::size_t content_bytes);
  void shrink();

  Run* runs() const { return reinterpret_cast<Run*>(contents()); }
  void assign_runs(const Run& added, std::uint64_t base, std::vector<MapRun>& replaced);
  void splice(std::size_t from, std::size_t old_count, std::span<const Run> fresh);

  bool is_mapped(std::uint32_t position) const;
  std::uint32_t next_mapped(std::uint32_t position, std::uint32_t end) const;
  std::uint32_t rank(std::uint32_t position) const;
  std::byte* cell(std::uint32_t index) const;
  void set_mapped(std::uint32_t begin, std::uint32_t end, bool mapped);
  void put_cells(std::uint32_t index, const Run& run);
  Run lookup_cells(std::uint32_t start, std::uint32_t limit) const;
  void assign_cells(const Run& added, std::uint64_t base, std::vector<MapRun>& replaced);
  void fill_cells(std::span<const Run> runs, std::uint32_t mapped_count);

  Memory memory_;
};

}  // namespace agro
