// Metadata: the cluster's little shared truth (volumes, epochs and locks, INode pointers, peers,
// rings).
//
// Written once over the Kv seam; each change is one transaction, guarded by what it read.
// Invariants: a volume id is never reused; an epoch is minted once; an INode pointer moves only
// while its mover holds lock and epoch. A transaction whose answer was lost is resolved by reading
// again, so no call returns outcome_unknown unless the store stays unreadable. Threading: one loop;
// any number of Metadata share one Kv. Format: docs/formats/metadata_keys.md. Source: DESIGN.md
// sections 2, 4, 5.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "metadata/kv.hpp"
#include "models/records.hpp"

namespace agro {

/// What create_volume() makes.
struct NewVolume {
  std::string name;
  std::uint64_t size = 0;         // bytes
  std::string block_spec;         // empty: the cluster's
  std::uint32_t replication = 0;  // 0: the ring's
};

/// A volume that is now open for writing.
struct AcquiredVolume {
  VolumeRecord volume;
  VolumeHead head;
  Epoch epoch;  // new; higher than any before
  /// The copies that acknowledged blocks of the last writer are sure to have, where that is fewer
  /// than the replication: it was recorded by set_degraded() and not yet cleared.
  std::optional<std::uint32_t> degraded_copies;
};

/// What clone_volume() makes.
struct NewClone {
  VolumeRecord origin;
  std::string snapshot;  // of the origin
  std::string name;
};

/// What change_volume() changes; what is absent stays.
struct VolumeChange {
  std::optional<std::uint64_t> size = {};  // bytes
  std::optional<bool> read_only = {};
  std::optional<std::uint64_t> iops_max = {};       // requests a second; 0: no limit
  std::optional<std::uint64_t> bandwidth_max = {};  // bytes a second; 0: no limit
  std::optional<std::string> aoe_config = {};
  /// Without it nothing is made smaller. The volume's epoch when all of its log was in a checkpoint, as
  /// after a clean close; what lies beyond the new end is cut off by the next opening.
  std::optional<Epoch> shrink_after = {};
};

struct PeerView {
  PeerRecord record;
  bool alive = false;  // its lease is held
  /// Everything it holds is where this version of the ring wants it, or was when it said so.
  std::uint64_t settled_version = 0;
};

/// What an orchestrator wants to know of a volume besides its record.
struct VolumeUse {
  std::vector<Publication> publications;  // sorted by node
  std::string health;                     // what is wrong with it; empty: nothing
};

/// Where a volume's log stands, for those who do not write it.
struct VolumePosition {
  VolumeId volume;
  VolumeHead head;
  Epoch epoch;  // the last one minted
  std::optional<std::uint32_t> degraded_copies;
  bool locked = false;  // somebody has it open, or had it until a moment ago
  std::vector<SnapshotRecord> snapshots;  // of clones too, at the same revision, sorted by name

  /// Whether no recovery will look for this block any more by listing the log's tail.
  bool covers(const BlockRef& ref) const {
    return ref.type != BlockType::data || ref.epoch < head.epoch ||
           (ref.epoch == head.epoch && ref.index <= head.sequence);
  }
};

/// Everything that a running process follows, at one revision.
struct ClusterView {
  std::optional<ClusterRecord> cluster;  // none before init
  RingSpec ring;
  std::vector<PeerView> peers;        // sorted by id
  std::vector<VolumeRecord> volumes;  // sorted by id; kept ones too, which have no name
  std::vector<SnapshotRequest> snapshot_requests;  // sorted by volume id
  std::vector<Tombstone> tombstones;  // sorted by volume id
  std::uint64_t revision = 0;
};

/// All volumes, read so that one that is nowhere in here and has an id in [rebuilt_below, next_volume)
/// existed and was deleted.
struct VolumeAccount {
  Uuid cluster;
  std::uint64_t next_volume = 0;
  /// After `agroctl metadata rebuild`: what it did not find may only have been out of its reach.
  std::uint64_t rebuilt_below = 0;
  std::vector<VolumeRecord> volumes;      // kept ones, too; sorted by id
  std::vector<VolumePosition> positions;  // sorted by id
  std::vector<Tombstone> tombstones;
  std::vector<PeerId> peers;  // all that ever registered and were not forgotten, sorted
};

/// Tells that a ClusterView is out of date.
class ClusterWatch {
 public:
  explicit ClusterWatch(std::unique_ptr<KvWatch> watch) : watch_(std::move(watch)) {}
  /// Returns when something in the view changed after the revision it was asked for, also when that
  /// may have been missed: call view() and watch() again.
  /// Errors: closed; unavailable.
  Task<void> changed();
  void close() { watch_->close(); }

