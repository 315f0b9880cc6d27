#include "sim_cluster.hpp"

#include <fmt/format.h>

#include "metadata/keys.hpp"

namespace agro {

namespace {

Job stop_client(VolumeManager& manager, ClusterClient& cluster) {
  (void)co_await manager.stop();
  co_await cluster.stop();
}

}  // namespace

SimCluster::Host::Host(SimLoop& loop, SimNetwork& network, const std::string& host_name,
                       Random seeds)
    : name(host_name),
      random(seeds.next()),
      disk(std::make_unique<SimDisk>(
          loop.clock(), seeds.fork(),
          SimDiskOptions{std::chrono::microseconds(20), std::chrono::microseconds(400)})),
      offload(loop.executor()),
      env{loop.executor(), loop.clock(),   random, *disk,
          network.host(name), offload, metrics} {}

SimCluster::SimCluster(std::uint64_t seed, Options options)
    : random(seed), network(loop.executor(), loop.clock(), random.fork()), options_(options),
      store_(loop.clock()) {
  volume_options.checkpoint_after_bytes = 2 * 1024 * 1024;
  volume_options.checkpoint_after_blocks = 60;
  volume_options.dead_bytes_max = 1024 * 1024;
  volume_options.in_flight_size_max = 1024 * 1024;
  volume_options.read_cache_size = 32 * 4096;
  volume_options.close_deadline = std::chrono::seconds(1);
  for (std::uint32_t index = 0; index < options.peer_count; ++index) {
    hosts_.push_back(
        std::make_unique<Host>(loop, network, fmt::format("peer-{}", index), random.fork()));
  }
  client_ = std::make_unique<Host>(loop, network, "client", random.fork());
}

SimCluster::~SimCluster() {
  if (cluster_ != nullptr) crash_client();
  if (other_cluster_ != nullptr) {
    other_->kv->cut();
    network.drop_host(other_->name, SimDeath::process);
    AGRO_ASSERT(loop.run_job(stop_client(*other_manager_, *other_cluster_)));
  }
  for (std::size_t index = 0; index < hosts_.size(); ++index) {
    if (peer_runs(index)) crash_peer(index);
  }
}

Result<void> SimCluster::start() {
  metadata_kv_ = store_.connect();
  metadata_ = std::make_unique<Metadata>(client_->env, *metadata_kv_);
  ClusterRecord cluster;
  cluster.id = make_uuid(random);
  cluster.block_size = options_.block_size;
  cluster.block_spec = "crc,base";
  cluster.min_copies = options_.min_copies;
  RingSpec ring;
  ring.version = 1;
  ring.replication = options_.replication;
  AGRO_TRY_OK(loop.run(metadata_->init_cluster(cluster, ring)));
  const std::size_t started = options_.started_count > 0 ? options_.started_count : hosts_.size();
  for (std::size_t index = 0; index < started; ++index) AGRO_TRY_OK(start_peer(index));
  NewVolume volume;
  volume.name = "demo";
  volume.size = options_.volume_size;
  AGRO_TRY([[maybe_unused]] const VolumeRecord made, loop.run(metadata_->create_volume(volume)));
  return start_client();
}

std::unique_ptr<SimKv> SimCluster::connect(Host& host) {
  return std::make_unique<SimKv>(store_.connect(), loop.clock(), host.random.fork());
}

Result<void> SimCluster::start_peer(std::size_t index) {
  Host& host = *hosts_[index];
  network.revive_host(host.name);
  host.kv = connect(host);
  PeerNodeOptions options;
  options.data_dir = "/data";
  options.size = options_.store_size;
  options.addresses = {Address{Address::Kind::tcp, {}, host.name, 7000}};
  options.auto_join = true;
  options.background = options_.background;
  options.lease_ttl = options_.lease_ttl;
  AGRO_TRY(host.node, loop.run(PeerNode::start(host.env, *host.kv, options)));
  return {};
}

Result<void> SimCluster::start_client() {
  client_->kv = connect(*client_);
  AGRO_TRY(cluster_, loop.run(ClusterClient::start(client_->env, *client_->kv)));
  manager_ = std::make_unique<VolumeManager>(client_->env, *client_->kv, *cluster_,
                                             manager_options());
  return {};
}

VolumeManagerOptions SimCluster::manager_options() const {
  VolumeManagerOptions options;
  options.volume = volume_options;
  options.holder = "client";
  options.lease_ttl = options_.lease_ttl;
  options.stop_patience = std::chrono::seconds(0);
  options.lock_patience = std::chrono::seconds(10);
  options.force_recovery = force_recovery;
  return options;
}

std::uint32_t SimCluster::recorded_copies() {
  const auto found = loop.run(metadata_kv_->get(keys::degraded(VolumeId{1})));
  AGRO_ASSERT(found.has_value());
  return found->has_value() ? static_cast<std::uint32_t>(std::stoul((*found)->value)) : 0;
}

std::string SimCluster::published_health() {
  return loop.run(metadata_->health_of(VolumeId{1})).value();
}

Result<std::shared_ptr<BlockDevice>> SimCluster::open_elsewhere() {
  if (other_manager_ != nullptr) return loop.run(other_manager_->open("demo"));
  other_ = std::make_unique<Host>(loop, network, "other", random.fork());
  other_->kv = connect(*other_);
  AGRO_TRY(other_cluster_, loop.run(ClusterClient::start(other_->env, *other_->kv)));
  other_manager_ = std::make_unique<VolumeManager>(other_->env, *other_->kv, *other_cluster_,
                                                   manager_options());
  return loop.run(other_manager_->open("demo"));
}

void SimCluster::silence_peer(std::size_t index) {
  for (const std::unique_ptr<Host>& other : hosts_) {
    if (other != hosts_[index]) network.partition(other->name, hosts_[index]->name);
  }
  network.partition(client_->name, hosts_[index]->name);
}

void SimCluster::end_silence(std::size_t index) {
  for (const std::unique_ptr<Host>& other : hosts_) network.heal(other->name, hosts_[index]->name);
  network.heal(client_->name, hosts_[index]->name);
}

Result<std::shared_ptr<BlockDevice>> SimCluster::open_volume() {
  return loop.run(manager_->open("demo"));
}

void SimCluster::cut_peer(std::size_t index) {
  Host& host = *hosts_[index];
  host.kv->cut();
  host.disk->crash(random);
  network.drop_host(host.name, SimDeath::machine);
}

void SimCluster::cut_client() {
  client_->kv->cut();
  network.drop_host(client_->name, SimDeath::process);
}

void SimCluster::unwind_peer(std::size_t index) {
  Host& host = *hosts_[index];
  (void)loop.run(host.node->stop());
  host.node.reset();
  host.kv.reset();
}

void SimCluster::unwind_client() {
  AGRO_ASSERT(loop.run_job(stop_client(*manager_, *cluster_)));
  manager_.reset();
  cluster_.reset();
  client_->kv.reset();
}

void SimCluster::crash_peer(std::size_t index) {
  cut_peer(index);
  unwind_peer(index);
}

void SimCluster::kill_peer(std::size_t index) {
  Host& host = *hosts_[index];
  host.kv->cut();
  host.disk->kill();
  network.drop_host(host.name, SimDeath::process);
  unwind_peer(index);
}

void SimCluster::crash_client() {
  cut_client();
  unwind_client();
}

void SimCluster::crash_everything() {
  cut_client();
  for (std::size_t index = 0; index < hosts_.size(); ++index) cut_peer(index);
  unwind_client();
  for (std::size_t index = 0; index < hosts_.size(); ++index) unwind_peer(index);
}

}  // namespace agro
