// RingSpec: what a ring is made from and stored as, as plain values.
//
// It lies here and not in ring/ because metadata stores it and must not see rings.
// Format: models/agro.proto, message Ring. Source: DESIGN.md section 6.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "core/uuid.hpp"
#include "models/peer_labels.hpp"

namespace agro {

/// A peer's place in a ring.
struct RingMember {
  PeerId id;
  std::uint64_t weight = 1;  // its share, relative to the others; usually its size in GiB
  PeerLabels labels = {};    // placement: replicas go to distinct failure domains
  auto operator<=>(const RingMember&) const = default;
};

enum class RingKind : std::uint8_t {
  empty = 0,
  single = 1,
  mod = 2,
  ketama = 3,
  union_ = 4,
  placement = 5
};

/// What the balancer decided against rendezvous hashing: who holds a group, in order of preference.
struct RingOverride {
  std::uint32_t group = 0;
  std::vector<std::uint16_t> members = {};  // indices into RingSpec::members

  bool operator==(const RingOverride&) const = default;
};

/// What rings are made from and stored as. ring/ring.hpp makes a Ring of it and validates it.
struct RingSpec {
  RingKind kind = RingKind::empty;
  std::uint64_t version = 0;
  std::uint32_t replication = 1;
  std::vector<RingMember> members;
  std::vector<RingSpec> parts;  // union: oldest first; the last is the target
  /// Empty: what it becomes with its first member; `empty` itself stands for ketama.
  RingKind planned_kind = RingKind::empty;
  /// Placement: a power of two, the same for ever. Empty: the one it will have.
  std::uint32_t group_count = 0;
  /// Placement: by group, ascending; `members` must be sorted by id then.
  std::vector<RingOverride> overrides = {};

  bool operator==(const RingSpec&) const = default;
};

}  // namespace agro
