// A cluster in one process on simulated time: real peers, a real client, simulated disks and network.
//
// Every host has a disk of its own; the metadata store is a perfect one that outlives all crashes, seen
// through a connection that fails on demand and dies with its process. Source: DESIGN.md section 10.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "metadata/temp/temp_kv.hpp"
#include "node/cluster_client.hpp"
#include "node/peer_node.hpp"
#include "node/volume_manager.hpp"
#include "sim/sim_disk.hpp"
#include "sim/sim_loop.hpp"
#include "sim/sim_network.hpp"
#include "sim_kv.hpp"

namespace agro {

class SimCluster {
 public:
  struct Options {
    std::uint32_t peer_count = 3;
    std::uint32_t replication = 2;
    std::uint64_t store_size = 64 * 1024 * 1024;
    std::uint32_t block_size = kBlockSizeMin;
    std::uint64_t volume_size = 2 * 1024 * 1024;
    std::uint32_t min_copies = 0;
    std::chrono::milliseconds lease_ttl{2000};
    std::uint32_t started_count = 0;  // peers that start() starts; 0: all
    BackgroundOptions background{};
  };

  SimCluster(std::uint64_t seed, Options options);
  ~SimCluster();

  /// Makes the cluster and its volume, and starts all.
  Result<void> start();
  Result<void> start_peer(std::size_t index);
  Result<void> start_client();
  /// The volume, attached by the client.
  Result<std::shared_ptr<BlockDevice>> open_volume();

  /// The power of one peer's machine fails: unsynced writes are kept, dropped or torn.
  void crash_peer(std::size_t index);
  /// kill -9: its kernel resets the connections; what was written stays.
  void kill_peer(std::size_t index);
  /// The client's process dies.
  void crash_client();
  /// The power of all machines fails at the same instant.
  void crash_everything();

  SimLoop loop;
  Random random;
  SimNetwork network;
  VolumeOptions volume_options;
  std::set<std::string> force_recovery;

  SimDisk& disk(std::size_t index) { return *hosts_[index]->disk; }
  Metrics& client_metrics() { return client_->metrics; }
  std::size_t host_count() const { return hosts_.size(); }
  bool peer_runs(std::size_t index) const { return hosts_[index]->node != nullptr; }

  /// The peer is up and connected, and silent (SIGSTOP, or cut off), until it is told to go on.
  void silence_peer(std::size_t index);
  void end_silence(std::size_t index);
  /// The client's way to the metadata store, and a peer's; each start makes a new one without faults.
  SimKv& client_kv() { return *client_->kv; }
  SimKv& peer_kv(std::size_t index) { return *hosts_[index]->kv; }
  /// The metadata as somebody else sees it.
  Metadata& metadata() { return *metadata_; }
  VolumeManager& manager() { return *manager_; }
  ClusterClient& client() { return *cluster_; }
  /// Of peers started from now on.
  BackgroundOptions& background() { return options_.background; }
  PeerNode& node(std::size_t index) { return *hosts_[index]->node; }
  VolumeManagerOptions manager_options() const;
  /// The copies recorded as sure for the volume; 0: all of them.
  std::uint32_t recorded_copies();
  std::string published_health();
  /// The volume, attached by another client on another host.
  Result<std::shared_ptr<BlockDevice>> open_elsewhere();

 private:
  struct Host {
    Host(SimLoop& loop, SimNetwork& network, const std::string& name, Random seeds);
    std::string name;
    Random random;
    std::unique_ptr<SimDisk> disk;
    InlineOffload offload;
    Metrics metrics;
    Env env;
    std::unique_ptr<SimKv> kv;
    std::unique_ptr<PeerNode> node;
  };

  std::unique_ptr<SimKv> connect(Host& host);
  // A crash is the cut, which takes no time, and then the unwinding of what can do no harm any more.
  void cut_peer(std::size_t index);
  void cut_client();
  void unwind_peer(std::size_t index);
  void unwind_client();

  Options options_;
  TempKvStore store_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::unique_ptr<Host> client_;
  std::unique_ptr<Host> other_;
  std::unique_ptr<ClusterClient> other_cluster_;
  std::unique_ptr<VolumeManager> other_manager_;
  std::unique_ptr<Kv> metadata_kv_;
  std::unique_ptr<Metadata> metadata_;
  std::unique_ptr<ClusterClient> cluster_;
  std::unique_ptr<VolumeManager> manager_;
};

}  // namespace agro
