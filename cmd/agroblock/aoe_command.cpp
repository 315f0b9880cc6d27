#include "agroblock/aoe_command.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <optional>

#include "block/aoe/packet_socket.hpp"
#include "block/aoe/target.hpp"
#include "common/serving.hpp"
#include "metadata/measured_kv.hpp"

namespace agro {
namespace {

Task<void> keep_config(Metadata& metadata, std::string volume, std::string text) {
  VolumeChange change;
  change.aoe_config = std::move(text);
  AGRO_CO_TRY([[maybe_unused]] const VolumeRecord changed,
              co_await metadata.change_volume(std::move(volume), std::move(change)));
  co_return Result<void>();
}

Job run_target(aoe::Target& target, std::optional<Result<void>>& outcome) { outcome = co_await target.run(); }

/// Ends the target when a signal comes.
Job stop_at_signal(SystemEnv& system, aoe::Target& target, const std::optional<Result<void>>& outcome) {
  Clock& clock = system.env().clock;
  while (!system.stop_requested() && !outcome.has_value()) {
    co_await wait_until(system.stop_event(), clock, clock.now() + std::chrono::seconds(1));
  }
  target.stop();
}

Task<void> serve_target(SystemEnv& system, Serving& serving, AoeOptions options) {
  Env& env = system.env();
  AGRO_CO_TRY(const std::unique_ptr<aoe::Ether> ether,
              aoe::open_packet_socket(env.executor, options.interface, options.major, options.minor));
  Metadata& metadata = serving.cluster().metadata();
  const std::string name = options.volume.substr(0, options.volume.find('@'));
  AGRO_CO_TRY(const VolumeRecord volume, co_await metadata.find_volume(name));
  AGRO_CO_TRY(const std::shared_ptr<BlockDevice> device, co_await serving.manager().open(options.volume));
  aoe::TargetOptions target_options;
  target_options.major = options.major;
  target_options.minor = options.minor;
  target_options.name = options.volume;
  target_options.config = volume.aoe_config;
  target_options.write_back = options.write_back;
  target_options.read_only = options.read_only;
  target_options.request_count_max = options.requests;
  aoe::Target target(env.executor, *ether, *device, env.metrics, std::move(target_options),
                     [&metadata, name](std::string text) { return keep_config(metadata, name, std::move(text)); });
  std::printf("agroblock %s: serving '%s' over AoE as e%u.%u on %s\n", AGRO_VERSION, options.volume.c_str(),
              options.major, options.minor, options.interface.c_str());
  std::fflush(stdout);
  std::optional<Result<void>> outcome;
  TaskGroup jobs(env.executor);
  jobs.spawn(run_target(target, outcome));
  jobs.spawn(stop_at_signal(system, target, outcome));
  co_await jobs.join();
  co_return std::move(*outcome);
}

Task<void> serve(SystemEnv& system, Kv& kv, AoeOptions options) {
  AGRO_CO_TRY(std::vector<Address> http, http_addresses(options.http));
  ServingOptions serving_options;
  VolumeManagerOptions& manager = serving_options.manager;
  manager.holder = holder_name("agroblock aoe");
  manager.names.insert(options.volume.substr(0, options.volume.find('@')));
  serving_options.map_memory = options.map_memory;
  AGRO_CO_TRY(const std::unique_ptr<Serving> serving,
              co_await Serving::start(system.env(), kv, std::move(serving_options)));
  Result<void> outcome = co_await serving->listen_http(std::move(http));
  if (outcome.has_value()) outcome = co_await serve_target(system, *serving, std::move(options));
  Result<void> stopped = co_await serving->stop();
  co_return outcome.has_value() ? stopped : outcome;
}

}  // namespace

CLI::App* add_aoe_command(CLI::App& app, AoeOptions& options) {
  CLI::App* command = app.add_subcommand("aoe", "serve a volume over ATA over Ethernet (AoE), as root");
  command->fallthrough();
  command->add_option("volume", options.volume, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_option("interface", options.interface, "the Ethernet interface, such as eth1")->required();
  command->add_option("major", options.major, "shelf, 0 to 65534: initiators see e MAJOR.MINOR")
      ->required()
      ->check(CLI::Range(0, 65534));
  command->add_option("minor", options.minor, "slot, 0 to 254")->required()->check(CLI::Range(0, 254));
  command->add_flag("--write-back", options.write_back,
                    "answer writes before they are durable. The Linux initiator never flushes: whatever it wrote last may "
                    "be lost when this process ends unexpectedly");
  command->add_flag("--read-only", options.read_only, "refuse writes");
  command->add_option("--requests", options.requests, "requests under way at once, 1 to 1024 (default 128)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--http,--metrics", options.http, kHttpHelp)->allow_extra_args(false);
  return command;
}

Task<void> run_aoe(SystemEnv& system, MetadataChoice metadata, AoeOptions options) {
  AGRO_CO_TRY(const std::string uri, metadata_uri(metadata));
  AGRO_CO_TRY(const std::unique_ptr<Kv> kv, co_await open_measured_kv(system.env(), uri, false));
  Result<void> served = co_await serve(system, *kv, std::move(options));
  Result<void> closed = co_await kv->close();
  co_return served.has_value() ? closed : served;
}

}  // namespace agro
