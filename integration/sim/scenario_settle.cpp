// The end of a scenario: faults stop, and what was promised must come true by itself, soon.
#include <algorithm>

#include "node/cluster_report.hpp"
#include "ring/ring.hpp"
#include "scenario.hpp"

namespace agro {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// How long what may take, in simulated time. Leases end, suspicions of peers go, gc has its cycles.
constexpr Duration kAllUp = seconds(60);
constexpr Duration kUsersGoOn = seconds(120);
constexpr Duration kHealthy = seconds(240);
constexpr Duration kForceAfter = seconds(40);  // so long people wait before they force anything
constexpr Duration kReadable = seconds(60);
constexpr Duration kSpaceBack = seconds(180);
constexpr Duration kAllGone = seconds(120);
constexpr Duration kScrubAgain = seconds(20);
constexpr int kReadsOfBadDisk = 3;  // of every volume
constexpr std::uint64_t kOperationsWanted = 30;  // of each volume's users, to see that they go on

// What volumes may take, of each copy: their INodes beside their data; and garbage beside what is
// live, as the cleaner leaves it to an idle volume (block/volume_cleaner.cpp).
constexpr std::uint64_t kInodeSize = 64 * 1024;
constexpr std::uint64_t kBlockOverhead = 2 * 4096;  // extent table and checksums
constexpr double kStoredPerLive = 1.3;
constexpr std::uint64_t kSmallBlocks = 260;
constexpr std::uint64_t kSmallBlockSize = 8192;
constexpr std::uint64_t kSlackBlocks = 20;

}  // namespace

void Scenario::expect_within(Duration limit, const char* what,
                             const std::function<std::string()>& problem) {
  const TimePoint begun = cluster_->loop.clock().now();
  while (!verdict_.failed()) {
    faults_->repair_due();
    const std::string found = problem();
    const Duration taken = cluster_->loop.clock().now() - begun;
    if (found.empty()) {
      trace_->event("-", "{}, after {} ms", what,
                    std::chrono::duration_cast<milliseconds>(taken).count());
      return;
    }
    if (taken > limit) {
      tell_state();
      return fail(fmt::format("{} s after that was to be expected, not: {}; {}",
                              std::chrono::duration_cast<seconds>(taken).count(), what, found));
    }
    cluster_->loop.run_for(milliseconds(500));
  }
}

/// For people who look for the reason.
void Scenario::tell_state() {
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (!cluster_->peer_runs(peer)) continue;
    const PeerNode& node = cluster_->node(peer);
    const PeerReport report = node.service()->report();
    trace_->event(SimCluster::peer_name(peer),
                  "peer {}: ring {}, registered {}, holds {} blocks; rebalance: settled {}, left {}, "
                  "{}; scrub: bad {}, lost {}, {}; gc: condemned {}, {}",
                  node.id().to_string(), report.ring_version, node.registered(),
                  node.service()->store().list({}).size(), report.rebalance.settled_version,
                  report.rebalance.blocks_left, report.rebalance.problem, report.scrub.bad_blocks,
                  report.scrub.lost_blocks, report.scrub.problem, report.gc.condemned_blocks,
                  report.gc.problem);
  }
  const auto view = cluster_->loop.run(cluster_->metadata().view());
  if (!view.has_value()) return;
  trace_->event("-", "ring {}: {} parts", view->ring.version, view->ring.parts.size());
  for (const PeerView& peer : view->peers) {
    trace_->event("-", "peer {}: alive {}, settled {}", peer.record.id.to_string(), peer.alive,
                  peer.settled_version);
  }
}

void Scenario::settle() {
  faults_->repair_everything();
  expect_within(kAllUp, "all processes are up", [this] { return faults_->not_up(); });
  expect_users_go_on();
  expect_healthy();
  expect_all_readable();
  expect_snapshots_stay();
  expect_enough_copies();
  expect_space_back();
  expect_bad_disk_unseen();
  expect_nothing_left();
}

void Scenario::attach_all() {
  for (const auto& volume : volumes_) {
    if (!volume->idle()) continue;
    const std::size_t client = random_.below(SimCluster::kClientCount);
    if (cluster_->client_life(client) == SimCluster::Life::up) volume->attach(client);
  }
}

