// For tests and benchmarks: placement rings of made-up peers.
#pragma once

#include "core/uuid.hpp"
#include "ring/failure_domains.hpp"
#include "ring/placement.hpp"

namespace agro {

/// Members in order of their ids, each of weight 100.
inline RingSpec placement_of(std::uint32_t member_count, std::uint32_t replication,
                             std::uint32_t group_count) {
  RingSpec spec;
  spec.kind = RingKind::placement;
  spec.version = 1;
  spec.replication = replication;
  spec.group_count = group_count;
  for (std::uint32_t number = 1; number <= member_count; ++number) {
    PeerId id;
    id.bytes.fill(0x40);
    id.bytes[0] = static_cast<std::uint8_t>(number >> 8);
    id.bytes[1] = static_cast<std::uint8_t>(number);
    spec.members.push_back({.id = id, .weight = 100});
  }
  return spec;
}

}  // namespace agro
