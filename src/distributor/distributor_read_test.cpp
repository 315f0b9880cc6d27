// Goal: reads find a good copy and mend bad ones. Method: as distributor_test.cpp.
#include "distributor/distributor_fixture.hpp"

#include <functional>

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_F(DistributorTest, ReadsChooseTheSameReplicaAndPreferLocalOnes) {
  ASSERT_TRUE(write(1).has_value());
  for (int count = 0; count < 5; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(ranked(1, 0).read_count, 5);
  EXPECT_EQ(ranked(1, 1).read_count, 0);
  ranked(1, 1).is_local = true;
  ranked(1, 2).is_local = true;  // local but no replica: not asked
  ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(ranked(1, 1).read_count, 1);
  EXPECT_EQ(ranked(1, 2).read_count, 0);
}

struct ReadCase {
  const char* name;
  std::function<void(DistributorTest& test, FakePeer& first, FakePeer& second, FakePeer& third)>
      script;
  Errc code;
  Duration longest;
};

// Goal: a good copy is found wherever it is. Method: block 1 on the first two peers of four.
TEST_F(DistributorTest, ReadsAsATable) {
  using P = FakePeer&;
  using T = DistributorTest&;
  const Duration now{0};
  const BlockRef ref = ref_of(1);
  const auto break_off = [this](FakePeer& a, FakePeer& b) {
    lose(a), lose(b);
    sim_.clock().call_at(sim_.clock().now() + milliseconds(250),
                         [&a, &b] { a.is_connected = b.is_connected = true; });
  };
  const std::vector<ReadCase> cases = {
      {"all well", [](T, P, P, P) {}, Errc::ok, now},
      {"first gone", [](T, P a, P, P) { lose(a); }, Errc::ok, now},
      {"first fails", [](T, P a, P, P) { refuse(a, Errc::unavailable); }, Errc::ok, now},
      {"first lost it", [ref](T, P a, P, P) { a.store.blocks.erase(ref); }, Errc::ok, now},
      {"first is slow", [](T, P a, P, P) { a.delay = seconds(1); }, Errc::ok, milliseconds(20)},
      {"both are slow", [](T, P a, P b, P) { a.delay = b.delay = seconds(1); }, Errc::ok,
       milliseconds(1220)},
      {"elsewhere in the ring",
       [ref](T, P a, P b, P c) {
         c.store.blocks[ref] = a.store.blocks[ref];
         a.store.blocks.erase(ref);
         b.store.blocks.erase(ref);
       },
       Errc::ok, now},
      {"both gone", [](T, P a, P b, P) { lose(a), lose(b); }, Errc::unavailable, seconds(5)},
      {"both break off and are soon back", [&](T, P a, P b, P) { break_off(a, b); }, Errc::ok,
       milliseconds(300)},
      {"both break off, back they are slow",
       [&](T, P a, P b, P) { break_off(a, b), a.delay = b.delay = seconds(1); }, Errc::ok,
       milliseconds(1300)},
      {"one gone, one lost it", [ref](T, P a, P b, P) { lose(a), b.store.blocks.erase(ref); },
       Errc::unavailable, seconds(5)},
      {"both lost it",
       [ref](T, P a, P b, P) { a.store.blocks.erase(ref), b.store.blocks.erase(ref); },
       Errc::not_found, now},
      {"first is bad", [ref](T, P a, P, P) { a.store.flip(ref, 5000); }, Errc::ok, now},
      {"both are bad", [ref](T, P a, P b, P) { a.store.flip(ref, 5000), b.store.flip(ref, 1); },
       Errc::corrupt, now},
      {"one bad, one gone", [ref](T, P a, P b, P) { a.store.flip(ref, 5000), lose(b); },
       Errc::unavailable, seconds(5)},
      {"silent", [](T, P a, P b, P) { a.delay = b.delay = seconds(60); }, Errc::unavailable,
       milliseconds(5'260)},
  };
  for (const ReadCase& entry : cases) {
    SCOPED_TRACE(entry.name);
    for (const auto& peer : peers_) peer->store.blocks.clear();
    ASSERT_TRUE(write(1).has_value());
    entry.script(*this, ranked(1, 0), ranked(1, 1), ranked(1, 2));
    const TimePoint before = sim_.clock().now();
    const Result<void> got = read(1);
    EXPECT_EQ(got.code(), entry.code) << (got.has_value() ? "" : got.error().to_string());
    // The delay before a hedge moves a little with every read.
    EXPECT_LE(sim_.clock().now() - before, entry.longest);
    EXPECT_GE(sim_.clock().now() - before, entry.longest * 99 / 100);
    if (!got.has_value()) EXPECT_NE(got.error().message.find("data:1:1:1"), std::string::npos);
    const Result<SharedBytes> block =
        sim_.run(distributor_.read_block(ref_of(1), ReadOptions{&check_}));
    // By now a bad copy may be repaired, but what is nowhere good stays so.
    if (entry.code != Errc::unavailable) EXPECT_EQ(block.code(), entry.code);
    for (const auto& peer : peers_) {
      peer->is_connected = true;
      peer->delay = Duration(0);
      peer->error.reset();
    }
    sim_.run_for(seconds(20));
  }
}

// Goal: a bad copy is counted, repaired from the good one, and then right.
TEST_F(DistributorTest, RepairsBadCopies) {
  for (const std::uint32_t offset : {0U, 5000U}) {
    SCOPED_TRACE(offset);
    for (const auto& peer : peers_) peer->store.blocks.clear();
    ASSERT_TRUE(write(1).has_value());
    const std::vector<std::byte> good = ranked(1, 1).store.blocks[ref_of(1)];
    const std::uint64_t corrupt_before = corrupt_count();
    const std::uint64_t repaired_before = repaired_count();
    ranked(1, 0).store.flip(ref_of(1), offset);
    ASSERT_TRUE(read(1).has_value());
    sim_.run_for(seconds(1));
    EXPECT_EQ(corrupt_count(), corrupt_before + 1);
    EXPECT_EQ(repaired_count(), repaired_before + 1);
    EXPECT_EQ(ranked(1, 0).store.blocks[ref_of(1)], good);
    const int other_reads = ranked(1, 1).read_count;
    ASSERT_TRUE(read(1).has_value());
    EXPECT_EQ(ranked(1, 1).read_count, other_reads);
  }
  // Rot in the part nobody reads: read_block() finds it, and a repair is never made from it.
  ranked(1, 0).store.flip(ref_of(1), 9100);
  ASSERT_TRUE(sim_.run(distributor_.read_block(ref_of(1), ReadOptions{&check_})).has_value());
  sim_.run_for(seconds(1));
  EXPECT_EQ(repaired_count(), 3U);
  ranked(1, 0).store.flip(ref_of(1), 1);
  ranked(1, 1).store.flip(ref_of(1), 9100);
  ASSERT_TRUE(read(1).has_value());  // the pages read are good
  sim_.run_for(seconds(1));
  EXPECT_EQ(repaired_count(), 3U);
}

TEST_F(DistributorTest, TryReadUsesLocalMemoryOnly) {
  ASSERT_TRUE(write(1).has_value());
  out_.assign(kPageSize, std::byte{0});
  const ReadOptions options{&check_};
  EXPECT_FALSE(distributor_.try_read(ref_of(1), 0, out_, options).has_value());
  ranked(1, 1).is_local = true;
  std::map<PeerId, std::shared_ptr<Peer>> peers;
  for (const auto& peer : peers_) peers[peer->id()] = peer;
  distributor_.set_peers(peers);
  std::optional<Result<void>> got = distributor_.try_read(ref_of(1), 0, out_, options);
  ASSERT_TRUE(got.has_value() && got->has_value());
  EXPECT_EQ(std::memcmp(out_.data(), make_block(ref_of(1), 9000).bytes.data(), kPageSize), 0);
  EXPECT_FALSE(distributor_.try_read(ref_of(2), 0, out_, options).has_value());
  ranked(1, 1).store.flip(ref_of(1), 17);
  EXPECT_FALSE(distributor_.try_read(ref_of(1), 0, out_, options).has_value());
  ranked(1, 1).store.cold = true;
  EXPECT_FALSE(distributor_.try_read(ref_of(1), 0, out_, {}).has_value());
}

}  // namespace
}  // namespace agro
