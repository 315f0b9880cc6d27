// Fewer peers alive than copies are wanted: going on, what is recorded, recovery, and the way back.
#include <cstdlib>

#include "busy_cluster.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const SimCluster::Options kThree{.peer_count = 3, .replication = 3,
                                 .lease_ttl = milliseconds(10000)};

// Goal: with one of three peers gone a volume of three copies goes on with two, and says so where
// recovery and people look; with two gone it waits; each peer that comes back is made use of at once,
// and in the end every copy is there. Method: at the end read everything from the one that was away.
TEST(SimCopiesTest, GoesOnWithFewerAndComesBack) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    BusyCluster busy(seed, kThree);
    SimCluster& cluster = busy.cluster;
    cluster.kill_peer(0);
    EXPECT_LE(busy.longest_in(seconds(10)), milliseconds(500));
    EXPECT_EQ(cluster.recorded_copies(), 2U);
    EXPECT_EQ(cluster.manager().attached().front().status.copies, 2U);
    EXPECT_EQ(cluster.published_health(), "degraded: 2 of 3 copies are sure");

    cluster.kill_peer(1);
    cluster.loop.run_for(seconds(5));
    const std::uint64_t before = busy.users->seen().count;
    EXPECT_GE(busy.longest_in(seconds(5)), Duration(0));
    EXPECT_EQ(busy.users->seen().count, before) << "one copy must not do";
    EXPECT_EQ(cluster.published_health(), "suspended: too few peers");
    ASSERT_TRUE(cluster.start_peer(1).has_value());
    EXPECT_TRUE(cluster.loop.run_until([&] { return busy.users->seen().count > before; },
                                       milliseconds(200)));
    cluster.loop.run_for(seconds(1));
    busy.users->take_longest();
    ASSERT_TRUE(cluster.start_peer(0).has_value());
    EXPECT_TRUE(cluster.loop.run_until(
        [&] { return cluster.manager().attached().front().status.copies == 3; }, seconds(20)));
    EXPECT_LE(busy.longest_in(seconds(3)), milliseconds(500));
    EXPECT_EQ(cluster.recorded_copies(), 0U);
    EXPECT_EQ(cluster.published_health(), "");
    busy.users->stop();
    ASSERT_TRUE(cluster.loop.run_until([&] { return busy.users->ended(); }, seconds(10)));
    cluster.kill_peer(1);
    cluster.kill_peer(2);
    std::vector<std::byte> all(2 * 1024 * 1024);
    Result<std::shared_ptr<BlockDevice>> device = cluster.open_volume();
    ASSERT_TRUE(device.has_value());
    EXPECT_TRUE(cluster.loop.run((*device)->read(0, all), seconds(30)).has_value());
  }
}

// Goal: as many copies as there are, when told so: then a missing peer suspends.
TEST(SimCopiesTest, AllCopiesMeansAll) {
  SimCluster::Options options = kThree;
  options.min_copies = 3;
  BusyCluster busy(1, options);
  busy.cluster.kill_peer(2);
  busy.cluster.loop.run_for(seconds(3));
  const std::uint64_t before = busy.users->seen().count;
  busy.cluster.loop.run_for(seconds(5));
  EXPECT_EQ(busy.users->seen().count, before);
  EXPECT_EQ(busy.cluster.recorded_copies(), 0U);
  ASSERT_TRUE(busy.cluster.start_peer(2).has_value());
  EXPECT_TRUE(busy.cluster.loop.run_until([&] { return busy.users->seen().count > before; },
                                          milliseconds(200)));
}

// Goal: a silent peer of three stops users for at most 2 s at once, and then no more.
TEST(SimCopiesTest, SilentPeerWithoutASpare) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    BusyCluster busy(seed, kThree);
    busy.cluster.silence_peer(1);
    EXPECT_LE(busy.longest_in(seconds(3)), seconds(2));
    EXPECT_LE(busy.longest_in(seconds(20)), milliseconds(500));
    EXPECT_EQ(busy.cluster.recorded_copies(), 2U);
    busy.cluster.end_silence(1);
    EXPECT_LE(busy.longest_in(seconds(25)), milliseconds(500));
    EXPECT_EQ(busy.cluster.recorded_copies(), 0U);
  }
}

