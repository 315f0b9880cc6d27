#include "node/ring_change.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/parallel.hpp"
#include "metadata/test_support.hpp"
#include "ring/balance.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

PeerId peer(std::uint8_t number) {
  PeerId id;
  id.bytes.fill(number);
  return id;
}

RingMember member(std::uint8_t number, std::uint64_t weight = 10) {
  return {.id = peer(number), .weight = weight};
}

RingChange change_of(RingChangeKind kind, std::vector<RingMember> members) {
  RingChange change;
  change.kind = kind;
  change.members = std::move(members);
  return change;
}

RingChange copies_of(std::uint32_t replication) {
  RingChange change;
  change.kind = RingChangeKind::set_replication;
  change.replication = replication;
  return change;
}

RingChange replace_by(RingSpec spec) {
  RingChange change;
  change.kind = RingChangeKind::replace;
  change.spec = std::move(spec);
  return change;
}

RingChange forced(RingChange change) {
  change.force = true;
  return change;
}

/// Peers 1 to `peer_count` run; peers 1 to `member_count` are in the ring; one volume.
ClusterView view_of(std::uint8_t peer_count, std::uint8_t member_count,
                    std::uint32_t replication = 2) {
  ClusterView view;
  view.cluster.emplace();
  for (std::uint8_t number = 1; number <= peer_count; ++number) {
    PeerView one;
    one.record.id = peer(number);
    one.alive = true;
    view.peers.push_back(one);
  }
  view.volumes.push_back({.id = {1}, .name = "demo", .size = 4096, .block_spec = "crc,base"});
  view.ring.version = 5;
  view.ring.replication = replication;
  view.ring.group_count = 64;
  if (member_count == 0) {
    view.ring.planned_kind = RingKind::placement;
    return view;
  }
  view.ring.kind = RingKind::placement;
  for (std::uint8_t number = 1; number <= member_count; ++number) {
    view.ring.members.push_back(member(number));
  }
  view.ring = balance(view.ring);
  return view;
}

RingSpec plan(const ClusterView& view, const RingChange& change) {
  const Result<RingSpec> planned = plan_change(view, change);
  if (!planned.has_value()) ADD_FAILURE() << planned.error().to_string();
  if (!planned.has_value()) return {};
  EXPECT_EQ(planned->version, view.ring.version + 1);
  EXPECT_TRUE(make_ring(*planned).has_value());
  return *planned;
}

Task<void> add_peer(Metadata& metadata, std::uint8_t number, RingSpec& published) {
  RingChange change = forced(change_of(RingChangeKind::add, {member(number)}));
  AGRO_CO_TRY(published, co_await change_ring(metadata, std::move(change)));
  co_return Result<void>();
}

// Goal: every change is a union of what was and what is to be, of the next version; the target is
// balanced. Method: each kind of change on a ring of four.
TEST(RingChangeTest, ChangesAreUnions) {
  const ClusterView view = view_of(6, 4);
  RingSpec ketama = view.ring;
  ketama.kind = RingKind::ketama;
  ketama.group_count = 0;
  ketama.overrides.clear();
  RingMember labelled = member(5, 30);
  labelled.labels.zone = "z";
  const std::vector<std::pair<RingChange, std::size_t>> cases = {
      {change_of(RingChangeKind::add, {labelled}), 5},
      {change_of(RingChangeKind::add, {member(5), member(6)}), 6},
      {change_of(RingChangeKind::add, {member(2, 30)}), 4},
      {change_of(RingChangeKind::remove, {member(2)}), 3},
      {change_of(RingChangeKind::reweight, {member(2, 30)}), 4},
      {copies_of(3), 4},
      {replace_by(ketama), 4}};
  for (const auto& [change, member_count] : cases) {
    SCOPED_TRACE(static_cast<int>(change.kind));
    const RingSpec next = plan(view, change);
    ASSERT_EQ(next.kind, RingKind::union_);
    ASSERT_EQ(next.parts.size(), 2U);
    EXPECT_EQ(next.parts[0], view.ring);
    const RingSpec& target = target_of(next);
    EXPECT_EQ(target.members.size(), member_count);
    EXPECT_EQ(next.replication, target.replication);
    const RingSpec done = plain_target(next);
    EXPECT_EQ(done.version, 7U);
    EXPECT_EQ(done.members, target.members);
    if (target.kind != RingKind::placement) continue;
    EXPECT_EQ(balance(target, &view.ring), target);
  }
  const RingSpec joined = plan(view, cases[0].first);
  EXPECT_EQ(target_of(joined).members[4].labels.zone, "z");
  EXPECT_EQ(target_of(joined).members[4].weight, 30U);
  EXPECT_EQ(target_of(plan(view, cases[4].first)).members[1].weight, 30U);
}

