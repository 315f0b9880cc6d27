// The whole cluster, crashed at random instants, on simulated time.
#include "sim_cluster.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/log.hpp"
#include "block/write_history.hpp"

namespace agro {
namespace {

std::vector<std::uint64_t> read_numbers(SimCluster& cluster, BlockDevice& device) {
  std::vector<std::byte> bytes(device.size_bytes());
  const Result<void> done = cluster.loop.run(device.read(0, bytes));
  EXPECT_TRUE(done.has_value()) << done.error().to_string();
  return numbers_of(bytes);
}

/// Writes for a random while, until all power fails.
void write_for_a_while(SimCluster& cluster, std::shared_ptr<BlockDevice> device, History& history,
                       Random& random, Duration limit) {
  bool stopped = false;
  TaskGroup group(cluster.client_env(0).executor);
  group.spawn(write_numbered(*device, history, random, device->size_bytes() / kSectorSize, stopped));
  cluster.loop.run_for(Duration(random.below(static_cast<std::uint64_t>(limit.count()))));
  stopped = true;
  device.reset();
  cluster.crash_everything();
  ASSERT_TRUE(cluster.loop.run_until([&] { return group.count() == 0; }));
}

void crash_everything(std::uint64_t seed) {
  SCOPED_TRACE("replay with AGRO_SEED=" + std::to_string(seed));
  SimCluster cluster(seed, {});
  Random random(seed + 99);
  History history;
  const Result<void> started = cluster.start();
  ASSERT_TRUE(started.has_value()) << started.error().to_string();
  for (int life = 0; life < 3; ++life) {
    Result<std::shared_ptr<BlockDevice>> device = cluster.open_volume();
    ASSERT_TRUE(device.has_value()) << device.error().to_string();
    if (life > 0) {
      const std::vector<std::uint64_t> found = read_numbers(cluster, **device);
      ASSERT_TRUE(keep_survivors(history, found))
          << "life " << life << ": no prefix of " << history.writes.size() << " writes with the "
          << history.flushed_count << " flushed ones is on the device";
    }
    // The device must not outlive the client that made it.
    write_for_a_while(cluster, std::move(*device), history, random, std::chrono::milliseconds(300));
    device = fail(Errc::closed, "gone");
    for (std::size_t index = 0; index < 3; ++index) {
      const Result<void> restarted = cluster.start_peer(index);
      ASSERT_TRUE(restarted.has_value()) << restarted.error().to_string();
    }
    ASSERT_TRUE(cluster.start_client().has_value());
  }
}

// Goal: whatever was flushed is readable after the whole cluster lost power at any instant, and what
// survives is a prefix of the writes. Method: real peers, stores, protocol, client and volume on
// simulated disks that drop and tear unsynced writes; three lives a seed.
TEST(SimClusterTest, PowerLossLeavesAPrefixWithAllThatWasFlushed) {
  set_log_sink({});
  if (const char* seed = std::getenv("AGRO_SEED")) {
    return crash_everything(std::strtoull(seed, nullptr, 10));
  }
  for (std::uint64_t seed = 1; seed <= 200 && !testing::Test::HasFailure(); ++seed) {
    crash_everything(seed);
  }
}

void crash_one_peer(std::uint64_t seed) {
  SCOPED_TRACE("replay with AGRO_SEED=" + std::to_string(seed));
  SimCluster cluster(seed, {});
  Random random(seed + 7);
  History history;
  ASSERT_TRUE(cluster.start().has_value());
  std::shared_ptr<BlockDevice> device;
  {
    Result<std::shared_ptr<BlockDevice>> opened = cluster.open_volume();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    device = *opened;
  }
  bool stopped = false;
  TaskGroup group(cluster.client_env(0).executor);
  group.spawn(write_numbered(*device, history, random, device->size_bytes() / kSectorSize, stopped));
  for (int round = 0; round < 4; ++round) {
    cluster.loop.run_for(std::chrono::milliseconds(random.below(200)));
    const std::size_t victim = random.below(3);
    cluster.crash_peer(victim);
    cluster.loop.run_for(std::chrono::milliseconds(random.below(600)));
    const Result<void> restarted = cluster.start_peer(victim);
    ASSERT_TRUE(restarted.has_value()) << restarted.error().to_string();
    const std::size_t written = history.writes.size();
    ASSERT_TRUE(cluster.loop.run_until([&] { return history.writes.size() > written + 20; },
                                       std::chrono::seconds(10)))
        << "writes stand still with all peers up";
  }
  stopped = true;
  ASSERT_TRUE(cluster.loop.run_until([&] { return group.count() == 0; }, std::chrono::minutes(1)));
  ASSERT_TRUE(cluster.loop.run(device->flush()).has_value());
  const std::uint64_t sector_count = device->size_bytes() / kSectorSize;
  EXPECT_EQ(read_numbers(cluster, *device), history.replay(history.writes.size(), sector_count));
}

// Goal: one peer of three losing power at a time is no error to the device and loses nothing.
TEST(SimClusterTest, OnePeerAtATimeIsNoError) {
  set_log_sink({});
  if (const char* seed = std::getenv("AGRO_SEED")) {
    return crash_one_peer(std::strtoull(seed, nullptr, 10));
  }
  for (std::uint64_t seed = 1; seed <= 20 && !testing::Test::HasFailure(); ++seed) {
    crash_one_peer(seed);
  }
}

}  // namespace
}  // namespace agro