void Scenario::expect_users_go_on() {
  const TimePoint begun = cluster_->loop.clock().now();
  bool forced = false;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> before;
  for (const auto& volume : volumes_) {
    before.emplace_back(volume->done_count(), volume->flush_count());
  }
  expect_within(kUsersGoOn, "users go on", [&]() -> std::string {
    attach_all();
    for (std::size_t index = 0; index < volumes_.size(); ++index) {
      const VolumeUser& volume = *volumes_[index];
      if (!volume.worker_client().has_value()) {
        const bool patient = cluster_->loop.clock().now() - begun < kForceAfter;
        if (faults_->lost_a_disk() && !forced && !patient) {
          force_recovery();
          forced = true;
        }
        return fmt::format("nobody works with {}; {}", volume.name(), volume.last_error());
      }
      if (volume.done_count() < before[index].first + kOperationsWanted) {
        return fmt::format("{} stands still; {}; {}", volume.name(), trace_->last_wait(),
                           volume.last_error());
      }
      if (volume.flush_count() == before[index].second) return volume.name() + " is not flushed";
    }
    return forced ? faults_->not_up() : "";
  });
  for (const auto& volume : volumes_) volume->set_quiet(true);
}

/// Where a peer is lost for good, and fewer copies than usual were sure since, nobody can be sure that the
/// lost one had none that counted; people who know that say so.
void Scenario::force_recovery() {
  trace_->event("-", "recovery is forced of all volumes");
  for (const auto& volume : volumes_) cluster_->force_recovery.insert(volume->name());
  for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
    if (cluster_->client_life(client) == SimCluster::Life::up) faults_->restart_client(client);
  }
}

/// What the report says is wrong.
std::string Scenario::report_problem() {
  Env& env = cluster_->client_env(0);
  const Result<ClusterReport> report =
      cluster_->loop.run(gather_cluster_report(env, cluster_->client_cluster(0)));
  if (!report.has_value()) return report.error().to_string();
  if (!report->healthy) return report->problems.front();
  for (const ReportedVolume& volume : report->volumes) {
    if (!volume.lock.has_value()) return "volume " + volume.volume.name + " is not open";
  }
  const auto positions = cluster_->loop.run(cluster_->metadata().positions());
  if (!positions.has_value()) return positions.error().to_string();
  for (const VolumePosition& position : *positions) {
    if (position.degraded_copies.has_value()) {
      return fmt::format("volume {} is recorded as degraded", position.volume.value);
    }
  }
  return "";
}

/// A block that is not exactly where the ring wants it.
std::string Scenario::misplaced() {
  const Result<RingSpec> spec = cluster_->loop.run(cluster_->metadata().ring());
  if (!spec.has_value()) return spec.error().to_string();
  if (spec->kind == RingKind::union_) return "the ring is being changed";
  const Result<std::shared_ptr<const Ring>> ring = make_ring(*spec);
  if (!ring.has_value()) return ring.error().to_string();
  std::map<BlockRef, std::set<PeerId>> holders;
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (!cluster_->peer_runs(peer)) continue;
    const PeerNode& node = cluster_->node(peer);
    for (const BlockInfo& block : node.service()->store().list({})) {
      holders[block.ref].insert(node.id());
    }
  }
  std::vector<std::uint32_t> owners;
  for (const auto& [ref, ids] : holders) {
    (*ring)->owners(ref, owners);
    std::set<PeerId> wanted;
    for (const std::uint32_t owner : owners) wanted.insert((*ring)->members()[owner].id);
    if (ids == wanted) continue;
    std::size_t there = 0;
    for (const PeerId& id : wanted) there += ids.count(id);
    return fmt::format("block {} is on {} of its {} owners, and on {} others", ref.to_string(),
                       there, wanted.size(), ids.size() - there);
  }
  return "";
}

