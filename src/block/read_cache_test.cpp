// Goal: the read cache keeps what is read again and again, within its memory, whatever else is read
// once. Method: sectors whose contents are their number; who is still there afterwards.
#include "block/read_cache.hpp"

#include <gtest/gtest.h>

#include <array>

#include "base/random.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kSlots = 1024;
constexpr std::uint64_t kHot = 1;
constexpr std::uint64_t kScan = 2;

/// Reads through a cache; every sector read is checked.
class Reader {
 public:
  explicit Reader(std::uint32_t slots) : cache(std::size_t{slots} * kPageSize) {}

  /// Whether it was in the cache; it may be afterwards.
  bool read(std::uint64_t sequence, std::uint32_t sector) {
    std::array<std::uint64_t, kPageSize / 8> page{};
    const MutableBytes bytes = std::as_writable_bytes(std::span(page));
    const std::uint64_t number = (sequence << 32) + sector;
    if (cache.get(sequence, sector, bytes)) {
      EXPECT_EQ(page.front(), number);
      EXPECT_EQ(page.back(), number);
      return true;
    }
    page.fill(number);
    cache.put(sequence, sector, bytes);
    return false;
  }
  void fetch_ahead(std::uint64_t sequence, std::uint32_t sector) {
    std::array<std::uint64_t, kPageSize / 8> page{};
    page.fill((sequence << 32) + sector);
    cache.put(sequence, sector, std::as_bytes(std::span(page)), ReadCache::Origin::ahead);
  }
  std::uint32_t read_all(std::uint64_t sequence, std::uint32_t count) {
    std::uint32_t hits = 0;
    for (std::uint32_t sector = 0; sector < count; ++sector) hits += read(sequence, sector) ? 1 : 0;
    return hits;
  }

  ReadCache cache;
};

TEST(ReadCacheTest, KeepsWhatFits) {
  Reader reader(kSlots);
  EXPECT_EQ(reader.read_all(kHot, kSlots), 0U);
  EXPECT_EQ(reader.read_all(kHot, kSlots), kSlots);
  EXPECT_EQ(reader.cache.memory_bytes(), kSlots * kPageSize);
  EXPECT_EQ(reader.cache.hit_count(), kSlots);
  EXPECT_EQ(reader.cache.miss_count(), kSlots);
}

TEST(ReadCacheTest, TinyOnes) {
  for (const std::uint32_t slots : {0U, 1U, 2U, 7U, 8U, 9U}) {
    SCOPED_TRACE(slots);
    Reader reader(slots);
    Random random(slots + 1);
    for (int step = 0; step < 2000; ++step) {
      reader.read(1, static_cast<std::uint32_t>(random.below(20)));
      if (random.chance(1, 5)) reader.fetch_ahead(1, static_cast<std::uint32_t>(random.below(20)));
    }
    EXPECT_EQ(reader.cache.memory_bytes(), slots * kPageSize);
  }
}

// A scan of ten times the cache, by reads or fetched ahead, in whole sectors or in pieces, while the
// hot set is quiet.
TEST(ReadCacheTest, AScanLeavesTheHotSet) {
  for (const char* how : {"reads", "pieces", "ahead"}) {
    SCOPED_TRACE(how);
    Reader reader(kSlots);
    const std::uint32_t hot = kSlots / 2;
    reader.read_all(kHot, hot);
    EXPECT_EQ(reader.read_all(kHot, hot), hot);
    for (std::uint32_t sector = 0; sector < 10 * kSlots; ++sector) {
      if (how[0] == 'a') reader.fetch_ahead(kScan, sector);
      reader.read(kScan, sector);
      if (how[0] == 'p') reader.read(kScan, sector);
    }
    EXPECT_EQ(reader.read_all(kHot, hot), hot);
  }
}

// The hot set is read all along, a sector in ten reads, and changes: the new one is kept soon.
TEST(ReadCacheTest, TheHotSetMayChange) {
  Reader reader(kSlots);
  Random random(5);
  const std::uint32_t hot = kSlots / 2;
  std::uint32_t scanned = 0;
  for (const std::uint64_t sequence : {10U, 11U, 12U}) {
    std::uint32_t hits = 0;
    for (std::uint32_t step = 0; step < 40 * kSlots; ++step) {
      const auto sector = static_cast<std::uint32_t>(random.below(hot));
      const bool hit = reader.read(sequence, sector);
      if (step >= 39 * kSlots) hits += hit ? 1 : 0;
      for (int others = 0; others < 9; ++others) reader.read(kScan, scanned++ % 60'000);
    }
    EXPECT_GE(hits, kSlots * 99 / 100) << sequence;
  }
}

// Reads spread evenly over four times the cache find a quarter.
TEST(ReadCacheTest, UniformReads) {
  Reader reader(kSlots);
  Random random(6);
  std::uint32_t hits = 0;
  for (std::uint32_t step = 0; step < 40 * kSlots; ++step) {
    hits += reader.read(1, static_cast<std::uint32_t>(random.below(4 * kSlots))) ? 1 : 0;
  }
  EXPECT_GE(hits, 40 * kSlots * 23 / 100);
}

// What was fetched ahead stays until its reader comes, if that is soon.
TEST(ReadCacheTest, FetchedAheadIsThereInTime) {
  Reader reader(kSlots);
  reader.read_all(kHot, kSlots);
  reader.read_all(kHot, kSlots);
  const std::uint32_t window = kSlots / 64;
  for (std::uint32_t begin = 0; begin < 10 * kSlots; begin += window) {
    for (std::uint32_t sector = begin; sector < begin + window; ++sector) reader.fetch_ahead(3, sector);
    for (std::uint32_t sector = begin; sector < begin + window; ++sector) {
      EXPECT_TRUE(reader.read(3, sector));
    }
  }
}

}  // namespace
}  // namespace agro
