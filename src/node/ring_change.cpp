#include "node/ring_change.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.hpp"
#include "node/cluster_report.hpp"
#include "ring/balance.hpp"
#include "ring/placement.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

constexpr int kAttemptsMax = 16;
/// Of a union that has changes waiting which others need not.
constexpr std::size_t kPartsMax = 7;

auto find_member(RingSpec& spec, const PeerId& id) {
  return std::find_if(spec.members.begin(), spec.members.end(),
                      [&id](const RingMember& member) { return member.id == id; });
}

bool has_member(const RingSpec& spec, const PeerId& id) {
  return std::any_of(spec.members.begin(), spec.members.end(),
                     [&id](const RingMember& member) { return member.id == id; });
}

/// The peer as the metadata know it; null when they do not.
const PeerView* find_peer(const ClusterView& view, const PeerId& id) {
  const auto found = std::find_if(view.peers.begin(), view.peers.end(),
                                  [&id](const PeerView& peer) { return peer.record.id == id; });
  return found == view.peers.end() ? nullptr : &*found;
}

bool is_alive(const ClusterView& view, const PeerId& id) {
  const PeerView* peer = find_peer(view, id);
  return peer != nullptr && peer->alive;
}

// --- what the target is to be -------------------------------------------------------------------

/// One that is a member already gets its new size and labels.
Result<void> add_members(const RingChange& change, RingSpec& target) {
  for (const RingMember& member : change.members) {
    const auto found = find_member(target, member.id);
    if (found == target.members.end()) {
      target.members.push_back(member);
    } else if (*found != member) {
      *found = member;
    } else {
      return fail(Errc::already_exists,
                  fmt::format("peer {} is in the ring already", member.id.to_string()));
    }
  }
  return {};
}

Result<void> remove_members(const RingChange& change, RingSpec& target) {
  for (const RingMember& member : change.members) {
    const auto found = find_member(target, member.id);
    if (found == target.members.end()) {
      return fail(Errc::not_found,
                  fmt::format("peer {} is not in the ring", member.id.to_string()));
    }
    target.members.erase(found);
  }
  return {};
}

Result<void> reweight_members(const RingChange& change, RingSpec& target) {
  for (const RingMember& member : change.members) {
    const auto found = find_member(target, member.id);
    if (found == target.members.end()) {
      return fail(Errc::not_found,
                  fmt::format("peer {} is not in the ring", member.id.to_string()));
    }
    found->weight = member.weight;
  }
  return {};
}

/// Groups are fixed when the cluster is made: with another number nearly every block would move.
Result<void> replace_spec(const RingChange& change, RingSpec& target) {
  RingSpec wanted = change.spec;
  if (wanted.kind == RingKind::union_) {
    return fail(Errc::invalid_argument, "name the ring that is to be, not a union");
  }
  if (wanted.kind == RingKind::placement && wanted.group_count == 0) {
    wanted.group_count = target.group_count == 0 ? kGroupCountDefault : target.group_count;
  }
  const bool regrouped = target.kind == RingKind::placement &&
                         wanted.kind == RingKind::placement &&
                         wanted.group_count != target.group_count;
  if (regrouped && !change.force) {
    return fail(Errc::conflict, fmt::format("the ring has {} groups; with {} nearly every block would "
                                            "move; --force does it all the same",
                                            target.group_count, wanted.group_count));
  }
  target = std::move(wanted);
  return {};
}

/// An empty ring becomes its planned kind with the first member, and any ring empty with the last.
void settle_kind(RingSpec& target) {
  if (target.members.empty() && target.kind != RingKind::empty) {
    target.planned_kind = target.kind;
    target.kind = RingKind::empty;
    target.overrides.clear();
  } else if (!target.members.empty() && target.kind == RingKind::empty) {
    target.kind = target.planned_kind == RingKind::empty ? RingKind::ketama : target.planned_kind;
    target.planned_kind = RingKind::empty;
  } else if (target.kind == RingKind::single && target.members.size() > 1) {
    target.kind = RingKind::ketama;
  }
}

// --- what is refused ----------------------------------------------------------------------------

Result<void> check_peers_known(const ClusterView& view, const RingSpec& present,
                               const RingSpec& target) {
  for (const RingMember& member : target.members) {
    if (has_member(present, member.id) || find_peer(view, member.id) != nullptr) continue;
    return fail(Errc::not_found,
                fmt::format("there is no peer {}; start its agro first; 'agroctl peer list' shows those there are",
                            member.id.to_string()));
  }
  return {};
}

