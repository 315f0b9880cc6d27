// The rings themselves; everybody else makes them by make_ring() and sees a Ring.
//
// Invariants: placement depends on the spec and the ref alone and never changes between versions of
// agro: blocks lie where it said. Specs are validated by make_ring(), members sorted by id.
// Threading: immutable after construction.
#pragma once

#include <utility>

#include "ring/ring.hpp"

namespace agro {

inline constexpr std::size_t kRingMemberCountMax = 16384;
inline constexpr std::uint64_t kRingWeightMax = std::uint64_t{1} << 40;

/// The finaliser of splitmix64 (public domain). Placement depends on it: never change it.
inline std::uint64_t ring_mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

/// What all kinds share.
class BasicRing : public Ring {
 public:
  RingKind kind() const final { return spec_.kind; }
  std::uint64_t version() const final { return spec_.version; }
  std::uint32_t replication() const final { return spec_.replication; }
  const std::vector<RingMember>& members() const final { return members_; }
  std::string describe() const final;
  const RingSpec& spec() const final { return spec_; }

 protected:
  BasicRing(RingSpec spec, std::vector<RingMember> members)
      : spec_(std::move(spec)), members_(std::move(members)) {}
  std::uint32_t member_count() const { return static_cast<std::uint32_t>(members_.size()); }

 private:
  RingSpec spec_;
  std::vector<RingMember> members_;
};

/// Starts at member hash mod n and goes on in order of id. Also single (n = 1) and empty (n = 0).
/// Weights are ignored, and a change of members moves nearly everything: for tests and for clusters
/// that never change. The peer after a failed one takes all of its load.
class ModRing final : public BasicRing {
 public:
  explicit ModRing(RingSpec spec);
  void permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  void owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  std::vector<std::vector<std::uint32_t>> replica_sets() const override;

 private:
  void walk(const BlockRef& ref, std::uint32_t count, std::vector<std::uint32_t>& out) const;
};

/// Consistent hashing: each member has points on a circle of 64 bits, about kPointsPerMember times
/// its weight over the average; a block belongs to the distinct members that follow its hash.
class KetamaRing final : public BasicRing {
 public:
  static constexpr std::uint64_t kPointsPerMember = 120;
  /// Up to here each point has its whole permutation in a table (2 bytes a member and point: at
  /// most 1 MiB); beyond, the walk is made at each lookup.
  static constexpr std::size_t kTableMemberCountMax = 64;

  explicit KetamaRing(RingSpec spec);
  void permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  void owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  std::vector<std::vector<std::uint32_t>> replica_sets() const override;
  std::size_t point_count() const { return hashes_.size(); }

 private:
  void fill_table();
  std::size_t point_of(const BlockRef& ref) const;
  /// The first `count` distinct members from a point on. Shape: count <= members().size().
  void walk(std::size_t point, std::size_t count, std::vector<std::uint32_t>& out) const;

  std::vector<std::uint64_t> hashes_;  // of the points, sorted
  std::vector<std::uint16_t> owners_;  // member of each point
  std::vector<std::uint16_t> table_;   // row i: the permutation from point i on
};

/// A change under way: the target's owners, then those of the older parts, the newest first, then
/// everybody else in the same order of the parts. Writes go to the first R; reads find what has not
/// moved yet.
class UnionRing final : public BasicRing {
 public:
  UnionRing(RingSpec spec, std::vector<std::shared_ptr<const Ring>> parts);
  void permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  void owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const override;
  const Ring& target() const override { return *parts_.front().ring; }
  std::uint32_t sure_copies() const override { return sure_copies_; }
  std::vector<std::vector<std::uint32_t>> replica_sets() const override;

 private:
  struct Part {
    std::shared_ptr<const Ring> ring;
    std::vector<std::uint32_t> index;  // member of the part -> member of this
  };
  std::vector<Part> parts_;  // the target first, the oldest last
  std::uint32_t sure_copies_;
};

}  // namespace agro
