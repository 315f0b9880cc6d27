// Ring: which peers hold a block. A pure function, the same on every machine.
//
// Kinds: empty, single, mod, ketama, placement (the default), union (during a change). Versioned: a
// ring is published in the MDS and never changed in place.
// Threading: immutable after construction. Format: models/agro.proto, message Ring.
// Source: DESIGN.md section 6.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "core/block_ref.hpp"
#include "models/ring_spec.hpp"

namespace agro {

/// "ketama". Parsing: invalid_argument names the kinds there are.
std::string_view ring_kind_name(RingKind kind);
Result<RingKind> parse_ring_kind(std::string_view name);

/// Changes on top of unfinished changes; how many may wait for what: node/ring_change.
inline constexpr std::size_t kUnionPartsMax = 16;

class Ring {
 public:
  virtual ~Ring() = default;
  virtual RingKind kind() const = 0;
  /// Grows by one at every change.
  virtual std::uint64_t version() const = 0;
  /// How many copies a block has. More than members().size() while a cluster still grows: writes
  /// then have no quorum.
  virtual std::uint32_t replication() const = 0;
  /// Sorted by id, without repetition.
  virtual const std::vector<RingMember>& members() const = 0;

  /// Fills `out` with all members in order of preference for `ref`; the first replication() of them
  /// are where it belongs. Shape: `out` is replaced and has members().size() entries afterwards;
  /// entries are indices into members(). No allocation when `out` has the capacity.
  virtual void permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const = 0;

  /// The first min(replication(), members().size()) of permutation(): where the block belongs.
  virtual void owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const;

  /// The ring that is to be when a change is over; itself when none is under way. The owners of a
  /// block are the target's, by id; their indices differ.
  virtual const Ring& target() const { return *this; }

  /// The copies that a block is sure to have which was written at any moment of the change under
  /// way: it may have been written by the rules of any part.
  virtual std::uint32_t sure_copies() const { return replication(); }

  /// All sets of members, each ascending, whose loss at once loses blocks: the distinct sets of
  /// owners. Of a union: the target's.
  virtual std::vector<std::vector<std::uint32_t>> replica_sets() const = 0;

  /// For people and logs: "ring 3: ketama, 2 copies, members 0b5f...*20 1c22...*10".
  virtual std::string describe() const = 0;
  /// What it was made from: what is stored and compared.
  virtual const RingSpec& spec() const = 0;
};

/// What losing as many peers at once as blocks have copies may cost.
struct LossRisk {
  std::size_t set_count = 0;  // distinct replica sets
  double chance = 0;          // that so many random members are one of them
};
LossRisk loss_risk(const Ring& ring);

/// Errors: invalid_argument (members doubled, replication 0, single with other than one member or
/// copy, a weight of 0, union without two to kUnionPartsMax parts that are no unions, overrides that
/// do not fit the members). A union's members are those of its parts: leave them empty.
Result<std::shared_ptr<const Ring>> make_ring(RingSpec spec);

}  // namespace agro
