#include "block/read_ahead.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/random.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kCache = 16 * 1024;  // sectors: 64 MiB
constexpr std::uint64_t kEnd = 1 << 20;

// Goal: from the third read in a row on, what is fetched goes on without gaps, in pieces, at most a 64th of the cache ahead.
TEST(ReadAheadTest, AStreamIsFetched) {
  ReadAhead ahead(kCache);
  std::uint64_t fetched_to = 0;
  std::uint64_t most_ahead = 0;
  for (std::uint64_t lba = 100; lba < 5000; lba += 4) {
    const ReadAhead::Range range = ahead.note(lba, 4, kEnd);
    if (lba < 108) {
      EXPECT_EQ(range.count, 0U) << "two reads are no stream";
      continue;
    }
    if (range.count == 0) continue;
    EXPECT_LE(range.count, ReadAhead::kPieceMax);
    EXPECT_EQ(range.lba, fetched_to == 0 ? lba + 4 : fetched_to);
    fetched_to = range.lba + range.count;
    most_ahead = std::max(most_ahead, fetched_to - lba);
  }
  EXPECT_GT(fetched_to, 5000U);
  EXPECT_GT(most_ahead, kCache / 128);
  EXPECT_LE(most_ahead, kCache / 64);
}

TEST(ReadAheadTest, EndsWithTheVolume) {
  ReadAhead ahead(kCache);
  constexpr std::uint64_t kSmall = 37;
  for (std::uint64_t lba = 0; lba < kSmall; ++lba) {
    const ReadAhead::Range range = ahead.note(lba, 1, kSmall);
    EXPECT_LE(range.lba + range.count, kSmall);
  }
}

TEST(ReadAheadTest, FollowsFourStreamsAtOnce) {
  ReadAhead ahead(kCache);
  std::vector<int> fetches(5);
  for (std::uint64_t step = 0; step < 100; ++step) {
    for (std::uint64_t stream = 0; stream < 4; ++stream)
      fetches[stream] += static_cast<int>(ahead.note(stream * 10'000 + step, 1, kEnd).count);
  }
  for (int stream = 0; stream < 4; ++stream) EXPECT_GE(fetches[stream], 100) << stream;
  // A fifth takes the place of the one that was idle longest.
  for (std::uint64_t step = 0; step < 10; ++step) fetches[4] += static_cast<int>(ahead.note(90'000 + step, 1, kEnd).count);
  EXPECT_GT(fetches[4], 0);
}

// Goal: nothing is fetched for what is random, large, or has no cache.
TEST(ReadAheadTest, NothingForOthers) {
  ReadAhead ahead(kCache);
  ReadAhead small(255);
  Random random(1);
  std::uint32_t fetched = 0;
  for (int step = 0; step < 10'000; ++step) fetched += ahead.note(random.below(kEnd), 1, kEnd).count;
  for (std::uint64_t lba = 0; lba < 6400; lba += 64) fetched += ahead.note(lba, 64, kEnd).count;
  for (std::uint64_t lba = 0; lba < 1000; ++lba) fetched += small.note(lba, 1, kEnd).count;
  EXPECT_EQ(fetched, 0U);
}

}  // namespace
}  // namespace agro
