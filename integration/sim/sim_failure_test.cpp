// Peers that die, fall silent and come back, as a user of a volume sees it: how long it waits.
//
// Simulated time is exact, so it may be asserted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/log.hpp"
#include "exercise.hpp"
#include "sim_cluster.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr SimCluster::Options kFive{.peer_count = 5, .replication = 3,
                                    .lease_ttl = milliseconds(10000)};

/// A cluster with users at work on its volume.
class BusyCluster {
 public:
  BusyCluster(std::uint64_t seed, SimCluster::Options options) : cluster(seed, options) {
    set_log_sink({});
    const Result<void> started = cluster.start();
    EXPECT_TRUE(started.has_value()) << started.error().to_string();
    open(seed);
    cluster.loop.run_for(seconds(1));
    users->take_longest();
  }
  ~BusyCluster() { stop(); }

  void open(std::uint64_t seed) {
    Result<std::shared_ptr<BlockDevice>> opened = cluster.open_volume();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    users = std::make_unique<Users>(cluster.loop.executor(), cluster.loop.clock(),
                                    std::move(*opened), seed);
  }
  /// Runs for so long and returns the longest that a user waited meanwhile.
  Duration longest_in(Duration duration) {
    cluster.loop.run_for(duration);
    return users->take_longest();
  }
  /// Ends the users' work; everything they wait for must come.
  void stop() {
    if (users == nullptr) return;
    users->stop();
    EXPECT_TRUE(cluster.loop.run_until([&] { return users->ended(); }, std::chrono::minutes(1)));
    EXPECT_THAT(users->seen().errors, testing::IsEmpty());
    users.reset();
  }

  SimCluster cluster;
  std::unique_ptr<Users> users;
};

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

}  // namespace
}  // namespace agro
