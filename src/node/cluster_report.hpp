// Cluster report: is the cluster well, and if not, why; for `agroctl status` and the HTTP API.
//
// Invariants: it is healthy exactly when nothing keeps it from all its copies; what is merely worth
// knowing is a problem without being ill. Threading: one loop.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "node/cluster_client.hpp"
#include "ring/ring.hpp"

namespace agro {

struct ReportedPeer {
  PeerView peer{};  // its record is empty but for the id when only the ring knows it
  bool in_ring = false;
  bool reachable = false;
  std::optional<StoreStats> store{};  // when it answered
  std::optional<PeerReport> work{};   // what it does in the background, when it answered
  std::string problem{};              // why it did not
};

struct ReportedVolume {
  VolumeRecord volume;
  std::uint32_t copies = 0;
  std::optional<VolumeLock> lock;
  std::string health{};  // what its writer says, or left recorded, is wrong with it
};

struct ClusterReport {
  ClusterView view;
  std::vector<ReportedPeer> peers;
  std::vector<ReportedVolume> volumes;
  /// Of the ring that is to be.
  LossRisk risk;
  std::vector<std::string> problems;
  bool healthy = false;
};

/// Asks every peer, and the metadata who has which volume open. Takes 3 s when somebody is silent.
/// Shape: `client` outlives the await, and may have been started just now. Errors: those of Kv.
Task<ClusterReport> gather_cluster_report(Env& env, ClusterClient& client);

/// "well", "unreachable", "dead", "dead, but answers".
std::string peer_state_name(const ReportedPeer& peer);

/// How many copies a volume's blocks have.
std::uint32_t copy_count_of(const VolumeRecord& volume, const RingSpec& ring);

}  // namespace agro
