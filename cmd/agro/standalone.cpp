#include "agro/standalone.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <filesystem>

#include "base/log.hpp"
#include "base/units.hpp"
#include "blockset/blockset.hpp"
#include "common/program.hpp"
#include "common/serving.hpp"
#include "metadata/measured_kv.hpp"
#include "node/peer_node.hpp"
#include "node/store_place.hpp"
#include "ring/placement.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kPeerCountDefault = 3;
constexpr std::uint32_t kPeerCountMax = 64;
constexpr std::uint32_t kReplicationDefault = 2;
constexpr std::uint64_t kPeerSizeDefault = 20 * kGiB;

/// Everything of a running standalone process, in the order it is started.
struct Standalone {
  std::unique_ptr<Kv> kv;
  std::vector<std::unique_ptr<PeerNode>> peers;
  std::unique_ptr<Serving> serving;
};

std::string peer_dir(const StandaloneOptions& options, std::uint32_t number) {
  return fmt::format("{}/peer-{}", options.data_dir, number);
}

/// Refuses a directory that holds something else; says whether it is one of ours.
Task<bool> check_data_dir(Env& env, const StandaloneOptions& options) {
  AGRO_CO_TRY_OK(co_await env.disk.make_directories(options.data_dir));
  AGRO_CO_TRY(const std::vector<std::string> names, co_await env.disk.list(options.data_dir));
  const bool ours = std::find(names.begin(), names.end(), "meta.db") != names.end();
  if (!ours && !names.empty()) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("{} is not an agro data directory: it has no meta.db but holds '{}'; "
                               "name an empty or a new directory",
                               options.data_dir, names.front()));
  }
  co_return ours;
}

std::uint32_t count_peer_dirs(const StandaloneOptions& options) {
  std::uint32_t count = 0;
  std::error_code ignored;
  while (count < kPeerCountMax && std::filesystem::exists(peer_dir(options, count + 1), ignored)) {
    ++count;
  }
  return count;
}

Task<void> init_cluster(Env& env, Metadata& metadata, const StandaloneOptions& options) {
  ClusterRecord cluster;
  cluster.id = make_uuid(env.random);
  cluster.block_size = options.block_size == 0 ? kBlockSizeDefault
                                               : static_cast<std::uint32_t>(options.block_size);
  cluster.block_spec = kBlocksetSpecDefault;
  cluster.created_unix_ms = env.clock.unix_time_ms();
  RingSpec ring;
  ring.kind = RingKind::empty;
  ring.version = 1;
  ring.planned_kind = RingKind::placement;
  ring.group_count = kGroupCountDefault;
  ring.replication = options.replication == 0 ? kReplicationDefault : options.replication;
  return metadata.init_cluster(std::move(cluster), std::move(ring));
}

/// Makes the cluster when there is none, and compares what was asked for with what is there.
Task<void> prepare_cluster(Env& env, Metadata& metadata, StandaloneOptions& options) {
  const std::uint32_t present = count_peer_dirs(options);
  const auto device_count = static_cast<std::uint32_t>(options.devices.size());
  if (options.peer_count == 0 && present == 0) options.peer_count = device_count;
  if (options.peer_count != 0 && options.peer_count < present) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("{} holds {} peers; --peers {} would leave data behind",
                               options.data_dir, present, options.peer_count));
  }
  if (options.peer_count == 0) options.peer_count = present > 0 ? present : kPeerCountDefault;
  if (device_count != 0 && device_count != options.peer_count) {
    co_return fail(Errc::invalid_argument, fmt::format("there are {} peers, but {} --device: give one for each",
                                                       options.peer_count, device_count));
  }
  const Result<ClusterRecord> cluster = co_await metadata.cluster();
  if (!cluster.has_value()) {
    if (cluster.code() != Errc::not_found) co_return fail(cluster.error());
    if (present > 0) {
      co_return fail(Errc::cluster_mismatch,
                     fmt::format("{} holds peers but its meta.db no cluster", options.data_dir));
    }
    const std::uint32_t copies = options.replication == 0 ? kReplicationDefault : options.replication;
    if (copies > options.peer_count) {
      co_return fail(Errc::invalid_argument,
                     fmt::format("--replication {} needs at least as many --peers, not {}", copies,
                                 options.peer_count));
    }
    co_return co_await init_cluster(env, metadata, options);
  }
  if (options.block_size != 0 && options.block_size != cluster->block_size) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("the cluster in {} has a block size of {}, which cannot be changed",
                               options.data_dir, format_size(cluster->block_size)));
  }
  AGRO_CO_TRY(const RingSpec ring, co_await metadata.ring());
  if (options.replication != 0 && options.replication != ring.replication) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("the cluster in {} keeps {} copies; --replication cannot change that",
                               options.data_dir, ring.replication));
  }
  co_return Result<void>();
}

