// agro standalone: metadata, peers and NBD server in one process.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/system_env.hpp"
#include "common/serving.hpp"
#include "node/peer_node.hpp"

namespace agro {

struct StandaloneOptions {
  std::string data_dir;
  std::uint32_t peer_count = 0;       // 0: what is there, else 3
  std::uint32_t replication = 0;      // 0: what is there, else 2
  std::uint64_t size = 0;             // bytes a peer may use; 0: 20 GiB, or all of a device
  std::string storage = "mmap";
  std::vector<std::string> devices;   // of `disk`: one for each peer, or none
  bool format = false;
  std::uint64_t block_size = 0;       // 0: what is there, else 1 MiB
  std::vector<std::string> nbd;       // beside DIR/nbd.sock
  std::vector<std::string> http;      // beside DIR/metrics.sock
  std::vector<std::string> create_volumes;  // NAME=SIZE, when there is none of that name
  std::uint64_t read_cache = 0;       // bytes
  std::uint64_t map_memory = 0;       // bytes
  std::uint64_t write_buffer = 0;     // bytes
  TlsOptions tls;
  BackgroundOptions background;
};

/// Runs until SIGINT or SIGTERM. Errors: whatever kept it from starting or from a clean stop.
Task<void> run_standalone(SystemEnv& system, StandaloneOptions options);

}  // namespace agro
