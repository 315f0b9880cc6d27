// Volume manager: attaches volumes when a front end opens them, detaches them when the last one is done.
//
// Invariants: a volume is attached at most once in this process, under a lease and an epoch of its own;
// it is detached (flushed, checkpointed, unlocked) before its lease is given back.
// Whoever has a volume attached answers requests for snapshots of it, and makes it larger when its record
// is. "VOLUME@SNAPSHOT" is a device that takes no lock.
// Threading: one loop. Source: DESIGN.md section 4.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "block/block_device.hpp"
#include "block/limited_device.hpp"
#include "block/snapshot_device.hpp"
#include "block/volume.hpp"
#include "metadata/lease.hpp"
#include "node/cluster_client.hpp"

namespace agro {

struct VolumeManagerOptions {
  VolumeOptions volume;
  std::string holder;                 // who we are, for those who find the volume locked
  std::set<std::string> names;        // only these volumes; empty: all
  std::set<std::string> force_recovery;  // opened although peers with flushed data may be missing
  /// Renewed every eighth: a metadata store that is away for 10 s goes unnoticed, and a volume whose
  /// client died can be opened elsewhere within 15 s.
  std::chrono::milliseconds lease_ttl{13000};
  Duration linger = std::chrono::milliseconds(500);  // attached after the last handle went
  Duration stop_patience = std::chrono::seconds(6);  // for front ends to let go
  Duration lock_patience = std::chrono::seconds(3);  // for a lock that somebody is about to give up
};

class VolumeManager final : public DeviceProvider {
 public:
  /// All references outlive the manager.
  VolumeManager(Env& env, Kv& kv, ClusterClient& cluster, VolumeManagerOptions options);
  ~VolumeManager() override;

  std::vector<Export> list() override;
  Task<std::shared_ptr<BlockDevice>> open(std::string name) override;

  struct Attached {
    std::string name;
    VolumeStatus status;
  };
  std::vector<Attached> attached() const;

  /// Detaches everything. Errors: the first that kept a volume from a clean detach.
  Task<void> stop();

 private:
  class OwnLease;
  struct Attachment;

  Task<void> attach(std::shared_ptr<Attachment> attachment);
  Task<std::shared_ptr<BlockDevice>> open_snapshot(std::string volume_name, std::string name);
  Job follow_cluster();
  void answer_requests();
  Job make_snapshot(std::shared_ptr<Attachment> attachment, SnapshotRequest request);
  Task<void> try_snapshot(std::shared_ptr<Attachment> attachment, SnapshotRequest request);
  Job refresh_pins(std::shared_ptr<Attachment> attachment);
  Task<void> open_volume(std::shared_ptr<Attachment> attachment, VolumeId id);
  Task<void> detach(std::shared_ptr<Attachment> attachment);
  void release_handle(const std::shared_ptr<Attachment>& attachment);
  Job publish_health();
  Job detach_and_tell(std::shared_ptr<Attachment> attachment, Result<void>& first);
  Job detach_later(std::shared_ptr<Attachment> attachment, std::uint64_t generation);

  Env& env_;
  Kv& kv_;
  ClusterClient& cluster_;
  VolumeManagerOptions options_;
  std::map<std::string, std::shared_ptr<Attachment>> attachments_;
  std::map<std::string, std::weak_ptr<SnapshotDevice>> snapshots_;  // open, by volume and head
  std::set<std::uint64_t> answered_;  // tokens of requests that are being answered, or were
  bool stopping_ = false;
  Event changed_;
  Event stop_event_;
  TaskGroup jobs_;
  TaskGroup snapshot_jobs_;  // may wait for a suspended volume, until that is detached
};

}  // namespace agro
