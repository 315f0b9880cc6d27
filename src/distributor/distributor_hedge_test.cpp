// Goal: a slow replica does not make reads slow. Method: as distributor_test.cpp.
#include "distributor/distributor_fixture.hpp"

#include <functional>

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct HedgeCase {
  const char* name;
  std::function<void(FakePeer& first, FakePeer& second)> script;
  Errc code;
  Duration took;
  std::uint64_t hedge_count;
  std::uint64_t won_count;
};

// Goal: a read that takes longer than reads use to is answered by another replica, whatever becomes of
// the first; a bad second answer harms nothing. Method: block 1 on two peers, of which the first can
// or cannot end a read early; the caller's memory is watched afterwards.
TEST_F(DistributorTest, HedgesAsATable) {
  using P = FakePeer&;
  const BlockRef ref = ref_of(1);
  const SharedBytes good = make_block(ref, 9000);
  const std::vector<HedgeCase> cases = {
      {"quick", [](P a, P) { a.delay = milliseconds(10); }, Errc::ok, milliseconds(10), 0, 0},
      {"slow", [](P a, P) { a.delay = milliseconds(100); }, Errc::ok, milliseconds(20), 1, 1},
      {"never answers", [](P a, P) { a.delay = seconds(600); }, Errc::ok, milliseconds(20), 1, 1},
      {"the second is slower",
       [](P a, P b) { a.delay = milliseconds(50), b.delay = milliseconds(90); }, Errc::ok,
       milliseconds(50), 1, 0},
      {"the second is a little slow",
       [](P a, P b) { a.delay = milliseconds(90), b.delay = milliseconds(30); }, Errc::ok,
       milliseconds(50), 1, 1},
      {"the second fails", [](P a, P b) { a.delay = milliseconds(90), refuse(b, Errc::io_error); },
       Errc::ok, milliseconds(90), 1, 0},
      {"the second is bad",
       [ref](P a, P b) { a.delay = milliseconds(90), b.store.flip(ref, 5000); }, Errc::ok,
       milliseconds(90), 1, 0},
      {"the second lost it",
       [ref](P a, P b) { a.delay = milliseconds(90), b.store.blocks.erase(ref); }, Errc::ok,
       milliseconds(90), 1, 0},
      {"the second is gone", [](P a, P b) { a.delay = milliseconds(90), lose(b); }, Errc::ok,
       milliseconds(90), 1, 0},
      {"the first is bad, late",
       [ref](P a, P b) {
         a.delay = milliseconds(30), b.delay = milliseconds(60), a.store.flip(ref, 5000);
       },
       Errc::ok, milliseconds(80), 1, 0},
      {"both are bad",
       [ref](P a, P b) {
         a.delay = milliseconds(30), a.store.flip(ref, 5000), b.store.flip(ref, 5000);
       },
       Errc::corrupt, milliseconds(30), 1, 0},
  };
  for (const bool can_stop : {false, true}) {
    for (const HedgeCase& entry : cases) {
      SCOPED_TRACE(fmt::format("{}, can stop: {}", entry.name, can_stop));
      for (const auto& peer : peers_) {
        peer->store.blocks.clear();
        peer->is_connected = true;
        peer->delay = Duration(0);
        peer->error.reset();
        peer->can_stop = can_stop;
      }
      Distributor distributor(node_.env(), kBlockSize);  // that has read nothing yet
      distributor.set_peers(peer_map_);
      distributor.set_ring(ring_);
      ASSERT_TRUE(write(1).has_value());
      entry.script(ranked(1, 0), ranked(1, 1));
      const std::uint64_t hedges = node_.metrics().value("agro_hedged_reads_total");
      const std::uint64_t won = node_.metrics().value("agro_hedged_reads_won_total");
      const TimePoint before = sim_.clock().now();
      out_.assign(2 * kPageSize, std::byte{0});
      const Result<void> got =
          sim_.run(distributor.read(ref, 0, out_, ReadOptions{&check_}));
      EXPECT_EQ(got.code(), entry.code);
      EXPECT_EQ(sim_.clock().now() - before, entry.took);
      if (got.has_value()) EXPECT_EQ(std::memcmp(out_.data(), good.bytes.data(), out_.size()), 0);
      EXPECT_EQ(node_.metrics().value("agro_hedged_reads_total") - hedges, entry.hedge_count);
      EXPECT_EQ(node_.metrics().value("agro_hedged_reads_won_total") - won, entry.won_count);
      std::fill(out_.begin(), out_.end(), std::byte{0xEE});
      sim_.run_for(seconds(10));
      EXPECT_EQ(std::count(out_.begin(), out_.end(), std::byte{0xEE}),
                static_cast<std::ptrdiff_t>(out_.size()));
      ASSERT_TRUE(sim_.run_job(distributor.stop()));
    }
  }
}

// Goal: hedges are few when everybody is slow. Method: all peers slow at once, reads one by one.
TEST_F(DistributorTest, HedgesAreBounded) {
  ASSERT_TRUE(write(1).has_value());
  for (const auto& peer : peers_) peer->delay = milliseconds(150);
  for (int count = 0; count < 400; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_LE(node_.metrics().value("agro_hedged_reads_total"), 30U);
}

// Goal: a replica that stays slow is asked second, and first again when it is well. Method: who was
// asked; which delays reads have meanwhile.
TEST_F(DistributorTest, ASlowReplicaIsAskedLess) {
  ASSERT_TRUE(write(1).has_value());
  FakePeer& slow = ranked(1, 0);
  slow.delay = milliseconds(100);
  for (int count = 0; count < 3; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(node_.metrics().value("agro_hedged_reads_won_total"), 3U);
  const TimePoint before = sim_.clock().now();
  for (int count = 0; count < 50; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(sim_.clock().now(), before);
  EXPECT_EQ(slow.read_count, 3);
  sim_.run_for(seconds(2));  // asked again, overtaken again: left alone for two seconds
  ASSERT_TRUE(read(1).has_value());
  sim_.run_for(milliseconds(1500));
  ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(slow.read_count, 4);
  slow.delay = Duration(0);
  sim_.run_for(seconds(1));
  for (int count = 0; count < 50; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(slow.read_count, 54);
}

// Goal: the delay follows what reads take, and extra reads stay within their share.
TEST(HedgePolicyTest, FollowsTheSlowestHundredth) {
  HedgePolicy policy;
  EXPECT_EQ(policy.delay(), milliseconds(20));
  for (int count = 0; count < 10'000; ++count) policy.note(milliseconds(1));
  EXPECT_EQ(policy.delay(), HedgePolicy::kDelayMin);
  for (int count = 0; count < 100'000; ++count) policy.note(milliseconds(count % 50 == 0 ? 30 : 5));
  EXPECT_GT(policy.delay(), milliseconds(25));  // 2 % take 30 ms
  EXPECT_LT(policy.delay(), milliseconds(35));
  for (int count = 0; count < 100'000; ++count) policy.note(milliseconds(count % 500 == 0 ? 30 : 5));
  EXPECT_LT(policy.delay(), milliseconds(8));  // 0.2 % do
  EXPECT_GE(policy.delay(), milliseconds(5));
  for (int count = 0; count < 1000; ++count) policy.note(seconds(5));
  EXPECT_EQ(policy.delay(), HedgePolicy::kDelayMax);
  int spent = 0;
  for (int count = 0; count < 1000; ++count) {
    policy.earn();
    spent += policy.spend() ? 1 : 0;
  }
  EXPECT_GE(spent, 50);
  EXPECT_LE(spent, 60);
}

}  // namespace
}  // namespace agro
