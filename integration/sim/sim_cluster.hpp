// A cluster in one process on simulated time: real peers, a real client, simulated disks and network.
//
// Every host has a disk of its own; the metadata store is a perfect one that outlives all crashes, seen
// through a connection that fails on demand and dies with its process. Source: DESIGN.md section 10.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "metadata/temp/temp_kv.hpp"
#include "node/cluster_client.hpp"
#include "node/peer_node.hpp"
#include "node/volume_manager.hpp"
#include "sim/host_clock.hpp"
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
    RingKind ring_kind = RingKind::empty;  // of the ring with its first member; empty: ketama
    std::uint32_t group_count = 0;         // of a placement ring
    bool make_volume = true;               // "demo"
    // Hosts' clocks run too fast or too slow by up to this, each its own way.
    std::uint32_t clock_drift_ppm_max = 0;
    Duration unix_offset_max{0};  // and their time of day is off by up to this
  };

  /// Where a process is between its start and its end, both of which take their time.
  enum class Life : std::uint8_t { down, starting, up, dying };
  enum class Death : std::uint8_t {
    power,    // of its machine: unsynced writes are kept, dropped or torn
    killed,   // -9: its kernel resets the connections; what was written stays
    stopped,  // as told to
  };
  static constexpr std::size_t kClientCount = 2;

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

  // The same without waiting, for scenarios: what is begun goes on while the loop runs.
  /// Shape: the peer is down. It is up later, or down again: then start_error() says why.
  void begin_peer(std::size_t index);
  /// Shape: it is up; or starting, then `death` is not `stopped`.
  void end_peer(std::size_t index, Death death);
  Life peer_life(std::size_t index) const { return hosts_[index]->life; }
  const std::string& start_error(std::size_t index) const { return hosts_[index]->start_error; }
  /// Shape: as of peers. A client's power and its process fail alike. Whatever holds a device of the
  /// client must be a job of client_users(), and end soon after the device fails.
  void begin_client(std::size_t index);
  void end_client(std::size_t index, Death death);
  Life client_life(std::size_t index) const { return clients_[index].life; }
  TaskGroup& client_users(std::size_t index) { return *clients_[index].users; }
  VolumeManager& client_manager(std::size_t index) { return *clients_[index].manager; }
  ClusterClient& client_cluster(std::size_t index) { return *clients_[index].cluster; }
  Env& client_env(std::size_t index) { return clients_[index].host->env; }
  SimKv& client_kv(std::size_t index) { return *clients_[index].host->kv; }
  /// A process's way to the metadata store; each start makes a new one without faults.
  SimKv& peer_kv(std::size_t index) { return *hosts_[index]->kv; }
  /// Stops a process (SIGSTOP) and lets it go on: meanwhile none of its code runs, while its kernel
  /// takes what the network brings and its timers end. One that dies is not stopped any more.
  void freeze_peer(std::size_t index, bool frozen) { hosts_[index]->process.set_stopped(frozen); }
  void freeze_client(std::size_t index, bool frozen) {
    clients_[index].host->process.set_stopped(frozen);
  }
  bool peer_is_frozen(std::size_t index) const { return hosts_[index]->process.is_stopped(); }
  bool client_is_frozen(std::size_t index) const {
    return clients_[index].host->process.is_stopped();
  }
  HostClock& peer_clock(std::size_t index) { return hosts_[index]->clock; }
  HostClock& client_clock(std::size_t index) { return clients_[index].host->clock; }
  /// Called when a peer is up, before anything else happens.
  std::function<void(std::size_t index)> peer_is_up;
  /// Jobs that run as parts of a peer's process, and end before its next life.
  TaskGroup& peer_group(std::size_t index) { return hosts_[index]->lives; }
  static std::string client_name(std::size_t index) { return index == 0 ? "client" : "other"; }
  static std::string peer_name(std::size_t index) { return "peer-" + std::to_string(index); }

  SimLoop loop;
  Random random;
  SimNetwork network;
  VolumeOptions volume_options;
  std::set<std::string> force_recovery;

  SimDisk& disk(std::size_t index) { return *hosts_[index]->disk; }
  Metrics& client_metrics() { return clients_[0].host->metrics; }
  std::size_t host_count() const { return hosts_.size(); }
  bool peer_runs(std::size_t index) const { return hosts_[index]->life == Life::up; }

  /// The peer is up and connected, and silent (SIGSTOP, or cut off), until it is told to go on.
  void silence_peer(std::size_t index);
  void end_silence(std::size_t index);
  /// The client's way to the metadata store.
  SimKv& client_kv() { return *clients_[0].host->kv; }
  /// The metadata as somebody else sees it.
  Metadata& metadata() { return *metadata_; }
  VolumeManager& manager() { return *clients_[0].manager; }
  ClusterClient& client() { return *clients_[0].cluster; }
  /// Of peers started from now on.
  BackgroundOptions& background() { return options_.background; }
  PeerNode& node(std::size_t index) { return *hosts_[index]->node; }
  VolumeManagerOptions manager_options(std::size_t client = 0) const;
  /// The copies recorded as sure for the volume; 0: all of them.
  std::uint32_t recorded_copies();
  std::string published_health();
  /// The volume, attached by another client on another host.
  Result<std::shared_ptr<BlockDevice>> open_elsewhere();

 private:
  struct Host {
    Host(SimLoop& loop, SimNetwork& network, const std::string& name, Random seeds,
         HostClockOptions clock);
    std::string name;
    SimProcess& process;
    HostClock clock;
    Random random;
    std::unique_ptr<SimDisk> disk;
    InlineOffload offload;
    Metrics metrics;
    Env env;
    std::unique_ptr<SimKv> kv;
    std::unique_ptr<PeerNode> node;
    Life life = Life::down;
    std::string start_error;
    TaskGroup lives;  // its start and its end, under way
  };
  struct Client {
    std::unique_ptr<Host> host;
    std::unique_ptr<ClusterClient> cluster;
    std::unique_ptr<VolumeManager> manager;
    std::unique_ptr<TaskGroup> users;
    Life life = Life::down;
  };

  std::unique_ptr<Host> make_host(const std::string& name);
  std::unique_ptr<SimKv> connect(Host& host);
  // A crash is the cut, which takes no time, and then the unwinding of what can do no harm any more.
  void cut_peer(std::size_t index, Death death);
  void cut_client(std::size_t index);
  Job run_peer(std::size_t index);
  Job unwind_peer(std::size_t index);
  Job run_client(std::size_t index);
  Job unwind_client(std::size_t index);
  void make_client_host(std::size_t index);
  void wait_for_peer(std::size_t index);
  void wait_for_client(std::size_t index);

  Options options_;
  TempKvStore store_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::array<Client, kClientCount> clients_;
  std::unique_ptr<Kv> metadata_kv_;
  std::unique_ptr<Metadata> metadata_;
};

}  // namespace agro
