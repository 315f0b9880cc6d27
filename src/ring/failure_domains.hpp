// Failure domains: how far apart the replicas of a group lie.
//
// Three levels: zone, rack (within its zone), host (within its rack). A member without any label is
// a domain of its own on all three; one that has a label but not an outer one shares that outer
// domain with the others that do not have it.
// Threading: immutable. Source: DESIGN.md section 6.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "models/ring_spec.hpp"

namespace agro {

class FailureDomains {
 public:
  explicit FailureDomains(const std::vector<RingMember>& members);

  /// Labels say nothing: all members are in different zones, or all on one host.
  bool trivial() const { return trivial_; }

  /// How often `candidate` shares a zone with the owners, then a rack, then a host: the smaller
  /// number is the better place for another replica. Shape: up to 255 owners.
  std::uint32_t collisions(std::span<const std::uint16_t> owners, std::uint16_t candidate) const;
  /// The same over all pairs of owners: 0 is all apart. Shape: up to 16 owners.
  std::uint32_t collisions(std::span<const std::uint16_t> owners) const;

  static constexpr std::size_t kLevelCount = 3;
  using Some = std::vector<std::uint16_t>;  // members, ascending
  /// Those of `some` that share a domain of this level, together; at kLevelCount each alone.
  std::vector<Some> split(const Some& some, std::size_t level) const;

  /// How many replicas of one group each member should hold on average, when each group has
  /// `replica_count`, as far apart as possible, and otherwise by weight. The sum is
  /// min(replica_count, members).
  std::vector<double> shares(const std::vector<RingMember>& members,
                             std::size_t replica_count) const;

 private:
  struct Spread;
  std::vector<std::array<std::uint16_t, kLevelCount>> domains_;  // of each member, by level
  bool trivial_ = true;
};

}  // namespace agro