// Goal: a change on top of a change adds a part, up to seven; plans look at the target.
TEST(RingChangeTest, ChangesFollowEachOther) {
  ClusterView view = view_of(12, 3);
  for (std::uint8_t number = 4; number <= 9; ++number) {
    view.ring = plan(view, change_of(RingChangeKind::add, {member(number)}));
    EXPECT_EQ(view.ring.parts.size(), number - 2U);
  }
  const auto more = plan_change(view, change_of(RingChangeKind::add, {member(11)}));
  ASSERT_EQ(more.code(), Errc::conflict);
  EXPECT_NE(more.error().message.find("6 changes of the ring are under way"), std::string::npos);
  EXPECT_EQ(plan_change(view, change_of(RingChangeKind::add, {member(9)})).code(),
            Errc::already_exists);
}

// Goal: changes that cannot end because of a dead peer leave room for the one that takes it out, and
// for no other. Found by the simulator, seed 181.
TEST(RingChangeTest, ADeadPeerCanAlwaysBeTakenOut) {
  ClusterView view = view_of(12, 3);
  for (std::uint8_t number = 4; number <= 9; ++number) {
    view.ring = plan(view, change_of(RingChangeKind::add, {member(number)}));
  }
  view.peers[8].alive = false;
  RingChange forced = change_of(RingChangeKind::add, {member(10)});
  forced.force = true;
  EXPECT_EQ(plan_change(view, forced).code(), Errc::conflict);
  EXPECT_EQ(plan_change(view, change_of(RingChangeKind::remove, {member(1)})).code(), Errc::conflict);
  const RingSpec without = plan(view, change_of(RingChangeKind::remove, {member(9)}));
  ASSERT_EQ(without.parts.size(), 8U);
  EXPECT_EQ(target_of(without).members.size(), 8U);
}

// Goal: nor is a ring whose target has too few members stuck because changes wait for more of them. Found by
// the simulator, seed 403654.
TEST(RingChangeTest, AMissingMemberCanAlwaysBeAdded) {
  ClusterView view = view_of(12, 2);
  for (std::uint8_t number = 3; number <= 8; ++number) {
    view.ring = plan(view, change_of(RingChangeKind::add, {member(number)}));
  }
  for (std::size_t index = 1; index < 8; ++index) view.peers[index].alive = false;
  RingSpec alone = target_of(view.ring);
  std::erase_if(alone.members, [](const RingMember& one) { return !(one.id == member(1).id); });
  alone.overrides.clear();
  view.ring.parts.push_back(alone);
  const RingSpec two = plan(view, change_of(RingChangeKind::add, {member(9)}));
  EXPECT_EQ(two.parts.size(), 9U);
  EXPECT_EQ(target_of(two).members.size(), 2U);
  view.ring = two;
  EXPECT_EQ(plan_change(view, change_of(RingChangeKind::add, {member(10)})).code(), Errc::conflict);
}

// Goal: nothing to move, no union: without volumes, and from a ring without members.
TEST(RingChangeTest, PlainWithoutData) {
  ClusterView view = view_of(6, 0);
  const RingSpec first = plan(view, change_of(RingChangeKind::add, {member(1), member(2)}));
  EXPECT_EQ(first.kind, RingKind::placement);
  EXPECT_EQ(first.group_count, 64U);
  EXPECT_EQ(first.planned_kind, RingKind::empty);
  view.ring = first;
  view.volumes.clear();
  const RingSpec second = plan(view, change_of(RingChangeKind::add, {member(3)}));
  EXPECT_EQ(second.kind, RingKind::placement);
  EXPECT_EQ(second.members.size(), 3U);
  view.ring = second;
  const RingSpec none =
      plan(view, forced(change_of(RingChangeKind::remove, {member(1), member(2), member(3)})));
  EXPECT_EQ(none.kind, RingKind::empty);
  EXPECT_EQ(none.planned_kind, RingKind::placement);
  EXPECT_EQ(none.group_count, 64U);
  view.ring = none;
  EXPECT_EQ(plan(view, change_of(RingChangeKind::add, {member(3)})).kind, RingKind::placement);
}

// Goal: rings made before there were planned kinds become ketama, and stay what they are.
TEST(RingChangeTest, OldRings) {
  ClusterView view = view_of(6, 0);
  view.ring = {.version = 1, .replication = 2, .members = {}, .parts = {}};
  view.ring = plan(view, change_of(RingChangeKind::add, {member(1), member(2)}));
  EXPECT_EQ(view.ring.kind, RingKind::ketama);
  const RingSpec next = plan(view, change_of(RingChangeKind::add, {member(3)}));
  EXPECT_EQ(target_of(next).kind, RingKind::ketama);
  RingSpec placement = target_of(next);
  placement.kind = RingKind::placement;
  const RingSpec changed = plan(view, replace_by(placement));
  EXPECT_EQ(target_of(changed).kind, RingKind::placement);
  EXPECT_EQ(target_of(changed).group_count, 4096U);
}