Task<void> start_peer(Env& env, Standalone& node, PeerNodeOptions peer) {
  const std::string directory = peer.data_dir;
  const std::string device = peer.device;
  AGRO_CO_TRY_OK(co_await env.disk.make_directories(directory));
  if (peer.storage != StorageKind::temp) {
    AGRO_CO_TRY_OK(co_await check_store_place(env.disk, directory, device));
  }
  AGRO_CO_TRY(std::unique_ptr<PeerNode> started, co_await PeerNode::start(env, *node.kv, std::move(peer)));
  node.peers.push_back(std::move(started));
  if (!device.empty()) AGRO_CO_TRY_OK(co_await note_device(env.disk, directory, device));
  co_return Result<void>();
}

Task<void> start_peers(SystemEnv& system, Standalone& node, const StandaloneOptions& options) {
  AGRO_CO_TRY(const StorageKind storage, parse_storage_kind(options.storage));
  for (std::uint32_t number = 1; number <= options.peer_count; ++number) {
    PeerNodeOptions peer;
    peer.data_dir = peer_dir(options, number);
    peer.storage = storage;
    if (!options.devices.empty()) peer.device = options.devices[number - 1];
    peer.format = options.format;
    peer.size = options.size != 0 || !peer.device.empty() ? options.size : kPeerSizeDefault;
    peer.addresses = {absolute_address(
        Address{Address::Kind::unix_socket, peer.data_dir + "/adp.sock", {}, 0})};
    peer.labels.host = "localhost";
    peer.auto_join = true;
    peer.background = options.background;
    Result<void> started = co_await start_peer(system.env(), node, std::move(peer));
    if (!started.has_value()) {
      co_return fail(with_context(started.error(), fmt::format("peer {}", number)));
    }
  }
  co_return Result<void>();
}

Task<void> create_wanted_volumes(Metadata& metadata, const StandaloneOptions& options) {
  for (const std::string& wanted : options.create_volumes) {
    const std::size_t equals = wanted.find('=');
    if (equals == std::string::npos) {
      co_return fail(Errc::invalid_argument,
                     fmt::format("--create-volume takes NAME=SIZE, not '{}'", wanted));
    }
    NewVolume volume;
    volume.name = wanted.substr(0, equals);
    AGRO_CO_TRY(volume.size, parse_size(wanted.substr(equals + 1)));
    const Result<VolumeRecord> created = co_await metadata.create_volume(std::move(volume));
    if (!created.has_value() && created.code() != Errc::already_exists) {
      co_return fail(created.error());
    }
  }
  co_return Result<void>();
}

void print_usage(const StandaloneOptions& options, const Serving& serving,
                 const std::vector<VolumeRecord>& volumes) {
  (void)serving;
  const std::string directory = std::filesystem::absolute(options.data_dir).lexically_normal();
  const std::string name = volumes.empty() ? "VOLUME" : volumes.front().name;
  const std::string uri = fmt::format("nbd+unix:///{}?socket={}/nbd.sock", name, directory);
  std::printf("agro %s: %u peers in %s\n", AGRO_VERSION, options.peer_count, directory.c_str());
  for (const VolumeRecord& volume : volumes) {
    std::printf("  volume %s, %s\n", volume.name.c_str(), format_size(volume.size).c_str());
  }
  std::printf("Use it:\n");
  std::printf("  nbdinfo --list 'nbd+unix:///?socket=%s/nbd.sock'\n", directory.c_str());
  std::printf("  qemu-img convert -n -O raw disk.img '%s'\n", uri.c_str());
  std::printf("  nbdcopy --progress disk.img '%s'\n", uri.c_str());
  std::printf("  mkdir -p /tmp/nbd && touch /tmp/nbd/disk && nbdfuse /tmp/nbd/disk '%s' &\n", uri.c_str());
  std::printf("  mkfs.ext4 /tmp/nbd/disk && mount -o loop /tmp/nbd/disk /mnt\n");
  std::printf("  build/bin/agroctl -C sqlite:%s/meta.db status\n", directory.c_str());
  std::printf("  curl --unix-socket %s/metrics.sock http://agro/metrics\n", directory.c_str());
  std::printf("Ctrl-C stops it.\n");
  std::fflush(stdout);
}

