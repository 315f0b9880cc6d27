// Extent map: for every sector of a volume, which block holds it and where.
//
// Paged by LBA: a page covers kSectorsPerPage sectors and is either a sorted list of runs (12 bytes
// each) or, beyond kRunCountMax runs, a flat table (6 bytes a sector). So a volume mapped in
// sequence costs bytes per run, and one mapped wholly at random 6 bytes per sector.
// Blocks are named by dense local ids (block/block_table.hpp).
// Invariants: runs are sorted, do not overlap, and neighbours that continue each other are one.
// Threading: one loop. Format of a page: docs/formats/inode.md, "Map pages".
#pragma once

#include <array>
#include <cstdint>
#include <memory>
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

  std::uint64_t mapped_sector_count() const { return mapped_sector_count_; }
  /// Bytes of memory that the map takes.
  std::size_t memory_bytes() const;

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
  };
  static constexpr std::size_t kRunCountMax = 512;

  void assign_runs(Page& page, std::uint64_t base, Run added, std::vector<MapRun>& replaced);
  void assign_flat(FlatPage& flat, std::uint64_t base, Run added, std::vector<MapRun>& replaced);
  static bool continues(const Run& left, const Run& right);
  static void flatten(Page& page);
  void count_replaced(const MapRun& run, std::vector<MapRun>& replaced);

  std::uint64_t sector_count_ = 0;
  std::uint64_t mapped_sector_count_ = 0;
  std::vector<std::unique_ptr<Page>> pages_;
};

}  // namespace agro