/// A change that leaves a bad state as it is may pass: a cluster grows from nothing.
Result<void> check_enough_peers(const ClusterView& view, const RingSpec& present,
                                const RingSpec& target) {
  const std::size_t left_count = target.members.size();
  const bool fewer = left_count < present.members.size();
  if (left_count == 0 && fewer) {
    return fail(Errc::conflict, "it is the last peer of the ring; --force removes it all the same");
  }
  const bool more_copies = left_count > 0 && target.replication > present.replication;
  if (left_count < target.replication && fewer) {
    return fail(Errc::conflict, fmt::format("{} would be left for {} copies of each block; add "
                                            "another peer first, or use --force",
                                            left_count, target.replication));
  }
  if (left_count < target.replication && more_copies) {
    return fail(Errc::conflict, fmt::format("{} copies need as many peers, and the ring has {}; add "
                                            "peers first, or use --force",
                                            target.replication, left_count));
  }
  for (const VolumeRecord& volume : view.volumes) {
    const std::uint32_t copies = copy_count_of(volume, target);
    if (!fewer || left_count >= copies) continue;
    return fail(Errc::conflict, fmt::format("{} would be left for the {} copies of volume '{}'; add "
                                            "another peer first, or use --force",
                                            left_count, copies, volume.name));
  }
  return {};
}

/// Peers that run and can hold copies are not given up when those that are left to run are too few.
Result<void> check_enough_run(const ClusterView& view, const RingSpec& present,
                              const RingSpec& target) {
  std::size_t running_count = 0;
  bool fewer = false;
  for (const RingMember& member : target.members) running_count += is_alive(view, member.id) ? 1 : 0;
  for (const RingMember& member : present.members) {
    fewer |= is_alive(view, member.id) && !has_member(target, member.id);
  }
  if (!fewer || running_count >= target.replication) return {};
  return fail(Errc::conflict,
              fmt::format("{} of the {} peers that would be left run, too few for {} copies of each "
                          "block; start the others first, or use --force",
                          running_count, target.members.size(), target.replication));
}

bool takes_dead_out(const ClusterView& view, const RingSpec& target) {
  const std::vector<RingMember>& members = target_of(view.ring).members;
  return std::any_of(members.begin(), members.end(), [&](const RingMember& member) {
    return !is_alive(view, member.id) && !has_member(target, member.id);
  });
}

/// Whether the ring has fewer living members than copies, and gets one more.
bool brings_missing_in(const ClusterView& view, const RingSpec& target) {
  const auto living = [&view](const RingSpec& ring) {
    return std::count_if(ring.members.begin(), ring.members.end(),
                         [&view](const RingMember& member) { return is_alive(view, member.id); });
  };
  const RingSpec& present = target_of(view.ring);
  return living(present) < static_cast<std::ptrdiff_t>(present.replication) && living(target) > living(present);
}

/// While dead peers are fewer than copies, every block has a copy on a living one.
Result<void> check_copies_left(const ClusterView& view, const RingSpec& target) {
  if (!takes_dead_out(view, target) || view.volumes.empty()) return {};
  std::uint32_t dead_count = 0;
  for (const PeerId& id : ring_peers(view.ring)) dead_count += is_alive(view, id) ? 0 : 1;
  AGRO_TRY(const std::shared_ptr<const Ring> present, make_ring(view.ring));
  std::uint32_t sure_copies = present->sure_copies();
  for (const VolumeRecord& volume : view.volumes) {
    sure_copies = std::min(sure_copies, copy_count_of(volume, target_of(view.ring)));
  }
  if (dead_count < sure_copies) return {};
  return fail(
      Errc::conflict,
      fmt::format("{} of the ring's peers are dead and blocks are sure to have {} {}: without these "
                  "peers some may be lost; start them again, or use --force",
                  dead_count, sure_copies, sure_copies == 1 ? "copy" : "copies"));
}

Result<RingSpec> target_after(const ClusterView& view, const RingChange& change) {
  const RingSpec& present = target_of(view.ring);
  RingSpec target = present;
  switch (change.kind) {
    case RingChangeKind::add:
      AGRO_TRY_OK(add_members(change, target));
      break;
    case RingChangeKind::remove:
      AGRO_TRY_OK(remove_members(change, target));
      break;
    case RingChangeKind::reweight:
      AGRO_TRY_OK(reweight_members(change, target));
      break;
    case RingChangeKind::set_replication:
      target.replication = change.replication;
      break;
    case RingChangeKind::replace:
      AGRO_TRY_OK(replace_spec(change, target));
      break;
  }
  settle_kind(target);
  target.version = view.ring.version + 1;
  const bool own_overrides =
      change.kind == RingChangeKind::replace && !target.overrides.empty();
  if (own_overrides || target.kind != RingKind::placement) return target;
  target.overrides.clear();
  AGRO_TRY_OK(make_ring(target));  // the balancer takes valid rings only
  return balance(std::move(target), present.kind == RingKind::placement ? &present : nullptr);
}

