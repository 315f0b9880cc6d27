// A volume, or a snapshot, that agroctl itself has open, as a server would.
#pragma once

#include "agroctl/program.hpp"
#include "node/cluster_client.hpp"
#include "node/volume_manager.hpp"

namespace agro {

struct Attached {
  std::unique_ptr<ClusterClient> client;
  std::unique_ptr<VolumeManager> manager;
  std::shared_ptr<BlockDevice> device;  // goes before its manager
};

/// Opens VOLUME or VOLUME@SNAPSHOT. Errors: those of VolumeManager::open().
Task<std::unique_ptr<Attached>> attach(Session& session, std::string volume);
/// Flushes, writes a checkpoint and gives the lock back.
Task<void> detach(Attached& attached);

}  // namespace agro
