// What peers promise about fences: they survive a restart, and blocks of older epochs are refused.
//
// Users alone would hardly notice: a writer whose lease has ended stops by itself, and a peer takes
// fences over from the metadata store soon after its start. These are lines of defence that must hold
// each for itself. Source: DESIGN.md section 4.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "sim_cluster.hpp"

namespace agro {

class FenceOracle {
 public:
  explicit FenceOracle(SimCluster& cluster) : cluster_(cluster) {}
  /// Compares the fences of each peer that is up with what they were before. Call it often, and at
  /// once when a peer is up. Empty, or what is wrong.
  std::string check();
  /// That peer's disk lost what it had promised: its fences may be anything.
  void forget(const PeerId& peer);
  /// Sends a peer a block of a fenced epoch, as an old writer would; check() says when it took it.
  /// Shape: the oracle outlives the loop's next second.
  void probe(Random& random);

 private:
  Job probe_job(std::size_t peer, std::shared_ptr<PeerService> service, BlockRef ref);
  std::string check_peer(std::size_t index);

  SimCluster& cluster_;
  std::map<std::pair<PeerId, VolumeId>, Epoch> fences_;  // the highest seen
  std::string problem_;
};

}  // namespace agro
