// `agroblock nbd` and `agroblock list`: volumes as devices of this machine's kernel.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/system_env.hpp"
#include "block/map_memory.hpp"
#include "common/program.hpp"

namespace agro {

struct NbdOptions {
  std::string volume;  // or, to detach, a device or a volume
  std::string device;  // empty: a free one
  bool detach = false;
  std::string holder;                // who it is attached for; empty: nobody in particular
  std::vector<std::string> servers;  // empty: this process serves the volume itself
  std::uint32_t connections = 4;
  std::uint32_t block_size = 4096;
  Duration dead_timeout = std::chrono::seconds(60);
  Duration request_timeout = std::chrono::seconds(10);
  std::uint64_t read_cache = 64 * 1024 * 1024;
  std::uint64_t write_buffer = 64 * 1024 * 1024;
  std::uint64_t map_memory = kMapMemoryDefault;
};

CLI::App* add_nbd_command(CLI::App& app, NbdOptions& options);

/// Attaches, or detaches; attached it stays until a signal comes or the device is detached.
/// Errors: of nbd_kernel::Attachment, of Serving; invalid_argument.
Task<void> run_nbd(SystemEnv& system, MetadataChoice metadata, NbdOptions options);

CLI::App* add_list_command(CLI::App& app, bool& json);
/// Prints what is attached to this machine. Returns the exit status.
int run_list(bool json);

}  // namespace agro
