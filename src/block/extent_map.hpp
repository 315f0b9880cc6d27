// Extent map: for every sector of a volume, which block holds it and where.
//
// Paged by LBA (block/map_page.hpp): sectors mapped in sequence cost bytes per run, sectors mapped
// wholly at random 5 to 8 bytes each. Blocks are named by dense local ids (block/block_table.hpp).
// A page may be absent: its contents are in the INode and must be loaded before it is looked at.
// Invariants: an absent page is never taken for a hole: looking at one is a broken contract.
// Threading: one loop. Format of a page: docs/formats/inode.md, "Map pages".
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "block/map_page.hpp"

namespace agro {

class ExtentMap {
 public:
  static constexpr std::uint32_t kSectorsPerPage = MapPage::kSectorCount;

  explicit ExtentMap(std::uint64_t sector_count);

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

  /// What is added is a hole. Shape: not fewer than before.
  void grow(std::uint64_t sector_count);
  /// Shape: not more than before, and nothing is mapped or absent beyond.
  void shrink(std::uint64_t sector_count);

  /// The bytes of a page for an INode, appended; nothing for a page without runs.
  void encode_page(std::uint32_t page, std::vector<std::byte>& out) const;
  /// Gives a page, which is new or absent, its contents. Errors: corrupt.
  Result<void> decode_page(std::uint32_t page, ConstBytes bytes);

  /// Says that a page, which is new, has contents that are not here.
  void set_absent(std::uint32_t page);
  bool is_page_loaded(std::uint32_t page) const { return !pages_[page].empty() || !absent_[page]; }
  /// Whether [lba, lba + count) may be looked up and assigned. Shape: within the volume.
  bool is_loaded(std::uint64_t lba, std::uint64_t count) const {
    for (std::uint64_t page = lba / kSectorsPerPage; page * kSectorsPerPage < lba + count; ++page) {
      if (!is_page_loaded(static_cast<std::uint32_t>(page))) return false;
    }
    return true;
  }
  /// Forgets what a page holds: it is absent. Shape: it takes memory, and is in the INode as it is.
  void evict(std::uint32_t page);
  /// Pages that take memory, in no order.
  const std::vector<std::uint32_t>& resident_pages() const { return resident_; }
  /// Whether a page that takes memory was used since the last call: the CLOCK's second chance.
  bool take_used(std::uint32_t page) { return pages_[page].take_used(); }

  /// Bytes of memory that the pages in memory take.
  std::size_t memory_bytes() const { return memory_bytes_; }

 private:
  void add_resident(std::uint32_t page);
  void drop_resident(std::uint32_t place);

  std::uint64_t sector_count_ = 0;
  std::vector<MapPage> pages_;
  std::vector<bool> absent_;
  std::vector<std::uint32_t> resident_;
  std::size_t memory_bytes_ = 0;
};

}  // namespace agro
