// RingSpec: what a ring is made from and stored as, as plain values.
//
// It lies here and not in ring/ because metadata stores it and must not see rings.
// Format: models/agro.proto, message Ring. Source: DESIGN.md section 6.
#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "core/uuid.hpp"

namespace agro {

/// A peer's place in a ring.
struct RingMember {
  PeerId id;
  std::uint64_t weight = 1;  // its share, relative to the others; usually its size in GiB
  auto operator<=>(const RingMember&) const = default;
};

enum class RingKind : std::uint8_t { empty = 0, single = 1, mod = 2, ketama = 3, union_ = 4 };

/// What rings are made from and stored as. ring/ring.hpp makes a Ring of it and validates it.
struct RingSpec {
  RingKind kind = RingKind::empty;
  std::uint64_t version = 0;
  std::uint32_t replication = 1;
  std::vector<RingMember> members;
  std::vector<RingSpec> parts;  // union: exactly {old, new}

  bool operator==(const RingSpec&) const = default;
};

}  // namespace agro
