// Cluster client: follows the cluster's metadata and keeps a distributor's ring and peers current.
//
// Invariants: what the distributor uses is always some revision of the metadata, and soon the latest;
// a metadata store that cannot be reached changes nothing but that.
// Threading: one loop. Source: DESIGN.md sections 2 and 6.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/env.hpp"
#include "distributor/distributor.hpp"
#include "distributor/peer_service.hpp"
#include "distributor/remote_peer.hpp"
#include "metadata/metadata.hpp"

namespace agro {

class ClusterClient {
 public:
  /// Reads the cluster once and follows it from then on. `env` and `kv` outlive the client.
  /// Errors: not_found (no cluster: run agroctl init); those of Kv.
  static Task<std::unique_ptr<ClusterClient>> start(Env& env, Kv& kv,
                                                    DistributorOptions options = {});
  ~ClusterClient();
  ClusterClient(const ClusterClient&) = delete;
  ClusterClient& operator=(const ClusterClient&) = delete;

  /// From now on this peer is called directly instead of through its address.
  void add_local_peer(std::shared_ptr<PeerService> service);

  Metadata& metadata() { return metadata_; }
  Distributor& distributor() { return *distributor_; }
  const ClusterRecord& cluster() const { return *view_.cluster; }
  const ClusterView& view() const { return view_; }
  /// The peer, connected or not; null when the view has no such peer.
  std::shared_ptr<Peer> peer(const PeerId& id) const;
  /// Whether the volume's blocks carry checksums (`crc`); no, when nobody knows the volume.
  bool is_checksummed(VolumeId volume) const;
  /// Notified when view() has changed.
  Event& changed() { return changed_; }

  /// Waits for the ring's members to be connected: a moment for those that are alive, longer only
  /// while `sure_copies` or more are missing, and not for the dead when they do not matter.
  Awaitable<void> wait_for_members(std::uint32_t sure_copies);
  /// Reads the metadata again now.
  Task<void> refresh();
  Awaitable<void> stop();

 private:
  struct Remote {
    std::string address;
    std::shared_ptr<RemotePeer> peer;
    std::shared_ptr<Peer> measured;  // the same, as others see it
  };

  ClusterClient(Env& env, Kv& kv) : env_(env), metadata_(env, kv), jobs_(env.executor) {}
  Job follow();
  Job refresh_stale_ring();
  void apply();
  std::shared_ptr<Peer> peer_for(const PeerRecord& record);
  void retire(std::shared_ptr<RemotePeer> peer);
  bool is_alive(const PeerId& id) const;

  Env& env_;
  Metadata metadata_;
  ClusterView view_;
  std::unique_ptr<Distributor> distributor_;
  std::map<PeerId, std::shared_ptr<Peer>> local_;
  std::map<PeerId, Remote> remote_;
  std::unique_ptr<ClusterWatch> watch_;
  bool stopping_ = false;
  Event changed_;
  Event stop_event_;
  TaskGroup jobs_;
};

}  // namespace agro
