// Records: what the metadata service holds about a cluster, as plain values.
//
// Times are milliseconds since 1970 and for people only. Format: models/agro.proto; codecs are in
// models/codec.hpp, which keeps protobuf out of everybody's headers. Source: DESIGN.md sections
// 2-5.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/block_ref.hpp"
#include "core/lineage.hpp"
#include "core/state_id.hpp"
#include "core/uuid.hpp"
#include "models/peer_labels.hpp"
#include "models/ring_spec.hpp"

namespace agro {

/// The cluster's settings, fixed at `agroctl init`.
struct ClusterRecord {
  Uuid id;
  std::uint32_t block_size = 0;  // bytes
  std::string block_spec;        // of new volumes, "crc,base"
  /// Fewest copies with which a write may be acknowledged. 0: 1 when R is 2, else R-1.
  std::uint32_t min_copies = 0;
  std::int64_t created_unix_ms = 0;

  bool operator==(const ClusterRecord&) const = default;
};

enum class VolumeState : std::uint8_t {
  active = 0,
  kept = 1,  // deleted, without a name; clones need its blocks
};

struct VolumeRecord {
  VolumeId id;
  std::string name;
  std::uint64_t size = 0;  // bytes
  std::string block_spec;
  std::uint32_t replication = 0;  // copies of each block; 0: what the ring says
  VolumeState state = VolumeState::active;
  std::int64_t created_unix_ms = 0;
  std::vector<VolumeAncestor> ancestors = {};  // oldest first; the last is what it is a clone of
  bool read_only = false;
  std::uint64_t iops_max = 0;       // requests a second; 0: no limit
  std::uint64_t bandwidth_max = 0;  // bytes a second; 0: no limit
  std::string aoe_config{};         // the config string of an AoE target: any bytes, at most 1,024

  bool operator==(const VolumeRecord&) const = default;
};

/// The INode pointer: the committed checkpoint, and where the log that continues it starts.
/// All zero but `size`: nothing was ever written.
struct VolumeHead {
  /// Whose log continues the checkpoint: recovery replays data:volume:epoch:(sequence+1, ...).
  Epoch epoch;
  /// Under which the root was written: its block is inode:volume:checkpoint_epoch:root_index.
  Epoch checkpoint_epoch;
  std::uint64_t root_index = 0;
  /// The last data block of `epoch` that the checkpoint covers; 0 is none.
  std::uint64_t sequence = 0;
  std::uint64_t size = 0;  // of the volume, bytes
  /// One past the last data block of `epoch` that belongs to it: of a snapshot, and of what was made of
  /// one. All before it are durable. 0: the log goes on for as long as there are blocks.
  std::uint64_t log_end = 0;

  bool has_checkpoint() const { return checkpoint_epoch.value != 0; }
  bool operator==(const VolumeHead&) const = default;
};

/// A state of a volume that stays, or, with a name of '@' and a volume's id, what that clone started from.
/// Nothing that its head needs is ever deleted while it is there.
struct SnapshotRecord {
  std::string name;
  VolumeHead head;  // with `log_end`
  std::int64_t created_unix_ms = 0;
  std::optional<StateId> origin = {};  // the state of another volume that was loaded from a backup
  std::uint64_t note_index = 0;  // of its note, an inode block of the head's epoch; 0: it has none

  bool is_clone_origin() const { return name.starts_with('@'); }
  bool operator==(const SnapshotRecord&) const = default;
};

/// Asks whoever has a volume open for a snapshot of it.
struct SnapshotRequest {
  VolumeId volume;  // in the key
  std::string name;
  std::uint64_t token = 0;  // random; tells one request from another
  std::string problem;      // why it was refused; empty: it was not
  std::int64_t created_unix_ms = 0;
  std::optional<StateId> origin = {};  // for the record

  bool operator==(const SnapshotRequest&) const = default;
};

/// Who has a volume open for writing. Its key goes with the lease.
struct VolumeLock {
  std::string holder;  // for people: "agroblock on host7, pid 4711"
  std::uint64_t lease = 0;
  Epoch epoch;
  std::uint64_t token = 0;  // random; tells one acquisition from another
  std::int64_t acquired_unix_ms = 0;

  bool operator==(const VolumeLock&) const = default;
};

struct PeerRecord {
  PeerId id;
  std::vector<std::string> addresses;  // "adp://10.0.0.1:4321", "adp+unix:/path"
  std::uint64_t size = 0;              // bytes it may use
  std::uint64_t used = 0;              // bytes, when it last said
  PeerLabels labels;
  std::int64_t started_unix_ms = 0;
  std::int64_t updated_unix_ms = 0;

  bool operator==(const PeerRecord&) const = default;
};

/// A machine that may use a volume, as the orchestrator (CSI) said.
struct Publication {
  std::string node;
  bool read_only = false;
  std::uint32_t access_mode = 0;  // as csi.v1.VolumeCapability.AccessMode.Mode

  bool operator==(const Publication&) const = default;
};

/// A machine that runs the node half of agrocsi.
struct NodeRecord {
  std::string id;
  std::int64_t registered_unix_ms = 0;

  bool operator==(const NodeRecord&) const = default;
};

/// A deleted volume whose blocks are still to be removed from some peers.
struct Tombstone {
  VolumeId volume;
  std::string name;
  std::vector<PeerId> peers;  // still to purge, sorted
  std::int64_t deleted_unix_ms = 0;

  bool operator==(const Tombstone&) const = default;
};

}  // namespace agro
