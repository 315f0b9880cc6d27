// Reading in order: what is fetched ahead, and that it never shows anything old.
#include <gtest/gtest.h>

#include <set>

#include "block/volume_fixture.hpp"
#include "block/write_history.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kSectors = 1024;

/// Every sector has its own number, and nothing of it is in memory.
void prepare(VolumeFixture& fixture) {
  fixture.options.read_cache_size = 4 * 1024 * 1024;
  ASSERT_TRUE(fixture.open().has_value());
  for (std::uint64_t lba = 0; lba < kSectors; ++lba) {
    const std::vector<std::byte> data = numbered(1, lba + 1);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(lba * kSectorSize, data)).has_value());
  }
  ASSERT_TRUE(fixture.close().has_value());
  ASSERT_TRUE(fixture.open().has_value());
  fixture.blocks.reads.clear();
}

std::uint64_t read_number(VolumeFixture& fixture, std::uint64_t lba) {
  std::vector<std::byte> data(kSectorSize);
  const Result<void> done = fixture.loop.run(fixture.volume->read(lba * kSectorSize, data));
  EXPECT_TRUE(done.has_value()) << done.error().to_string();
  return load<std::uint64_t>(data);
}

// Goal: who reads in order asks the peers seldom.
TEST(VolumeReadAheadTest, ReadsInOrderAreFewRequests) {
  VolumeFixture fixture(21);
  prepare(fixture);
  for (std::uint64_t lba = 0; lba < kSectors; ++lba) ASSERT_EQ(read_number(fixture, lba), lba + 1);
  EXPECT_LT(fixture.blocks.reads.size(), kSectors / 3);
  const std::uint64_t ahead = fixture.metrics.value("agro_volume_read_ahead_bytes_total");
  EXPECT_GT(ahead, kSectors * kSectorSize * 9 / 10);
  EXPECT_LE(ahead, kSectors * kSectorSize) << "fetched twice";
}

TEST(VolumeReadAheadTest, RandomReadsFetchNothing) {
  VolumeFixture fixture(22);
  prepare(fixture);
  Random random(1);
  for (int step = 0; step < 300; ++step) {
    const std::uint64_t lba = random.below(kSectors / 2) * 2;
    ASSERT_EQ(read_number(fixture, lba), lba + 1);
  }
  EXPECT_EQ(fixture.metrics.value("agro_volume_read_ahead_bytes_total"), 0U);
}

// Goal: what is written or trimmed while its old data is on the way is read as written. Method: at every step of a scan,
// what comes next is overwritten at once, before the fetch of it can have ended, or trimmed.
TEST(VolumeReadAheadTest, OverwrittenInFlight) {
  VolumeFixture fixture(23);
  prepare(fixture);
  for (std::uint64_t lba = 0; lba + 8 < kSectors; lba += 4) {
    for (std::uint64_t step = 0; step < 3; ++step) (void)read_number(fixture, lba + step);
    const std::vector<std::byte> data = numbered(1, lba + 900'000);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write((lba + 3) * kSectorSize, data)).has_value());
    ASSERT_TRUE(fixture.loop.run(fixture.volume->trim((lba + 5) * kSectorSize, kSectorSize)).has_value());
    ASSERT_EQ(read_number(fixture, lba + 3), lba + 900'000);
    ASSERT_EQ(read_number(fixture, lba + 5), 0U);
    const std::vector<std::byte> again = numbered(1, lba + 6);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write((lba + 5) * kSectorSize, again)).has_value());
  }
  EXPECT_GT(fixture.metrics.value("agro_volume_read_ahead_bytes_total"), 0U);
}

// Goal: an error of a fetch is nobody's, until somebody wants the data.
TEST(VolumeReadAheadTest, ErrorsComeToWhoReads) {
  VolumeFixture fixture(24);
  prepare(fixture);
  std::vector<std::byte> data(kSectorSize);
  ASSERT_EQ(read_number(fixture, 0), 1U);
  ASSERT_EQ(read_number(fixture, 1), 2U);
  // The third one begins the fetch, which fails, as does a read of what it was to bring.
  auto third = fixture.volume->read(2 * kSectorSize, data);
  const Result<void> done = fixture.loop.run(std::move(third));
  ASSERT_TRUE(done.has_value());
  fixture.backend->fail_with(Errc::io_error);
  EXPECT_EQ(fixture.loop.run(fixture.volume->read(8 * kSectorSize, data)).code(), Errc::io_error);
  fixture.backend->fail_with(Errc::ok);
  for (std::uint64_t lba = 3; lba < 64; ++lba) ASSERT_EQ(read_number(fixture, lba), lba + 1);
}

// Goal: a volume closes, or dies, while pieces are on their way.
TEST(VolumeReadAheadTest, ClosesWithFetchesUnderWay) {
  for (const bool crashes : {false, true}) {
    VolumeFixture fixture(25);
    prepare(fixture);
    for (std::uint64_t lba = 0; lba < 3; ++lba) ASSERT_EQ(read_number(fixture, lba), lba + 1);
    if (crashes) fixture.crash();
    else ASSERT_TRUE(fixture.close().has_value());
    ASSERT_TRUE(fixture.open().has_value());
    ASSERT_EQ(read_number(fixture, 9), 10U);
  }
}

// Goal: no block is asked twice for one read, also where its sectors lie in two pages of the map. Method: a read over
// everything.
TEST(VolumeReadAheadTest, ABlockIsAskedOnce) {
  VolumeFixture fixture(26, 16 * 1024 * 1024);
  fixture.options.read_cache_size = 0;
  ASSERT_TRUE(fixture.open().has_value());
  const std::uint64_t sectors = 3 * ExtentMap::kSectorsPerPage;
  ASSERT_LE(sectors * kSectorSize, fixture.size_bytes);
  for (std::uint64_t lba = 0; lba < sectors; ++lba) {
    const std::vector<std::byte> data = numbered(1, lba + 1);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(lba * kSectorSize, data)).has_value());
  }
  ASSERT_TRUE(fixture.close().has_value());
  ASSERT_TRUE(fixture.open().has_value());
  fixture.blocks.reads.clear();
  std::vector<std::byte> data(sectors * kSectorSize);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->read(0, data)).has_value());
  const std::vector<std::uint64_t> found = numbers_of(data);
  for (std::uint64_t lba = 0; lba < sectors; ++lba) ASSERT_EQ(found[lba], lba + 1);
  const std::set<BlockRef> distinct(fixture.blocks.reads.begin(), fixture.blocks.reads.end());
  EXPECT_EQ(fixture.blocks.reads.size(), distinct.size());
}

}  // namespace
}  // namespace agro
