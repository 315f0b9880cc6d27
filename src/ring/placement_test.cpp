#include "ring/placement.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "models/codec.hpp"
#include "ring/placement_testing.hpp"

namespace agro {
namespace {

using Order = std::vector<std::uint32_t>;

std::shared_ptr<const Ring> make(const RingSpec& spec) {
  auto ring = make_ring(spec);
  if (!ring.has_value()) ADD_FAILURE() << ring.error().to_string();
  return ring.has_value() ? *ring : nullptr;
}

BlockRef ref_of(std::uint64_t index) { return {.volume = {1}, .epoch = {3}, .index = index}; }

// Goal: the logarithm is one, whatever the machine. Method: against libm, and golden values.
TEST(PlacementTest, Logarithm) {
  Random random(1);
  for (int round = 0; round < 10000; ++round) {
    const std::uint64_t hash = random.next() >> (round % 60);
    const double exact = 64 - std::log2(static_cast<double>(hash | 1));
    const double ours = static_cast<double>(negative_log2(hash)) / std::pow(2.0, 48);
    ASSERT_NEAR(ours, exact, 1e-5) << hash;
  }
  EXPECT_EQ(negative_log2(0), std::uint64_t{64} << 48);
  EXPECT_EQ(negative_log2(std::uint64_t{1} << 63), std::uint64_t{1} << 48);
  EXPECT_EQ(negative_log2(UINT64_MAX), 1U);
  EXPECT_EQ(negative_log2(0xC000000000000000), 116822670443562U);
}

// Goal: permutations are complete and begin with the owners, in the table and beyond it.
TEST(PlacementTest, PermutationsAndOwners) {
  for (const auto& [member_count, replication] :
       {std::pair{1U, 1U}, {1U, 3U}, {2U, 3U}, {30U, 3U}, {256U, 2U}, {300U, 16U}}) {
    SCOPED_TRACE(member_count);
    const auto ring = make(placement_of(member_count, replication, 256));
    for (std::uint64_t index = 0; index < 300; ++index) {
      Order order;
      ring->permutation(ref_of(index), order);
      Order owners;
      ring->owners(ref_of(index), owners);
      ASSERT_EQ(owners.size(), std::min(member_count, replication));
      ASSERT_TRUE(std::equal(owners.begin(), owners.end(), order.begin()));
      ASSERT_EQ(order.size(), member_count);
      ASSERT_EQ(std::set(order.begin(), order.end()).size(), member_count);
    }
  }
}

// Goal: every weight counts. Method: one copy, weights 1:2:4, each within 10 % of its share.
TEST(PlacementTest, FollowsWeights) {
  RingSpec spec = placement_of(6, 1, 65536);
  for (std::size_t index = 0; index < 6; ++index) spec.members[index].weight = 100U << (index % 3);
  const PlacementRing ring(spec);
  std::vector<double> counts(6);
  for (std::uint32_t group = 0; group < ring.group_count(); ++group) {
    counts[ring.owners_of(group)[0]] += 1;
  }
  for (std::size_t index = 0; index < 6; ++index) {
    EXPECT_NEAR(counts[index] / (65536.0 * (1 << (index % 3)) / 14), 1, 0.1);
  }
}

// Goal: a member that joins takes places and moves nothing between others.
TEST(PlacementTest, JoiningMovesNothingElse) {
  const RingSpec spec = placement_of(31, 3, 4096);
  RingSpec fewer = spec;
  fewer.members.pop_back();
  const PlacementRing before(fewer);
  const PlacementRing after(spec);
  for (std::uint32_t group = 0; group < 4096; ++group) {
    for (const std::uint16_t owner : after.owners_of(group)) {
      const auto had = before.owners_of(group);
      ASSERT_TRUE(owner == 30 || std::find(had.begin(), had.end(), owner) != had.end());
    }
  }
}

struct DomainCase {
  const char* name;
  std::vector<PeerLabels> labels;
  std::uint32_t replication;
  std::uint32_t collisions;  // of the owners of each group
};

// Goal: replicas lie in as many failure domains as there are. Method: count collisions per group.
TEST(PlacementTest, OwnersAreApart) {
  const std::vector<DomainCase> cases = {
      {"no labels", {{}, {}, {}, {}}, 3, 0},
      {"three zones", {{"a"}, {"a"}, {"a"}, {"b"}, {"b"}, {"c"}, {"c"}}, 3, 0},
      {"two zones of racks",
       {{"a", "1"}, {"a", "2"}, {"b", "1"}, {"b", "1"}, {"b", "2"}},
       3,
       1U << 16},
      {"racks of one zone", {{"a", "1"}, {"a", "1"}, {"a", "2"}, {"a", "2"}}, 2, 1U << 16},
      {"racks without a zone", {{"", "1"}, {"", "1"}, {"", "2"}, {"", "2"}}, 2, 1U << 16},
      {"hosts",
       {{"", "", "h1"}, {"", "", "h1"}, {"", "", "h2"}, {"", "", "h2"}},
       2,
       (1U << 16) + (1U << 8)},
      {"one host", {{"", "", "h"}, {"", "", "h"}, {"", "", "h"}}, 2, (1U << 16) + (1U << 8) + 1},
      {"one labelled, others not", {{"a"}, {"a"}, {}, {}}, 3, 0},
      {"same rack name in two zones", {{"a", "1"}, {"a", "1"}, {"b", "1"}}, 2, 0}};
  for (const DomainCase& one : cases) {
    SCOPED_TRACE(one.name);
    RingSpec spec = placement_of(static_cast<std::uint32_t>(one.labels.size()), one.replication, 512);
    for (std::size_t index = 0; index < one.labels.size(); ++index) {
      spec.members[index].labels = one.labels[index];
    }
    const PlacementRing ring(spec);
    const FailureDomains domains(spec.members);
    for (std::uint32_t group = 0; group < 512; ++group) {
      ASSERT_EQ(domains.collisions(ring.owners_of(group)), one.collisions);
    }
  }
}

// Goal: an override is obeyed, and the others keep their order behind it.
TEST(PlacementTest, Overrides) {
  RingSpec spec = placement_of(8, 2, 64);
  const PlacementRing plain(spec);
  spec.overrides = {{.group = 3, .members = {7, 1}}, {.group = 60, .members = {0, 5}}};
  const auto ring = make(spec);
  EXPECT_EQ(decode_ring(encode(spec)), spec);
  for (std::uint64_t index = 0; index < 500; ++index) {
    Order expected;
    Order got;
    plain.permutation(ref_of(index), expected);
    ring->permutation(ref_of(index), got);
    const std::uint32_t group = plain.group_of(ref_of(index));
    for (const RingOverride& one : spec.overrides) {
      if (one.group != group) continue;
      std::erase_if(expected, [&](std::uint32_t member) {
        return member == one.members[0] || member == one.members[1];
      });
      expected.insert(expected.begin(), one.members.begin(), one.members.end());
    }
    ASSERT_EQ(got, expected) << group;
  }
}

// Goal: what is no placement ring is refused, and the text says why.
TEST(PlacementTest, BadSpecs) {
  const auto with = [](auto change) {
    RingSpec spec = placement_of(4, 2, 64);
    change(spec);
    return spec;
  };
  const std::vector<std::pair<RingSpec, std::string>> cases = {
      {with([](RingSpec& spec) { spec.group_count = 0; }), "power of two of groups"},
      {with([](RingSpec& spec) { spec.group_count = 100; }), "not 100"},
      {with([](RingSpec& spec) { spec.group_count = 1 << 17; }), "up to 65536"},
      {with([](RingSpec& spec) { spec.replication = 17; }), "at most 16 copies"},
      {with([](RingSpec& spec) { spec.overrides = {{64, {0, 1}}}; }), "below 64"},
      {with([](RingSpec& spec) { spec.overrides = {{5, {0, 1}}, {5, {0, 1}}}; }), "in order"},
      {with([](RingSpec& spec) { spec.overrides = {{5, {0}}}; }), "2 distinct members; group 5"},
      {with([](RingSpec& spec) { spec.overrides = {{5, {1, 1}}}; }), "2 distinct"},
      {with([](RingSpec& spec) { spec.overrides = {{5, {1, 4}}}; }), "2 distinct"},
      {with([](RingSpec& spec) {
         spec.overrides = {{5, {1, 2}}};
         std::swap(spec.members[0], spec.members[1]);
       }),
       "in order of their ids"},
      {with([](RingSpec& spec) { spec.planned_kind = RingKind::mod; }), "only an empty ring"},
      {with([](RingSpec& spec) { spec.kind = RingKind::mod; }), "has no groups"},
      {with([](RingSpec& spec) {
         spec.kind = RingKind::mod;
         spec.group_count = 0;
         spec.overrides = {{5, {1, 2}}};
       }),
       "no overrides"}};
  for (const auto& [spec, text] : cases) {
    const auto ring = make_ring(spec);
    ASSERT_FALSE(ring.has_value()) << text;
    EXPECT_NE(ring.error().message.find(text), std::string::npos) << ring.error().message;
  }
}

// Goal: replica sets are what a look at many blocks finds, for every kind.
TEST(PlacementTest, ReplicaSets) {
  RingSpec ketama = placement_of(7, 3, 0);
  ketama.kind = RingKind::ketama;
  RingSpec mod = placement_of(7, 3, 0);
  mod.kind = RingKind::mod;
  RingSpec all = placement_of(3, 3, 0);
  all.kind = RingKind::mod;
  for (const RingSpec& spec : {placement_of(7, 3, 64), ketama, mod, all}) {
    const auto ring = make(spec);
    std::set<Order> seen;
    for (std::uint64_t index = 0; index < 30000; ++index) {
      Order owners;
      ring->owners(ref_of(index), owners);
      std::sort(owners.begin(), owners.end());
      seen.insert(owners);
    }
    EXPECT_EQ(ring->replica_sets(), std::vector<Order>(seen.begin(), seen.end()));
  }
}

// Goal: the chance is the replica sets' share of all sets. Method: counted by hand.
TEST(PlacementTest, LossRisk) {
  const LossRisk three = loss_risk(*make(placement_of(3, 2, 64)));
  EXPECT_EQ(three.set_count, 3U);
  EXPECT_DOUBLE_EQ(three.chance, 1);
  const LossRisk one_set = loss_risk(*make(placement_of(3, 5, 64)));
  EXPECT_EQ(one_set.set_count, 1U);
  EXPECT_DOUBLE_EQ(one_set.chance, 1);
  const auto ring = make(placement_of(30, 3, 64));
  EXPECT_DOUBLE_EQ(loss_risk(*ring).chance, static_cast<double>(ring->replica_sets().size()) / 4060);
  EXPECT_EQ(loss_risk(*make(RingSpec())).set_count, 0U);
  EXPECT_EQ(loss_risk(*make(RingSpec())).chance, 0);
}

// Goal: a union of several changes looks in all of its parts, the newest first, and is sure of the
// fewest copies of them. Method: three placement rings; the first places are the owners in turn.
TEST(PlacementTest, UnionOfThree) {
  RingSpec older = placement_of(5, 2, 64);
  RingSpec middle = placement_of(6, 1, 64);
  RingSpec newer = placement_of(7, 3, 64);
  newer.members.erase(newer.members.begin());
  RingSpec spec{.kind = RingKind::union_,
                .version = 9,
                .replication = 3,
                .members = {},
                .parts = {older, middle, newer}};
  const auto both = make(spec);
  EXPECT_EQ(both->sure_copies(), 1U);
  EXPECT_EQ(both->target().spec(), newer);
  EXPECT_EQ(decode_ring(encode(spec)), spec);
  EXPECT_EQ(both->members().size(), 7U);
  for (std::uint64_t index = 0; index < 200; ++index) {
    std::vector<PeerId> expected;
    for (const RingSpec& part : {newer, middle, older}) {
      const auto ring = make(part);
      Order owners;
      ring->owners(ref_of(index), owners);
      for (const std::uint32_t owner : owners) {
        const PeerId id = ring->members()[owner].id;
        if (std::find(expected.begin(), expected.end(), id) == expected.end()) {
          expected.push_back(id);
        }
      }
    }
    Order order;
    both->permutation(ref_of(index), order);
    ASSERT_EQ(order.size(), 7U);
    for (std::size_t place = 0; place < expected.size(); ++place) {
      ASSERT_EQ(both->members()[order[place]].id, expected[place]);
    }
    Order owners;
    both->owners(ref_of(index), owners);
    ASSERT_EQ(owners, Order(order.begin(), order.begin() + 3));
  }
  RingSpec nothing;
  nothing.replication = 1;
  spec.parts[1] = nothing;
  EXPECT_EQ(make(spec)->sure_copies(), 2U);  // an empty ring wrote nothing
  spec.parts.assign(kUnionPartsMax + 1, newer);
  EXPECT_NE(make_ring(spec).error().message.find("up to 16"), std::string::npos);
}

}  // namespace
}  // namespace agro