/// What was and what is to be, in so many parts.
Result<RingSpec> join_parts(const RingSpec& present, RingSpec target, std::size_t parts_max) {
  RingSpec both;
  both.kind = RingKind::union_;
  both.version = target.version;
  both.replication = target.replication;
  both.parts = present.kind == RingKind::union_ ? present.parts : std::vector{present};
  // No block was placed by a ring without members.
  std::erase_if(both.parts, [](const RingSpec& part) { return part.members.empty(); });
  if (both.parts.empty()) return target;
  if (both.parts.size() >= parts_max) {
    return fail(Errc::conflict,
                fmt::format("{} changes of the ring are under way already; let them end first; where a "
                            "dead peer keeps them from it, start it or remove it",
                            both.parts.size() - 1));
  }
  both.parts.push_back(std::move(target));
  return both;
}

bool same_but_for_version(RingSpec a, const RingSpec& b) {
  a.version = b.version;
  return a == b;
}

}  // namespace

const RingSpec& target_of(const RingSpec& spec) {
  return spec.kind == RingKind::union_ ? spec.parts.back() : spec;
}

RingSpec plain_target(const RingSpec& spec) {
  RingSpec target = target_of(spec);
  target.version = spec.version + 1;
  return target;
}

RingMember ring_member_of(const PeerRecord& record) {
  return {.id = record.id,
          .weight = std::max<std::uint64_t>(1, (record.size + kGiB / 2) / kGiB),
          .labels = record.labels};
}

Result<RingSpec> plan_change(const ClusterView& view, const RingChange& change) {
  AGRO_TRY_OK(make_ring(view.ring));
  const RingSpec& present = target_of(view.ring);
  AGRO_TRY(RingSpec target, target_after(view, change));
  AGRO_TRY(const std::shared_ptr<const Ring> valid, make_ring(target));
  if (same_but_for_version(present, valid->spec())) {
    return fail(Errc::already_exists, "the ring is like that already");
  }
  for (const RingMember& member : change.members) {
    if (!change.only_dead || !is_alive(view, member.id)) continue;
    return fail(Errc::conflict, fmt::format("peer {} is alive again", member.id.to_string()));
  }
  if (!change.force) {
    AGRO_TRY_OK(check_peers_known(view, present, target));
    AGRO_TRY_OK(check_enough_peers(view, present, target));
    AGRO_TRY_OK(check_enough_run(view, present, target));
    AGRO_TRY_OK(check_copies_left(view, target));
  }
  // Without volumes there are no blocks to find in their old places. And when peers are given up for
  // lost that may hold all copies of something, nobody is to wait for them any more.
  if (view.volumes.empty() || !check_copies_left(view, target).has_value()) return valid->spec();
  // Changes may never end while peers that are to hold blocks are dead, or too few: what mends that may
  // come on top of them.
  const bool mends = takes_dead_out(view, target) || brings_missing_in(view, target);
  const std::size_t parts_max = mends ? kUnionPartsMax : kPartsMax;
  AGRO_TRY(RingSpec joined, join_parts(view.ring, valid->spec(), parts_max));
  AGRO_TRY_OK(make_ring(joined));
  return joined;
}

Task<RingSpec> change_ring(Metadata& metadata, RingChange change) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY(const ClusterView view, co_await metadata.view());
    if (!view.cluster.has_value()) {
      co_return fail(Errc::not_found, "the metadata store holds no cluster; run 'agroctl init'");
    }
    AGRO_CO_TRY(RingSpec next, plan_change(view, change));
    const bool for_want_of_volumes = next.kind != RingKind::union_ && view.volumes.empty();
    const Result<void> published =
        co_await metadata.publish_ring(next, view.ring.version, for_want_of_volumes);
    if (published.has_value()) co_return std::move(next);
    if (published.code() != Errc::conflict) co_return fail(published.error());
  }
  co_return fail(Errc::conflict, "others keep changing the ring; try again");
}

}  // namespace agro
