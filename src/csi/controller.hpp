// The controller half: volumes, snapshots, clones, sizes, and where volumes may be used.
//
// Invariants: every call may be repeated, also by another controller after this one died: what there is is looked at first, and
// each change is a transaction of the metadata. A writer is evicted only when the orchestrator unpublishes its node.
// Threading: one loop. Source: CSI specification 1.9.
#pragma once

#include <memory>
#include <string>

#include "csi/checks.hpp"
#include "node/cluster_client.hpp"
#include "node/volume_manager.hpp"

namespace agro::csi {

/// Errors of every call: invalid_argument, not_found, already_exists as the specification says; locked (FAILED_PRECONDITION);
/// too_large (OUT_OF_RANGE); conflict (ABORTED); those of Metadata.
class Controller {
 public:
  /// All references outlive it. `manager` opens volumes that nobody has open, for their snapshots, under the name `holder`.
  Controller(Env& env, ClusterClient& cluster, VolumeManager& manager, std::string holder)
      : env_(env), cluster_(cluster), manager_(manager), holder_(std::move(holder)) {}

  Task<void> create_volume(const v1::CreateVolumeRequest& request, v1::CreateVolumeResponse& response);
  Task<void> delete_volume(const v1::DeleteVolumeRequest& request, v1::DeleteVolumeResponse& response);
  Task<void> publish(const v1::ControllerPublishVolumeRequest& request, v1::ControllerPublishVolumeResponse& response);
  Task<void> unpublish(const v1::ControllerUnpublishVolumeRequest& request, v1::ControllerUnpublishVolumeResponse& response);
  Task<void> validate(const v1::ValidateVolumeCapabilitiesRequest& request, v1::ValidateVolumeCapabilitiesResponse& response);
  Task<void> list_volumes(const v1::ListVolumesRequest& request, v1::ListVolumesResponse& response);
  Task<void> get_volume(const v1::ControllerGetVolumeRequest& request, v1::ControllerGetVolumeResponse& response);
  Task<void> modify_volume(const v1::ControllerModifyVolumeRequest& request, v1::ControllerModifyVolumeResponse& response);
  Task<void> expand_volume(const v1::ControllerExpandVolumeRequest& request, v1::ControllerExpandVolumeResponse& response);
  Task<void> get_capacity(const v1::GetCapacityRequest& request, v1::GetCapacityResponse& response);
  Task<void> get_capabilities(const v1::ControllerGetCapabilitiesRequest& request,
                              v1::ControllerGetCapabilitiesResponse& response);
  Task<void> create_snapshot(const v1::CreateSnapshotRequest& request, v1::CreateSnapshotResponse& response);
  Task<void> delete_snapshot(const v1::DeleteSnapshotRequest& request, v1::DeleteSnapshotResponse& response);
  Task<void> list_snapshots(const v1::ListSnapshotsRequest& request, v1::ListSnapshotsResponse& response);

  /// From now on nobody is waited for.
  void stop() { stopping_ = true; }

 private:
  /// What a new volume is to be.
  struct Wanted;
  Metadata& metadata() { return cluster_.metadata(); }
  Task<Wanted> read_create(const v1::CreateVolumeRequest& request);
  Task<void> find_source(const v1::VolumeContentSource& source, Wanted& wanted);
  Task<VolumeRecord> make(Wanted wanted);
  Task<VolumeRecord> make_clone(Wanted wanted);
  Task<VolumeRecord> finish_existing(VolumeRecord volume, Wanted wanted);
  Task<bool> is_clone_of(VolumeRecord volume, Wanted wanted);
  Task<SnapshotRecord> make_snapshot(VolumeRecord volume, std::string name);
  Task<SnapshotRecord> try_snapshot(VolumeRecord volume, std::string name, Duration limit);
  Task<std::uint64_t> ask_for_snapshot(VolumeId volume, std::string name);
  /// The record of `id`, as requests name it. Errors: not_found, also when that is no id.
  Task<VolumeRecord> find(std::string id);

  Env& env_;
  ClusterClient& cluster_;
  VolumeManager& manager_;
  std::string holder_;
  Underway underway_;
  bool stopping_ = false;
};

/// Of `volume`, without its content source.
void fill(const VolumeRecord& record, v1::Volume& volume);

}  // namespace agro::csi
