// agro: the server. One peer of a cluster, or with `standalone` a whole one-machine cluster.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "agro/standalone.hpp"
#include "base/log.hpp"
#include "base/units.hpp"
#include "block/map_memory.hpp"
#include "common/cluster_source.hpp"
#include "common/program.hpp"
#include "common/serving.hpp"
#include "distributor/peer_address.hpp"
#include "metadata/measured_kv.hpp"
#include "node/peer_node.hpp"
#include "node/peer_protocols.hpp"
#include "node/store_place.hpp"
#include "storage/mmap_store.hpp"

namespace agro {
namespace {

constexpr std::size_t kLabelSizeMax = 64;

/// Nothing said is the default; nothing at all is a mistake.
const CLI::Validator kSomeSpace(
    [](std::string& text) {
      const Result<std::uint64_t> size = parse_size(text);
      return size.has_value() && *size == 0 ? std::string("must be at least 17MiB (with blocks of 1MiB)") : std::string();
    },
    "", "some space");

struct PeerOptions {
  MetadataChoice metadata;
  std::string data_dir;
  std::vector<std::string> addresses;
  std::vector<std::string> http;
  std::uint64_t size = 0;
  std::string storage = "mmap";
  std::string device;
  bool format = false;
  bool auto_join = false;
  bool without_metadata = false;
  PeerLabels labels;
  BackgroundOptions background;
};

Result<PeerNodeOptions> node_options(const PeerOptions& options) {
  PeerNodeOptions node;
  node.data_dir = options.data_dir;
  AGRO_TRY(node.storage, parse_storage_kind(options.storage));
  node.size = options.size;
  node.device = options.device;
  node.format = options.format;
  for (const std::string& text : options.addresses) {
    AGRO_TRY(const PeerAddress address, parse_peer_address(text));
    node.addresses.push_back({absolute_address(address.address), address.protocol});
  }
  node.labels = options.labels;
  node.auto_join = options.auto_join;
  node.background = options.background;
  return node;
}

/// Listens on all of --http.
Task<void> listen_http(http::Server& server, std::vector<std::string> texts) {
  AGRO_CO_TRY(const std::vector<Address> addresses, http_addresses(texts));
  for (const Address& address : addresses) {
    AGRO_CO_TRY([[maybe_unused]] const Address bound, co_await server.listen(address));
  }
  co_return Result<void>();
}

Task<void> serve_peer(SystemEnv& system, Kv& kv, PeerOptions options) {
  Env& env = system.env();
  AGRO_CO_TRY(PeerNodeOptions wanted, node_options(options));
  if (wanted.storage != StorageKind::temp) {
    AGRO_CO_TRY_OK(co_await env.disk.make_directories(options.data_dir));
    AGRO_CO_TRY_OK(co_await check_store_place(env.disk, options.data_dir, options.device));
  }
  AGRO_CO_TRY(const std::unique_ptr<PeerNode> node,
              co_await PeerNode::start(env, kv, std::move(wanted)));
  ClusterSource source(env, node->cluster());
  source.add_peer(*node);
  http::Server http_server(env, source);
  Result<void> outcome;
  if (!options.device.empty()) outcome = co_await note_device(env.disk, options.data_dir, options.device);
  if (outcome.has_value()) outcome = co_await listen_http(http_server, options.http);
  if (outcome.has_value()) {
    std::printf("agro %s: peer %s", AGRO_VERSION, node->id().to_string().c_str());
    for (const PeerAddress& address : node->addresses()) {
      std::printf(" %s", format_peer_address(address).c_str());
    }
    std::printf("\n");
    std::fflush(stdout);
    while (!system.stop_requested()) co_await system.stop_event().wait();
  }
  co_await http_server.stop();
  Result<void> stopped = co_await node->stop();
  co_return outcome.has_value() ? stopped : outcome;
}

/// Answers from a store until told to stop. No ring is new enough for a write.
Task<void> answer(SystemEnv& system, PeerOptions options, StoreIdentity identity, BlockStore& store) {
  auto service = std::make_shared<PeerService>(identity.peer_id, store, system.env().metrics);
  co_await service->require_ring(UINT64_MAX);
  std::vector<std::unique_ptr<PeerServer>> servers;
  std::string arguments;
  Result<void> outcome;
  for (const std::string& text : options.addresses) {
    const Result<PeerAddress> wanted = parse_peer_address(text);
    if (!wanted.has_value()) {
      outcome = fail(wanted.error());
      break;
    }
    servers.push_back(
        make_peer_server(system.env(), wanted->protocol, identity.cluster_id, service));
    const Result<Address> bound = co_await servers.back()->listen(absolute_address(wanted->address));
    if (!bound.has_value()) {
      outcome = fail(bound.error());
      break;
    }
    arguments += fmt::format(" --peer {}@{}", identity.peer_id.to_string(),
                             format_peer_address({*bound, wanted->protocol}));
  }
  if (outcome.has_value()) {
    std::printf("agroctl metadata rebuild --cluster-id %s --block-size %u%s\n",
                identity.cluster_id.to_string().c_str(), identity.block_size, arguments.c_str());
    std::fflush(stdout);
    while (!system.stop_requested()) co_await system.stop_event().wait();
  }
  for (const std::unique_ptr<PeerServer>& server : servers) co_await server->stop();
  co_return outcome;
}

/// For `agroctl metadata rebuild`, while the metadata are lost: blocks can be read, not written.
Task<void> run_without_metadata(SystemEnv& system, PeerOptions options) {
  Env& env = system.env();
  StoreOptions store_options;
  store_options.directory = options.data_dir;
  store_options.device = options.device;
  AGRO_CO_TRY_OK(co_await check_store_place(env.disk, options.data_dir, options.device));
  AGRO_CO_TRY(const StoreIdentity identity, co_await read_store_identity(env.disk, store_options));
  store_options.size = options.size;
  store_options.block_size = identity.block_size;
  store_options.cluster_id = identity.cluster_id;
  store_options.peer_id = identity.peer_id;
  Task<std::unique_ptr<BlockStore>> opening = options.storage == "disk"
                                                  ? open_disk_store(env, store_options)
                                                  : open_mmap_store(env, store_options);
  AGRO_CO_TRY(const std::unique_ptr<BlockStore> store, co_await std::move(opening));
  Result<void> answered = co_await answer(system, std::move(options), identity, *store);
  Result<void> closed = co_await store->close();
  co_return answered.has_value() ? closed : answered;
}

/// A peer may start before its metadata store has a leader: it waits, and says so. None: told to stop.
Task<std::unique_ptr<Kv>> open_when_it_answers(SystemEnv& system, std::string uri) {
  Duration pause = std::chrono::seconds(1);
  constexpr Duration kPauseMax = std::chrono::seconds(15);
  while (true) {
    Result<std::unique_ptr<Kv>> kv = co_await open_measured_kv(system.env(), uri, false);
    const bool passes = kv.code() == Errc::unavailable || kv.code() == Errc::timed_out;
    if (!passes) co_return std::move(kv);
    if (!system.stop_requested()) {
      log_warning("waiting for the metadata store: {}", kv.error().to_string());
      Clock& clock = system.env().clock;
      co_await wait_until(system.stop_event(), clock, clock.now() + pause);
    }
    if (system.stop_requested()) co_return std::unique_ptr<Kv>();
    pause = std::min<Duration>(pause * 2, kPauseMax);
  }
}

Task<void> run_peer(SystemEnv& system, PeerOptions options) {
  if (options.without_metadata) co_return co_await run_without_metadata(system, std::move(options));
  AGRO_CO_TRY(const std::string uri, metadata_uri(options.metadata));
  AGRO_CO_TRY(const std::unique_ptr<Kv> kv, co_await open_when_it_answers(system, uri));
  if (kv == nullptr) co_return Result<void>();
  Result<void> served = co_await serve_peer(system, *kv, std::move(options));
  Result<void> closed = co_await kv->close();
  co_return served.has_value() ? closed : served;
}

void add_background_options(CLI::App& app, BackgroundOptions& options) {
  add_size_option(app, "--rebalance-rate", options.rebalance.rate,
                  "bytes a second that a peer sends to rebalance, a quarter of it while users are at "
                  "work (default 64MiB; 0: no limit)");
  add_size_option(app, "--scrub-rate", options.scrub.rate,
                  "bytes a second that a scrub reads, a quarter of it while users are at work "
                  "(default 32MiB; 0: no limit)");
  add_duration_option(app, "--scrub-interval", options.scrub.interval,
                      "verify all blocks again so long after the last time (default 7d; never)");
  add_duration_option(app, "--gc-interval", options.gc.interval,
                      "look for blocks that no volume needs so often (default 1h; never)");
  add_duration_option(app, "--gc-grace", options.gc.grace,
                      "delete them when they were found so long ago, and are again (default 10m)");
  add_duration_option(app, "--down-out", options.down_out,
                      "take a peer out of the ring that was down for so long (default 10m; never)");
}

void add_storage_options(CLI::App& app, std::string& storage, bool& format) {
  app.add_option("--storage", storage,
                 "mmap: files, read through the page cache; disk: files or devices, past it (direct I/O, "
                 "io_uring); temp: memory, lost at the end (default mmap)")
      ->check(CLI::IsMember({"mmap", "disk", "temp"}));
  app.add_flag("--format", format, "what a --device holds may be overwritten, unless it is a store of agro");
}

void add_standalone_options(CLI::App& app, StandaloneOptions& options) {
  app.add_option("--data-dir", options.data_dir, "directory of metadata and peers; made when missing")
      ->required();
  app.add_option("--peers", options.peer_count, "number of peers, each with its own store (default 3)")
      ->check(CLI::Range(1, 64));
  app.add_option("--replication", options.replication, "copies of each block (default 2)")
      ->check(CLI::Range(1, 16));
  add_size_option(app, "--size", options.size,
                  "most that each peer may use (default 20GiB, or all of its --device); files grow as needed")
      ->check(kSomeSpace);
  add_storage_options(app, options.storage, options.format);
  app.add_option("--device", options.devices,
                 "with --storage disk: a block device or preallocated file for each peer; once per peer, "
                 "instead of files in --data-dir");
  add_size_option(app, "--block-size", options.block_size,
                  "largest block, a power of two, 64KiB to 16MiB (default 1MiB; fixed at first start)");
  app.add_option("--nbd", options.nbd, "serve NBD here too: unix:PATH or tcp:HOST:PORT");
  app.add_option("--http,--metrics", options.http, kHttpHelp);
  app.add_option("--create-volume", options.create_volumes,
                 "NAME=SIZE: make this volume when there is none of that name");
  options.read_cache = 64 * kMiB;
  add_size_option(app, "--read-cache", options.read_cache,
                  "memory per open volume for sectors read (default 64MiB)");
  options.map_memory = kMapMemoryDefault;
  add_map_memory_option(app, options.map_memory);
  add_tls_options(app, options.tls);
  options.write_buffer = 64 * kMiB;
  add_size_option(app, "--write-buffer", options.write_buffer,
                  "memory per open volume for writes on their way (default 64MiB)");
  add_background_options(app, options.background);
}

void add_peer_options(CLI::App& app, PeerOptions& options) {
  add_metadata_options(app, options.metadata);
  app.add_option("--data-dir", options.data_dir, "directory of the peer's store; made when missing");
  app.add_option("--peer-address", options.addresses,
                 "listen for peers and clients: adp://HOST:PORT or adp+unix:PATH, or grpc");
  add_size_option(app, "--size", options.size, "most that the store may use (default, of a --device: all of it)")
      ->check(kSomeSpace);
  add_storage_options(app, options.storage, options.format);
  app.add_option("--device", options.device,
                 "with --storage disk: a block device or preallocated file, instead of a file in --data-dir");
  app.add_option("--http,--metrics", options.http, kHttpHelp);
  app.add_flag("--auto-join", options.auto_join, "add this peer to the ring");
  app.add_flag("--without-metadata", options.without_metadata,
               "let 'agroctl metadata rebuild' read the store while the metadata are lost: takes no "
               "writes, and prints what to give the command");
  app.add_option("--zone", options.labels.zone, "failure domain: zone");
  app.add_option("--rack", options.labels.rack, "failure domain: rack");
  app.add_option("--host-label", options.labels.host, "failure domain: host");
  add_background_options(app, options.background);
}

/// What CLI11 cannot say: which options a peer needs, and what sizes are possible.
std::string missing_option(const PeerOptions& options) {
  if (options.without_metadata && options.storage == "temp") {
    return "--without-metadata is for stores that outlive their process";
  }
  if (options.storage != "disk" && !options.device.empty()) return "--device is for --storage disk";
  if (options.format && options.device.empty()) return "--format is for a --device";
  if (options.data_dir.empty() && options.storage != "temp") return "--data-dir is required";
  if (options.addresses.empty()) return "--peer-address is required";
  if (options.size == 0 && options.device.empty()) return "--size is required";
  for (const std::string* label : {&options.labels.zone, &options.labels.rack, &options.labels.host}) {
    // They are part of every ring record.
    if (label->size() > kLabelSizeMax) {
      return fmt::format("--zone, --rack and --host-label take up to {} bytes, not '{}'",
                         kLabelSizeMax, *label);
    }
  }
  return "";
}

std::string bad_option(const StandaloneOptions& options) {
  const std::uint64_t size = options.block_size;
  if (size != 0 && (size < kBlockSizeMin || size > kBlockSizeMax || (size & (size - 1)) != 0)) {
    return "--block-size must be a power of two from 64KiB to 16MiB";
  }
  if (options.storage != "disk" && !options.devices.empty()) return "--device is for --storage disk";
  if (options.format && options.devices.empty()) return "--format is for a --device";
  const std::set<std::string> different(options.devices.begin(), options.devices.end());
  if (different.size() < options.devices.size()) return "one --device is given twice; each peer needs its own";
  if (options.write_buffer < 4 * kMiB) return "--write-buffer must be at least 4MiB";
  return "";
}

int run(int argc, char** argv) {
  CLI::App app{"agro: a peer of a block storage cluster, or a whole one on this machine", "agro"};
  app.set_version_flag("--version", std::string("agro ") + AGRO_VERSION);
  bool verbose = false;
  app.add_flag("-v,--verbose", verbose, "log more to standard error");
  PeerOptions peer;
  add_peer_options(app, peer);
  Duration busy_poll;
  add_busy_poll_option(app, busy_poll);
  StandaloneOptions standalone;
  CLI::App* alone = app.add_subcommand("standalone", "metadata, peers and NBD server in one process");
  alone->fallthrough();
  add_standalone_options(*alone, standalone);
  if (const int status = parse_command_line(app, argc, argv); status >= 0) return status;
  log_to_standard_error("agro", verbose);
  const std::string complaint = alone->parsed() ? bad_option(standalone) : missing_option(peer);
  if (!complaint.empty()) {
    std::fprintf(stderr, "agro: %s (see agro --help)\n", complaint.c_str());
    return 1;
  }
  SystemEnv system;
  system.set_busy_poll(busy_poll);
  if (alone->parsed()) return run_program("agro", system, run_standalone(system, standalone));
  return run_program("agro", system, run_peer(system, peer));
}

}  // namespace
}  // namespace agro

int main(int argc, char** argv) { return agro::run(argc, argv); }
