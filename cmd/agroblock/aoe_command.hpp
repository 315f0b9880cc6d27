// `agroblock aoe`: a volume as an AoE target on an Ethernet.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/system_env.hpp"
#include "block/map_memory.hpp"
#include "common/program.hpp"

namespace agro {

struct AoeOptions {
  std::string volume;
  std::string interface;
  std::uint16_t major = 0;
  std::uint8_t minor = 0;
  bool write_back = false;
  bool read_only = false;
  std::size_t requests = 128;
  std::vector<std::string> http;
  std::uint64_t map_memory = kMapMemoryDefault;
};

CLI::App* add_aoe_command(CLI::App& app, AoeOptions& options);

/// Serves until a signal comes. Errors: of open_packet_socket, of opening the volume, of Serving.
Task<void> run_aoe(SystemEnv& system, MetadataChoice metadata, AoeOptions options);

}  // namespace agro
