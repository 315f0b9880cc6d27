#include "ring/ring_study.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "ring/placement_testing.hpp"

namespace agro {
namespace {

using Sets = std::vector<std::vector<std::uint32_t>>;
using Shares = std::vector<double>;

RingSpec mod_of(std::uint32_t member_count, std::uint32_t replication) {
  RingSpec spec = placement_of(member_count, replication, 0);
  spec.kind = RingKind::mod;
  return spec;
}

RingChange change_of(const RingSpec& from, const RingSpec& to, std::uint64_t block_count) {
  const auto before = make_ring(from);
  const auto after = make_ring(to);
  EXPECT_TRUE(before.has_value() && after.has_value());
  return study_change(**before, **after, BlockStream(1, 40), block_count);
}

// Goal: loads are judged by shares. Method: cases computed by hand.
TEST(RingStudyTest, Evenness) {
  const std::vector<std::uint64_t> loads = {12, 8};
  const Evenness two = evenness(loads, Shares{0.5, 0.5}, 20);
  EXPECT_DOUBLE_EQ(two.deviation, 0.2);
  EXPECT_DOUBLE_EQ(two.fullest, 1.2);
  EXPECT_DOUBLE_EQ(two.emptiest, 0.8);
  EXPECT_DOUBLE_EQ(two.chance, std::sqrt(0.05));  // of 20 throws: sqrt(20 / 4) over 10

  const Evenness by_weight = evenness(loads, Shares{0.6, 0.4}, 20);
  EXPECT_DOUBLE_EQ(by_weight.deviation, 0);
  EXPECT_DOUBLE_EQ(by_weight.fullest, 1);
  EXPECT_DOUBLE_EQ(by_weight.emptiest, 1);

  // Every block on both: nothing is left to chance.
  const std::vector<std::uint64_t> all = {20, 20};
  EXPECT_DOUBLE_EQ(evenness(all, Shares{1, 1}, 20).chance, 0);
  const std::vector<std::uint64_t> none = {0, 40};
  EXPECT_DOUBLE_EQ(evenness(none, Shares{0.5, 0.5}, 40).deviation, 1);
  EXPECT_DOUBLE_EQ(evenness(none, Shares{0.5, 0.5}, 40).emptiest, 0);
}

// Goal: shares go by weight, nobody has more than one copy of a block. Method: a table.
TEST(RingStudyTest, FairShares) {
  struct Case {
    std::vector<std::uint64_t> weights;
    std::uint32_t replication;
    Shares shares;
  };
  for (const Case& one : {Case{{1, 3}, 1, {0.25, 0.75}}, Case{{1, 3}, 2, {1, 1}},
                          Case{{1, 1, 8}, 2, {0.5, 0.5, 1}}, Case{{5, 5, 5, 5}, 3, {0.75, 0.75, 0.75, 0.75}}}) {
    SCOPED_TRACE(one.weights.size() * 10 + one.replication);
    RingSpec spec = mod_of(static_cast<std::uint32_t>(one.weights.size()), one.replication);
    for (std::size_t index = 0; index < one.weights.size(); ++index) {
      spec.members[index].weight = one.weights[index];
    }
    const Shares shares = fair_shares(spec);
    ASSERT_EQ(shares.size(), one.shares.size());
    for (std::size_t index = 0; index < shares.size(); ++index) {
      EXPECT_NEAR(shares[index], one.shares[index], 1e-12) << index;
    }
  }
}

// Goal: nobody has no share, whatever rounding makes of it. Method: a small member beside as many giants as copies.
TEST(RingStudyTest, SharesArePositive) {
  RingSpec spec = mod_of(8193, 8192);
  for (RingMember& member : spec.members) member.weight = kRingWeightMax;
  spec.members.back().weight = 1;
  EXPECT_GT(fair_shares(spec).back(), 0);
}

// Goal: zones count for placement rings only. Method: two zones of one and three peers, two copies.
TEST(RingStudyTest, FairSharesByZone) {
  RingSpec spec = placement_of(4, 2, 64);
  for (std::size_t index = 0; index < 4; ++index) {
    spec.members[index].labels.zone = index == 0 ? "a" : "b";
  }
  const Shares by_zone = fair_shares(spec);
  EXPECT_NEAR(by_zone[0], 1, 1e-12);
  EXPECT_NEAR(by_zone[1], 1.0 / 3, 1e-12);
  spec.kind = RingKind::mod;
  spec.group_count = 0;
  EXPECT_NEAR(fair_shares(spec)[0], 0.5, 1e-12);
}

// Goal: the least to send is what shares grow by. Method: by hand.
TEST(RingStudyTest, LeastSent) {
  const Shares three = {2.0 / 3, 2.0 / 3, 2.0 / 3, 0};
  const Shares four = {0.5, 0.5, 0.5, 0.5};
  EXPECT_NEAR(least_sent(three, four), 0.5, 1e-12);   // one more of three: R / 4
  EXPECT_NEAR(least_sent(four, three), 0.5, 1e-12);   // one of four gone: R / 4
  EXPECT_NEAR(least_sent(four, four), 0, 1e-12);
  EXPECT_NEAR(least_sent(Shares{1, 0}, Shares{1, 1}), 1, 1e-12);  // one copy more
}

// Goal: kept, sent and dropped replicas are counted. Method: changes of mod rings whose outcome is known.
TEST(RingStudyTest, Movement) {
  constexpr std::uint64_t kCount = 1000;
  const RingChange same = change_of(mod_of(5, 2), mod_of(5, 2), kCount);
  EXPECT_EQ(same.movement.kept, 2 * kCount);
  EXPECT_EQ(same.movement.sent + same.movement.dropped, 0U);
  EXPECT_EQ(same.before, same.after);

  const RingChange more = change_of(mod_of(5, 2), mod_of(5, 3), kCount);
  EXPECT_EQ(more.movement.kept, 2 * kCount);
  EXPECT_EQ(more.movement.sent, kCount);
  EXPECT_EQ(more.movement.dropped, 0U);

  const RingChange fewer = change_of(mod_of(5, 3), mod_of(5, 1), kCount);
  EXPECT_EQ(fewer.movement.kept, kCount);
  EXPECT_EQ(fewer.movement.sent, 0U);
  EXPECT_EQ(fewer.movement.dropped, 2 * kCount);

  // From one peer to two: what hashes to an odd number goes, and nothing else.
  const RingChange grown = change_of(mod_of(1, 1), mod_of(2, 1), kCount);
  std::uint64_t odd_count = 0;
  BlockStream blocks(1, 40);
  for (std::uint64_t number = 0; number < kCount; ++number) odd_count += hash_block_ref(blocks.next()) % 2;
  EXPECT_EQ(grown.before, std::vector<std::uint64_t>{kCount});
  EXPECT_EQ(grown.after, (std::vector<std::uint64_t>{kCount - odd_count, odd_count}));
  EXPECT_EQ(grown.movement.sent, odd_count);
  EXPECT_EQ(grown.movement.dropped, odd_count);
  EXPECT_EQ(grown.movement.kept, kCount - odd_count);
}

// Goal: peers are told apart by id, not by place. Method: the first of three leaves.
TEST(RingStudyTest, MembersMoveUp) {
  RingSpec fewer = mod_of(3, 2);
  fewer.members.erase(fewer.members.begin());
  const RingChange change = change_of(mod_of(3, 3), fewer, 500);
  EXPECT_EQ(change.movement.kept, 1000U);
  EXPECT_EQ(change.movement.dropped, 500U);
  EXPECT_EQ(change.movement.sent, 0U);
}

// Goal: chances of loss are right. Method: sets of which all losses can be listed on paper.
TEST(RingStudyTest, LossChance) {
  struct Case {
    Sets sets;
    std::size_t member_count;
    std::size_t failed;
    double chance;
  };
  for (const Case& one : {Case{{{0, 1}, {2, 3}}, 4, 1, 0.0}, Case{{{0, 1}, {2, 3}}, 4, 2, 2.0 / 6},
                          Case{{{0, 1}, {2, 3}}, 4, 3, 1.0}, Case{{{0, 1}}, 4, 3, 0.5},
                          Case{{{0, 1}}, 4, 4, 1.0}, Case{{{0}, {2}}, 4, 2, 5.0 / 6},
                          Case{{{0, 1}, {1, 2}}, 5, 3, 5.0 / 10}, Case{{}, 4, 2, 0.0}}) {
    const LossChance found = loss_chance(one.sets, one.member_count, one.failed, Random(1));
    EXPECT_DOUBLE_EQ(found.chance, one.chance) << one.member_count << " " << one.failed;
    EXPECT_EQ(found.method, LossChance::Method::exact);
    EXPECT_EQ(found.failed, one.failed);
  }
}

// Goal: what cannot be counted is sampled, what is too rare bounded. Method: one set, so that both are known.
TEST(RingStudyTest, LossChanceOfManyMembers) {
  const LossChance half = loss_chance({{3, 17}}, 60, 30, Random(1));
  EXPECT_EQ(half.method, LossChance::Method::sampled);
  EXPECT_NEAR(half.chance, 30.0 * 29 / (60 * 59), 0.015);
  const LossChance all = loss_chance({{3, 17}}, 10'000, 10'000, Random(1));
  EXPECT_DOUBLE_EQ(all.chance, 1);
  const LossChance rare = loss_chance({{1, 2, 3}}, 1000, 4, Random(1));
  EXPECT_EQ(rare.method, LossChance::Method::at_most);
  EXPECT_DOUBLE_EQ(rare.chance, 24.0 / (1000.0 * 999 * 998));
}

// Goal: blocks are named as volumes name them, each once. Method: many of them, of seldom and often rewritten volumes.
TEST(RingStudyTest, BlockStream) {
  for (const std::uint32_t percent : {0, 40, 100}) {
    SCOPED_TRACE(percent);
    BlockStream blocks(7, percent);
    BlockStream again(7, percent);
    std::set<BlockRef> seen;
    std::uint64_t later_count = 0;
    constexpr std::uint64_t kCount = 50'000;
    for (std::uint64_t number = 0; number < kCount; ++number) {
      const BlockRef ref = blocks.next();
      EXPECT_EQ(ref, again.next());
      seen.insert(ref);
      later_count += ref.epoch.value > 1 ? 1 : 0;
    }
    EXPECT_EQ(seen.size(), kCount);
    EXPECT_EQ(later_count == 0, percent == 0);
    EXPECT_EQ(later_count > kCount / 2, percent == 100);
  }
}

}  // namespace
}  // namespace agro