/// What a report says of the last scrub stays until the next: an operator starts one where blocks are
/// lost, which may have been garbage, or could not be read for a while.
void Scenario::scrub_again() {
  const TimePoint now = cluster_->loop.clock().now();
  if (now < scrub_again_at_) return;
  scrub_again_at_ = now + kScrubAgain;
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (!cluster_->peer_runs(peer)) continue;
    PeerService& service = *cluster_->node(peer).service();
    const ScrubReport report = service.report().scrub;
    if (report.lost_blocks == 0 && report.problem.empty()) continue;
    (void)service.start(WorkKind::scrub);
  }
}

/// What rotted may be found by a scrub only, and scrubs may be off: an operator starts one where there was
/// none since the faults ended. Who has not finished it yet; empty: nobody.
std::string Scenario::unscrubbed() {
  std::string who;
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (!cluster_->peer_runs(peer)) continue;
    PeerService& service = *cluster_->node(peer).service();
    const std::int64_t finished = service.report().scrub.finished_unix_ms;
    const auto [before, first] = scrubbed_before_.try_emplace(peer, finished);
    if (first) (void)service.start(WorkKind::scrub);
    if (before->second == finished) who = SimCluster::peer_name(peer) + " is not scrubbed yet";
  }
  return who;
}

void Scenario::expect_healthy() {
  const TimePoint begun = cluster_->loop.clock().now();
  expect_within(kHealthy, "the cluster is healthy", [this, begun] {
    faults_->force_removals(cluster_->loop.clock().now() - begun > kForceAfter);
    attach_all();
    scrub_again();
    if (std::string who = unscrubbed(); !who.empty()) return who;
    std::string problem = faults_->still_lost();
    if (problem.empty()) problem = misplaced();
    return problem.empty() ? report_problem() : problem;
  });
}

/// Why it could not be read; empty: it was.
std::string Scenario::read_all(VolumeUser& volume, Errc* code) {
  const TimePoint begun = cluster_->loop.clock().now();
  const Result<bool> checked = cluster_->loop.run(volume.check_all(), kReadable);
  if (code != nullptr) *code = checked.code();
  if (checked.has_value()) return *checked ? "" : volume.name() + " is not open";
  const bool ended = cluster_->loop.clock().now() < begun + kReadable;
  if (ended) return volume.name() + ": " + checked.error().to_string();
  return fmt::format("{}: reading it does not end: {}", volume.name(), trace_->last_wait());
}

void Scenario::expect_all_readable() {
  expect_within(kReadable, "all volumes read right", [this] {
    std::string problem;
    for (const auto& volume : volumes_) {
      const std::string found = read_all(*volume);
      if (problem.empty()) problem = found;
    }
    return problem;
  });
}

/// All of them can be read, and then they go: what only they needed must come back as space.
void Scenario::expect_snapshots_stay() {
  for (const auto& volume : volumes_) volume->recheck_snapshots();
  expect_within(kReadable, "snapshots read right", [this] {
    std::string problem;
    for (const auto& volume : volumes_) {
      if (problem.empty()) problem = volume->unchecked_snapshot();
      const std::size_t client = snapshot_random_.below(SimCluster::kClientCount);
      if (cluster_->client_life(client) == SimCluster::Life::up) volume->check_snapshots(client);
    }
    return problem;
  });
  for (const auto& volume : volumes_) {
    if (verdict_.failed()) return;
    const Result<void> deleted = cluster_->loop.run(volume->delete_snapshots());
    if (!deleted.has_value()) fail("deleting snapshots: " + deleted.error().to_string());
  }
}

std::vector<std::size_t> Scenario::running_peers() const {
  std::vector<std::size_t> up;
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (cluster_->peer_runs(peer)) up.push_back(peer);
  }
  return up;
}

/// With several copies of everything one peer less changes nothing.
void Scenario::expect_enough_copies() {
  const Result<RingSpec> ring = cluster_->loop.run(cluster_->metadata().ring());
  if (verdict_.failed() || !ring.has_value() || ring->replication < 2) return;
  const std::vector<std::size_t> up = running_peers();
  const std::size_t victim = up[random_.below(up.size())];
  trace_->event(SimCluster::peer_name(victim), "is killed, to see whether others have it all");
  faults_->keep_down(victim);
  expect_all_readable();
  faults_->repair_everything();
  expect_within(kAllUp, "all processes are up", [this] { return faults_->not_up(); });
  expect_healthy();
}

