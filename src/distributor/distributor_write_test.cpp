// Goal: writes have R durable copies, on the peers that the ring says, whatever peers do. Method: as distributor_test.cpp.
#include "distributor/distributor_fixture.hpp"

#include <functional>

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct WriteCase {
  const char* name;
  std::function<void(FakePeer& first, FakePeer& second, FakePeer& third, FakePeer& fourth)> script;
  Errc code;
  std::size_t copy_count;
  Duration longest;
};

// Goal: R durable copies on distinct peers, or an error that says why not; never later than needed.
TEST_F(DistributorTest, WritesAsATable) {
  using P = FakePeer&;
  const Duration now{0};
  const std::vector<WriteCase> cases = {
      {"all well", [](P, P, P, P) {}, Errc::ok, 2, now},
      {"first gone", [](P a, P, P, P) { lose(a); }, Errc::ok, 2, now},
      {"two gone", [](P a, P b, P, P) { lose(a), lose(b); }, Errc::ok, 2, now},
      {"three gone", [](P a, P b, P c, P) { lose(a), lose(b), lose(c); }, Errc::no_quorum, 0, now},
      {"first fails", [](P a, P, P, P) { refuse(a, Errc::io_error); }, Errc::ok, 2, now},
      {"connection lost", [](P, P b, P, P) { refuse(b, Errc::unavailable); }, Errc::ok, 2, now},
      {"three fail",
       [](P a, P b, P c, P) {
         for (P peer : {std::ref(a), std::ref(b), std::ref(c)}) refuse(peer, Errc::io_error);
       },
       Errc::no_quorum, 1, now},
      {"first is slow", [](P a, P, P, P) { a.delay = seconds(2); }, Errc::ok, 2, milliseconds(500)},
      {"first is silent", [](P a, P, P, P) { a.delay = seconds(60); }, Errc::ok, 2,
       milliseconds(500)},
      {"two are silent", [](P a, P b, P, P) { a.delay = b.delay = seconds(60); }, Errc::ok, 2,
       milliseconds(500)},
      {"three are silent", [](P a, P b, P c, P) { a.delay = b.delay = c.delay = seconds(60); },
       Errc::no_quorum, 1, milliseconds(5500)},
      {"all slow, all answer",
       [](P a, P b, P c, P d) { a.delay = b.delay = c.delay = d.delay = seconds(2); }, Errc::ok, 2,
       seconds(2)},
      {"fenced by one", [](P, P b, P, P) { refuse(b, Errc::fenced); }, Errc::fenced, 1, now},
      {"fenced while another is silent",
       [](P a, P b, P, P) { a.delay = seconds(60), refuse(b, Errc::fenced); }, Errc::fenced, 0,
       now},
      {"one is full", [](P a, P, P, P) { refuse(a, Errc::out_of_space); }, Errc::ok, 2, now},
      {"three are full",
       [](P a, P b, P c, P) {
         for (P peer : {std::ref(a), std::ref(b), std::ref(c)}) refuse(peer, Errc::out_of_space);
       },
       Errc::out_of_space, 1, now},
      {"one full, two gone",
       [](P a, P b, P c, P) { refuse(a, Errc::out_of_space), lose(b), lose(c); },
       Errc::out_of_space, 1, now},
      {"one full, two broken",
       [](P a, P b, P c, P d) {
         refuse(a, Errc::out_of_space), refuse(b, Errc::io_error), refuse(c, Errc::io_error);
         refuse(d, Errc::io_error);
       },
       Errc::no_quorum, 0, now},
  };
  std::uint64_t index = 0;
  for (const WriteCase& entry : cases) {
    SCOPED_TRACE(entry.name);
    ++index;
    entry.script(ranked(index, 0), ranked(index, 1), ranked(index, 2), ranked(index, 3));
    const TimePoint before = sim_.clock().now();
    const Result<std::uint32_t> written = write(index);
    const Duration taken = sim_.clock().now() - before;
    EXPECT_EQ(written.code(), entry.code)
        << (written.has_value() ? "" : written.error().to_string());
    EXPECT_EQ(copies(index), entry.copy_count);
    EXPECT_EQ(taken, entry.longest);
    for (const auto& peer : peers_) {
      peer->is_connected = true;
      peer->delay = Duration(0);
      peer->error.reset();
    }
    sim_.run_for(seconds(20));  // late attempts and suspicions pass
  }
}

TEST_F(DistributorTest, CopiesGoWhereTheRingSays) {
  for (std::uint64_t index = 0; index < 20; ++index) {
    ASSERT_TRUE(write(index).has_value());
    EXPECT_EQ(copies(index), 2U);
    EXPECT_TRUE(ranked(index, 0).store.find(ref_of(index)).has_value());
    EXPECT_TRUE(ranked(index, 1).store.find(ref_of(index)).has_value());
  }
  ASSERT_TRUE(write(50, {.copy_count = 3}).has_value());
  EXPECT_EQ(copies(50), 3U);
  EXPECT_EQ(write(51, {.copy_count = 5}).code(), Errc::no_quorum);
  EXPECT_EQ(distributor_.copy_count(), 2U);
}

