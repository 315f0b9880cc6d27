#include "sim_cluster.hpp"

#include <fmt/format.h>

#include "metadata/keys.hpp"

namespace agro {

SimCluster::Host::Host(SimLoop& loop, SimNetwork& network, const std::string& host_name,
                       Random seeds, HostClockOptions clock_options)
    : name(host_name),
      process(loop.add_process()),
      clock(loop.clock(), clock_options),
      random(seeds.next()),
      disk(std::make_unique<SimDisk>(
          loop.clock(), seeds.fork(),
          SimDiskOptions{std::chrono::microseconds(20), std::chrono::microseconds(400)})),
      offload(process.executor()),
      env{process.executor(),  clock,   random, *disk,
          network.host(name), offload, metrics},
      lives(process.executor()) {
  network.set_clock(name, clock);
}

SimCluster::SimCluster(std::uint64_t seed, Options options)
    : random(seed), network(loop.executor(), loop.clock(), random.fork()), options_(options),
      store_(loop.clock()) {
  volume_options.checkpoint_after_bytes = 2 * 1024 * 1024;
  volume_options.checkpoint_after_blocks = 60;
  volume_options.dead_bytes_max = 1024 * 1024;
  volume_options.in_flight_size_max = 1024 * 1024;
  volume_options.read_cache_size = 32 * 4096;
  volume_options.close_deadline = std::chrono::seconds(1);
  // Not of `random`: what else a seed does stays as it is. Of no size at all, every clean page goes.
  constexpr std::uint64_t kMapMemorySalt = 0x6D61702070616765;
  Random of_map(seed ^ kMapMemorySalt);
  constexpr std::size_t kMapMemoryMost = 8192;
  if (of_map.chance(2, 3)) {
    volume_options.map_memory = std::make_shared<MapMemory>(
        of_map.chance(1, 2) ? 0 : of_map.below(kMapMemoryMost));
  }
  // Smaller caches read nothing ahead.
  if (of_map.chance(1, 4)) volume_options.read_cache_size = 256 * 4096;
  for (std::uint32_t index = 0; index < options.peer_count; ++index) {
    hosts_.push_back(make_host(peer_name(index)));
  }
  make_client_host(0);
}

std::unique_ptr<SimCluster::Host> SimCluster::make_host(const std::string& name) {
  Random seeds = random.fork();
  Random of_clock(seeds.next());
  const auto within = [&of_clock](std::int64_t most) {
    return static_cast<std::int64_t>(of_clock.below(static_cast<std::uint64_t>(2 * most + 1))) - most;
  };
  HostClockOptions clock;
  clock.drift_ppm = static_cast<std::int32_t>(within(options_.clock_drift_ppm_max));
  clock.unix_offset_ms = within(
      std::chrono::duration_cast<std::chrono::milliseconds>(options_.unix_offset_max).count());
  clock.since_boot = std::chrono::minutes(of_clock.below(1000));
  return std::make_unique<Host>(loop, network, name, seeds, clock);
}

void SimCluster::make_client_host(std::size_t index) {
  Client& client = clients_[index];
  client.host = make_host(client_name(index));
  client.users = std::make_unique<TaskGroup>(client.host->process.executor());
}

SimCluster::~SimCluster() {
  for (std::size_t index = 0; index < kClientCount; ++index) {
    if (clients_[index].life == Life::up || clients_[index].life == Life::starting) {
      end_client(index, Death::killed);
    }
  }
  for (std::size_t index = 0; index < hosts_.size(); ++index) {
    if (peer_life(index) == Life::up || peer_life(index) == Life::starting) {
      end_peer(index, Death::power);
    }
  }
  for (const Client& client : clients_) {
    if (client.host != nullptr) AGRO_ASSERT(loop.run_job(client.host->lives.join()));
  }
  for (const auto& host : hosts_) AGRO_ASSERT(loop.run_job(host->lives.join()));
}

Result<void> SimCluster::start() {
  metadata_kv_ = store_.connect();
  metadata_ = std::make_unique<Metadata>(clients_[0].host->env, *metadata_kv_);
  ClusterRecord cluster;
  cluster.id = make_uuid(random);
  cluster.block_size = options_.block_size;
  cluster.block_spec = "crc,base";
  cluster.min_copies = options_.min_copies;
  RingSpec ring;
  ring.version = 1;
  ring.replication = options_.replication;
  ring.planned_kind = options_.ring_kind;
  ring.group_count = options_.group_count;
  AGRO_TRY_OK(loop.run(metadata_->init_cluster(cluster, ring)));
  const std::size_t started = options_.started_count > 0 ? options_.started_count : hosts_.size();
  for (std::size_t index = 0; index < started; ++index) AGRO_TRY_OK(start_peer(index));
  if (options_.make_volume) {
    NewVolume volume;
    volume.name = "demo";
    volume.size = options_.volume_size;
    AGRO_TRY([[maybe_unused]] const VolumeRecord made, loop.run(metadata_->create_volume(volume)));
  }
  return start_client();
}

std::unique_ptr<SimKv> SimCluster::connect(Host& host) {
  return std::make_unique<SimKv>(store_.connect(), loop.clock(), host.random.fork());
}

// --- peers --------------------------------------------------------------------------------------

void SimCluster::begin_peer(std::size_t index) {
  Host& host = *hosts_[index];
  AGRO_ASSERT(host.life == Life::down);
  host.life = Life::starting;
  host.start_error.clear();
  network.revive_host(host.name);
  host.disk->set_detached(false);
  host.kv = connect(host);
  host.lives.spawn(run_peer(index));
}

Job SimCluster::run_peer(std::size_t index) {
  Host& host = *hosts_[index];
  PeerNodeOptions options;
  options.data_dir = "/data";
  options.size = options_.store_size;
  options.addresses = {Address{Address::Kind::tcp, {}, host.name, 7000}};
  options.auto_join = true;
  options.background = options_.background;
  options.lease_ttl = options_.lease_ttl;
  Result<std::unique_ptr<PeerNode>> node =
      co_await PeerNode::start(host.env, *host.kv, std::move(options));
  if (node.has_value()) host.node = std::move(*node);
  if (!node.has_value()) host.start_error = node.error().to_string();
  if (host.life == Life::dying || !node.has_value()) {
    co_await unwind_peer(index);
  } else {
    host.life = Life::up;
    if (peer_is_up) peer_is_up(index);
  }
}

void SimCluster::end_peer(std::size_t index, Death death) {
  Host& host = *hosts_[index];
  const bool starting = host.life == Life::starting;
  AGRO_ASSERT(host.life == Life::up || (starting && death != Death::stopped));
  cut_peer(index, death);
  host.life = Life::dying;
  if (!starting) host.lives.spawn(unwind_peer(index));
}

void SimCluster::cut_peer(std::size_t index, Death death) {
  Host& host = *hosts_[index];
  if (death == Death::stopped) return;
  host.process.set_stopped(false);
  host.kv->cut();
  if (death == Death::power) {
    host.disk->crash(random);
    network.drop_host(host.name, SimDeath::machine);
  } else {
    host.disk->kill();
    network.drop_host(host.name, SimDeath::killed);
  }
  host.disk->set_detached(true);
}

Job SimCluster::unwind_peer(std::size_t index) {
  Host& host = *hosts_[index];
  if (host.node != nullptr) (void)co_await host.node->stop();
  host.node.reset();
  host.kv.reset();
  host.life = Life::down;
}

void SimCluster::wait_for_peer(std::size_t index) {
  AGRO_ASSERT(loop.run_until([this, index] {
    return peer_life(index) == Life::up || peer_life(index) == Life::down;
  }));
}

Result<void> SimCluster::start_peer(std::size_t index) {
  begin_peer(index);
  wait_for_peer(index);
  if (!peer_runs(index)) return fail(Errc::unavailable, start_error(index));
  return {};
}

void SimCluster::crash_peer(std::size_t index) {
  end_peer(index, Death::power);
  wait_for_peer(index);
}

void SimCluster::kill_peer(std::size_t index) {
  end_peer(index, Death::killed);
  wait_for_peer(index);
}

// --- clients ------------------------------------------------------------------------------------

void SimCluster::begin_client(std::size_t index) {
  Client& client = clients_[index];
  if (client.host == nullptr) make_client_host(index);
  AGRO_ASSERT(client.life == Life::down);
  client.life = Life::starting;
  client.host->start_error.clear();
  network.revive_host(client.host->name);
  client.host->kv = connect(*client.host);
  client.host->lives.spawn(run_client(index));
}

Job SimCluster::run_client(std::size_t index) {
  Client& client = clients_[index];
  Result<std::unique_ptr<ClusterClient>> started =
      co_await ClusterClient::start(client.host->env, *client.host->kv);
  if (!started.has_value()) client.host->start_error = started.error().to_string();
  if (started.has_value()) {
    client.cluster = std::move(*started);
    client.manager = std::make_unique<VolumeManager>(client.host->env, *client.host->kv,
                                                     *client.cluster, manager_options(index));
  }
  if (client.life == Life::dying || !started.has_value()) {
    co_await unwind_client(index);
  } else {
    client.life = Life::up;
  }
}

void SimCluster::end_client(std::size_t index, Death death) {
  Client& client = clients_[index];
  const bool starting = client.life == Life::starting;
  AGRO_ASSERT(client.life == Life::up || (starting && death != Death::stopped));
  if (death != Death::stopped) cut_client(index);
  client.life = Life::dying;
  if (!starting) client.host->lives.spawn(unwind_client(index));
}

void SimCluster::cut_client(std::size_t index) {
  clients_[index].host->process.set_stopped(false);
  clients_[index].host->kv->cut();
  network.drop_host(clients_[index].host->name, SimDeath::killed);
}

Job SimCluster::unwind_client(std::size_t index) {
  Client& client = clients_[index];
  if (client.manager != nullptr) (void)co_await client.manager->stop();
  co_await client.users->join();
  if (client.cluster != nullptr) co_await client.cluster->stop();
  client.manager.reset();
  client.cluster.reset();
  client.host->kv.reset();
  client.life = Life::down;
}

void SimCluster::wait_for_client(std::size_t index) {
  AGRO_ASSERT(loop.run_until([this, index] {
    return client_life(index) == Life::up || client_life(index) == Life::down;
  }));
}

Result<void> SimCluster::start_client() {
  begin_client(0);
  wait_for_client(0);
  if (client_life(0) != Life::up) return fail(Errc::unavailable, clients_[0].host->start_error);
  return {};
}

void SimCluster::crash_client() {
  end_client(0, Death::killed);
  wait_for_client(0);
}

void SimCluster::crash_everything() {
  end_client(0, Death::killed);
  for (std::size_t index = 0; index < hosts_.size(); ++index) end_peer(index, Death::power);
  wait_for_client(0);
  for (std::size_t index = 0; index < hosts_.size(); ++index) wait_for_peer(index);
}

VolumeManagerOptions SimCluster::manager_options(std::size_t client) const {
  VolumeManagerOptions options;
  options.volume = volume_options;
  options.holder = client_name(client);
  options.lease_ttl = options_.lease_ttl;
  options.stop_patience = std::chrono::seconds(0);
  options.lock_patience = std::chrono::seconds(10);
  options.force_recovery = force_recovery;
  return options;
}

Result<std::shared_ptr<BlockDevice>> SimCluster::open_volume() {
  return loop.run_on(client_env(0).executor, manager().open("demo"));
}

Result<std::shared_ptr<BlockDevice>> SimCluster::open_elsewhere() {
  if (client_life(1) == Life::down) {
    begin_client(1);
    wait_for_client(1);
    if (client_life(1) != Life::up) return fail(Errc::unavailable, clients_[1].host->start_error);
  }
  return loop.run_on(client_env(1).executor, clients_[1].manager->open("demo"));
}

// --- what goes wrong, and what can be seen ------------------------------------------------------

void SimCluster::silence_peer(std::size_t index) {
  for (const std::unique_ptr<Host>& other : hosts_) {
    if (other != hosts_[index]) network.partition(other->name, hosts_[index]->name);
  }
  network.partition(client_name(0), hosts_[index]->name);
}

void SimCluster::end_silence(std::size_t index) {
  for (const std::unique_ptr<Host>& other : hosts_) network.heal(other->name, hosts_[index]->name);
  network.heal(client_name(0), hosts_[index]->name);
}

std::uint32_t SimCluster::recorded_copies() {
  const auto found = loop.run(metadata_kv_->get(keys::degraded(VolumeId{1})));
  AGRO_ASSERT(found.has_value());
  return found->has_value() ? static_cast<std::uint32_t>(std::stoul((*found)->value)) : 0;
}

std::string SimCluster::published_health() {
  return loop.run(metadata_->health_of(VolumeId{1})).value();
}

}  // namespace agro
