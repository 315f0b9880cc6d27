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
// in list and in flat form and through encoding. Method: random assignments, many seeds.
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
    std::uint64_t mapped = 0;
    for (const Cell& cell : model) mapped += cell.first != kHoleBlock ? 1 : 0;
    ExtentMap copy(size);
    for (std::uint32_t page = 0; page < map.page_count(); ++page) {
      std::vector<std::byte> bytes;
      map.encode_page(page, bytes);
      if (!bytes.empty()) ASSERT_TRUE(copy.decode_page(page, bytes).has_value());
    }
    expect_equal(copy, model);
  }
}

// Goal: at most 12 bytes per mapped sector when wholly random, far less when sequential.
TEST(ExtentMapTest, MemoryIsBounded) {
  constexpr std::uint64_t kSectors = 1 << 18;  // 1 GiB
  std::vector<MapRun> replaced;
  ExtentMap scattered(kSectors);
  Random random(1);
  for (std::uint64_t lba = 0; lba < kSectors; ++lba) {
    scattered.assign(lba, 1, static_cast<BlockId>(random.below(1000)), static_cast<std::uint32_t>(random.below(200)), replaced);
  }
  EXPECT_LE(scattered.memory_bytes(), 12 * kSectors);
  ExtentMap sequential(kSectors);
  for (std::uint64_t lba = 0; lba < kSectors; lba += 128) {
    sequential.assign(lba, 128, static_cast<BlockId>(lba / 128), 0, replaced);
  }
  EXPECT_LE(sequential.memory_bytes(), kSectors / 2);
}

}  // namespace
}  // namespace agro
