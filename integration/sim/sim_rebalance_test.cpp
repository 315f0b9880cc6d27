// Blocks move to where the ring wants them while users work and peers die, on simulated time.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "base/log.hpp"
#include "exercise.hpp"
#include "node/ring_change.hpp"
#include "ring/ring.hpp"
#include "sim_cluster.hpp"

namespace agro {
namespace {

using std::chrono::seconds;

class SimRebalanceTest : public testing::Test {
 protected:
  void start(std::uint64_t seed, SimCluster::Options options) {
    set_log_sink({});
    cluster_ = std::make_unique<SimCluster>(seed, options);
    const Result<void> started = cluster_->start();
    ASSERT_TRUE(started.has_value()) << started.error().to_string();
    Result<std::shared_ptr<BlockDevice>> device = cluster_->open_volume();
    ASSERT_TRUE(device.has_value()) << device.error().to_string();
    users_ = std::make_unique<Users>(cluster_->client_env(0).executor, cluster_->loop.clock(),
                                     std::move(*device), seed);
  }
  void run(Duration duration) { cluster_->loop.run_for(duration); }
  RingSpec ring() { return cluster_->loop.run(cluster_->metadata().ring()).value(); }

  void change(const RingChange& wanted) {
    const Result<RingSpec> changed =
        cluster_->loop.run(change_ring(cluster_->metadata(), wanted));
    ASSERT_TRUE(changed.has_value()) << changed.error().to_string();
  }
  void stop_users() {
    users_->stop();
    ASSERT_TRUE(cluster_->loop.run_until([this] { return users_->ended(); }));
    EXPECT_EQ(users_->seen().errors, std::vector<std::string>{});
    EXPECT_GT(users_->seen().count, 100U);
  }

  /// What is not where the ring wants it: "" when every block is on its owners and nobody else.
  std::string misplaced() {
    const RingSpec spec = ring();
    if (spec.kind == RingKind::union_) return "the ring is being changed";
    const std::shared_ptr<const Ring> placement = make_ring(spec).value();
    std::map<BlockRef, std::set<PeerId>> holders;
    for (std::size_t index = 0; index < cluster_->host_count(); ++index) {
      if (!cluster_->peer_runs(index)) continue;
      const PeerNode& node = cluster_->node(index);
      for (const BlockInfo& block : node.service()->store().list({})) {
        holders[block.ref].insert(node.id());
      }
    }
    std::vector<std::uint32_t> owners;
    for (const auto& [ref, ids] : holders) {
      placement->owners(ref, owners);
      std::set<PeerId> wanted;
      for (const std::uint32_t owner : owners) wanted.insert(placement->members()[owner].id);
      if (ids != wanted) {
        return ref.to_string() + " is on " + std::to_string(ids.size()) + " peers, not its owners";
      }
    }
    return holders.empty() ? "there are no blocks" : "";
  }
  /// Runs until all is in its place. The writer's checkpoints go on meanwhile.
  void expect_settled(Duration limit) {
    const TimePoint deadline = cluster_->loop.clock().now() + limit;
    std::string problem = misplaced();
    while (!problem.empty() && cluster_->loop.clock().now() < deadline) {
      run(seconds(1));
      problem = misplaced();
    }
    EXPECT_EQ(problem, "");
  }

