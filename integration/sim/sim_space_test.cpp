// Small stores, a good part of them taken, and users who write as fast as they can.
#include <gtest/gtest.h>

#include "base/log.hpp"
#include "exercise.hpp"
#include "sim_cluster.hpp"

namespace agro {
namespace {

using std::chrono::minutes;

constexpr std::uint64_t kStoreSize = 16 * 1024 * 1024;
constexpr std::uint64_t kSectorsAtOnce = 16;

/// What several writers of one volume share.
struct Overwriting {
  BlockDevice& device;
  Random random;
  std::vector<std::uint64_t> expected;  // by sector
  std::uint64_t next_number = 1;
  std::uint64_t left = 0;  // writes
  std::set<std::uint64_t> busy = {};
};

/// Each sector is written by one at a time, so that the last number is the one to expect.
Job overwrite(Overwriting& work) {
  while (work.left > 0) {
    const std::uint64_t lba = work.random.below(work.expected.size());
    if (!work.busy.insert(lba).second) continue;
    --work.left;
    const std::uint64_t number = work.next_number++;
    const std::vector<std::byte> data = numbered(1, number);
    const Result<void> written = co_await work.device.write(lba * kSectorSize, data);
    EXPECT_TRUE(written.has_value());
    work.expected[lba] = number;
    work.busy.erase(lba);
  }
}

/// Shape: a multiple of kSectorsAtOnce sectors.
Job fill(Overwriting& work, bool& done) {
  for (std::uint64_t lba = 0; lba < work.expected.size(); lba += kSectorsAtOnce) {
    const std::vector<std::byte> data = numbered(kSectorsAtOnce, work.next_number);
    EXPECT_TRUE((co_await work.device.write(lba * kSectorSize, data)).has_value());
    for (std::uint64_t step = 0; step < kSectorsAtOnce; ++step) work.expected[lba + step] = work.next_number;
    ++work.next_number;
  }
  done = true;
}

/// A cluster of three small stores, filled to `percent` with the first writing of its volume.
struct FullCluster {
  FullCluster(std::uint64_t seed, std::uint64_t percent)
      : cluster(seed, {.store_size = kStoreSize,
                       .volume_size = round_down(3 * kStoreSize / 2 * percent / 100, kSectorsAtOnce * kSectorSize)}) {
    set_log_sink({});
    // A fourth of a store may be on its way at a time, as it is with a few hundred MiB and blocks of 1 MiB.
    cluster.volume_options.in_flight_size_max = kStoreSize / 4;
    cluster.volume_options.checkpoint_after_bytes = UINT64_MAX;
    cluster.volume_options.checkpoint_after_blocks = UINT64_MAX;
    cluster.volume_options.dead_bytes_max = kStoreSize / 2;
    const Result<void> started = cluster.start();
    EXPECT_TRUE(started.has_value()) << started.error().to_string();
  }
  SimCluster cluster;
};

// Goal: stores that are 70 % full go on taking what overwrites it, however fast it comes and however old the
// client's news of their space are; and all of it is there in the end.
// Method: the whole is overwritten twice, sector by sector at random, with many writes at a time. It used to
// fill even the reserve with what was on its way, and then the checkpoint that frees space waited for that.
TEST(SimSpaceTest, OverwritingSmallStoresNeverStops) {
  for (std::uint64_t seed = 1; seed <= 12 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    FullCluster full(seed, 70);
    SimCluster& cluster = full.cluster;
    const std::shared_ptr<BlockDevice> device = cluster.open_volume().value();
    Overwriting work{*device, Random(seed), std::vector<std::uint64_t>(device->size_bytes() / kSectorSize)};
    TaskGroup writers(cluster.client_env(0).executor);
    bool is_filled = false;
    writers.spawn(fill(work, is_filled));
    ASSERT_TRUE(cluster.loop.run_until([&] { return is_filled; }, minutes(2)));
    work.left = 2 * work.expected.size();
    for (int count = 0; count < 32; ++count) writers.spawn(overwrite(work));
    ASSERT_TRUE(cluster.loop.run_until([&] { return writers.count() == 0; }, minutes(5)))
        << work.left << " writes left: " << cluster.manager().attached().front().status.suspended;
    std::vector<std::byte> bytes(device->size_bytes());
    ASSERT_TRUE(cluster.loop.run(device->flush()).has_value());
    ASSERT_TRUE(cluster.loop.run(device->read(0, bytes)).has_value());
    EXPECT_EQ(numbers_of(bytes), work.expected);
  }
}

}  // namespace
}  // namespace agro
