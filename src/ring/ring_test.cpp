#include "ring/ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "models/codec.hpp"
#include "ring/rings.hpp"

namespace agro {
namespace {

using Order = std::vector<std::uint32_t>;

PeerId peer(std::uint32_t number) {
  PeerId id;
  id.bytes.fill(0);
  id.bytes[0] = static_cast<std::uint8_t>(number >> 8);
  id.bytes[15] = static_cast<std::uint8_t>(number);
  id.bytes[6] = 0x40;
  return id;
}

RingSpec spec_of(RingKind kind, std::uint32_t replication, std::uint32_t first, std::uint32_t last,
                 std::uint64_t version = 1) {
  RingSpec spec{
      .kind = kind, .version = version, .replication = replication, .members = {}, .parts = {}};
  for (std::uint32_t number = first; number <= last; ++number) {
    spec.members.push_back({.id = peer(number), .weight = 10});
  }
  return spec;
}

RingSpec union_of(RingSpec older, RingSpec newer) {
  RingSpec spec{.kind = RingKind::union_,
                .version = newer.version,
                .replication = newer.replication,
                .members = {},
                .parts = {}};
  spec.parts = {std::move(older), std::move(newer)};
  return spec;
}

std::shared_ptr<const Ring> make(const RingSpec& spec) {
  auto ring = make_ring(spec);
  if (!ring.has_value()) ADD_FAILURE() << ring.error().to_string();
  return ring.has_value() ? *ring : nullptr;
}

Order order_of(const Ring& ring, std::uint64_t index) {
  Order order;
  ring.permutation({.volume = {1}, .epoch = {3}, .index = index}, order);
  return order;
}

PeerId first_peer(const Ring& ring, std::uint64_t index) {
  return ring.members()[order_of(ring, index)[0]].id;
}

// Goal: a permutation holds each member once, for every kind. Method: sort it.
TEST(RingTest, PermutationsAreComplete) {
  for (const RingSpec& spec :
       {spec_of(RingKind::empty, 2, 1, 0), spec_of(RingKind::single, 1, 1, 1),
        spec_of(RingKind::mod, 2, 1, 5), spec_of(RingKind::ketama, 3, 1, 30),
        spec_of(RingKind::ketama, 3, 1, 100), spec_of(RingKind::ketama, 1, 1, 1),
        union_of(spec_of(RingKind::ketama, 2, 1, 4), spec_of(RingKind::ketama, 3, 3, 8, 2)),
        union_of(spec_of(RingKind::empty, 1, 1, 0), spec_of(RingKind::mod, 2, 3, 8, 2))}) {
    const auto ring = make(spec);
    SCOPED_TRACE(ring->describe());
    Order all(ring->members().size());
    std::iota(all.begin(), all.end(), 0U);
    for (std::uint64_t index = 0; index < 500; ++index) {
      Order order = order_of(*ring, index);
      std::sort(order.begin(), order.end());
      ASSERT_EQ(order, all);
    }
    EXPECT_EQ(make(ring->spec())->spec(), ring->spec());
    EXPECT_EQ(decode_ring(encode(ring->spec())), ring->spec());
  }
}

// Goal: what is no ring is refused, and the text says why.
TEST(RingTest, BadSpecs) {
  RingSpec doubled = spec_of(RingKind::mod, 1, 1, 2);
  doubled.members[1] = doubled.members[0];
  RingSpec weightless = spec_of(RingKind::ketama, 1, 1, 2);
  weightless.members[1].weight = 0;
  RingSpec nil = spec_of(RingKind::ketama, 1, 1, 2);
  nil.members[0].id = {};
  RingSpec with_parts = spec_of(RingKind::mod, 1, 1, 2);
  with_parts.parts = {spec_of(RingKind::mod, 1, 1, 2)};
  RingSpec half = union_of(spec_of(RingKind::mod, 1, 1, 2), spec_of(RingKind::mod, 1, 1, 3));
  half.parts.pop_back();
  RingSpec with_members =
      union_of(spec_of(RingKind::mod, 1, 1, 2), spec_of(RingKind::mod, 1, 1, 3));
  with_members.members = doubled.members;
  RingSpec other_count = union_of(spec_of(RingKind::mod, 1, 1, 2), spec_of(RingKind::mod, 1, 1, 3));
  other_count.replication = 2;
  RingSpec unknown = spec_of(RingKind::mod, 1, 1, 2);
  unknown.kind = static_cast<RingKind>(77);
  const std::vector<std::pair<RingSpec, std::string>> cases = {
      {spec_of(RingKind::mod, 0, 1, 2), "at least one copy"},
      {spec_of(RingKind::single, 2, 1, 1), "holds one copy"},
      {spec_of(RingKind::ketama, 1, 1, 0), "needs a member"},
      {spec_of(RingKind::single, 1, 1, 2), "one member, not 2"},
      {spec_of(RingKind::empty, 1, 1, 1), "has no members"},
      {doubled, "twice"},
      {weightless, "weight 0"},
      {nil, "nil peer"},
      {with_parts, "has no parts"},
      {half, "two parts"},
      {with_members, "from its parts"},
      {other_count, "as many copies"},
      {union_of(half, spec_of(RingKind::mod, 1, 1, 2)), "union as a part"},
      {unknown, "does not know"}};
  for (const auto& [spec, text] : cases) {
    const auto ring = make_ring(spec);
    ASSERT_FALSE(ring.has_value()) << text;
    EXPECT_NE(ring.error().message.find(text), std::string::npos) << ring.error().message;
  }
}

TEST(RingTest, KindNames) {
  for (const RingKind kind :
       {RingKind::empty, RingKind::single, RingKind::mod, RingKind::ketama, RingKind::union_}) {
    EXPECT_EQ(parse_ring_kind(ring_kind_name(kind)), kind);
  }
  const auto bad = parse_ring_kind("modulo");
  ASSERT_EQ(bad.code(), Errc::invalid_argument);
  EXPECT_NE(bad.error().message.find("ketama"), std::string::npos);
}

// Goal: the order of the members in the spec does not matter.
TEST(RingTest, MemberOrderDoesNotMatter) {
  RingSpec spec = spec_of(RingKind::ketama, 2, 1, 9);
  const auto sorted = make(spec);
  std::reverse(spec.members.begin(), spec.members.end());
  const auto reversed = make(spec);
  EXPECT_EQ(sorted->spec(), reversed->spec());
  for (std::uint64_t index = 0; index < 100; ++index) {
    EXPECT_EQ(order_of(*sorted, index), order_of(*reversed, index));
  }
}

/// Copies that each member gets of `block_count` blocks, over its fair share.
std::vector<double> loads(const Ring& ring, std::uint64_t block_count) {
  double weight_sum = 0;
  for (const RingMember& member : ring.members()) weight_sum += static_cast<double>(member.weight);
  std::vector<double> copies(ring.members().size());
  for (std::uint64_t index = 0; index < block_count; ++index) {
    const Order order = order_of(ring, index);
    for (std::uint32_t copy = 0; copy < ring.replication(); ++copy) copies[order[copy]] += 1;
  }
  for (std::size_t member = 0; member < copies.size(); ++member) {
    const double fair = static_cast<double>(block_count) * ring.replication() *
                        static_cast<double>(ring.members()[member].weight) / weight_sum;
    copies[member] /= fair;
  }
  return copies;
}

// Goal: load is near its share. Bounds: mod 3 %; ketama 30 % of each member's share at 120 points
// (its standard deviation is 1/sqrt(120) = 9 %, and three copies even it out a little).
TEST(RingTest, Balance) {
  for (const auto& [kind, replication, bound] : {std::tuple{RingKind::mod, 1U, 0.03},
                                                 {RingKind::ketama, 1U, 0.30},
                                                 {RingKind::ketama, 3U, 0.25}}) {
    const auto ring = make(spec_of(kind, replication, 1, 30));
    const std::vector<double> all = loads(*ring, 300000);
    EXPECT_GT(*std::min_element(all.begin(), all.end()), 1 - bound) << ring_kind_name(kind);
    EXPECT_LT(*std::max_element(all.begin(), all.end()), 1 + bound) << ring_kind_name(kind);
  }
}

// Goal: weights count. Method: weights 1:2:4 twice over; first copies within 30 % of the share.
TEST(RingTest, KetamaFollowsWeights) {
  RingSpec spec = spec_of(RingKind::ketama, 1, 1, 6);
  for (std::size_t index = 0; index < 6; ++index) spec.members[index].weight = 100U << (index % 3);
  for (const double load : loads(*make(spec), 100000)) EXPECT_NEAR(load, 1, 0.30);
}

// Goal: a new member takes its share and nothing else moves; a leaving one likewise. Bounds: no
// block moves between old members; the new one takes at most 1.3 of 1/31.
TEST(RingTest, KetamaMovesLittle) {
  for (const std::uint32_t last : {30U, 100U}) {  // with the table and without
    const auto before = make(spec_of(RingKind::ketama, 2, 1, last));
    const auto after = make(spec_of(RingKind::ketama, 2, 1, last + 1, 2));
    constexpr std::uint64_t kBlocks = 50000;
    std::uint64_t moved = 0;
    for (std::uint64_t index = 0; index < kBlocks; ++index) {
      const PeerId old_owner = first_peer(*before, index);
      const PeerId new_owner = first_peer(*after, index);
      if (old_owner == new_owner) continue;
      ASSERT_EQ(new_owner, peer(last + 1));
      ++moved;
    }
    EXPECT_GT(moved, kBlocks * 7 / 10 / (last + 1));
    EXPECT_LT(moved, kBlocks * 13 / 10 / (last + 1));
  }
}

// Goal: the table and the walk agree. Method: 64 members have a table; walk by hand over single
// memberships: dropping the members of a prefix must leave the rest in order.
TEST(RingTest, KetamaTableAgreesWithWalk) {
  const auto with_table = make(spec_of(RingKind::ketama, 2, 1, 64));
  const auto without = make(spec_of(RingKind::ketama, 2, 1, 65));
  for (std::uint64_t index = 0; index < 1000; ++index) {
    Order longer = order_of(*without, index);
    std::erase(longer, 64U);  // the 65th member; points of the others are the same
    EXPECT_EQ(order_of(*with_table, index), longer);
  }
}

// Goal: union = new owners, old owners, the rest. Method: compare with the parts, by peer.
TEST(RingTest, UnionOrder) {
  const auto older = make(spec_of(RingKind::ketama, 2, 1, 6));
  const auto newer = make(spec_of(RingKind::ketama, 3, 3, 9, 2));
  const auto both = make(union_of(older->spec(), newer->spec()));
  EXPECT_EQ(both->replication(), 3U);
  EXPECT_EQ(both->version(), 2U);
  ASSERT_EQ(both->members().size(), 9U);
  for (std::uint64_t index = 0; index < 1000; ++index) {
    std::vector<PeerId> expected;
    const auto add = [&](const Ring& ring, std::size_t from, std::size_t to) {
      const Order order = order_of(ring, index);
      for (std::size_t place = from; place < to; ++place) {
        const PeerId id = ring.members()[order[place]].id;
        if (std::find(expected.begin(), expected.end(), id) == expected.end())
          expected.push_back(id);
      }
    };
    add(*newer, 0, 3);
    add(*older, 0, 2);
    add(*newer, 3, 7);
    add(*older, 2, 6);
    std::vector<PeerId> got;
    for (const std::uint32_t member : order_of(*both, index))
      got.push_back(both->members()[member].id);
    ASSERT_EQ(got, expected);
  }
}

TEST(RingTest, Describe) {
  EXPECT_EQ(make(spec_of(RingKind::single, 1, 1, 1, 7))->describe(),
            "ring 7: single, 1 copy, members 00000000-0000-4000-0000-000000000001*10");
  EXPECT_EQ(make(spec_of(RingKind::empty, 2, 1, 0, 1))->describe(), "ring 1: empty, 2 copies");
}

// Goal: the owners alone are the front of the whole order, and the replica sets are theirs, with tables and without.
// Method: clusters on both sides of the tables' limits.
TEST(RingTest, OwnersAreTheFront) {
  for (const RingKind kind : {RingKind::mod, RingKind::ketama}) {
    for (const std::uint32_t member_count : {1, 3, 64, 65, 300}) {
      for (const std::uint32_t replication : {1, 3, 17}) {
        SCOPED_TRACE(std::string(ring_kind_name(kind)) + std::to_string(member_count * 100 + replication));
        const auto ring = make(spec_of(kind, replication, 1, member_count));
        ASSERT_NE(ring, nullptr);
        const auto sets = ring->replica_sets();
        for (std::uint64_t index = 0; index < 100; ++index) {
          Order order = order_of(*ring, index);
          EXPECT_EQ(order.size(), member_count);
          Order owners;
          ring->owners({.volume = {1}, .epoch = {3}, .index = index}, owners);
          order.resize(std::min(replication, member_count));
          EXPECT_EQ(owners, order);
          std::sort(order.begin(), order.end());
          EXPECT_TRUE(std::binary_search(sets.begin(), sets.end(), order));
        }
      }
    }
  }
}

}  // namespace
}  // namespace agro
