// Collect: which blocks nobody needs, and the proof; a pure planner.
//
// The proof about a volume is a head that was committed at some time, and the blocks its INode
// names. Who may need a block of the volume are its writer and whoever opens it next. Both start
// from a committed INode, and need what it names and the log that continues it. So:
//  - Data blocks that a head covers (of older epochs, or of its epoch up to its sequence) and that
//    its INode does not name were without live data when it was made. No map points at them any
//    more, and no later map ever will: writers make new blocks, under higher names, and old ones
//    only lose live data. What a checkpoint that is being written now will name is either named by
//    this INode or not covered by this head.
//  - INode blocks made before the root and not named by it hold no page of it, and later roots name
//    blocks that it names, or newer ones.
//  - The tail and newer epochs are of writers at work, or wait for recovery: nothing is said of
//  them.
// Heads only move forward and the dead stay dead, so proof that is out of date by the time it is
// used proves less, never too much. That holds beside an attached writer, which deletes by the same
// rule after its commits, and beside the rebalancer, which only copies and moves.
//
// The proof that a volume is gone is that the list of all volumes lacks it and that its id was
// given away before that list was made (ids are never reused). A listing that failed proves nothing
// and must not get here; an empty one proves nothing alone. Threading: none. Source: DESIGN.md
// sections 3 and 7.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "core/block_ref.hpp"

namespace agro {

/// A committed head, and what its INode names.
struct VolumeProof {
  Epoch epoch;                 // whose log continues the INode
  std::uint64_t sequence = 0;  // the last data block of that epoch that it covers
  Epoch checkpoint_epoch;      // of the root; 0: nothing was ever committed
  std::uint64_t root_index = 0;
  /// Data blocks and INode blocks, sorted; of snapshots too. The root need not be among them.
  std::vector<BlockRef> live;
};

/// Whether the proof covers the block: all that the INode may name or have superseded. Those alone
/// can be dead.
bool is_covered(const BlockRef& ref, const VolumeProof& proof);

/// Whether nobody will ever need the block. Shape: it is of the volume that the proof is about.
bool is_dead(const BlockRef& ref, const VolumeProof& proof);

/// Which volumes there are.
struct VolumeCensus {
  std::uint64_t next_volume = 0;    // ids below were given to volumes, before `known` was read
  std::uint64_t rebuilt_below = 0;  // of ids below, `known` may lack some that were not deleted
  std::vector<VolumeId> known;      // sorted; those that are being deleted, too
};

/// Whether the volume existed and is gone.
bool is_deleted(VolumeId volume, const VolumeCensus& census);

/// Those of `refs` that are dead; of volumes without a proof, only when they are deleted.
std::vector<BlockRef> plan_collect(std::span<const BlockRef> refs, const VolumeCensus& census,
                                   const std::map<VolumeId, VolumeProof>& proofs);

}  // namespace agro
