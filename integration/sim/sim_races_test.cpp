// Races between what dies, what comes back and what is moved, found by reading; each lost data or hung.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "base/log.hpp"
#include "exercise.hpp"
#include "node/ring_change.hpp"
#include "ring/ring.hpp"
#include "sim_cluster.hpp"

namespace agro {
namespace {

using std::chrono::seconds;

constexpr std::size_t kWrites = 60;
constexpr std::uint64_t kMiB = 1024 * 1024;

std::vector<std::byte> bytes_of(std::uint64_t number) {
  return std::vector<std::byte>(4096, static_cast<std::byte>(number % 251 + 1));
}

Job write_all(std::shared_ptr<BlockDevice> device, std::size_t& flushed) {
  for (std::uint64_t index = 0; index < kWrites; ++index) {
    const std::vector<std::byte> bytes = bytes_of(index);
    if (!(co_await device->write(index * 4096, bytes)).has_value()) co_return;
    if (!(co_await device->flush()).has_value()) co_return;
    ++flushed;
  }
}

Job fill(std::shared_ptr<BlockDevice> device, std::uint64_t size, bool& done) {
  std::vector<std::byte> bytes(56 * 1024, std::byte{7});
  for (std::uint64_t at = 0; at + bytes.size() <= size; at += bytes.size()) {
    if (!(co_await device->write(at, bytes)).has_value()) co_return;
  }
  done = (co_await device->flush()).has_value();
}

/// Three of four sectors: space comes back only when the cleaner has moved the fourth.
Job trim_most(std::shared_ptr<BlockDevice> device, std::uint64_t size, bool& done) {
  Result<void> trimmed;
  for (std::uint64_t at = 0; at < size && trimmed.has_value(); at += 4 * 4096) {
    trimmed = co_await device->trim(at, 3 * 4096);
  }
  if (trimmed.has_value()) trimmed = co_await device->flush();
  done = trimmed.has_value();
}

class SimRacesTest : public testing::Test {
 protected:
  void start(SimCluster::Options options) {
    set_log_sink({});
    cluster_ = std::make_unique<SimCluster>(1, options);
    const Result<void> started = cluster_->start();
    ASSERT_TRUE(started.has_value()) << started.error().to_string();
  }
  /// Writes and flushes kWrites sectors, and lets the client die before a checkpoint covers them.
  void write_tail(const std::function<void()>& when_open = [] {}) {
    std::size_t flushed = 0;
    std::shared_ptr<BlockDevice> device = cluster_->open_volume().value();
    when_open();
    TaskGroup group(cluster_->client_env(0).executor);
    group.spawn(write_all(device, flushed));
    device.reset();
    ASSERT_TRUE(cluster_->loop.run_until([&] { return flushed == kWrites; }, seconds(30)));
    ASSERT_TRUE(cluster_->loop.run_until([&] { return group.count() == 0; }, seconds(4)));
    cluster_->crash_client();
    cluster_->loop.run_for(seconds(15));
  }
  RingSpec ring() { return cluster_->loop.run(cluster_->metadata().ring()).value(); }
  bool is_changing() { return ring().kind == RingKind::union_; }
  void change(const RingChange& wanted) {
    const Result<RingSpec> changed = cluster_->loop.run(change_ring(cluster_->metadata(), wanted));
    ASSERT_TRUE(changed.has_value()) << changed.error().to_string();
  }
  /// Blocks that lack the copy of an owner, of those that running peers hold.
  std::size_t short_blocks() {
    const std::shared_ptr<const Ring> placement = make_ring(ring()).value();
    std::map<BlockRef, std::set<PeerId>> holders;
    for (std::size_t index = 0; index < cluster_->host_count(); ++index) {
      if (!cluster_->peer_runs(index)) continue;
      for (const BlockInfo& block : cluster_->node(index).service()->store().list({})) {
        holders[block.ref].insert(cluster_->node(index).id());
      }
    }
    std::size_t found = 0;
    std::vector<std::uint32_t> owners;
    for (const auto& [ref, ids] : holders) {
      placement->owners(ref, owners);
      found += std::any_of(owners.begin(), owners.end(), [&, &ids = ids](std::uint32_t owner) {
        return !ids.contains(placement->members()[owner].id);
      }) ? 1 : 0;
    }
    return found;
  }
  /// Opens the volume and reads what was flushed. Shape: the client does not run.
  void expect_all_there() {
    ASSERT_TRUE(cluster_->start_client().has_value());
    Result<std::shared_ptr<BlockDevice>> device = cluster_->open_volume();
    ASSERT_TRUE(device.has_value()) << device.error().to_string();
    std::vector<std::byte> bytes(4096);
    for (std::uint64_t index = 0; index < kWrites; ++index) {
      const Result<void> read = cluster_->loop.run((*device)->read(index * 4096, bytes), seconds(30));
      ASSERT_TRUE(read.has_value()) << read.error().to_string();
      ASSERT_EQ(bytes, bytes_of(index)) << index;
    }
  }

