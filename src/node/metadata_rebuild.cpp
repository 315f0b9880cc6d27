#include "node/metadata_rebuild.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "metadata/keys.hpp"
#include "metadata/metadata.hpp"
#include "models/codec.hpp"
#include "ring/balance.hpp"
#include "ring/placement.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

std::string name_of(const FoundVolume& volume, const std::set<std::string>& taken) {
  const std::string& own = volume.description.name;
  if (check_volume_name(own).has_value() && !taken.contains(own)) return own;
  const std::string id = keys::volume_text(volume.id);
  const std::string both = own + "-" + id;
  if (check_volume_name(both).has_value() && !taken.contains(both)) return both;
  return "recovered-" + id;
}

}  // namespace

Result<RingSpec> rebuilt_ring(std::vector<RingMember> members, std::uint32_t replication) {
  std::sort(members.begin(), members.end());
  RingSpec ring;
  ring.kind = RingKind::placement;
  ring.version = kTracelessMax;
  ring.replication = replication;
  ring.group_count = kGroupCountDefault;
  ring.members = std::move(members);
  AGRO_TRY_OK(make_ring(ring));
  ring = balance(std::move(ring));
  AGRO_TRY(const std::shared_ptr<const Ring> valid, make_ring(std::move(ring)));
  return valid->spec();
}

std::vector<VolumeRecord> rebuilt_volumes(const FoundCluster& found, std::int64_t unix_ms) {
  std::vector<VolumeRecord> records;
  std::set<std::string> taken;
  for (auto volume = found.volumes.rbegin(); volume != found.volumes.rend(); ++volume) {
    if (volume->deleted || !volume->has_checkpoint) continue;
    VolumeRecord record;
    record.id = volume->id;
    record.name = name_of(*volume, taken);
    record.size = volume->head.size;
    record.block_spec = volume->description.block_spec;
    record.replication = volume->description.replication;
    record.created_unix_ms = unix_ms;
    record.ancestors = volume->description.ancestors;
    taken.insert(record.name);
    records.push_back(std::move(record));
  }
  std::reverse(records.begin(), records.end());
  return records;
}

namespace {

/// What a clone started from is known no more. So all that its origin had by then stays: a head that nobody
/// can read keeps gc from judging, and one that is so new pins everything for the origin's writer.
KvOp lost_origin(const VolumeRecord& clone) {
  const VolumeAncestor& origin = clone.ancestors.back();
  const VolumeHead head{origin.last_epoch, origin.last_epoch, UINT64_MAX, UINT64_MAX - 1, clone.size, UINT64_MAX};
  const SnapshotRecord start{keys::clone_origin(clone.id), head, clone.created_unix_ms};
  return keys::put(keys::snapshot(origin.volume, start.name), encode(start));
}

}  // namespace

std::vector<KvOp> rebuilt_keys(const ClusterRecord& cluster, const RingSpec& ring,
                               const FoundCluster& found,
                               const std::vector<VolumeRecord>& volumes) {
  std::vector<KvOp> ops;
  ops.push_back(keys::put(keys::kRing, encode(ring)));
  const std::string next_volume = fmt::format("{}", found.last_volume.value + kTracelessMax);
  ops.push_back(keys::put(keys::kNextVolume, next_volume));
  // What was not found is not deleted: gc leaves its blocks alone.
  ops.push_back(keys::put(keys::kRebuiltVolumes, next_volume));
  for (const VolumeRecord& record : volumes) {
    const auto volume = std::find_if(found.volumes.begin(), found.volumes.end(),
                                     [&](const FoundVolume& one) { return one.id == record.id; });
    AGRO_ASSERT(volume != found.volumes.end());
    ops.push_back(keys::put(keys::name(record.name), keys::volume_text(record.id)));
    ops.push_back(keys::put(keys::volume(record.id), encode(record)));
    ops.push_back(keys::put(keys::head(record.id), encode(volume->head)));
    ops.push_back(keys::put(keys::epoch(record.id), fmt::format("{}", volume->epoch.value)));
    for (const SnapshotRecord& snapshot : volume->snapshots) {
      ops.push_back(keys::put(keys::snapshot(record.id, snapshot.name), encode(snapshot)));
    }
    if (!record.ancestors.empty()) ops.push_back(lost_origin(record));
  }
  for (const FoundVolume& volume : found.volumes) {
    if (!volume.deleted) continue;
    const Tombstone tombstone{volume.id, volume.description.name, ring_peers(ring),
                              cluster.created_unix_ms};
    ops.push_back(keys::put(keys::tombstone(volume.id), encode(tombstone)));
  }
  ops.push_back(keys::put(keys::kCluster, encode(cluster)));
  return ops;
}

}  // namespace agro
