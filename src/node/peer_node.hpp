// Peer node: one peer as a whole: its store, its protocol servers, its place in the cluster.
//
// Invariants: it serves only the cluster whose id its data directory carries; it is registered under a
// lease for as long as it serves; blocks of a volume are purged only on a tombstone's word.
// Threading: one loop. Source: DESIGN.md sections 2, 7 and 8.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "distributor/peer_address.hpp"
#include "distributor/peer_service.hpp"
#include "distributor/rebalance/down_times.hpp"
#include "distributor/remote_peer.hpp"
#include "metadata/lease.hpp"
#include "metadata/metadata.hpp"
#include "node/cluster_client.hpp"
#include "node/collector.hpp"
#include "node/detached_copies.hpp"
#include "node/rebalancer.hpp"
#include "node/scrubber.hpp"
#include "storage/block_store.hpp"

namespace agro {

enum class StorageKind : std::uint8_t { mmap, disk, temp };
/// "mmap", "disk", "temp". Errors: invalid_argument.
Result<StorageKind> parse_storage_kind(std::string_view text);

/// What a peer does besides serving.
struct BackgroundOptions {
  RebalancerOptions rebalance;
  ScrubberOptions scrub;  // state_path is the peer's to choose
  CollectorOptions gc;
  /// A ring member that was not alive for so long is taken out of the ring. Zero: never.
  Duration down_out = std::chrono::minutes(10);
};

struct PeerNodeOptions {
  std::string data_dir;              // of the blocks, unless they are on a device, and of small notes
  std::string device;                // of `disk`: a block device or a file that is there; else empty
  bool format = false;               // what the device holds may be overwritten
  StorageKind storage = StorageKind::mmap;
  std::uint64_t size = 0;            // bytes it may use; of a device 0 means all
  std::vector<PeerAddress> addresses;  // to listen on
  PeerLabels labels;
  bool auto_join = false;            // add itself to the ring
  std::chrono::milliseconds lease_ttl{10000};
  BackgroundOptions background;
};

class PeerNode final : private PeerService::Background {
 public:
  /// Opens the store, listens, registers, and joins the ring when told to. `env` and `kv` outlive it.
  /// Errors: cluster_mismatch, locked (the directory is in use), corrupt, out_of_space (smaller than
  /// what it holds), already_exists (an address is taken; the peer is alive elsewhere).
  static Task<std::unique_ptr<PeerNode>> start(Env& env, Kv& kv, PeerNodeOptions options);
  ~PeerNode() override;
  PeerNode(const PeerNode&) = delete;
  PeerNode& operator=(const PeerNode&) = delete;

  PeerId id() const { return id_; }
  const std::shared_ptr<PeerService>& service() const { return service_; }
  const std::vector<PeerAddress>& addresses() const { return record_addresses_; }
  /// As this peer sees the others, itself included.
  ClusterClient& cluster() { return *cluster_; }
  StoreStats stats() const { return store_->stats(); }
  /// Why its store takes no writes; empty: it does.
  std::string store_problem() const { return store_->problem(); }
  /// Whether the metadata surely counts this peer as alive now.
  bool registered() const { return registered_ && lease_->valid(env_.clock.now()); }

  /// Stops serving, unregisters and closes the store. Errors: those of closing the store.
  Task<void> stop();

 private:
  PeerNode(Env& env, Kv& kv, PeerNodeOptions options);
  Task<void> listen_near();
  Task<void> open_store(const ClusterRecord& cluster);
  Task<void> begin();
  PeerRecord record() const;
  Task<void> register_self();
  Task<void> register_once();
  Task<void> join_ring();
  PeerReport report() const override;
  Result<void> start(WorkKind kind) override;
  void stored(const BlockRef& ref) override { rebalancer_->stored(ref); }
  Job keep_registered();
  Job follow_tombstones();
  Job coordinate();
  bool is_coordinator() const;
  Task<void> finish_ring_change();
  void note_the_dead();
  Task<void> take_out_the_dead();
  Task<void> look_after_detached();
  Task<void> purge(VolumeId volume);

  Env& env_;
  Kv& kv_;
  Metadata metadata_;
  PeerNodeOptions options_;
  PeerId id_;
  std::unique_ptr<BlockStore> store_;
  std::shared_ptr<PeerService> service_;
  std::map<PeerProtocol, std::unique_ptr<PeerServer>> servers_;
  std::vector<PeerAddress> record_addresses_;
  std::unique_ptr<Lease> lease_;
  std::unique_ptr<ClusterClient> cluster_;
  std::unique_ptr<Rebalancer> rebalancer_;
  DownTimes down_times_;
  std::unique_ptr<DetachedCopies> detached_copies_;
  TimePoint detached_copies_at_;
  std::unique_ptr<Scrubber> scrubber_;
  std::unique_ptr<Collector> collector_;
  std::int64_t started_unix_ms_ = 0;
  std::uint64_t reported_used_ = 0;
  bool registered_ = false;  // under lease_
  bool joined_ = false;  // with auto_join: it was in the ring once
  bool stopping_ = false;
  Event stop_event_;
  TaskGroup jobs_;
};

}  // namespace agro
