// Rebalance, the pure part: what a peer does about one block that it holds.
//
// Each holder looks after what it holds: it gives copies to owners that lack one, and gives its own
// up when it is no owner and all owners have theirs.
// Invariants: a copy is given up only when every owner said that it holds one durably, and never
// while recovery may look for the block (the log's tail); nobody who cannot be asked counts as
// holding. Source: DESIGN.md section 6.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/block_ref.hpp"

namespace agro {

/// What another peer said about the block.
enum class Holding : std::uint8_t {
  missing,
  present,
  silent,  // alive by the metadata, no answer
  dead,    // not alive by the metadata
};

/// A peer that was asked, in order of the ring: the target's owners by rank, then owners of older
/// parts. Oneself is `present`.
struct AskedPeer {
  bool owner = false;  // by the target ring
  bool self = false;
  Holding holding = Holding::missing;
};

struct BlockPlan {
  std::vector<std::size_t> push_to;  // indices into the asked
  bool give_up = false;              // our own copy
  /// Nothing is left to do for the block, or only what dead owners keep from being done.
  bool settled = false;
  /// An owner is dead: the block has fewer copies than are wanted.
  bool is_short = false;
};

/// Shape: `attempt` counts how often this block was planned in vain: the first holder in order pushes
/// at once, the next ones only when that did not help for long. `covered`: a committed checkpoint covers it.
BlockPlan plan_block(std::span<const AskedPeer> asked, std::uint32_t attempt, bool covered);

}  // namespace agro
