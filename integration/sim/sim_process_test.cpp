// Processes that stop and go on, clocks that drift, and deaths between any two steps of the program.
#include "busy_cluster.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Goal: a peer that is stopped, for shorter or longer than its lease, makes users wait once, and is
// ready again after it goes on.
TEST(SimProcessTest, FrozenPeer) {
  BusyCluster busy(1, {.peer_count = 3, .replication = 2, .lease_ttl = milliseconds(10000)});
  for (const seconds pause : {seconds(3), seconds(30)}) {
    busy.cluster.freeze_peer(1, true);
    EXPECT_LE(busy.longest_in(seconds(2)), milliseconds(1300));
    EXPECT_LE(busy.longest_in(pause), milliseconds(1300));
    busy.cluster.freeze_peer(1, false);
    busy.longest_in(seconds(10));
    EXPECT_LE(busy.longest_in(seconds(5)), milliseconds(200));
    EXPECT_TRUE(busy.cluster.peer_runs(1));
  }
}

// Goal: a client that was stopped longer than its lease, while another opened the volume and wrote,
// completes no flush after it goes on; the other has all that was flushed and keeps its own.
TEST(SimProcessTest, FrozenClientIsFenced) {
  for (std::uint64_t seed = 1; seed <= 5 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    NumberedCluster old(seed);
    SimCluster& cluster = old.cluster;
    cluster.freeze_client(0, true);
    const std::size_t written = old.history.writes.size();
    cluster.loop.run_for(seconds(3));
    EXPECT_EQ(old.history.writes.size(), written) << "a stopped process went on";
    std::shared_ptr<BlockDevice> fresh = cluster.open_elsewhere().value();
    old.expect_survivors(*fresh);
    const std::vector<std::byte> mine = numbered(1, 1'000'000);
    ASSERT_TRUE(cluster.loop.run(fresh->write(0, mine)).has_value());
    ASSERT_TRUE(cluster.loop.run(fresh->flush()).has_value());
    const std::size_t flushed = old.history.flushed_count;
    cluster.freeze_client(0, false);
    cluster.loop.run_for(seconds(10));
    EXPECT_EQ(old.history.flushed_count, flushed) << "the old writer completed a flush";
    EXPECT_EQ(cluster.loop.run(old.device->flush(), seconds(30)).code(), Errc::fenced);
    std::vector<std::byte> sector(kSectorSize);
    ASSERT_TRUE(cluster.loop.run(fresh->read(0, sector)).has_value());
    EXPECT_EQ(sector, mine);
    old.stop();
  }
}

// Goal: hosts whose clocks differ by 1 % each way and never were alike notice nothing of it, also in
// an outage of the metadata store that is a little shorter than the lease.
TEST(SimProcessTest, ClocksThatDrift) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    BusyCluster busy(seed, {.peer_count = 3,
                            .replication = 2,
                            .lease_ttl = milliseconds(10000),
                            .clock_drift_ppm_max = 10'000,
                            .unix_offset_max = seconds(5)});
    EXPECT_NE(busy.cluster.peer_clock(0).now(), busy.cluster.peer_clock(1).now());
    EXPECT_LE(busy.longest_in(seconds(30)), milliseconds(100));
    busy.cluster.client_kv().set_down(true);
    EXPECT_LE(busy.longest_in(seconds(8)), milliseconds(100));
    busy.cluster.client_kv().set_down(false);
    EXPECT_LE(busy.longest_in(seconds(5)), milliseconds(100));
  }
}

// Goal: power that fails between any two steps of any process, also where work is ready and not done,
// loses nothing flushed. Method: as in sim_cluster_test, but after so many steps, not so much time.
TEST(SimProcessTest, DeathBetweenAnyTwoSteps) {
  set_log_sink({});
  for (std::uint64_t seed = 1; seed <= 40 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    SimCluster cluster(seed, {});
    Random random(seed + 99);
    History history;
    ASSERT_TRUE(cluster.start().has_value());
    for (int life = 0; life < 3; ++life) {
      std::shared_ptr<BlockDevice> device = cluster.open_volume().value();
      std::vector<std::byte> bytes(device->size_bytes());
      ASSERT_TRUE(cluster.loop.run(device->read(0, bytes)).has_value());
      ASSERT_TRUE(keep_survivors(history, numbers_of(bytes)))
          << "life " << life << ": no prefix with the " << history.flushed_count << " flushed";
      bool stopped = false;
      TaskGroup group(cluster.client_env(0).executor);
      group.spawn(write_numbered(*device, history, random, bytes.size() / kSectorSize, stopped));
      cluster.loop.run_steps(random.below(6000));
      stopped = true;
      device.reset();
      cluster.crash_everything();
      ASSERT_TRUE(cluster.loop.run_until([&] { return group.count() == 0; }));
      for (std::size_t index = 0; index < 3; ++index) {
        ASSERT_TRUE(cluster.start_peer(index).has_value());
      }
      ASSERT_TRUE(cluster.start_client().has_value());
    }
  }
}

}  // namespace
}  // namespace agro
