#include "scenario.hpp"

#include <algorithm>

namespace agro {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Life = SimCluster::Life;

namespace {

template <class T>
T one_of(Random& random, std::initializer_list<T> choices) {
  return *(choices.begin() + random.below(choices.size()));
}

BackgroundOptions draw_background(Random& random) {
  BackgroundOptions background;
  background.rebalance.look_every = seconds(20 + random.below(60));
  background.rebalance.settle_delay = milliseconds(500 + random.below(2000));
  background.rebalance.rate = one_of<std::uint64_t>(random, {0, 4 << 20, 64 << 20});
  background.scrub.interval = seconds(one_of(random, {0, 10, 30}));
  background.scrub.retry_after = seconds(5);
  background.scrub.rate = one_of<std::uint64_t>(random, {0, 8 << 20});
  background.gc.interval = seconds(5 + random.below(25));
  background.gc.grace = seconds(1 + random.below(6));
  background.gc.retry_after = seconds(3);
  background.gc.first_after = seconds(1 + random.below(5));
  background.down_out = seconds(one_of(random, {0, 8, 15}));
  return background;
}

}  // namespace

ScenarioShape draw_shape(Random& random) {
  ScenarioShape shape;
  SimCluster::Options& cluster = shape.cluster;
  cluster.make_volume = false;
  cluster.peer_count = static_cast<std::uint32_t>(one_of(random, {1, 2, 3, 3, 3, 4, 4, 5, 6, 7}));
  cluster.replication = static_cast<std::uint32_t>(
      1 + random.below(std::min<std::uint64_t>(cluster.peer_count, 3)));
  // Some peers may join later.
  cluster.started_count = cluster.replication + static_cast<std::uint32_t>(random.below(
                                                    cluster.peer_count - cluster.replication + 1));
  cluster.ring_kind = random.chance(5, 6) ? RingKind::placement : RingKind::ketama;
  cluster.group_count = cluster.ring_kind == RingKind::placement ? 64 : 0;
  cluster.block_size = one_of<std::uint32_t>(random, {64, 64, 128, 256}) * 1024;
  cluster.min_copies = random.chance(1, 4)
                           ? static_cast<std::uint32_t>(1 + random.below(cluster.replication)) : 0;
  cluster.lease_ttl = milliseconds(one_of(random, {2000, 3000, 5000, 10000}));
  cluster.background = draw_background(random);
  // Leases allow for clocks that differ by 2 %.
  cluster.clock_drift_ppm_max = one_of<std::uint32_t>(random, {0, 0, 200, 5000, 5000, 9000, 100000});
  cluster.unix_offset_max = milliseconds(one_of(random, {0, 500, 20000}));
  for (std::uint64_t left = 1 + random.below(3); left > 0; --left) {
    shape.volume_sizes.push_back((1 + random.below(24)) * 64 * 1024 +
                                 random.below(16) * 4096);
  }
  UserOptions& users = shape.users;
  users.workers = static_cast<std::uint32_t>(1 + random.below(4));
  users.think_max = milliseconds(one_of(random, {8, 40, 150, 400}));
  users.hot_units = one_of<std::uint64_t>(random, {16, 128, 1024});
  users.flush_percent = one_of<std::uint64_t>(random, {3, 12, 30});
  users.clocks_are_bad = cluster.clock_drift_ppm_max > 10000;
  users.large_percent = one_of<std::uint64_t>(random, {1, 5});
  shape.fault_one_in = one_of<std::uint64_t>(random, {4, 12, 30});
  return shape;
}

std::string ScenarioShape::to_string() const {
  std::string sizes;
  for (const std::uint64_t size : volume_sizes) sizes += fmt::format(" {}K", size / 1024);
  const auto s = [](Duration duration) {
    return static_cast<double>(std::chrono::duration_cast<milliseconds>(duration).count()) / 1000;
  };
  return fmt::format(
      "{} of {} peers, {} copies (at least {}), {} ring, blocks of {}K, leases {} s, volumes{}; {} "
      "workers that think up to {} s, {}% flushes; clocks off by {} ppm; gc {} s, scrub {} s, looks {} s, down-out {} s; a "
      "fault in {} ticks",
      cluster.started_count, cluster.peer_count, cluster.replication, cluster.min_copies,
      cluster.ring_kind == RingKind::placement ? "placement" : "ketama", cluster.block_size / 1024,
      s(cluster.lease_ttl), sizes, users.workers, s(users.think_max), users.flush_percent,
      cluster.clock_drift_ppm_max, s(cluster.background.gc.interval), s(cluster.background.scrub.interval),
      s(cluster.background.rebalance.look_every), s(cluster.background.down_out), fault_one_in);
}

Scenario::Scenario(ScenarioOptions options) : options_(std::move(options)), random_(options_.seed),
      probe_random_(options_.seed + 1), snapshot_random_(options_.seed + 2) {}

ScenarioResult Scenario::run() {
  Random shape_random = random_.fork();
  shape_ = draw_shape(shape_random);
  cluster_ = std::make_unique<SimCluster>(random_.next(), shape_.cluster);
  trace_ = std::make_unique<Trace>(options_.out, options_.trace, cluster_->loop.clock());
  const TimePoint begun = cluster_->loop.clock().now();
  trace_->event("-", "seed {}: {}", options_.seed, shape_.to_string());
  if (const Result<void> ready = set_up(); !ready.has_value()) fail(ready.error().to_string());
  if (!verdict_.failed()) live();
  if (!verdict_.failed()) settle();
  ScenarioResult result;
  if (verdict_.failed()) {
    result.problem = fmt::format("seed {} at tick {} of {}: {}", options_.seed, tick_,
                                 options_.ticks, *verdict_.problem);
    trace_->event("-", "FAILED: {}", result.problem);
  }
  result.simulated = cluster_->loop.clock().now() - begun;
  if (faults_ != nullptr) result.faults = faults_->counts();
  result.ticks = tick_;
  result.mixed_ring_ticks = mixed_ring_ticks_;
  for (const auto& volume : volumes_) {
    result.operations += volume->done_count();
    result.flushes += volume->flush_count();
    for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
      volume->client_died(client);
    }
  }
  trace_->event("-", "the end: {} operations, {} flushes", result.operations, result.flushes);
  trace_->stop();
  cluster_.reset();
  return result;
}

