// Sweep: which blocks of a volume nobody needs, and the proof.
//
// A pure planner. The proof is the set of blocks that a just committed INode names, taken before the
// first write of its epoch: a block of an older epoch that is not in it can never be needed again,
// for epochs only grow and only the present one makes blocks. Blocks of the present epoch are not
// looked at. A listing that failed proves nothing and must not get here.
// Source: DESIGN.md sections 3 and 7.
#pragma once

#include <vector>

#include "blockset/backend.hpp"
#include "core/block_ref.hpp"

namespace agro {

/// Blocks of `listing` to delete. Shape: `live` is sorted; `epoch` is the one of the committed INode.
std::vector<BlockRef> plan_sweep(const Listing& listing, const std::vector<BlockRef>& live,
                                 Epoch epoch);

}  // namespace agro