 private:
  std::unique_ptr<KvWatch> watch_;
};

/// Letters, digits, '.', '_', '-'; 1 to 255 of them; not starting with '-' or '.'.
/// Errors: invalid_argument.
Result<void> check_volume_name(std::string_view name);

/// All peers named in a ring or its parts, sorted.
std::vector<PeerId> ring_peers(const RingSpec& ring);

/// Errors of every call, besides its own: those of Kv; corrupt (a record is damaged); not_found
/// "…holds no cluster; run 'agroctl init'" before init_cluster(); conflict, when others kept
/// changing the same keys.
class Metadata {
 public:
  /// `env` and `kv` outlive it.
  Metadata(Env& env, Kv& kv);

  // --- the cluster ---
  /// Errors: already_exists.
  Task<void> init_cluster(ClusterRecord cluster, RingSpec first_ring);
  Task<ClusterRecord> cluster();
  /// Removes everything, of all volumes and peers, open or not.
  Task<void> wipe();

  // --- volumes ---
  /// Errors: invalid_argument (name, size); already_exists.
  Task<VolumeRecord> create_volume(NewVolume wanted);
  /// Without kept ones.
  Task<std::vector<VolumeRecord>> list_volumes();
  /// Errors: not_found.
  Task<VolumeRecord> find_volume(std::string name);
  /// Removes it and leaves a tombstone naming every peer that may hold blocks of it. While clones need
  /// them, it is kept without its name instead, and the tombstone names no peers.
  /// Errors: not_found; locked, naming the holder; conflict, when it has snapshots, unless these go too.
  Task<Tombstone> delete_volume(std::string name, bool with_snapshots = false);
  /// Errors: not_found; already_exists; locked (front ends know it by its name).
  Task<void> rename_volume(std::string name, std::string new_name);
  /// Errors: not_found; invalid_argument (size, or smaller without shrink_after); locked (smaller); conflict
  /// (smaller, and opened since shrink_after; larger, and not opened since it was made smaller).
  Task<VolumeRecord> change_volume(std::string name, VolumeChange change);
  /// Errors: not_found.
  Task<VolumeHead> head(VolumeId volume);
  /// Heads and epochs of all volumes, at one revision, sorted by id.
  Task<std::vector<VolumePosition>> positions();
  /// Of one volume. Errors: not_found.
  Task<VolumePosition> position(VolumeId volume);
  /// Who has it open, if anybody. Errors: not_found, when there is no such volume.
  Task<std::optional<VolumeLock>> lock_of(VolumeId volume);

  /// Errors: unavailable, when the store answers with a state older than one it gave before.
  Task<VolumeAccount> volume_account();

  Task<std::vector<Tombstone>> tombstones();
  /// `peer` holds nothing of `volume` any more; the last one removes the tombstone. Idempotent.
  Task<void> purge_done(VolumeId volume, PeerId peer);

