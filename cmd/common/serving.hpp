// Serving volumes over NBD: what `agro standalone` and `agroblock` do.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "base/system_env.hpp"
#include "common/cluster_source.hpp"
#include "common/serving_loops.hpp"

namespace agro {

/// --tls-certificates and --tls-verify-peer.
struct TlsOptions {
  std::string certificates;  // a folder; empty: no TLS
  bool verify_clients = false;
};
void add_tls_options(CLI::App& app, TlsOptions& options);

/// The loops that serve volumes, and the HTTP server that tells of them, started and stopped in order.
class Serving {
 public:
  /// Errors: those of ServingLoops::start. `env` and `kv` outlive it.
  static Task<std::unique_ptr<Serving>> start(Env& env, Kv& kv, ServingOptions options);

  ClusterClient& cluster() { return loops_->first().cluster(); }
  /// The first loop's, which has all volumes where it is the only one.
  VolumeManager& manager() { return loops_->first().manager(); }
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
  Awaitable<std::string> status_line(double seconds);

 private:
  explicit Serving(Env& env) : env_(env) {}

  Env& env_;
  std::unique_ptr<ServingLoops> loops_;
  std::unique_ptr<ClusterSource> source_;
  std::unique_ptr<http::Server> http_server_;
  double read_before_ = 0;
  double written_before_ = 0;
};

/// The option --map-memory of programs that open volumes, for MapMemory.
void add_map_memory_option(CLI::App& app, std::uint64_t& size);

/// Shows the status line once a second on a terminal until a signal comes.
Awaitable<void> serve_until_stopped(SystemEnv& system, Serving& serving);

}  // namespace agro
