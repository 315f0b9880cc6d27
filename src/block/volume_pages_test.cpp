// Map pages on demand: eviction, loads that fail, and writes that race a load.
#include <gtest/gtest.h>

#include <map>

#include "block/volume_fixture.hpp"
#include "block/write_history.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kPageBytes = std::uint64_t{ExtentMap::kSectorsPerPage} * kSectorSize;
constexpr std::uint64_t kPages = 16;

std::vector<std::byte> sector_of(std::uint64_t value) {
  std::vector<std::byte> bytes(kSectorSize);
  store(MutableBytes(bytes), value);
  return bytes;
}

Result<std::uint64_t> value_at(VolumeFixture& fixture, std::uint64_t lba) {
  std::vector<std::byte> bytes(kSectorSize);
  AGRO_TRY_OK(fixture.loop.run(fixture.volume->read(lba * kSectorSize, bytes)));
  return load<std::uint64_t>(bytes);
}

/// Sixteen map pages, some sectors written in each, and none of them in memory.
void open_with_absent_pages(VolumeFixture& fixture) {
  fixture.options.map_memory = std::make_shared<MapMemory>(0);
  ASSERT_TRUE(fixture.open().has_value());
  for (std::uint64_t lba = 0; lba < kPages * ExtentMap::kSectorsPerPage; lba += 100) {
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(lba * kSectorSize, sector_of(lba + 1))).has_value());
  }
  ASSERT_TRUE(fixture.close().has_value());
  fixture.options.read_cache_size = 0;
  ASSERT_TRUE(fixture.open().has_value());
  EXPECT_EQ(fixture.volume->info().map_memory_bytes, 0U);
}

// Goal: a volume whose map never fits reads back what was written, through checkpoints, the cleaner,
// trims, crashes and reopenings. Method: memory for about three of sixteen pages, and a model.
TEST(VolumePagesTest, EvictedPagesReadBack) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    VolumeFixture fixture(seed, kPages * kPageBytes);
    const auto memory = std::make_shared<MapMemory>(seed % 2 == 0 ? 0 : 3000);
    fixture.options.map_memory = memory;
    ASSERT_TRUE(fixture.open().has_value());
    std::map<std::uint64_t, std::uint64_t> model;
    Random random(seed * 31);
    for (std::uint64_t step = 1; step <= 1500; ++step) {
      const std::uint64_t lba = random.below(fixture.size_bytes / kSectorSize);
      if (random.chance(1, 12)) {
        ASSERT_TRUE(fixture.loop.run(fixture.volume->trim(lba * kSectorSize, kSectorSize)).has_value());
        model.erase(lba);
      } else {
        ASSERT_TRUE(fixture.loop.run(fixture.volume->write(lba * kSectorSize, sector_of(step))).has_value());
        model[lba] = step;
      }
      if (random.chance(1, 10)) ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
      if (random.chance(1, 300)) {
        ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
        fixture.crash();
        ASSERT_TRUE(fixture.open().has_value());
      }
    }
    ASSERT_TRUE(fixture.loop.run(fixture.volume->checkpoint()).has_value());
    for (std::uint64_t lba = 0; lba < fixture.size_bytes / kSectorSize; ++lba) {
      const Result<std::uint64_t> found = value_at(fixture, lba);
      ASSERT_TRUE(found.has_value()) << found.error().to_string();
      ASSERT_EQ(*found, model.contains(lba) ? model[lba] : 0) << lba;
    }
    // All clean: what is over the limit is what was used last.
    EXPECT_LE(memory->used_bytes(), memory->limit_bytes() + 16384);
    ASSERT_TRUE(fixture.close().has_value());
    EXPECT_EQ(memory->used_bytes(), 0U);
  }
}