  // --- snapshots and clones ---
  /// Asks the volume's writer; poll_snapshot() tells what came of it. `origin`: what was loaded into the volume
  /// is that state of another. Returns the token.
  /// Errors: invalid_argument (name); already_exists, also when somebody else asks for the same name.
  Task<std::uint64_t> request_snapshot(VolumeId volume, std::string name, std::optional<StateId> origin = {});
  /// Nothing yet; or the snapshot. Errors: the writer's refusal, after which the request is gone; not_found,
  /// when both are gone.
  Task<std::optional<SnapshotRecord>> poll_snapshot(VolumeId volume, std::string name, std::uint64_t token);
  /// Takes the request back; it is a success when it is gone.
  Task<void> withdraw_snapshot(VolumeId volume, std::string name, std::uint64_t token);
  /// The writer's answers. Errors: fenced, unless lock and epoch are still ours; conflict, when the head is
  /// no longer the one the snapshot starts from: try again; not_found, when it is no longer asked for.
  Task<void> record_snapshot(Epoch epoch, std::uint64_t lease, SnapshotRequest request, VolumeHead head,
                             std::uint64_t note_index = 0);
  Task<void> refuse_snapshot(SnapshotRequest request, std::string problem);

  /// Of users, sorted by name; with `clone_origins` also what clones started from.
  Task<std::vector<SnapshotRecord>> snapshots(VolumeId volume, bool clone_origins = false);
  /// Errors: not_found.
  Task<SnapshotRecord> find_snapshot(VolumeRecord volume, std::string name);
  Task<void> delete_snapshot(VolumeRecord volume, std::string name);
  /// The volume's next opening starts from the snapshot. Errors: not_found; locked.
  Task<void> restore_snapshot(VolumeRecord volume, std::string name);
  /// Errors: not_found (the snapshot); already_exists; as create_volume().
  Task<VolumeRecord> clone_volume(NewClone wanted);
  /// Turns a kept volume that no clone needs any more into a tombstone, and so on up its ancestors.
  Task<void> reap_kept_volume(VolumeId volume);

  // --- one writer ---
  /// Takes the lock under `lease` and mints the next epoch, in one transaction.
  /// Errors: locked, naming the holder; not_found (deleted); fenced (the lease has ended).
  Task<AcquiredVolume> acquire_volume(VolumeId volume, std::uint64_t lease, std::string holder);
  /// Takes the lock again with the epoch of before, under a new lease, after the old one ended.
  /// `degraded_copies`, unless 0, is recorded again: clear_degraded() may have come between.
  /// Errors: fenced, when anybody opened the volume since, or deleted it; unavailable, when the new
  /// lease has ended as well.
  Task<void> resume_volume(VolumeId volume, Epoch epoch, std::uint64_t lease, std::string holder,
                           std::uint32_t degraded_copies = 0);
  /// Gives the lock back; it is a success when it is gone already or another's.
  Task<void> release_volume(VolumeId volume, Epoch epoch, std::uint64_t lease);
  /// Moves the INode pointer. Shape: head.epoch and head.checkpoint_epoch are at most `epoch`.
  /// Errors: fenced, unless lock and epoch are still ours.
  Task<void> commit_head(VolumeId volume, Epoch epoch, std::uint64_t lease, VolumeHead head);
  /// Records, before the first such acknowledgment, that blocks are acknowledged with `copies`
  /// copies only; 0 clears it. Errors: fenced, as commit_head().
  Task<void> set_degraded(VolumeId volume, Epoch epoch, std::uint64_t lease, std::uint32_t copies);
  /// Takes that record back for a volume that nobody has open. Shape: every block that could be
  /// acknowledged under `epoch` has all its copies. Errors: conflict, when the volume is open or was
  /// opened since `epoch`; not_found.
  Task<void> clear_degraded(VolumeId volume, Epoch epoch);

  /// Says what is wrong with the volume, for others, until the lease ends; empty: nothing is.
  /// Errors: fenced, as commit_head().
  Task<void> set_health(VolumeId volume, Epoch epoch, std::uint64_t lease, std::string text);
  /// What its writer says is wrong with it; empty: nothing, or nobody has it open.
  Task<std::string> health_of(VolumeId volume);