Result<void> Scenario::set_up() {
  AGRO_TRY_OK(cluster_->start());
  cluster_->begin_client(1);
  cluster_->loop.run_for(milliseconds(100));
  Random users_random = random_.fork();
  for (const std::uint64_t size : shape_.volume_sizes) {
    NewVolume wanted;
    wanted.name = fmt::format("vol-{}", next_tag_);
    wanted.size = size;
    AGRO_TRY([[maybe_unused]] const VolumeRecord made,
             cluster_->loop.run(cluster_->metadata().create_volume(wanted)));
    volumes_.push_back(std::make_unique<VolumeUser>(*cluster_, *trace_, verdict_,
                                                    users_random.fork(), wanted.name, next_tag_,
                                                    size, shape_.users));
    ++next_tag_;
  }
  std::set<std::string> names = options_.faults;
  // With one copy nothing is promised; and with clocks beyond their bound only fences hold.
  if (shape_.cluster.replication < 2 || shape_.users.clocks_are_bad) names.erase("lying-sync");
  faults_ = std::make_unique<FaultInjector>(
      *cluster_, *trace_, random_.fork(), std::move(names), shape_.cluster.replication, [this](std::size_t client) {
        for (const auto& volume : volumes_) volume->client_died(client);
      });
  fences_ = std::make_unique<FenceOracle>(*cluster_);
  faults_->lost_writes = [this](const PeerId& peer) { fences_->forget(peer); };
  cluster_->peer_is_up = [this](std::size_t) { check_fences(); };
  for (std::size_t peer = 0; peer < shape_.cluster.started_count; ++peer) {
    faults_->set_joined(peer);
  }
  return {};
}

