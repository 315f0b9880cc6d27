// Metadata rebuild: what an empty metadata store must hold for a cluster whose blocks were found.
//
// Invariants: no id, epoch or ring version is minted again that was in use before; a deleted volume gets
// a tombstone and never a record; no two volumes get one name.
// Threading: pure functions. Format: docs/formats/metadata_keys.md.
#pragma once

#include <vector>

#include "metadata/kv.hpp"
#include "models/records.hpp"
#include "node/volume_search.hpp"

namespace agro {

/// The first ring after a rebuild: placement over `members`, balanced.
/// Errors: invalid_argument (it would be no ring).
Result<RingSpec> rebuilt_ring(std::vector<RingMember> members, std::uint32_t replication);

/// The records of the volumes that come back: those with a checkpoint that are not deleted. One whose
/// name is taken by a newer volume, or none, is called after its id. Sorted by id.
std::vector<VolumeRecord> rebuilt_volumes(const FoundCluster& found, std::int64_t unix_ms);

/// Every key, the record of the cluster last. Shape: `volumes` are rebuilt_volumes(found).
std::vector<KvOp> rebuilt_keys(const ClusterRecord& cluster, const RingSpec& ring,
                               const FoundCluster& found, const std::vector<VolumeRecord>& volumes);

}  // namespace agro
