// Balancer: writes overrides into a placement ring until every member holds its share.
//
// A pure function, run once by whoever plans a change; what it decides is in the spec that is then
// published, so it need not come out the same elsewhere (it does, all the same).
// Source: DESIGN.md section 6; docs/placement.md.
#pragma once

#include <cstdint>
#include <vector>

#include "models/ring_spec.hpp"

namespace agro {

/// Returns `target` with overrides such that each member holds its share of the group replicas,
/// rounded up or down, as far as failure domains allow. Given what was there before, as few replicas
/// as possible change their place; without it, as few as possible differ from rendezvous hashing.
/// Shape: both are valid placement rings (make_ring accepts them); `previous` counts when it has as
/// many groups. Overrides of `target` itself are dropped.
RingSpec balance(RingSpec target, const RingSpec* previous = nullptr);

/// Group replicas that each member should hold, in order of the members. Shape: a valid placement
/// ring. The sum is group_count * min(replication, members).
std::vector<double> fair_replica_counts(const RingSpec& spec);

/// Group replicas that each member holds.
std::vector<std::uint64_t> replica_counts(const RingSpec& spec);

/// Group replicas that `to` places on a member that does not hold them in `from`: what a change
/// copies. Shape: valid placement rings of as many groups.
std::uint64_t moved_replica_count(const RingSpec& from, const RingSpec& to);

}  // namespace agro
