// Goal: the distributor asks every peer where it must, counts what they have, and ends in order. Method: scripted
// peers on simulated time; what each call returns, when, and what each peer got.
#include "distributor/distributor_fixture.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_F(DistributorTest, ListsFencesAndRemovesEverywhere) {
  for (std::uint64_t index = 1; index <= 5; ++index) ASSERT_TRUE(write(index).has_value());
  ranked(3, 0).store.blocks.erase(ref_of(3));
  BlockFilter filter;
  filter.volume = VolumeId{1};
  filter.index_from = 2;
  Listing listing = sim_.run(distributor_.list(filter)).value();
  ASSERT_EQ(listing.entries.size(), 4U);
  EXPECT_EQ(listing.unreachable_count, 0U);
  EXPECT_EQ(listing.entries[0].ref, ref_of(2));
  EXPECT_EQ(listing.entries[0].copy_count, 2U);
  EXPECT_EQ(listing.entries[1].copy_count, 1U);
  EXPECT_EQ(listing.entries[1].size, make_block(ref_of(3), 9000).size());

  EXPECT_EQ(sim_.run(distributor_.fence(VolumeId{1}, Epoch{4})).value().answered.size(), 4U);
  EXPECT_EQ(sim_.run(distributor_.fence(VolumeId{1}, Epoch{3})).code(), Errc::fenced);
  EXPECT_EQ(write(9).code(), Errc::fenced);

  lose(*peers_[0]);
  refuse(*peers_[1], Errc::unavailable);
  EXPECT_EQ(sim_.run(distributor_.list(filter)).value().unreachable_count, 2U);
  const Reached reached = sim_.run(distributor_.fence(VolumeId{1}, Epoch{5})).value();
  EXPECT_EQ(reached.members.size(), 4U);
  EXPECT_EQ(reached.answered, (std::vector<PeerId>{id_of(2), id_of(3)}));
  EXPECT_EQ(missing_in(reached, listing.reached), (std::vector<PeerId>{id_of(0), id_of(1)}));
  // Silent ones are not waited for when enough have answered.
  peers_[2]->delay = seconds(600);
  const TimePoint before = sim_.clock().now();
  EXPECT_EQ(sim_.run(distributor_.fence(VolumeId{1}, Epoch{6}, 3)).value().answered.size(), 1U);
  EXPECT_EQ(sim_.clock().now() - before, milliseconds(300));
  EXPECT_EQ(sim_.run(distributor_.list(filter, 3)).value().unreachable_count, 3U);
  EXPECT_EQ(sim_.clock().now() - before, milliseconds(300));
  peers_[2]->delay = Duration(0);
  EXPECT_TRUE(sim_.run(distributor_.remove({ref_of(1), ref_of(2)})).has_value());
  EXPECT_FALSE(peers_[2]->store.find(ref_of(1)).has_value());
  EXPECT_FALSE(peers_[3]->store.find(ref_of(1)).has_value());
}

TEST_F(DistributorTest, SpaceIsTheSumOfMembers) {
  ASSERT_TRUE(write(1).has_value());
  const std::uint64_t size = make_block(ref_of(1), 9000).size();
  Space space = distributor_.space();
  EXPECT_EQ(space.size, 4ULL << 30);
  EXPECT_EQ(space.used, 2 * size);
  EXPECT_EQ(space.available, (4ULL << 30) - 2 * size);
  lose(ranked(1, 0));
  EXPECT_EQ(distributor_.space().available, (3ULL << 30) - size);
  lose(ranked(1, 1));
  EXPECT_EQ(distributor_.space().available, 2ULL << 30);
  lose(ranked(1, 2));  // now peers are missing, not space
  EXPECT_EQ(distributor_.space().available, (4ULL << 30) - 2 * size);
}

// Goal: a member that never said what it has does not make the others look full.
TEST_F(DistributorTest, SpaceWithoutWhoNeverAnswered) {
  for (std::size_t rank = 1; rank < 4; ++rank) ranked(1, rank).never_answered = true;
  EXPECT_EQ(distributor_.space().size, 1ULL << 30);
  EXPECT_EQ(distributor_.space().available, 1ULL << 30);
}

// Goal: what is available is what two copies on distinct peers can take.
TEST_F(DistributorTest, SpaceForCopiesAsATable) {
  struct Case {
    std::array<std::uint64_t, 4> free;
    std::uint64_t available;
  };
  for (const Case& entry : {Case{{100, 100, 100, 100}, 400}, Case{{0, 0, 0, 100}, 0},
                            Case{{10, 0, 0, 100}, 20}, Case{{10, 20, 30, 100}, 120},
                            Case{{0, 0, 50, 50}, 100}, Case{{0, 0, 0, 0}, 0}}) {
    for (std::size_t index = 0; index < 4; ++index) peers_[index]->store.size = entry.free[index];
    EXPECT_EQ(distributor_.space().available, entry.available);
  }
}

TEST_F(DistributorTest, PeersAreCounted) {
  refuse(ranked(1, 0), Errc::io_error);
  ASSERT_TRUE(write(1).has_value());
  const MetricLabels label{{"peer", ranked(1, 0).id().to_string()}};
  EXPECT_EQ(node_.metrics().value("agro_peer_requests_total", label), 1U);
  EXPECT_EQ(node_.metrics().value("agro_peer_errors_total", label), 1U);
}

// Goal: stop() waits for late attempts, ends waiting calls, and refuses new ones.
TEST_F(DistributorTest, StopDrains) {
  for (const auto& peer : peers_) peer->delay = seconds(3);
  const auto written =
      start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {.checksummed = true}));
  sim_.run_for(milliseconds(10));
  const TimePoint before = sim_.clock().now();
  ASSERT_TRUE(sim_.run_job(distributor_.stop()));
  ASSERT_TRUE(written->has_value());
  EXPECT_EQ(written->value().code(), Errc::closed);
  EXPECT_LE(sim_.clock().now() - before, seconds(3));
  EXPECT_EQ(write(2).code(), Errc::closed);
  EXPECT_EQ(read(1).code(), Errc::closed);
  EXPECT_EQ(sim_.run(distributor_.list({})).code(), Errc::closed);
}

// Goal: without a ring or members nothing is stored and nothing crashes.
TEST_F(DistributorTest, EmptyRing) {
  distributor_.set_ring(nullptr);
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_EQ(read(1).code(), Errc::unavailable);
  distributor_.set_ring(make_ring({}).value());
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_EQ(read(1).code(), Errc::unavailable);
  distributor_.set_ring(ring_);
  distributor_.set_peers({});
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_EQ(sim_.run(distributor_.list({})).value().unreachable_count, 4U);
  EXPECT_EQ(distributor_.space().size, 0U);
}

}  // namespace
}  // namespace agro