Result<std::vector<Address>> addresses_of(const std::vector<std::string>& texts,
                                          const std::string& own_socket) {
  std::vector<Address> addresses;
  AGRO_TRY(const Address own, parse_address("unix:" + own_socket));
  addresses.push_back(own);
  for (const std::string& text : texts) {
    AGRO_TRY(const Address address, parse_address(text));
    addresses.push_back(address);
  }
  return addresses;
}

Task<void> start_all(SystemEnv& system, Standalone& node, StandaloneOptions& options) {
  Env& env = system.env();
  AGRO_CO_TRY(const std::vector<Address> nbd,
              addresses_of(options.nbd, options.data_dir + "/nbd.sock"));
  AGRO_CO_TRY(std::vector<Address> http, http_addresses(options.http));
  http.push_back({Address::Kind::unix_socket, options.data_dir + "/metrics.sock", {}, 0});
  AGRO_CO_TRY(const bool present, co_await check_data_dir(env, options));
  const std::string uri = "sqlite:" + options.data_dir + "/meta.db";
  AGRO_CO_TRY(node.kv, co_await open_measured_kv(env, uri, !present));
  Metadata metadata(env, *node.kv);
  AGRO_CO_TRY_OK(co_await prepare_cluster(env, metadata, options));
  AGRO_CO_TRY_OK(co_await start_peers(system, node, options));
  AGRO_CO_TRY_OK(co_await create_wanted_volumes(metadata, options));
  ServingOptions serving;  // one loop: the stores are on it, and volumes reach them without a message
  serving.manager.holder = holder_name("agro standalone");
  serving.manager.volume.read_cache_size = options.read_cache;
  serving.manager.volume.in_flight_size_max = options.write_buffer;
  serving.map_memory = options.map_memory;
  AGRO_CO_TRY(node.serving, co_await Serving::start(env, *node.kv, std::move(serving)));
  for (const std::unique_ptr<PeerNode>& peer : node.peers) {
    node.serving->cluster().add_local_peer(peer->service());
    node.serving->source().add_peer(*peer);
  }
  AGRO_CO_TRY_OK(node.serving->use_tls(options.tls));
  AGRO_CO_TRY_OK(co_await node.serving->listen_nbd(nbd));
  AGRO_CO_TRY_OK(co_await node.serving->listen_http(http));
  AGRO_CO_TRY(const std::vector<VolumeRecord> volumes, co_await metadata.list_volumes());
  print_usage(options, *node.serving, volumes);
  co_return Result<void>();
}

/// Stops whatever was started, in reverse; returns the first error.
Task<void> stop_all(Standalone& node) {
  Result<void> result;
  if (node.serving != nullptr) result = co_await node.serving->stop();
  for (const std::unique_ptr<PeerNode>& peer : node.peers) {
    Result<void> stopped = co_await peer->stop();
    if (result.has_value()) result = std::move(stopped);
  }
  if (node.kv != nullptr) {
    Result<void> closed = co_await node.kv->close();
    if (result.has_value()) result = std::move(closed);
  }
  co_return result;
}

}  // namespace

Task<void> run_standalone(SystemEnv& system, StandaloneOptions options) {
  Standalone node;
  Result<void> started = co_await start_all(system, node, options);
  if (started.has_value()) co_await serve_until_stopped(system, *node.serving);
  const Result<void> stopped = co_await stop_all(node);
  node.serving.reset();
  co_return started.has_value() ? stopped : started;
}

}  // namespace agro
