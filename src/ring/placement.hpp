// Placement ring: blocks hash into groups, each group has its owners.
//
// A power-of-two number of groups, fixed when the cluster is made. A group ranks the members by
// weighted rendezvous hashing: by -log2(u)/weight, u a hash of member and group, in fixed point, so
// that every machine gets the same. From the ranking owners are taken that lie as far apart as
// possible; overrides of the spec, which the balancer writes, say otherwise for single groups.
//
// Invariants: a group's ranking depends on the group, the members' ids, weights and labels alone.
// Threading: immutable after construction. Source: DESIGN.md section 6; docs/placement.md.
#pragma once

#include <span>

#include "ring/rings.hpp"

namespace agro {

inline constexpr std::uint32_t kGroupCountDefault = 4096;
inline constexpr std::uint32_t kGroupCountMax = 65536;
/// Copies that a placement ring can keep.
inline constexpr std::uint32_t kPlacementCopiesMax = 16;

class PlacementRing final : public BasicRing {
 public:
  /// So many members of a group's order are in the table; more follow in order of id.
  static constexpr std::size_t kRowSizeMax = 256;

  explicit PlacementRing(RingSpec spec);
  void permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  void owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  std::vector<std::vector<std::uint32_t>> replica_sets() const override;

  std::uint32_t group_count() const { return group_mask_ + 1; }
  std::uint32_t group_of(const BlockRef& ref) const {
    return static_cast<std::uint32_t>(hash_block_ref(ref)) & group_mask_;
  }
  /// In order of preference. Shape: min(replication, members) indices into members().
  std::span<const std::uint16_t> owners_of(std::uint32_t group) const {
    return {table_.data() + group * row_size_, owner_count_};
  }

 private:
  void fill_table();

  std::uint32_t group_mask_;
  std::size_t owner_count_;
  std::size_t row_size_;
  std::vector<std::uint16_t> table_;  // row g: the first members of the order of group g
};

/// -log2((hash | 1) / 2^64), with 48 bits after the point. Never changes.
std::uint64_t negative_log2(std::uint64_t hash);

/// Errors: invalid_argument, in words that follow "a placement ring ". Shape: `spec` is checked as
/// every plain ring is, its members are sorted.
Result<void> check_placement(const RingSpec& spec);

}  // namespace agro