void Scenario::live() {
  for (tick_ = 0; tick_ < options_.ticks && !verdict_.failed(); ++tick_) tick();
}

void Scenario::check_fences() {
  const std::string problem = fences_->check();
  if (!problem.empty()) fail(problem);
}

/// Peers and clients that run, of which not all have heard of the newest ring.
bool Scenario::rings_differ() const {
  std::set<std::uint64_t> versions;
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (cluster_->peer_runs(peer)) versions.insert(cluster_->node(peer).cluster().view().ring.version);
  }
  for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
    if (cluster_->client_life(client) != Life::up) continue;
    versions.insert(cluster_->client_cluster(client).view().ring.version);
  }
  return versions.size() > 1;
}

void Scenario::tick() {
  cluster_->loop.run_for(std::chrono::microseconds(20'000 + random_.below(160'000)));
  check_fences();
  mixed_ring_ticks_ += rings_differ() ? 1 : 0;
  if (probe_random_.chance(1, 10)) fences_->probe(probe_random_);
  faults_->repair_due();
  if (random_.chance(1, shape_.fault_one_in)) faults_->inject();
  drive_volumes();
}

/// Opens what nobody has, lets go, and hands over.
void Scenario::drive_volumes() {
  for (const auto& volume : volumes_) {
    const std::size_t client = random_.below(SimCluster::kClientCount);
    const bool up = cluster_->client_life(client) == Life::up;
    if (volume->idle() && up && random_.chance(1, 3)) {
      volume->attach(client);
    } else if (!volume->uses(client) && up && random_.chance(1, 100)) {
      volume->attach(client);  // although somebody else may have it
      if (random_.chance(1, 2)) volume->detach_others(client);
    } else if (random_.chance(1, 150)) {
      volume->detach();
    }
  }
  if (options_.faults.contains("work") && random_.chance(1, 150)) replace_volume();
  if (options_.faults.contains("work") && snapshot_random_.chance(1, 40)) use_snapshots();
}

/// Makes one, or reads those there are beside their volume's writer.
void Scenario::use_snapshots() {
  VolumeUser& volume = *volumes_[snapshot_random_.below(volumes_.size())];
  const std::size_t client = snapshot_random_.below(SimCluster::kClientCount);
  const bool makes = snapshot_random_.chance(1, 2);
  if (makes && volume.worker_client().has_value()) {
    // A writer that waits, or dies, makes none.
    const Result<void> made = cluster_->loop.run(volume.take_snapshot(), seconds(10));
    if (made.code() == Errc::timed_out) fail("asking for a snapshot does not end");
  } else if (!makes && cluster_->client_life(client) == Life::up) {
    if (snapshot_random_.chance(1, 3)) volume.recheck_snapshots();
    volume.check_snapshots(client);
  }
}

/// Deletes a volume that nobody has open, and makes another.
void Scenario::replace_volume() {
  const std::size_t index = random_.below(volumes_.size());
  if (!volumes_[index]->idle() || volumes_[index]->reads_snapshots()) return;
  const std::string old_name = volumes_[index]->name();
  const Result<Tombstone> deleted =
      cluster_->loop.run(cluster_->metadata().delete_volume(old_name, true));
  trace_->event("-", "{} is deleted: {}", old_name, errc_name(deleted.code()));
  if (!deleted.has_value()) return;
  NewVolume wanted;
  wanted.name = random_.chance(1, 2) ? old_name : fmt::format("vol-{}", next_tag_);
  wanted.size = volumes_[index]->size_bytes();
  const Result<VolumeRecord> made =
      cluster_->loop.run(cluster_->metadata().create_volume(wanted));
  if (!made.has_value()) return fail("making a volume: " + made.error().to_string());
  volumes_[index] = std::make_unique<VolumeUser>(*cluster_, *trace_, verdict_, random_.fork(),
                                                 wanted.name, next_tag_++, wanted.size,
                                                 shape_.users);
}

}  // namespace agro