  // --- where volumes may be used, as an orchestrator says it ---
  /// Errors: invalid_argument (the id: as volume names).
  Task<void> register_node(std::string id);
  /// Errors: not_found.
  Task<NodeRecord> find_node(std::string id);
  /// Sorted by node.
  Task<std::vector<Publication>> publications(VolumeId volume);
  /// Of all volumes that are published or not well, at one revision.
  Task<std::map<VolumeId, VolumeUse>> volume_uses();
  /// Idempotent. Errors: not_found (the volume); locked, when another node has it, naming that; already_exists, when this
  /// node has it on other terms.
  Task<void> publish_volume(VolumeId volume, Publication publication);
  /// The node may not use the volume any more. A writer that has it open there, which is one whose VolumeLock::holder
  /// starts with `holder`, loses lock and lease; and whoever was cut off there cannot come back, because the epoch moves.
  /// Returns the writer that was evicted, if any; nothing happens where the volume is not published to the node.
  Task<std::optional<VolumeLock>> unpublish_volume(VolumeId volume, std::string node, std::string holder);

  // --- peers ---
  /// Makes or replaces the durable record, and marks the peer alive for as long as `lease` is held.
  /// Errors: already_exists, when the peer is alive under another lease (a copied data directory?);
  /// fenced (the lease has ended).
  Task<void> register_peer(PeerRecord peer, std::uint64_t lease);
  /// Replaces the durable record (its use of space). Errors: not_found, when it was forgotten.
  Task<void> update_peer(PeerRecord peer);
  Task<std::vector<PeerView>> list_peers();
  /// Removes a peer's record and strikes it from the tombstones.
  /// Errors: not_found; locked (it is alive); conflict (it is in the ring).
  Task<void> forget_peer(PeerId peer);

  // --- the ring ---
  Task<RingSpec> ring();
  /// Errors: conflict, when the present version is not `expected_version`; invalid_argument, unless
  /// ring.version is expected_version + 1 and the record below kRingRecordSizeMax.
  /// `without_volumes`: conflict also when there is a volume, or one is made meanwhile.
  Task<void> publish_ring(RingSpec ring, std::uint64_t expected_version, bool without_volumes = false);

  /// Says that everything `peer` holds is where ring `version` wants it.
  Task<void> report_settled(PeerId peer, std::uint64_t version);

  // --- following ---
  /// Works before init as well: then `cluster` is empty.
  Task<ClusterView> view();
  /// Shape: `revision` is ClusterView::revision.
  Task<std::unique_ptr<ClusterWatch>> watch(std::uint64_t revision);

 private:
  /// How a transaction ended, when it was no error.
  enum class Outcome : std::uint8_t { committed, refused, unknown };
  struct VolumeKeys;
  Task<Outcome> commit(std::vector<KvCompare> compares, std::vector<KvOp> ops);
  Task<VolumeKeys> read_volume_keys(VolumeId volume);
  Task<std::vector<VolumePosition>> read_positions(std::string prefix);
  Task<void> check_resize(VolumeRecord volume, std::uint64_t old_size, VolumeChange change,
                          std::vector<KvCompare>& compares);
  Task<VolumeKeys> read_own_keys(VolumeId volume, Epoch epoch, std::uint64_t lease);
  static Result<void> check_new_volume(const NewVolume& wanted, const ClusterView& view);
  Task<Outcome> commit_new_volume(VolumeRecord& volume, VolumeHead head, const KeyValue* snapshot,
                                  const KeyValue* origin);
  Task<Outcome> remove_volume(const KeyValue& entry, const VolumeRecord& volume, const VolumeKeys& found,
                              bool is_needed, Tombstone& tombstone);
  Task<void> reap_after(const VolumeRecord& volume, bool was_kept);

  Env& env_;
  Kv& kv_;
  Random random_;
};

}  // namespace agro
