// Serving volumes over NBD: what `agro standalone` and `agroblock nbdserve` both do.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "base/system_env.hpp"
#include "common/cluster_source.hpp"
#include "internal/nbd/server.hpp"
#include "node/cluster_client.hpp"
#include "node/volume_manager.hpp"

namespace agro {

/// --tls-certificates and --tls-verify-peer.
struct TlsOptions {
  std::string certificates;  // a folder; empty: no TLS
  bool verify_clients = false;
};
void add_tls_options(CLI::App& app, TlsOptions& options);

/// Cluster client, volume manager, NBD server and HTTP server, started and stopped in order.
class Serving {
 public:
  /// Errors: those of ClusterClient::start. `env` and `kv` outlive it.
  static Task<std::unique_ptr<Serving>> start(Env& env, Kv& kv, VolumeManagerOptions options);

  ClusterClient& cluster() { return *cluster_; }
  VolumeManager& manager() { return *manager_; }
  ClusterSource& source() { return *source_; }

  /// Before listen_nbd(). Errors: invalid_argument, naming the file and what is wrong with it.
  Result<void> use_tls(const TlsOptions& options);
  /// Errors: already_exists, naming the address in use; io_error.
  Task<void> listen_nbd(std::vector<Address> addresses);
  Task<void> listen_http(std::vector<Address> addresses);

  /// Ends connections, detaches volumes, leaves the cluster. Errors: what kept a volume from a clean
  /// detach.
  Task<void> stop();

  /// One line for people: what is attached and what it does. `seconds` since the last call.
  std::string status_line(double seconds);

 private:
  explicit Serving(Env& env) : env_(env) {}

  Env& env_;
  std::unique_ptr<ClusterClient> cluster_;
  std::unique_ptr<VolumeManager> manager_;
  std::unique_ptr<nbd::Server> server_;
  std::unique_ptr<ClusterSource> source_;
  std::unique_ptr<http::Server> http_server_;
  std::uint64_t read_before_ = 0;
  std::uint64_t written_before_ = 0;
};

/// The option --map-memory of programs that open volumes, for MapMemory.
void add_map_memory_option(CLI::App& app, std::uint64_t& size);

/// Shows the status line once a second on a terminal until a signal comes.
Awaitable<void> serve_until_stopped(SystemEnv& system, Serving& serving);

}  // namespace agro
