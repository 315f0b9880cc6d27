// Gc in the simulated cluster: a peer that was away brings back what was deleted meanwhile.
#include <gtest/gtest.h>

#include "base/log.hpp"
#include "block/write_history.hpp"
#include "sim_cluster.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

// Goal: garbage that a returning peer holds, and what the rebalancers made of it, goes from every
// peer and stays away; the device reads right. Method: seeds; overwrite while one peer is down,
// start it, wait for some cycles beside a writer and some without one.
TEST(SimGcTest, AReturningPeersGarbageGoes) {
  set_log_sink({});
  for (std::uint64_t seed = 1; seed <= 5 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    SimCluster::Options options;
    options.background.gc.interval = minutes(2);
    options.background.gc.grace = seconds(30);
    options.background.rebalance.look_every = seconds(40);
    SimCluster cluster(seed, options);
    ASSERT_TRUE(cluster.start().has_value());
    Result<std::shared_ptr<BlockDevice>> opened = cluster.open_volume();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    std::shared_ptr<BlockDevice> device = std::move(*opened);
    const std::uint64_t sector_count = device->size_bytes() / kSectorSize;
    Random random(seed + 3);
    History history;
    bool stopped = false;
    TaskGroup group(cluster.client_env(0).executor);
    const auto write_for = [&](Duration duration) {
      stopped = false;
      group.spawn(write_numbered(*device, history, random, sector_count, stopped));
      cluster.loop.run_for(duration);
      stopped = true;
      ASSERT_TRUE(cluster.loop.run_until([&] { return group.count() == 0; }, minutes(1)));
    };
    write_for(milliseconds(500));
    cluster.crash_peer(2);
    write_for(milliseconds(800));
    cluster.loop.run_for(seconds(20));  // a checkpoint, and what it made superfluous is deleted
    ASSERT_TRUE(cluster.start_peer(2).has_value());
    write_for(milliseconds(500));
    cluster.loop.run_for(minutes(10));
    std::uint64_t deleted = 0;
    for (std::size_t peer = 0; peer < 3; ++peer)
      deleted += cluster.node(peer).service()->report().gc.deleted_blocks;
    EXPECT_GT(deleted, 0U);
    cluster.loop.run_for(minutes(5));
    for (std::size_t peer = 0; peer < 3; ++peer) {
      const GcReport report = cluster.node(peer).service()->report().gc;
      EXPECT_EQ(report.condemned_blocks, 0U) << "peer " << peer;
      EXPECT_EQ(report.problem, "");
      EXPECT_GT(report.finished_unix_ms, 0);
      deleted -= report.deleted_blocks;
    }
    EXPECT_EQ(deleted, 0U) << "garbage came back";
    std::vector<std::byte> bytes(device->size_bytes());
    ASSERT_TRUE(cluster.loop.run(device->read(0, bytes)).has_value());
    EXPECT_EQ(numbers_of(bytes), history.replay(history.writes.size(), sector_count));
    device.reset();
  }
}

}  // namespace
}  // namespace agro
