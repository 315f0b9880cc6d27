// The node half: devices, file systems and mounts of the volumes that are used on this machine.
//
// Invariants: what is done is written down before and after, so that a driver that starts anew goes on where its predecessor
// stopped, and gives every device whose process is gone a server again. Each call may be repeated.
// Threading: one loop; devices and mounts on worker threads, one call at a time for each volume. Source: CSI specification 1.9.
#pragma once

#include <memory>
#include <string>

#include "csi/checks.hpp"
#include "csi/devices.hpp"
#include "csi/mounter.hpp"
#include "csi/node_state.hpp"
#include "node/cluster_client.hpp"

namespace agro::csi {

struct NodeOptions {
  std::string node_id;
  std::string state_folder;
  std::string topology_prefix;  // of the keys: "topology.csi.agro.storage"
  std::uint32_t volumes_max = 0;  // 0: no limit
};

/// Errors of every call: as the specification says, and those of NodeDevices and Mounter.
class NodeService {
 public:
  /// References outlive it.
  NodeService(Env& env, ClusterClient& cluster, std::shared_ptr<NodeDevices> devices, std::shared_ptr<Mounter> mounter,
              NodeOptions options);

  /// Reads the state, makes the node known to the controller, and looks after the devices from now on.
  /// Errors: invalid_argument (the node's id); corrupt (the state); those of Metadata.
  Task<void> start();
  Awaitable<void> stop();

  Task<void> stage(const v1::NodeStageVolumeRequest& request, v1::NodeStageVolumeResponse& response);
  Task<void> unstage(const v1::NodeUnstageVolumeRequest& request, v1::NodeUnstageVolumeResponse& response);
  Task<void> publish(const v1::NodePublishVolumeRequest& request, v1::NodePublishVolumeResponse& response);
  Task<void> unpublish(const v1::NodeUnpublishVolumeRequest& request, v1::NodeUnpublishVolumeResponse& response);
  Task<void> get_stats(const v1::NodeGetVolumeStatsRequest& request, v1::NodeGetVolumeStatsResponse& response);
  Task<void> expand(const v1::NodeExpandVolumeRequest& request, v1::NodeExpandVolumeResponse& response);
  Task<void> get_capabilities(const v1::NodeGetCapabilitiesRequest& request, v1::NodeGetCapabilitiesResponse& response);
  Task<void> get_info(const v1::NodeGetInfoRequest& request, v1::NodeGetInfoResponse& response);

 private:
  std::string state_path() const { return options_.state_folder + "/node.json"; }
  Task<void> read_state();
  Task<void> save();
  Task<VolumeRecord> find(VolumeId volume);
  /// Of what is staged here. Errors: not_found.
  Result<StagedVolume*> staged(const std::string& volume_id);
  Task<std::uint64_t> wait_for_size(std::string name, std::uint64_t wanted);
  Job keep_devices_served();

  Env& env_;
  ClusterClient& cluster_;
  std::shared_ptr<NodeDevices> devices_;
  std::shared_ptr<Mounter> mounter_;
  NodeOptions options_;
  NodeState state_;
  AsyncMutex saving_;
  Underway underway_;
  bool stopping_ = false;
  Event stop_event_;
  TaskGroup jobs_;
};

}  // namespace agro::csi