  std::unique_ptr<SimCluster> cluster_;
  std::unique_ptr<Users> users_;
};

SimCluster::Options five_of(std::uint32_t started) {
  SimCluster::Options options;
  options.peer_count = 5;
  options.started_count = started;
  options.background.down_out = seconds(20);
  // What gc has condemned is not moved until it is deleted, so that happens soon.
  options.background.gc.interval = seconds(15);
  options.background.gc.grace = seconds(5);
  options.background.gc.retry_after = seconds(5);
  return options;
}

// Goal: peers that join get their share while users notice nothing, and what moved is gone where it
// came from.
TEST_F(SimRebalanceTest, GrowsUnderLoad) {
  start(1, five_of(3));
  run(seconds(3));
  ASSERT_TRUE(cluster_->start_peer(3).has_value());
  ASSERT_TRUE(cluster_->start_peer(4).has_value());
  EXPECT_EQ(ring().kind, RingKind::union_);
  run(seconds(30));
  stop_users();
  expect_settled(seconds(60));
  EXPECT_EQ(ring().members.size(), 5U);
  EXPECT_GT(cluster_->node(3).service()->store().stats().block_count, 0U);
}

// Goal: a peer taken out gives everything away, and holds nothing in the end.
TEST_F(SimRebalanceTest, RemovedPeerIsEmptied) {
  start(2, five_of(4));
  run(seconds(3));
  change({.kind = RingChangeKind::remove, .members = {{.id = cluster_->node(0).id()}}});
  run(seconds(20));
  stop_users();
  expect_settled(seconds(60));
  EXPECT_EQ(ring().members.size(), 3U);
  EXPECT_EQ(cluster_->node(0).service()->store().stats().block_count, 0U);
}

// Goal: more copies are made of what is there.
TEST_F(SimRebalanceTest, ReplicationGrows) {
  start(3, five_of(5));
  run(seconds(3));
  change({.kind = RingChangeKind::set_replication, .replication = 3});
  run(seconds(10));
  stop_users();
  expect_settled(seconds(60));
  EXPECT_EQ(ring().replication, 3U);
}

// Goal: a dead peer is taken out without an operator, its blocks are copied again, and when it comes
// back it joins and gets its share again.
TEST_F(SimRebalanceTest, DeadPeerIsReplacedAndComesBack) {
  start(4, five_of(4));
  run(seconds(5));
  cluster_->kill_peer(1);
  run(seconds(15));
  EXPECT_EQ(ring().members.size(), 4U) << "taken out too early";
  run(seconds(40));
  EXPECT_EQ(ring_peers(ring()).size(), 3U);
  ASSERT_TRUE(cluster_->start_peer(1).has_value());
  run(seconds(20));
  stop_users();
  expect_settled(seconds(60));
  EXPECT_EQ(ring().members.size(), 4U);
}

// Goal: when every lease ended, the first peer to register again takes nobody out of the ring that is
// about to. Method: a limit below the 10 s after which a peer looks at its registration. Found by the
// simulator, seeds 812493 and 815624.
TEST_F(SimRebalanceTest, AnOutageOfTheMetadataTakesNobodyOut) {
  SimCluster::Options options = five_of(4);
  options.background.down_out = seconds(2);
  start(6, options);
  run(seconds(3));
  SimKvFaults faults;
  faults.fail_keep_alives = true;
  for (std::size_t peer = 0; peer < 4; ++peer) cluster_->peer_kv(peer).set_faults(faults);
  run(seconds(14));
  for (std::size_t peer = 0; peer < 4; ++peer) cluster_->peer_kv(peer).set_faults({});
  for (int second = 0; second < 30; ++second) {
    run(seconds(1));
    EXPECT_NE(ring().kind, RingKind::union_) << "after " << second << " s";
  }
  EXPECT_EQ(ring().members.size(), 4U);
  stop_users();
  expect_settled(seconds(60));
}

// Goal: a silent peer that comes back gets what it missed.
TEST_F(SimRebalanceTest, SilentPeerCatchesUp) {
  start(5, five_of(4));
  run(seconds(3));
  cluster_->silence_peer(2);
  run(seconds(10));
  cluster_->end_silence(2);
  run(seconds(5));
  stop_users();
  // It missed deletions, too: the sweep of the next opening finds those.
  users_.reset();
  run(seconds(2));
  const Result<std::shared_ptr<BlockDevice>> again = cluster_->open_volume();
  ASSERT_TRUE(again.has_value()) << again.error().to_string();
  expect_settled(seconds(60));
}

/// Grows, shrinks and changes copies while single peers crash at random; nothing is ever lost.
void change_and_crash(std::uint64_t seed, SimCluster& cluster, Random& random) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::vector<RingChange> changes;
  changes.push_back({.kind = RingChangeKind::set_replication, .replication = 3});
  changes.push_back({.kind = RingChangeKind::remove, .members = {{.id = cluster.node(0).id()}}});
  for (int step = 0; step < 12; ++step) {
    cluster.loop.run_for(std::chrono::milliseconds(random.below(4000)));
    if (step == 2) ASSERT_TRUE(cluster.start_peer(4).has_value());
    if (step == 4 || step == 7) {
      const Result<RingSpec> changed = cluster.loop.run(
          change_ring(cluster.metadata(), changes[step == 4 ? 0 : 1]));
      ASSERT_TRUE(changed.has_value()) << changed.error().to_string();
    }
    const std::size_t victim = random.below(4);
    if (random.chance(1, 2)) {
      cluster.crash_peer(victim);
    } else {
      cluster.kill_peer(victim);
    }
    cluster.loop.run_for(std::chrono::milliseconds(random.below(3000)));
    ASSERT_TRUE(cluster.start_peer(victim).has_value());
  }
}

TEST_F(SimRebalanceTest, CrashesAtRandomInstants) {
  const char* chosen = std::getenv("AGRO_SEED");
  const std::uint64_t first = chosen != nullptr ? std::strtoull(chosen, nullptr, 10) : 1;
  const std::uint64_t count = chosen != nullptr ? 1 : 10;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("replay with AGRO_SEED=" + std::to_string(seed));
    start(seed, five_of(4));
    if (HasFatalFailure()) return;
    Random random(seed + 7);
    change_and_crash(seed, *cluster_, random);
    if (HasFatalFailure()) return;
    stop_users();
    expect_settled(seconds(120));
    users_.reset();
    cluster_.reset();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace agro
