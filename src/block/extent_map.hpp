// Extent map: for every sector of a volume, which block holds it and where.
//
// Paged by LBA: a page covers kSectorsPerPage sectors and is either a sorted list of runs (12 bytes
// each) or, beyond kRunCountMax runs, a flat table (6 bytes a sector). So a volume mapped in
// sequence costs bytes per run, and one mapped wholly at random 6 bytes per sector.
// Blocks are named by dense local ids (block/block_table.hpp).
// A page may be absent: its contents are in the INode and must be loaded before it is looked at.
// Invariants: runs are sorted, do not overlap, and neighbours that continue each other are one.
// An absent page is never taken for a hole: looking at one is a broken contract.
// Threading: one loop. Format of a page: docs/formats/inode.md, "Map pages".
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"

namespace agro {

/// A block's number in its volume's block table.
using BlockId = std::uint32_t;
/// Sectors that were never written, or trimmed.
inline constexpr BlockId kHoleBlock = 0xFFFFFFFF;
/// Sectors that were written as zeros.
inline constexpr BlockId kZeroBlock = 0xFFFFFFFE;
inline constexpr BlockId kBlockIdLimit = 0xFFFFFF00;

/// Sectors [lba, lba + count) lie in block `block` from its sector `sector` on.
struct MapRun {
  std::uint64_t lba = 0;
  std::uint32_t count = 0;
  BlockId block = kHoleBlock;
  std::uint32_t sector = 0;  // 0 for kHoleBlock and kZeroBlock
  bool operator==(const MapRun&) const = default;
};

class ExtentMap {
 public:
  static constexpr std::uint32_t kSectorsPerPage = 1024;

  explicit ExtentMap(std::uint64_t sector_count);
  ~ExtentMap();
  ExtentMap(ExtentMap&&) noexcept;
  ExtentMap& operator=(ExtentMap&&) noexcept;

  std::uint64_t sector_count() const { return sector_count_; }
  std::uint32_t page_count() const { return static_cast<std::uint32_t>(pages_.size()); }

  /// The run that starts at `lba`, at most `count_max` sectors, never beyond the page's end.
  /// Shape: lba < sector_count(), count_max > 0.
  MapRun lookup(std::uint64_t lba, std::uint32_t count_max) const;

  /// Points [lba, lba + count) at `block`. What was there before is appended to `replaced`
  /// (without holes and zeros). Shape: within one page.
  void assign(std::uint64_t lba, std::uint32_t count, BlockId block, std::uint32_t sector,
              std::vector<MapRun>& replaced);

  static std::uint32_t page_of(std::uint64_t lba) {
    return static_cast<std::uint32_t>(lba / kSectorsPerPage);
  }
  /// Sectors from `lba` to its page's end.
  static std::uint32_t left_in_page(std::uint64_t lba) {
    return kSectorsPerPage - static_cast<std::uint32_t>(lba % kSectorsPerPage);
  }

  /// The page's runs without holes, for checkpoints. Shape: appended to `out`.
  void runs_of_page(std::uint32_t page, std::vector<MapRun>& out) const;

  /// The bytes of a page for an INode, appended; nothing for a page without runs.
  void encode_page(std::uint32_t page, std::vector<std::byte>& out) const;
  /// Replaces a page's contents. Errors: corrupt.
  Result<void> decode_page(std::uint32_t page, ConstBytes bytes);

  /// Says that a page, which is new, has contents that are not here.
  void set_absent(std::uint32_t page);
  bool is_page_loaded(std::uint32_t page) const { return pages_[page] != nullptr || !absent_[page]; }
  /// Whether [lba, lba + count) may be looked up and assigned. Shape: within the volume.
  bool is_loaded(std::uint64_t lba, std::uint64_t count) const {
    for (std::uint64_t page = lba / kSectorsPerPage; page * kSectorsPerPage < lba + count; ++page) {
      if (!is_page_loaded(static_cast<std::uint32_t>(page))) return false;
    }
    return true;
  }
  /// Forgets what a page holds; unless that is nothing, it is absent. Shape: it is in the INode so.
  void evict(std::uint32_t page);
  /// Pages that take memory, in no order.
  const std::vector<std::uint32_t>& resident_pages() const { return resident_; }
  /// Whether the page was used since the last call: the CLOCK's second chance.
  bool take_used(std::uint32_t page) { return std::exchange(pages_[page]->used, false); }

  /// Bytes of memory that the pages in memory take.
  std::size_t memory_bytes() const { return memory_bytes_; }

 private:
  /// One run of a page in list form.
  struct Run {
    BlockId block;
    std::uint16_t start;   // sector within the page
    std::uint16_t count;   // 1 to 1024
    std::uint16_t sector;  // within the block
    std::uint16_t zero;
  };
  static_assert(sizeof(Run) == 12);
  struct FlatPage {
    std::array<BlockId, kSectorsPerPage> block;
    std::array<std::uint16_t, kSectorsPerPage> sector;
  };
  struct Page {
    std::vector<Run> runs;           // list form
    std::unique_ptr<FlatPage> flat;  // flat form; runs is empty then
    std::uint32_t place = 0;         // in resident_
    mutable bool used = true;
  };
  static constexpr std::size_t kRunCountMax = 512;

  static void assign_runs(Page& page, std::uint64_t base, Run added, std::vector<MapRun>& replaced);
  static void assign_flat(FlatPage& flat, std::uint64_t base, Run added, std::vector<MapRun>& replaced);
  static bool continues(const Run& left, const Run& right);
  static void flatten(Page& page);
  static void count_replaced(const MapRun& run, std::vector<MapRun>& replaced);
  static std::size_t page_bytes(const Page& page);
  Page& add_page(std::uint32_t index);

  std::uint64_t sector_count_ = 0;
  std::vector<std::unique_ptr<Page>> pages_;
  std::vector<bool> absent_;
  std::vector<std::uint32_t> resident_;
  std::size_t memory_bytes_ = 0;
};

}  // namespace agro