// Goal: a page that cannot be read is an error that names its block, to reads, writes and trims, never a
// hole; other pages are not touched by it. Method: the backend fails once the volume is open.
TEST(VolumePagesTest, PageThatCannotBeReadIsAnError) {
  VolumeFixture fixture(3, kPages * kPageBytes);
  ASSERT_NO_FATAL_FAILURE(open_with_absent_pages(fixture));
  std::vector<std::byte> bytes(kSectorSize);
  EXPECT_FALSE(fixture.volume->try_read(0, bytes).has_value());
  EXPECT_FALSE(fixture.volume->try_write(0, bytes).has_value());
  fixture.backend->fail_with(Errc::corrupt);
  for (const Result<void>& done :
       {fixture.loop.run(fixture.volume->read(0, bytes)), fixture.loop.run(fixture.volume->write(0, bytes)),
        fixture.loop.run(fixture.volume->write(1, ConstBytes(bytes).first(5))),
        fixture.loop.run(fixture.volume->trim(0, kPageBytes))}) {
    ASSERT_EQ(done.code(), Errc::corrupt);
    EXPECT_NE(done.error().to_string().find("map page 0 in block"), std::string::npos)
        << done.error().to_string();
  }
  fixture.backend->fail_with(Errc::ok);
  for (const std::uint64_t lba : {0ULL, 100ULL, 1100ULL}) EXPECT_EQ(*value_at(fixture, lba), lba + 1);
}

// Goal: a block that is sealed in the midst of a write does not evict the page that the write comes to
// next. Method: no memory at all, and writes over the border of two clean pages, so that some segment is
// full at the border.
TEST(VolumePagesTest, PagesStayUntilTheEndOfAWrite) {
  constexpr std::uint64_t kBorder = ExtentMap::kSectorsPerPage;
  constexpr std::uint64_t kHalf = 8;
  for (std::uint64_t fill = 0; fill < 16; ++fill) {
    SCOPED_TRACE(fill);
    VolumeFixture fixture(fill, kPages * kPageBytes);
    ASSERT_NO_FATAL_FAILURE(open_with_absent_pages(fixture));
    for (std::uint64_t lba = 0; lba < fill; ++lba) {
      ASSERT_TRUE(fixture.loop.run(fixture.volume->write((5 * kBorder + 2 * lba) * kSectorSize, sector_of(1))).has_value());
    }
    std::vector<std::byte> bytes(2 * kHalf * kSectorSize);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->read((kBorder - kHalf) * kSectorSize, bytes)).has_value());
    std::fill(bytes.begin(), bytes.end(), std::byte{0x5A});
    const std::optional<Result<void>> written =
        fixture.volume->try_write((kBorder - kHalf) * kSectorSize, bytes);
    ASSERT_TRUE(written.has_value());
    EXPECT_TRUE(written->has_value());
    EXPECT_EQ(*value_at(fixture, kBorder), 0x5A5A5A5A5A5A5A5AU);
  }
}

Job write_value(VolumeFixture& fixture, std::uint64_t lba, std::uint64_t value, int& failures) {
  const std::vector<std::byte> bytes = sector_of(value);
  const Result<void> done = co_await fixture.volume->write(lba * kSectorSize, bytes);
  failures += done.has_value() ? 0 : 1;
}

// Goal: writes that wait for a page come into the map and the log in one order. Method: many at once
// to the same sectors of absent pages; what is read afterwards is what a replay of the log makes.
TEST(VolumePagesTest, WritesThatRaceALoadKeepTheOrderOfTheLog) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    VolumeFixture fixture(seed, kPages * kPageBytes);
    ASSERT_NO_FATAL_FAILURE(open_with_absent_pages(fixture));
    Random random(seed);
    TaskGroup group(fixture.loop.executor());
    int failures = 0;
    for (std::uint64_t value = 10000; value < 10200; ++value) {
      const std::uint64_t lba = random.below(kPages) * ExtentMap::kSectorsPerPage + random.below(3);
      group.spawn(write_value(fixture, lba, value, failures));
      fixture.loop.run_for(std::chrono::microseconds(random.below(400)));
    }
    ASSERT_TRUE(fixture.loop.run_until([&] { return group.count() == 0; }));
    ASSERT_EQ(failures, 0);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
    std::vector<std::uint64_t> before;
    for (int life = 0; life < 2; ++life) {
      std::vector<std::uint64_t> found;
      for (std::uint64_t page = 0; page < kPages; ++page) {
        for (std::uint64_t sector = 0; sector < 3; ++sector) {
          found.push_back(*value_at(fixture, page * ExtentMap::kSectorsPerPage + sector));
        }
      }
      if (life == 0) before = found;
      EXPECT_EQ(found, before);
      fixture.crash();
      ASSERT_TRUE(fixture.open().has_value());
    }
  }
}

}  // namespace
}  // namespace agro