// Goal: what may lose data, and what makes no sense, is refused with a reason; force overrides the
// first.
TEST(RingChangeTest, Refusals) {
  const ClusterView two = view_of(4, 2);
  const ClusterView one = view_of(4, 1, 1);
  ClusterView one_dead = view_of(4, 4);
  one_dead.peers[3].alive = false;
  ClusterView two_dead = one_dead;
  two_dead.peers[2].alive = false;
  ClusterView three_one_dead = view_of(4, 3);
  three_one_dead.peers[2].alive = false;
  ClusterView narrow = one_dead;
  narrow.volumes[0].replication = 1;
  ClusterView wide = view_of(4, 3);
  wide.volumes[0].replication = 3;
  RingSpec regrouped = two.ring;
  regrouped.group_count = 128;
  regrouped.overrides.clear();
  struct Case {
    const ClusterView& view;
    RingChange change;
    Errc code;
    const char* text;
    bool force_helps;
  };
  const std::vector<Case> cases = {
      {one, change_of(RingChangeKind::remove, {member(1)}), Errc::conflict, "the last peer", true},
      {two, change_of(RingChangeKind::remove, {member(1)}), Errc::conflict, "1 would be left for 2",
       true},
      {wide, change_of(RingChangeKind::remove, {member(1)}), Errc::conflict,
       "2 would be left for the 3 copies of volume 'demo'", true},
      {two, copies_of(3), Errc::conflict, "the ring has 2", true},
      {two, copies_of(2), Errc::already_exists, "like that already", false},
      {two, copies_of(0), Errc::invalid_argument, "at least one copy", false},
      {two, copies_of(17), Errc::invalid_argument, "at most 16", false},
      {two, change_of(RingChangeKind::add, {member(2)}), Errc::already_exists, "in the ring already",
       false},
      {two, change_of(RingChangeKind::add, {member(3), member(3)}), Errc::already_exists, "already",
       false},
      {two, change_of(RingChangeKind::add, {member(77)}), Errc::not_found, "there is no peer", true},
      {two, change_of(RingChangeKind::add, {member(3, 0)}), Errc::invalid_argument, "weight 0",
       false},
      {two, change_of(RingChangeKind::remove, {member(3)}), Errc::not_found, "not in the ring",
       false},
      {two, change_of(RingChangeKind::reweight, {member(3)}), Errc::not_found, "not in the ring",
       false},
      {two, replace_by(two.ring), Errc::already_exists, "like that already", false},
      {two, replace_by(regrouped), Errc::conflict, "64 groups", true},
      {two_dead, change_of(RingChangeKind::remove, {member(4)}), Errc::conflict,
       "2 of the ring's peers are dead and blocks are sure to have 2 copies", true},
      {narrow, change_of(RingChangeKind::remove, {member(4)}), Errc::conflict,
       "sure to have 1 copy", true},
      {three_one_dead, change_of(RingChangeKind::remove, {member(1)}), Errc::conflict,
       "1 of the 2 peers that would be left run, too few for 2 copies", true}};
  for (const Case& one_case : cases) {
    SCOPED_TRACE(one_case.text);
    const Result<RingSpec> refused = plan_change(one_case.view, one_case.change);
    ASSERT_EQ(refused.code(), one_case.code);
    EXPECT_NE(refused.error().message.find(one_case.text), std::string::npos)
        << refused.error().message;
    EXPECT_EQ(plan_change(one_case.view, forced(one_case.change)).has_value(),
              one_case.force_helps);
  }
  RingChange of_dead = change_of(RingChangeKind::remove, {member(4)});
  of_dead.only_dead = true;
  plan(one_dead, of_dead);
  EXPECT_EQ(plan_change(view_of(4, 4), of_dead).code(), Errc::conflict);
  plan(two_dead, change_of(RingChangeKind::reweight, {member(1, 20)}));  // takes nobody out
}

// Goal: of many who change the ring at the same time all get what they want. Method: eight peers add
// themselves at once, over one store.
TEST(RingChangeTest, PublishesAgainAfterConflicts) {
  TempBackend backend;
  TestEnv& test = backend.test;
  const std::unique_ptr<Kv> kv = backend.connect();
  Metadata metadata(test.env, *kv);
  ClusterRecord cluster;
  cluster.id = peer(99);
  RingSpec ring;
  ring.version = 1;
  ring.planned_kind = RingKind::placement;
  ring.group_count = 64;
  test.must(metadata.init_cluster(cluster, ring));
  std::vector<RingSpec> published(8);
  const auto add = [&](std::size_t index) {
    return add_peer(metadata, static_cast<std::uint8_t>(index + 1), published[index]);
  };
  test.must(for_each_parallel(8, 8, add));
  const RingSpec last = test.must(metadata.ring());
  EXPECT_EQ(last.version, 9U);
  EXPECT_EQ(last.members.size(), 8U);
  EXPECT_TRUE(std::count(published.begin(), published.end(), last) == 1);
  test.must(kv->close());
}

}  // namespace
}  // namespace agro
