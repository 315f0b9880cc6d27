// agroblock: the client daemon. `nbdserve` serves volumes over NBD, through ADP to the peers; `nbd` makes one a device,
// `aoe` serves one on an Ethernet.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "agroblock/aoe_command.hpp"
#include "agroblock/nbd_command.hpp"
#include "base/units.hpp"
#include "block/map_memory.hpp"
#include "common/program.hpp"
#include "common/serving.hpp"
#include "metadata/measured_kv.hpp"

namespace agro {
namespace {

struct ServeOptions {
  MetadataChoice metadata;
  std::vector<std::string> listen;
  std::vector<std::string> http;
  std::vector<std::string> volumes;
  std::string holder;
  std::vector<std::string> force_recovery;
  std::uint64_t read_cache = 64 * kMiB;
  std::uint64_t write_buffer = 64 * kMiB;
  std::uint64_t map_memory = kMapMemoryDefault;
  unsigned threads = 1;
  Duration busy_poll;
  TlsOptions tls;
};

/// A core each. Each loop is one more client of metadata store and peers, so not for all of a big machine unasked.
unsigned default_threads() {
  constexpr unsigned kMost = 4;
  return std::clamp(std::thread::hardware_concurrency(), 1U, kMost);
}

Result<std::vector<Address>> parse_all(const std::vector<std::string>& texts) {
  std::vector<Address> addresses;
  for (const std::string& text : texts) {
    AGRO_TRY(const Address address, parse_address(text));
    addresses.push_back(address);
  }
  return addresses;
}

Task<void> check_volumes(Serving& serving, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    AGRO_CO_TRY([[maybe_unused]] const VolumeRecord volume,
                co_await serving.cluster().metadata().find_volume(name));
  }
  co_return Result<void>();
}

ServingOptions serving_options(const ServeOptions& options, const std::string& metadata_uri) {
  ServingOptions serving;
  VolumeManagerOptions& manager = serving.manager;
  manager.holder = holder_name("agroblock", options.holder);
  manager.names.insert(options.volumes.begin(), options.volumes.end());
  manager.force_recovery.insert(options.force_recovery.begin(), options.force_recovery.end());
  manager.volume.read_cache_size = options.read_cache;
  manager.volume.in_flight_size_max = options.write_buffer;
  serving.map_memory = options.map_memory;
  serving.loop_count = options.threads;
  serving.metadata_uri = metadata_uri;
  serving.busy_poll = options.busy_poll;
  return serving;
}

Task<void> serve(SystemEnv& system, Kv& kv, ServeOptions options, std::string metadata_uri) {
  AGRO_CO_TRY(const std::vector<Address> listen, parse_all(options.listen));
  AGRO_CO_TRY(const std::vector<Address> http, http_addresses(options.http));
  ServingOptions wanted = serving_options(options, metadata_uri);
  AGRO_CO_TRY(const std::unique_ptr<Serving> serving, co_await Serving::start(system.env(), kv, std::move(wanted)));
  Result<void> outcome = co_await check_volumes(*serving, options.volumes);
  if (outcome.has_value()) outcome = co_await check_volumes(*serving, options.force_recovery);
  if (outcome.has_value()) outcome = serving->use_tls(options.tls);
  if (outcome.has_value()) outcome = co_await serving->listen_nbd(listen);
  if (outcome.has_value()) outcome = co_await serving->listen_http(http);
  if (outcome.has_value()) {
    for (const Address& address : listen) {
      std::printf("agroblock %s: serving NBD on %s\n", AGRO_VERSION, address.to_string().c_str());
    }
    std::fflush(stdout);
    co_await serve_until_stopped(system, *serving);
  }
  Result<void> stopped = co_await serving->stop();
  co_return outcome.has_value() ? stopped : outcome;
}

Task<void> run_serve(SystemEnv& system, ServeOptions options) {
  AGRO_CO_TRY(const std::string uri, metadata_uri(options.metadata));
  AGRO_CO_TRY(const std::unique_ptr<Kv> kv, co_await open_measured_kv(system.env(), uri, false));
  Result<void> served = co_await serve(system, *kv, std::move(options), uri);
  Result<void> closed = co_await kv->close();
  co_return served.has_value() ? closed : served;
}

int run(int argc, char** argv) {
  CLI::App app{"agroblock: serves agro volumes as block devices", "agroblock"};
  app.set_version_flag("--version", std::string("agroblock ") + AGRO_VERSION);
  app.require_subcommand(1);
  bool verbose = false;
  app.add_flag("-v,--verbose", verbose, "log more to standard error");
  ServeOptions options;
  add_metadata_options(app, options.metadata);
  CLI::App* serve_command = app.add_subcommand("nbdserve", "serve volumes over NBD");
  serve_command->fallthrough();
  // One value each time they are given: what follows is a volume.
  serve_command
      ->add_option("-l,--listen", options.listen,
                   "unix:PATH or tcp:HOST:PORT (default tcp:127.0.0.1:10809)")
      ->allow_extra_args(false);
  serve_command
      ->add_option("--http,--metrics", options.http, kHttpHelp)
      ->allow_extra_args(false);
  serve_command->add_option("volumes", options.volumes, "volumes to serve (default: all)");
  serve_command
      ->add_option("--force-recovery", options.force_recovery,
                   "open this VOLUME even while so many peers are missing that writes which were "
                   "flushed last may be lost for good")
      ->type_name("VOLUME")
      ->allow_extra_args(false);
  serve_command->add_option("--holder", options.holder, kHolderHelp);
  add_size_option(*serve_command, "--read-cache", options.read_cache,
                  "memory per open volume for sectors read (default 64MiB)");
  add_map_memory_option(*serve_command, options.map_memory);
  add_size_option(*serve_command, "--write-buffer", options.write_buffer,
                  "memory per open volume for writes on their way (default 64MiB)");
  options.threads = default_threads();
  serve_command
      ->add_option("--threads", options.threads,
                   "volumes are spread over so many threads (default: one for each core, at most 4)")
      ->check(CLI::Range(1U, 256U));
  add_tls_options(*serve_command, options.tls);
  Duration busy_poll;
  add_busy_poll_option(*serve_command, busy_poll);
  NbdOptions nbd_options;
  CLI::App* nbd_command = add_nbd_command(app, nbd_options);
  add_map_memory_option(*nbd_command, nbd_options.map_memory);
  add_busy_poll_option(*nbd_command, busy_poll);
  AoeOptions aoe_options;
  CLI::App* aoe_command = add_aoe_command(app, aoe_options);
  add_map_memory_option(*aoe_command, aoe_options.map_memory);
  add_busy_poll_option(*aoe_command, busy_poll);
  bool json = false;
  CLI::App* list_command = add_list_command(app, json);
  if (const int status = parse_command_line(app, argc, argv); status >= 0) return status;
  if (options.listen.empty()) options.listen = {"tcp:127.0.0.1:10809"};
  if (options.write_buffer < 4 * kMiB) {
    std::fprintf(stderr, "agroblock: --write-buffer must be at least 4MiB\n");
    return 1;
  }
  log_to_standard_error("agroblock", verbose);
  if (list_command->parsed()) return run_list(json);
  SystemEnv system;
  system.set_busy_poll(busy_poll);
  options.busy_poll = busy_poll;
  if (nbd_command->parsed())
    return run_program("agroblock", system, run_nbd(system, options.metadata, nbd_options));
  if (aoe_command->parsed())
    return run_program("agroblock", system, run_aoe(system, options.metadata, aoe_options));
  return run_program("agroblock", system, run_serve(system, options));
}

}  // namespace
}  // namespace agro

int main(int argc, char** argv) { return agro::run(argc, argv); }