// Goal: no block is acknowledged where an older ring put it, once as many peers as may be silent know
// the newer one; the write goes on as soon as the new ring is here.
TEST_F(DistributorTest, PeersRefuseWritesOfOlderRings) {
  bool drained = false;
  const auto require = [](FakePeer& peer, bool& done) -> Job {
    co_await peer.require_ring(2);
    done = true;
  };
  // A write that was accepted before holds the new ring up until it is done.
  FakePeer& first = ranked(1, 0);
  first.store.put_delay = milliseconds(10);
  const auto before = start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {}));
  spawn(sim_.executor(), require(first, drained));
  sim_.run_for(milliseconds(9));
  EXPECT_FALSE(drained);
  sim_.run_for(milliseconds(2));
  EXPECT_TRUE(drained);
  ASSERT_TRUE(before->has_value());
  EXPECT_TRUE((*before)->has_value());

  const auto after = start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {}));
  const TimePoint begin = sim_.clock().now();
  sim_.run_for(milliseconds(100));
  EXPECT_FALSE(after->has_value());
  RingSpec newer = ring_->spec();
  newer.version = 2;
  distributor_.set_ring(make_ring(newer).value());
  sim_.run_for(milliseconds(20));
  ASSERT_TRUE(after->has_value());
  EXPECT_TRUE((*after)->has_value());

  // The new ring comes while a write is under way by the old one: nothing more is waited for.
  distributor_.set_ring(ring_);
  first.delay = milliseconds(50);
  const auto overtaken = start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {}));
  sim_.run_for(milliseconds(20));
  distributor_.set_ring(make_ring(newer).value());
  sim_.run_for(milliseconds(100));
  ASSERT_TRUE(overtaken->has_value());
  EXPECT_TRUE((*overtaken)->has_value());
  first.delay = milliseconds(0);

  // Nobody brings the new ring: an error that says so, in bounded time.
  distributor_.set_ring(ring_);
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_LE(sim_.clock().now() - begin, seconds(4));
  EXPECT_TRUE(write(1, {.checksummed = true, .repair = true}).has_value());
}

// Goal: a leaving peer gets no new block, not even when those that stay fail or are slow.
TEST_F(DistributorTest, LeavingPeersGetNoWrites) {
  RingSpec staying = ring_->spec();
  const PeerId leaving = staying.members.back().id;
  staying.members.pop_back();
  RingSpec both;
  both.kind = RingKind::union_;
  both.version = 2;
  both.replication = 2;
  both.parts = {ring_->spec(), staying};
  distributor_.set_ring(make_ring(both).value());
  peers_[0]->error = Errc::io_error;
  for (std::uint64_t index = 1; index < 50; ++index) EXPECT_TRUE(write(index).has_value());
  peers_[1]->error = Errc::io_error;
  EXPECT_EQ(write(50).code(), Errc::no_quorum);
  for (const auto& peer : peers_) {
    if (peer->id() == leaving) EXPECT_TRUE(peer->store.blocks.empty());
  }
}

// Goal: recovery can add copies of an old writer's block below its own fence, and nobody else can.
TEST_F(DistributorTest, RepairingWritesPassFences) {
  ASSERT_TRUE(write(1, {.copy_count = 1}).has_value());
  ASSERT_TRUE(sim_.run(distributor_.fence(VolumeId{1}, Epoch{2})).has_value());
  EXPECT_EQ(write(1).code(), Errc::fenced);
  EXPECT_EQ(write(2).code(), Errc::fenced);
  WriteOptions repairing;
  repairing.repair = true;
  ASSERT_TRUE(write(1, repairing).has_value());
  EXPECT_EQ(copies(1), 2U);
  EXPECT_TRUE(read(1).has_value());
}

// Goal: a silent peer costs one slow write, not one each. Method: the second write's time.
TEST_F(DistributorTest, SuspectsAreAskedLast) {
  ASSERT_TRUE(write(7).has_value());
  FakePeer& silent = ranked(7, 0);
  silent.delay = seconds(600);
  std::uint64_t index = 100;
  for (int slow_count = 0; slow_count < 1;) {
    while (&ranked(index, 0) != &silent) ++index;
    const TimePoint before = sim_.clock().now();
    ASSERT_TRUE(write(index++).has_value());
    EXPECT_EQ(sim_.clock().now() - before, milliseconds(500));
    ++slow_count;
  }
  const TimePoint before = sim_.clock().now();
  for (int count = 0; count < 20; ++count) ASSERT_TRUE(write(index++).has_value());
  ASSERT_TRUE(read(7).has_value());
  EXPECT_EQ(sim_.clock().now(), before);
  silent.delay = Duration(0);
  sim_.run_for(seconds(20));
  while (&ranked(index, 0) != &silent) ++index;
  ASSERT_TRUE(write(index).has_value());
  EXPECT_TRUE(silent.store.find(ref_of(index)).has_value());
}

// Goal: nobody goes on with fewer copies on the word of a peer that has gone since, perhaps with its
// disk. Method: the first stores and goes, the second takes longer than anybody waits. Found by the
// simulator, seed 821813.
TEST_F(DistributorTest, ACopyWhosePeerIsGoneIsNotEnough) {
  lose(ranked(1, 2));
  lose(ranked(1, 3));
  ranked(1, 1).delay = seconds(3);
  FakePeer& first = ranked(1, 0);
  sim_.clock().call_at(sim_.clock().now() + milliseconds(300), [&first] { lose(first); });
  const TimePoint begin = sim_.clock().now();
  EXPECT_EQ(write(1, {.checksummed = true, .min_copies = 1}), 2U);
  EXPECT_GE(sim_.clock().now() - begin, seconds(3));
}

}  // namespace
}  // namespace agro