// Goal: of a volume that was closed while a peer was missing the record stays until the peer is back and
// has its copies, and goes then, so that the loss of the other does not refuse a volume that is whole.
TEST(SimCopiesTest, RecordOfDetachedVolume) {
  for (std::uint64_t seed = 1; seed <= 4 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    SimCluster::Options options = kThree;
    options.peer_count = options.replication = 2;
    SimCluster cluster(seed, options);
    set_log_sink({});
    ASSERT_TRUE(cluster.start().has_value());
    {
      std::shared_ptr<BlockDevice> device = cluster.open_volume().value();
      cluster.kill_peer(0);
      const std::vector<std::byte> data = numbered(64, 7);
      ASSERT_TRUE(cluster.loop.run(device->write(0, data)).has_value());
      ASSERT_TRUE(cluster.loop.run(device->flush()).has_value());
    }
    if (seed % 2 == 0) cluster.crash_client();
    cluster.loop.run_for(seconds(120));
    EXPECT_EQ(cluster.recorded_copies(), 1U);
    ASSERT_TRUE(cluster.start_peer(0).has_value());
    EXPECT_TRUE(cluster.loop.run_until([&] { return cluster.recorded_copies() == 0; }, seconds(60)));
    cluster.kill_peer(1);
    if (seed % 2 == 0) ASSERT_TRUE(cluster.start_client().has_value());
    Result<std::shared_ptr<BlockDevice>> device = cluster.open_volume();
    ASSERT_TRUE(device.has_value()) << device.error().to_string();
    std::vector<std::byte> found(64 * kSectorSize);
    ASSERT_TRUE(cluster.loop.run((*device)->read(0, found), seconds(60)).has_value());
    EXPECT_EQ(numbers_of(found), std::vector<std::uint64_t>(64, 7));
    device = fail(Errc::closed, "gone");
  }
}

// Goal: while the lowered count cannot be recorded nothing is acknowledged with fewer copies.
TEST(SimCopiesTest, NothingWithoutTheRecord) {
  BusyCluster busy(4, kThree);
  busy.cluster.client_kv().set_down(true);
  busy.cluster.kill_peer(0);
  busy.cluster.loop.run_for(seconds(1));
  const std::uint64_t before = busy.users->seen().count;
  busy.cluster.loop.run_for(seconds(4));
  EXPECT_EQ(busy.users->seen().count, before);
  busy.cluster.client_kv().set_down(false);
  EXPECT_TRUE(busy.cluster.loop.run_until([&] { return busy.users->seen().count > before; },
                                          seconds(3)));
  EXPECT_EQ(busy.cluster.recorded_copies(), 2U);
}

