#include "block/extent_map.hpp"

#include <gtest/gtest.h>

#include "base/random.hpp"

namespace agro {
namespace {

using Cell = std::pair<BlockId, std::uint32_t>;

void expect_equal(const ExtentMap& map, const std::vector<Cell>& model) {
  std::uint64_t lba = 0;
  while (lba < model.size()) {
    const MapRun run = map.lookup(lba, 1000000);
    ASSERT_GT(run.count, 0U);
    for (std::uint32_t index = 0; index < run.count; ++index) {
      const std::uint32_t step = run.block < kBlockIdLimit ? index : 0;
      ASSERT_EQ(model[lba + index], Cell(run.block, run.sector + step)) << lba + index;
    }
    lba += run.count;
  }
}

// Goal: the map equals a plain array after any assignments, with what it replaced reported exactly,
// in list and in cell form and through encoding. Method: random assignments, many seeds.
TEST(ExtentMapTest, EqualsAnArray) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::uint64_t size = 1500 + random.below(3000);
    ExtentMap map(size);
    std::vector<Cell> model(size, Cell(kHoleBlock, 0));
    const std::uint32_t length_max = seed % 3 == 0 ? 3 : 200;
    std::vector<MapRun> replaced;
    for (int step = 0; step < 1500; ++step) {
      const std::uint64_t lba = random.below(size);
      const auto limit = static_cast<std::uint32_t>(
          std::min<std::uint64_t>({ExtentMap::left_in_page(lba), size - lba, length_max}));
      const auto count = static_cast<std::uint32_t>(1 + random.below(limit));
      BlockId block = static_cast<BlockId>(random.below(20));
      if (block == 0) block = kHoleBlock;
      if (block == 1) block = kZeroBlock;
      const bool sectors = block < kBlockIdLimit;
      const auto sector = static_cast<std::uint32_t>(sectors ? random.below(100) : 0);
      replaced.clear();
      map.assign(lba, count, block, sector, replaced);
      std::vector<Cell> gone(size, Cell(kHoleBlock, 0));
      for (const MapRun& run : replaced) {
        for (std::uint32_t index = 0; index < run.count; ++index) {
          gone[run.lba + index] = Cell(run.block, run.sector + index);
        }
      }
      for (std::uint32_t index = 0; index < count; ++index) {
        const Cell old = model[lba + index];
        if (old.first < kBlockIdLimit) {
          ASSERT_EQ(gone[lba + index], old);
        } else {
          ASSERT_EQ(gone[lba + index].first, kHoleBlock);
        }
        model[lba + index] = Cell(block, sectors ? sector + index : 0);
      }
    }
    expect_equal(map, model);
    ExtentMap copy(size);
    for (std::uint32_t page = 0; page < map.page_count(); ++page) {
      std::vector<std::byte> bytes;
      map.encode_page(page, bytes);
      if (!bytes.empty()) ASSERT_TRUE(copy.decode_page(page, bytes).has_value());
    }
    expect_equal(copy, model);
  }
}

/// Maps `mapped_count` sectors, each at a place of its own and in any block.
void map_at_random(ExtentMap& map, std::uint64_t mapped_count) {
  std::vector<MapRun> replaced;
  Random random(1);
  for (std::uint64_t mapped = 0; mapped < mapped_count;) {
    const std::uint64_t lba = random.below(map.sector_count());
    if (map.lookup(lba, 1).block != kHoleBlock) continue;
    map.assign(lba, 1, static_cast<BlockId>(random.below(100000)),
               static_cast<std::uint32_t>(random.below(250)), replaced);
    ++mapped;
  }
}

// Goal: at most 8 bytes per mapped sector when wholly random from a tenth of the volume on; fewer than 800
// in a page where less is mapped; next to none when sequential. Method: maps filled to several parts.
TEST(ExtentMapTest, MemoryIsBounded) {
  constexpr std::uint64_t kSectors = 1 << 18;  // 1 GiB
  for (const std::uint64_t percent : {10, 11, 12, 13, 15, 20, 30, 50, 70, 90, 99}) {
    SCOPED_TRACE(percent);
    ExtentMap map(kSectors);
    map_at_random(map, kSectors * percent / 100);
    EXPECT_LE(map.memory_bytes(), 8 * (kSectors * percent / 100));
  }
  for (const std::uint64_t percent : {1, 2, 4, 8}) {
    ExtentMap map(kSectors);
    map_at_random(map, kSectors * percent / 100);
    EXPECT_LE(map.memory_bytes(), std::size_t{map.page_count()} * 800);
  }
  ExtentMap sequential(kSectors);
  std::vector<MapRun> replaced;
  for (std::uint64_t lba = 0; lba < kSectors; lba += 128) {
    sequential.assign(lba, 128, static_cast<BlockId>(lba / 128), 0, replaced);
  }
  EXPECT_LE(sequential.memory_bytes(), kSectors / 8);
}

// Goal: what is trimmed takes no memory. Method: pages in both forms, trimmed bit by bit.
TEST(ExtentMapTest, TrimmedPagesTakeNoMemory) {
  for (const std::uint64_t mapped_count : {40, 3000}) {
    constexpr std::uint64_t kSectors = 4096;
    ExtentMap map(kSectors);
    map_at_random(map, mapped_count);
    EXPECT_EQ(map.resident_pages().size(), 4U);
    std::vector<MapRun> replaced;
    for (std::uint64_t lba = 0; lba < kSectors; lba += 16) map.assign(lba, 16, kHoleBlock, 0, replaced);
    EXPECT_EQ(replaced.size(), mapped_count);
    EXPECT_EQ(map.memory_bytes(), 0U);
    EXPECT_TRUE(map.resident_pages().empty());
  }
}

// Goal: the largest ids and sectors fit a cell; beyond them is corrupt. Method: pages with many runs, coded.
TEST(ExtentMapTest, LargestNumbersOfACell) {
  ExtentMap map(ExtentMap::kSectorsPerPage);
  std::vector<MapRun> replaced;
  for (std::uint64_t lba = 0; lba < ExtentMap::kSectorsPerPage; lba += 2) {
    map.assign(lba, 1, kBlockIdLimit - 1, kSectorsPerBlockMax - 1, replaced);
  }
  map.assign(1, 1, kZeroBlock, 0, replaced);
  EXPECT_EQ(map.lookup(2, 5), (MapRun{2, 1, kBlockIdLimit - 1, kSectorsPerBlockMax - 1}));
  EXPECT_EQ(map.lookup(1, 5), (MapRun{1, 1, kZeroBlock, 0}));
  std::vector<std::byte> bytes;
  map.encode_page(0, bytes);
  ExtentMap copy(ExtentMap::kSectorsPerPage);
  ASSERT_TRUE(copy.decode_page(0, bytes).has_value());
  EXPECT_EQ(copy.lookup(2, 5), map.lookup(2, 5));
  for (const auto& [offset, value] : {std::pair<std::size_t, std::uint32_t>{8, kBlockIdLimit}, {16, 4096}}) {
    std::vector<std::byte> wrong = bytes;
    store(MutableBytes(wrong).subspan(offset), value);
    ExtentMap other(ExtentMap::kSectorsPerPage);
    EXPECT_EQ(other.decode_page(0, wrong).code(), Errc::corrupt) << offset;
  }
}

}  // namespace
}  // namespace agro
