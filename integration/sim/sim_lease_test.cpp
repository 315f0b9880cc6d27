// The lease of a volume: outages of the metadata store, pauses, and a second writer.
#include "busy_cluster.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const SimCluster::Options kCluster{.peer_count = 3, .replication = 2,
                                   .lease_ttl = milliseconds(10000)};

// Goal: an outage of the metadata store that is shorter than the lease is not noticed; a longer one
// suspends, and when nobody took the volume it goes on with nothing lost and no error.
TEST(SimLeaseTest, OutagesOfTheMetadataStore) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    BusyCluster busy(seed, kCluster);
    busy.cluster.client_kv().set_down(true);
    EXPECT_LE(busy.longest_in(seconds(8)), milliseconds(100));
    busy.cluster.client_kv().set_down(false);
    EXPECT_LE(busy.longest_in(seconds(5)), milliseconds(100));

    busy.cluster.client_kv().set_down(true);
    busy.cluster.loop.run_for(seconds(10));
    const std::uint64_t before = busy.users->seen().count;
    busy.cluster.loop.run_for(seconds(5));
    EXPECT_EQ(busy.users->seen().count, before) << "acknowledged under a lease that had ended";
    busy.cluster.client_kv().set_down(false);
    EXPECT_TRUE(busy.cluster.loop.run_until([&] { return busy.users->seen().count > before + 100; },
                                            seconds(4)));
  }
}

// Goal: a process that was stopped for longer than its lease goes on when nobody took the volume.
// Method: time jumps, and nothing runs meanwhile.
TEST(SimLeaseTest, PausedProcess) {
  BusyCluster busy(7, kCluster);
  for (const seconds pause : {seconds(3), seconds(30)}) {
    SimClock& clock = busy.cluster.loop.clock();
    clock.advance_to(clock.now() + pause);
    busy.cluster.loop.run_for(seconds(3));
    const std::uint64_t before = busy.users->seen().count;
    busy.cluster.loop.run_for(seconds(5));
    EXPECT_GT(busy.users->seen().count, before + 100);
  }
}

// Goal: a peer whose lease ended counts as alive again once the metadata store is well, also when the
// new lease was granted and then what was to be written under it was not (agro-sim seed 55: dead for
// ever).
TEST(SimLeaseTest, PeersRegisterUntilItIsDone) {
  set_log_sink({});
  for (std::uint64_t seed = 1; seed <= 10 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    SimCluster cluster(seed, {.lease_ttl = milliseconds(2000)});
    ASSERT_TRUE(cluster.start().has_value());
    SimKvFaults faults;
    faults.fail_keep_alives = true;
    faults.refuse_ppm = 500'000;
    faults.lose_answer_ppm = 300'000;
    for (std::size_t peer = 0; peer < 3; ++peer) cluster.peer_kv(peer).set_faults(faults);
    cluster.loop.run_for(seconds(3));
    faults.fail_keep_alives = false;
    for (std::size_t peer = 0; peer < 3; ++peer) cluster.peer_kv(peer).set_faults(faults);
    cluster.loop.run_for(seconds(20));
    for (std::size_t peer = 0; peer < 3; ++peer) cluster.peer_kv(peer).set_faults({});
    cluster.loop.run_for(seconds(15));
    const auto view = cluster.loop.run(cluster.metadata().view());
    ASSERT_TRUE(view.has_value());
    for (const PeerView& peer : view->peers) EXPECT_TRUE(peer.alive) << peer.record.id.to_string();
    for (std::size_t peer = 0; peer < 3; ++peer) EXPECT_TRUE(cluster.node(peer).registered());
  }
}

Job open_and_note(VolumeManager& manager, Errc& outcome) {
  outcome = (co_await manager.open("demo")).code();
}

// Goal: a client that is told to stop ends soon, also while it opens a volume and the metadata store
// went away meanwhile (agro-sim seed 60 found it waiting for ever).
TEST(SimLeaseTest, StopsWhileItOpensWithoutTheStore) {
  set_log_sink({});
  SimCluster cluster(1, {.lease_ttl = milliseconds(2000)});
  ASSERT_TRUE(cluster.start().has_value());
  cluster.network.set_default_link({milliseconds(100), milliseconds(100)});  // the lease ends first
  Errc outcome = Errc::ok;
  cluster.client_users(0).spawn(open_and_note(cluster.manager(), outcome));
  cluster.loop.run_for(milliseconds(50));
  cluster.client_kv().cut();
  cluster.loop.run_for(seconds(20));
  ASSERT_EQ(outcome, Errc::ok) << "it is to be under way still";
  cluster.end_client(0, SimCluster::Death::stopped);
  EXPECT_TRUE(cluster.loop.run_until(
      [&] { return cluster.client_life(0) == SimCluster::Life::down; }, seconds(20)));
  EXPECT_EQ(outcome, Errc::fenced);
}

/// The writer is cut off, from the metadata store alone or from everything, while another opens the
/// volume; then it is back.
void take_over(std::uint64_t seed, bool cut_from_peers) {
  SCOPED_TRACE(seed);
  NumberedCluster old(seed);
  SimCluster& cluster = old.cluster;
  cluster.client_kv().set_down(true);
  if (cut_from_peers) cluster.network.isolate("client");
  Result<std::shared_ptr<BlockDevice>> fresh = cluster.open_elsewhere();
  for (int round = 0; round < 3 && fresh.code() == Errc::locked; ++round) {
    cluster.loop.run_for(seconds(2));
    fresh = cluster.open_elsewhere();
  }
  ASSERT_TRUE(fresh.has_value()) << fresh.error().to_string();
  const std::vector<std::byte> bytes = old.expect_survivors(**fresh);
  const std::size_t flushed = old.history.flushed_count;
  cluster.client_kv().set_down(false);
  cluster.network.heal_all();
  cluster.loop.run_for(seconds(10));
  EXPECT_EQ(old.history.flushed_count, flushed) << "the old writer completed a flush";
  const Result<void> after = cluster.loop.run(old.device->flush(), seconds(30));
  EXPECT_EQ(after.code(), Errc::fenced) << (after.has_value() ? "" : after.error().to_string());
  std::vector<std::byte> again(bytes.size());
  ASSERT_TRUE(cluster.loop.run((*fresh)->read(0, again)).has_value());
  EXPECT_EQ(again, bytes);
  old.stop();
  old.device.reset();
  fresh = fail(Errc::closed, "gone");
}

// Goal: a writer that was cut off while another took the volume is fenced, and the other has all that
// was flushed.
TEST(SimLeaseTest, SecondWriterFencesTheFirst) {
  for (std::uint64_t seed = 1; seed <= 3 && !testing::Test::HasFailure(); ++seed) {
    take_over(seed, false);
    take_over(seed, true);
  }
}

}  // namespace
}  // namespace agro
