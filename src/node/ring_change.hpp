// Ring change: who is in the ring and how, changed one step at a time.
//
// Every change is published as a union of what was and what is to be; the peers then move blocks, and
// the coordinator publishes plain_target() once all is in place. A union can be changed again. A
// cluster without volumes has nothing to move and gets the plain ring at once.
// Invariants: what is planned is a valid ring of the next version; nothing is planned that may lose
// data unless forced.
// Threading: plan_change() is pure. Source: DESIGN.md section 6.
#pragma once

#include <vector>

#include "metadata/metadata.hpp"

namespace agro {

enum class RingChangeKind : std::uint8_t {
  add,              // `members` come in, labels and all; a member gets its new weight and labels
  remove,           // the peers of `members` go; their weights do not matter
  reweight,         // `members` get these weights
  set_replication,  // blocks get `replication` copies
  replace,          // `spec`, whatever was before
};

struct RingChange {
  RingChangeKind kind = RingChangeKind::add;
  std::vector<RingMember> members = {};
  std::uint32_t replication = 0;
  /// Kind, replication, members, and of a placement ring its groups (0: as before) and overrides
  /// (none: the balancer writes them). The version does not matter.
  RingSpec spec = {};
  bool force = false;  // also what may lose data, and peers that nobody knows
  bool only_dead = false;  // remove: refused, unless all of them are dead
};

/// The ring that is to be when no change is under way any more: `spec` itself, or its last part.
const RingSpec& target_of(const RingSpec& spec);

/// The plain ring that ends a change, as the next version.
RingSpec plain_target(const RingSpec& spec);

/// A peer as a member: its labels, and its size in GiB as its weight.
RingMember ring_member_of(const PeerRecord& record);

/// The next version of view.ring. Shape: `view` is one revision of the metadata.
/// Errors: not_found (no such peer, not in the ring); already_exists (in the ring already, nothing
/// would change); invalid_argument (it would be no ring); conflict (refused; unless noted, not when
/// forced): no peer left, fewer peers than copies, a dead peer taken out while dead peers may hold all
/// copies of a block, seven parts already, or 16 where a dead member goes or a missing one comes (also when forced).
Result<RingSpec> plan_change(const ClusterView& view, const RingChange& change);

/// Plans and publishes, again when somebody else was quicker; returns what was published.
/// Errors: those of plan_change() and of Metadata.
Task<RingSpec> change_ring(Metadata& metadata, RingChange change);

}  // namespace agro