/// One volume through several lives of its writer, with peers dying and coming back at random.
void live_dangerously(std::uint64_t seed) {
  SCOPED_TRACE("replay with AGRO_SEED=" + std::to_string(seed));
  SimCluster::Options options;
  options.replication = seed % 2 == 0 ? 3 : 2;
  options.store_size = 512 * 1024 * 1024;  // without the metadata store nothing is freed
  SimCluster cluster(seed, options);
  Random random(seed + 1234);
  History history;
  ASSERT_TRUE(cluster.start().has_value());
  for (int life = 0; life < 4; ++life) {
    Result<std::shared_ptr<BlockDevice>> device = cluster.open_volume();
    if (!device.has_value()) {
      EXPECT_EQ(device.code(), Errc::no_quorum) << device.error().to_string();
      for (std::size_t index = 0; index < 3; ++index) {
        if (!cluster.peer_runs(index)) ASSERT_TRUE(cluster.start_peer(index).has_value());
      }
      device = cluster.open_volume();
    }
    ASSERT_TRUE(device.has_value()) << device.error().to_string();
    std::vector<std::byte> bytes((*device)->size_bytes());
    const Result<void> all = cluster.loop.run((*device)->read(0, bytes), seconds(60));
    ASSERT_TRUE(all.has_value()) << all.error().to_string();
    ASSERT_TRUE(keep_survivors(history, numbers_of(bytes)))
        << "life " << life << ": of " << history.writes.size() << " writes, "
        << history.flushed_count << " flushed";
    bool stopped = false;
    TaskGroup group(cluster.client_env(0).executor);
    group.spawn(write_numbered(**device, history, random, bytes.size() / kSectorSize, stopped));
    for (std::uint64_t step = random.below(7); step > 0; --step) {
      cluster.loop.run_for(milliseconds(random.below(500)));
      const std::size_t index = random.below(3);
      if (cluster.peer_runs(index)) {
        cluster.crash_peer(index);
      } else {
        ASSERT_TRUE(cluster.start_peer(index).has_value());
      }
      cluster.client_kv().set_down(random.chance(1, 4));
    }
    cluster.loop.run_for(milliseconds(random.below(500)));
    stopped = true;
    device = fail(Errc::closed, "gone");
    cluster.crash_client();
    ASSERT_TRUE(cluster.loop.run_until([&] { return group.count() == 0; }));
    // The peers that are there to recover from need not be those that were written to.
    for (std::size_t index = 0; index < 3; ++index) {
      if (!random.chance(1, 2)) continue;
      if (cluster.peer_runs(index)) {
        cluster.crash_peer(index);
      } else {
        ASSERT_TRUE(cluster.start_peer(index).has_value());
      }
    }
    ASSERT_TRUE(cluster.start_client().has_value());
  }
}

// Goal: whatever peers are missing, when and in which order they went, an opened volume has all that
// was flushed, or is not opened.
TEST(SimCopiesTest, OpenedMeansNothingFlushedIsLost) {
  set_log_sink({});
  if (const char* seed = std::getenv("AGRO_SEED")) {
    return live_dangerously(std::strtoull(seed, nullptr, 10));
  }
  for (std::uint64_t seed = 1; seed <= 6 && !testing::Test::HasFailure(); ++seed) {
    live_dangerously(seed);
  }
}

// Goal: recovery is refused when the only peer that may have the last writes is missing, names it, and
// is done all the same when told to.
TEST(SimCopiesTest, ForcedRecovery) {
  set_log_sink({});
  SimCluster cluster(5, {.peer_count = 3, .replication = 2});
  ASSERT_TRUE(cluster.start().has_value());
  std::shared_ptr<BlockDevice> device = cluster.open_volume().value();
  ASSERT_TRUE(cluster.loop.run(device->write(0, numbered(1, 1))).has_value());
  ASSERT_TRUE(cluster.loop.run(device->flush()).has_value());
  const std::string last = cluster.node(2).id().to_string();
  cluster.kill_peer(0);
  cluster.kill_peer(1);
  ASSERT_TRUE(cluster.loop.run(device->write(0, numbered(1, 2))).has_value());
  ASSERT_TRUE(cluster.loop.run(device->flush()).has_value());
  EXPECT_EQ(cluster.recorded_copies(), 1U);
  device.reset();
  cluster.crash_client();
  cluster.kill_peer(2);
  ASSERT_TRUE(cluster.start_peer(0).has_value());
  ASSERT_TRUE(cluster.start_peer(1).has_value());
  ASSERT_TRUE(cluster.start_client().has_value());
  const auto refused = cluster.open_volume();
  EXPECT_EQ(refused.code(), Errc::no_quorum);
  EXPECT_NE(refused.error().message.find(last), std::string::npos) << refused.error().message;
  cluster.crash_client();
  cluster.force_recovery.insert("demo");
  ASSERT_TRUE(cluster.start_client().has_value());
  Result<std::shared_ptr<BlockDevice>> forced = cluster.open_volume();
  ASSERT_TRUE(forced.has_value()) << forced.error().to_string();
  std::vector<std::byte> sector(kSectorSize);
  ASSERT_TRUE(cluster.loop.run((*forced)->read(0, sector), seconds(60)).has_value());
  EXPECT_EQ(numbers_of(sector).front(), 1U) << "the write that was forced away";
  forced = fail(Errc::closed, "gone");
}

}  // namespace
}  // namespace agro
