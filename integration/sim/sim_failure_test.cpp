// Peers that die, fall silent and come back, as a user of a volume sees it: how long it waits.
//
// Simulated time is exact, so it may be asserted.
#include <gtest/gtest.h>

#include "busy_cluster.hpp"
#include "node/cluster_report.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const SimCluster::Options kFive{.peer_count = 5, .replication = 3,
                                .lease_ttl = milliseconds(10000)};

// Goal: kill -9 of one of five peers, then of a second, each stops nobody for long and is no error.
TEST(SimFailureTest, KilledPeersAreHardlyNoticed) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    BusyCluster busy(seed, kFive);
    for (const std::size_t victim : {seed % 5, (seed + 2) % 5}) {
      busy.cluster.kill_peer(victim);
      const std::uint64_t before = busy.users->seen().count;
      EXPECT_LE(busy.longest_in(seconds(20)), milliseconds(500));
      EXPECT_GT(busy.users->seen().count, before + 100);
    }
  }
}

// Goal: a peer that is connected and silent stops users once and briefly, not again and again; when
// it answers again it gets blocks again. Method: silence for 32 s.
TEST(SimFailureTest, SilentPeerStopsUsersOnce) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    BusyCluster busy(seed, kFive);
    const std::size_t victim = seed % 5;
    busy.cluster.silence_peer(victim);
    EXPECT_LE(busy.longest_in(seconds(2)), seconds(1));
    EXPECT_LE(busy.longest_in(seconds(30)), milliseconds(100));
    const std::uint64_t before = busy.cluster.node(victim).stats().bytes_written;
    busy.cluster.end_silence(victim);
    EXPECT_LE(busy.longest_in(seconds(20)), milliseconds(500));
    EXPECT_GT(busy.cluster.node(victim).stats().bytes_written, before + 100000);
  }
}

// Goal: the same when a machine loses its power, which nobody is told of.
TEST(SimFailureTest, DeadMachineStopsUsersOnce) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    BusyCluster busy(seed, kFive);
    busy.cluster.crash_peer(seed % 5);
    EXPECT_LE(busy.longest_in(seconds(2)), seconds(1));
    EXPECT_LE(busy.longest_in(seconds(30)), milliseconds(100));
  }
}

// Goal: a peer whose disk fails takes no more writes, users do not notice, and status names it.
TEST(SimFailureTest, FailedStoreIsNamed) {
  BusyCluster busy(1, kFive);
  SimCluster& cluster = busy.cluster;
  EXPECT_EQ(cluster.node(2).store_problem(), "");
  cluster.disk(2).set_fault("/data/blocks", {.fail_syncs = true});
  EXPECT_LE(busy.longest_in(seconds(10)), milliseconds(500));
  EXPECT_NE(cluster.node(2).store_problem(), "");
  const ClusterReport report =
      cluster.loop.run(gather_cluster_report(cluster.client_env(0), cluster.client())).value();
  EXPECT_FALSE(report.healthy);
  const std::string expected = "peer " + cluster.node(2).id().to_string() + " takes no writes";
  EXPECT_THAT(report.problems, testing::Contains(testing::HasSubstr(expected)));
}

}  // namespace
}  // namespace agro
