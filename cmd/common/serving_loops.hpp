// The loops of a process that serves volumes, one a core: each has its own cluster client, volumes and NBD server.
//
// Invariants: a volume lives on the loop that its number says (modulo the number of loops), in whatever process and for good, so that
// no loop needs to ask another where; loops share nothing but TLS certificates, and talk in messages.
// Threading: the methods of ServingLoops on the first loop, those of a ServingLoop on its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/loop_thread.hpp"
#include "internal/nbd/server.hpp"
#include "node/cluster_client.hpp"
#include "node/volume_manager.hpp"

namespace agro {

struct ServingOptions {
  VolumeManagerOptions manager;   // of every loop; their maps' memory is map_memory, divided
  std::uint64_t map_memory = 0;
  unsigned loop_count = 1;
  std::string metadata_uri;       // what further loops open for themselves
  Duration busy_poll{};
};

/// What the volumes of loops do, and what the loops counted.
struct LoopReport {
  std::vector<VolumeManager::Attached> attached;
  MetricsSnapshot metrics;
};

class ServingLoop {
 public:
  /// With a metadata store that others use, too, and outlives it. Errors: those of ClusterClient::start.
  static Task<std::unique_ptr<ServingLoop>> start(Env& env, Kv& kv, VolumeManagerOptions options);
  /// With one of its own. Errors: those of open_kv(), too.
  static Task<std::unique_ptr<ServingLoop>> open(Env& env, std::string metadata_uri, VolumeManagerOptions options);
  ~ServingLoop();

  /// From now on clients of volumes that are others' go there. `servers`: of all loops, this one's at `own`.
  Task<void> join(std::vector<nbd::Server*> servers, std::size_t own);
  Task<LoopReport> report();
  /// Ends connections, detaches volumes, leaves the cluster. Errors: what kept a volume from a clean detach.
  Task<void> stop();

  ClusterClient& cluster() { return *cluster_; }
  VolumeManager& manager() { return *manager_; }
  nbd::Server& server() { return *server_; }

 private:
  class Homes;
  explicit ServingLoop(Env& env);

  Env& env_;
  std::unique_ptr<Kv> own_kv_;
  std::unique_ptr<ClusterClient> cluster_;
  std::unique_ptr<VolumeManager> manager_;
  std::unique_ptr<Homes> homes_;
  std::unique_ptr<nbd::Server> server_;
};

class ServingLoops {
 public:
  /// The first loop is the one of `env`, where this runs, with `kv`; both outlive it. Errors: those of ServingLoop, after stopping what had begun.
  static Task<std::unique_ptr<ServingLoops>> start(Env& env, Kv& kv, ServingOptions options);
  /// Shape: stop() has returned.
  ~ServingLoops();

  ServingLoop& first() { return *first_; }
  /// Before the first server listens.
  void use_tls(std::shared_ptr<const nbd::TlsContext> tls);
  /// Volumes of all loops, by name; metrics of all loops but the first, which the caller has at hand.
  Awaitable<LoopReport> report();
  /// All loops at once. Errors: the first that kept a volume from a clean detach.
  Task<void> stop();

 private:
  /// Drops what it has on its own loop, which then ends.
  struct Further {
    std::unique_ptr<LoopThread> thread;
    std::unique_ptr<ServingLoop> loop;
    Executor executor() { return thread->env().executor; }
  };
  explicit ServingLoops(Env& env) : env_(env) {}
  Task<void> start_further(const ServingOptions& options);
  Job stop_further(Further& further, Result<void>& first);
  Job stop_first(Result<void>& first);

  Env& env_;
  std::unique_ptr<ServingLoop> first_;
  std::vector<Further> further_;
};

}  // namespace agro