  std::unique_ptr<SimCluster> cluster_;
};

// Goal: a drain ends only when every block is at its new owner, also when that was dead while others
// said that they are done. Method: one copy; the change is slow; an owner dies and comes back.
TEST_F(SimRacesTest, DrainWhileAnOwnerRestarts) {
  SimCluster::Options options;
  options.peer_count = 3;
  options.replication = 1;
  options.background.rebalance.rate = 48 * 1024;
  start(options);
  write_tail();
  ASSERT_FALSE(is_changing());
  change({.kind = RingChangeKind::remove, .members = {{.id = cluster_->node(0).id()}}});
  cluster_->loop.run_for(seconds(4));  // peer 2, which has nothing to give away, has said so
  ASSERT_TRUE(is_changing());
  cluster_->kill_peer(2);
  cluster_->loop.run_for(seconds(40));
  EXPECT_TRUE(is_changing());
  ASSERT_TRUE(cluster_->start_peer(2).has_value());
  for (int step = 0; step < 3000 && is_changing(); ++step) {
    cluster_->loop.run_for(std::chrono::milliseconds(20));
  }
  EXPECT_FALSE(is_changing());
  EXPECT_EQ(short_blocks(), 0U);
  cluster_->kill_peer(0);
  cluster_->loop.run_for(seconds(5));
  expect_all_there();
}

// Goal: the ring does not promise three copies while a dead peer lacks the third; it does when the peer
// is back.
TEST_F(SimRacesTest, MoreCopiesWhileAPeerIsDown) {
  start({.peer_count = 4, .replication = 2});
  write_tail();
  cluster_->kill_peer(3);
  cluster_->loop.run_for(seconds(15));
  change({.kind = RingChangeKind::set_replication, .replication = 3});
  cluster_->loop.run_for(seconds(60));
  EXPECT_TRUE(is_changing());
  ASSERT_TRUE(cluster_->start_peer(3).has_value());
  cluster_->loop.run_for(seconds(30));
  EXPECT_FALSE(is_changing());
  EXPECT_EQ(short_blocks(), 0U);
  cluster_->kill_peer(0);
  expect_all_there();
}

// Goal: two peers that cannot reach each other, both alive, keep neither from making copies on a third.
TEST_F(SimRacesTest, UnreachablePeerHoldsUpNobodyElse) {
  start({.peer_count = 3, .replication = 2});
  write_tail([&] {
    cluster_->kill_peer(1);
    cluster_->kill_peer(2);
  });
  cluster_->network.partition("peer-0", "peer-1");
  ASSERT_TRUE(cluster_->start_peer(1).has_value());
  cluster_->loop.run_for(seconds(20));
  ASSERT_TRUE(cluster_->start_peer(2).has_value());
  cluster_->loop.run_for(seconds(30));
  const std::shared_ptr<const Ring> placement = make_ring(ring()).value();
  const BlockStore& third = cluster_->node(2).service()->store();
  std::vector<std::uint32_t> owners;
  std::size_t checked = 0;
  for (const BlockInfo& block : cluster_->node(0).service()->store().list({})) {
    placement->owners(block.ref, owners);
    for (const std::uint32_t owner : owners) {
      if (placement->members()[owner].id != cluster_->node(2).id()) continue;
      ++checked;
      EXPECT_TRUE(third.find(block.ref).has_value()) << block.ref.to_string();
    }
  }
  EXPECT_GT(checked, 10U);
}

// Goal: the copies that peers make for one another leave the reserve to checkpoints, so that trims free
// space again. Method: two peers take over what a third had, which is more than they have room for.
TEST_F(SimRacesTest, CopiesLeaveTheReserve) {
  SimCluster::Options options;
  options.peer_count = 3;
  options.replication = 2;
  options.volume_size = 80 * kMiB;
  options.background.down_out = seconds(20);
  start(options);
  std::shared_ptr<BlockDevice> device = cluster_->open_volume().value();
  TaskGroup group(cluster_->client_env(0).executor);
  bool filled = false;
  group.spawn(fill(device, 72 * kMiB, filled));
  ASSERT_TRUE(cluster_->loop.run_until([&] { return filled; }, seconds(60)));
  cluster_->loop.run_for(seconds(20));
  cluster_->kill_peer(2);
  cluster_->loop.run_for(seconds(120));
  bool trimmed = false;
  group.spawn(trim_most(device, 64 * kMiB, trimmed));
  EXPECT_TRUE(cluster_->loop.run_until([&] { return trimmed; }, seconds(120)))
      << cluster_->manager().attached().front().status.suspended;
  bool refilled = false;
  group.spawn(fill(device, 16 * kMiB, refilled));
  device.reset();
  EXPECT_TRUE(cluster_->loop.run_until([&] { return refilled; }, seconds(120)))
      << cluster_->manager().attached().front().status.suspended;
  cluster_->crash_client();
  EXPECT_TRUE(cluster_->loop.run_until([&] { return group.count() == 0; }, seconds(10)));
}

}  // namespace
}  // namespace agro