/// Where more is stored than live data and its bookkeeping explain.
std::string Scenario::space_problem() {
  std::uint64_t wanted = 0;
  const std::uint64_t slack =
      kSlackBlocks * shape_.cluster.block_size + kSmallBlocks * kSmallBlockSize;
  for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
    for (const VolumeManager::Attached& one : cluster_->client_manager(client).attached()) {
      const double live = static_cast<double>(one.status.mapped_bytes) * kStoredPerLive;
      if (one.status.stored_bytes > static_cast<std::uint64_t>(live) + slack) {
        return fmt::format("{} stores {} bytes for {} live ones", one.name,
                           one.status.stored_bytes, one.status.mapped_bytes);
      }
      wanted += one.status.copies * (one.status.stored_bytes +
                                     one.status.block_count * kBlockOverhead + kInodeSize);
    }
  }
  std::uint64_t stored = 0;
  std::uint64_t inodes = 0;
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (!cluster_->peer_runs(peer)) continue;
    for (const BlockInfo& block : cluster_->node(peer).service()->store().list({})) {
      stored += block.size;
      if (block.ref.type == BlockType::inode) inodes += block.size;
    }
  }
  if (stored <= wanted) return "";
  return fmt::format("the peers store {} bytes, {} of them of INodes, the volumes know of {}", stored,
                     inodes, wanted);
}

void Scenario::expect_space_back() {
  expect_within(kSpaceBack, "the space that nobody needs is back",
                [this] { return space_problem(); });
}

/// With several copies, and all but one disk well, no read may end with a bad copy. That users try
/// again, and that bad copies are repaired, would hide it.
void Scenario::expect_bad_disk_unseen() {
  const Result<RingSpec> ring = cluster_->loop.run(cluster_->metadata().ring());
  if (verdict_.failed() || !ring.has_value() || ring->replication < 2) return;
  if (!options_.faults.contains("disk-mishaps")) return;
  const std::vector<std::size_t> up = running_peers();
  if (!faults_->keep_misreading(up[random_.below(up.size())])) return;
  for (int round = 0; round < kReadsOfBadDisk; ++round) {
    expect_within(kReadable, "all volumes read right", [this] {
      std::string problem;
      for (const auto& volume : volumes_) {
        Errc code = Errc::ok;
        const std::string found = read_all(*volume, &code);
        if (code == Errc::corrupt || code == Errc::io_error) {
          fail("a read did not find the good copy: " + found);
        }
        if (problem.empty()) problem = found;
      }
      return problem;
    });
  }
  faults_->repair_everything();
}

std::string Scenario::left_over() {
  for (std::size_t peer = 0; peer < cluster_->host_count(); ++peer) {
    if (!cluster_->peer_runs(peer)) continue;
    const std::vector<BlockInfo> blocks = cluster_->node(peer).service()->store().list({});
    if (blocks.empty()) continue;
    return fmt::format("{} holds {} blocks, the first is {}", SimCluster::peer_name(peer),
                       blocks.size(), blocks.front().ref.to_string());
  }
  const auto tombstones = cluster_->loop.run(cluster_->metadata().tombstones());
  if (!tombstones.has_value()) return tombstones.error().to_string();
  return tombstones->empty() ? "" : "there are tombstones";
}

void Scenario::expect_nothing_left() {
  for (const auto& volume : volumes_) volume->detach();
  std::set<std::string> there;
  for (const auto& volume : volumes_) there.insert(volume->name());
  expect_within(kAllGone, "all volumes are deleted", [&]() -> std::string {
    for (const auto& volume : volumes_) {
      if (!volume->idle()) return volume->name() + " is in use";
      if (!there.contains(volume->name())) continue;
      const auto deleted = cluster_->loop.run(cluster_->metadata().delete_volume(volume->name()));
      if (!deleted.has_value()) return deleted.error().to_string();
      there.erase(volume->name());
    }
    return left_over();
  });
}

}  // namespace agro
