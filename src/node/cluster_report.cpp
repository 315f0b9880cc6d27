#include "node/cluster_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/parallel.hpp"
#include "base/units.hpp"
#include "blockset/blockset.hpp"
#include "node/ring_change.hpp"

namespace agro {
namespace {

constexpr Duration kReachable = std::chrono::seconds(3);

Task<void> ask_peer(ClusterClient& client, ReportedPeer& report, TimePoint deadline, Clock& clock) {
  const std::shared_ptr<Peer> peer = client.peer(report.peer.record.id);
  if (peer == nullptr) {
    report.problem = "has no address that this program knows";
    co_return Result<void>();
  }
  // A dead peer gets one short chance: its lease may have ended for other reasons.
  const TimePoint patience =
      report.peer.alive ? deadline : clock.now() + std::chrono::milliseconds(300);
  while (!peer->connected() && clock.now() < patience) {
    co_await sleep_for(clock, std::chrono::milliseconds(5));
  }
  const Result<PeerStat> stat = co_await peer->stat(deadline);
  report.reachable = stat.has_value();
  if (stat.has_value()) report.store = stat->store;
  if (!stat.has_value()) report.problem = stat.error().message;
  if (!stat.has_value()) co_return Result<void>();
  const Result<PeerReport> work = co_await peer->report(deadline);
  if (work.has_value()) report.work = *work;
  co_return Result<void>();
}

Task<void> ask_peers(Env& env, ClusterClient& client, ClusterReport& report) {
  const std::vector<PeerId> members = ring_peers(report.view.ring);
  for (const PeerView& peer : report.view.peers) {
    const bool in_ring = std::binary_search(members.begin(), members.end(), peer.record.id);
    report.peers.push_back({.peer = peer, .in_ring = in_ring});
  }
  for (const PeerId& member : members) {
    const bool known = std::any_of(report.peers.begin(), report.peers.end(),
                                   [&](const auto& one) { return one.peer.record.id == member; });
    if (known) continue;
    ReportedPeer unknown;
    unknown.in_ring = true;
    unknown.peer.record.id = member;
    report.peers.push_back(std::move(unknown));
  }
  const TimePoint deadline = env.clock.now() + kReachable;
  const auto ask = [&](std::size_t index) {
    return ask_peer(client, report.peers[index], deadline, env.clock);
  };
  co_return co_await for_each_parallel(report.peers.size(), 64, ask);
}

Task<void> look_at_volumes(Metadata& metadata, ClusterReport& report) {
  std::map<VolumeId, std::uint32_t> recorded;
  AGRO_CO_TRY(const std::vector<VolumePosition> positions, co_await metadata.positions());
  for (const VolumePosition& position : positions) {
    if (position.degraded_copies.has_value()) recorded[position.volume] = *position.degraded_copies;
  }
  for (const VolumeRecord& volume : report.view.volumes) {
    const Result<std::optional<VolumeLock>> lock = co_await metadata.lock_of(volume.id);
    if (lock.code() == Errc::not_found) continue;  // deleted meanwhile
    if (!lock.has_value()) co_return fail(lock.error());
    ReportedVolume reported{volume, copy_count_of(volume, report.view.ring), *lock};
    if (lock->has_value()) {
      AGRO_CO_TRY(reported.health, co_await metadata.health_of(volume.id));
    } else if (const auto found = recorded.find(volume.id); found != recorded.end()) {
      reported.health = fmt::format("degraded: {} of {} copies are sure", found->second, reported.copies);
    }
    report.volumes.push_back(std::move(reported));
  }
  co_return Result<void>();
}

/// What is not where it belongs, or lost.
void judge_work(ClusterReport& report) {
  const RingSpec& ring = report.view.ring;
  if (ring.kind == RingKind::union_) {
    report.problems.push_back(
        fmt::format("ring {} is being changed: blocks are moving to their new places", ring.version));
  }
  for (const ReportedPeer& peer : report.peers) {
    if (!peer.work.has_value()) continue;
    const std::string id = peer.peer.record.id.to_string();
    if (!peer.work->store_problem.empty()) {
      report.problems.push_back(fmt::format("peer {} takes no writes: {}; check its disk, start it again",
                                            id, peer.work->store_problem));
    }
    const RebalanceReport& rebalance = peer.work->rebalance;
    if (rebalance.blocks_left > 0) {
      report.problems.push_back(
          fmt::format("peer {} holds {} blocks that are misplaced or lack copies ({} to move){}{}", id,
                      rebalance.blocks_left, format_size(rebalance.bytes_left),
                      rebalance.problem.empty() ? "" : ": ", rebalance.problem));
    } else if (rebalance.settled_version < ring.version) {
      report.problems.push_back(
          fmt::format("peer {} is still looking whether its blocks are in their places", id));
    }
    const ScrubReport& scrub = peer.work->scrub;
    if (scrub.lost_blocks > 0) {
      report.problems.push_back(
          fmt::format("peer {} has {} damaged blocks without a good copy anywhere", id,
                      scrub.lost_blocks));
    }
    if (!scrub.problem.empty()) {
      report.problems.push_back(fmt::format("peer {}: scrub: {}", id, scrub.problem));
    }
  }
}

void judge(ClusterReport& report) {
  std::size_t member_count = 0;
  std::size_t well_count = 0;
  for (const ReportedPeer& peer : report.peers) {
    if (!peer.in_ring) continue;
    ++member_count;
    const std::string id = peer.peer.record.id.to_string();
    if (!peer.peer.alive) {
      report.problems.push_back(fmt::format("peer {} is dead; start it again or remove it", id));
    } else if (!peer.reachable) {
      report.problems.push_back(fmt::format("peer {} cannot be reached: {}", id, peer.problem));
    } else {
      ++well_count;
    }
  }
  const std::uint32_t copies = report.view.ring.replication;
  if (member_count == 0) {
    report.problems.push_back("the ring has no members; 'agroctl peer add' adds some");
  } else if (well_count < copies) {
    report.problems.push_back(fmt::format("{} of {} ring members are well, too few for {} copies",
                                          well_count, member_count, copies));
  }
  judge_work(report);
  for (const ReportedVolume& volume : report.volumes) {
    if (volume.health.empty()) continue;
    report.problems.push_back(fmt::format("volume {} is {}", volume.volume.name, volume.health));
  }
  report.healthy = report.problems.empty();
  // From here on what somebody should know and no reason to call the cluster ill.
  for (const ReportedPeer& peer : report.peers) {
    if (!peer.store.has_value() || !peer.in_ring || peer.store->available > 0) continue;
    report.problems.push_back(fmt::format("peer {} is full", peer.peer.record.id.to_string()));
  }
  for (const RingMember& member : target_of(report.view.ring).members) {
    const auto peer = std::find_if(report.peers.begin(), report.peers.end(), [&](const auto& one) {
      return one.peer.record.id == member.id && one.peer.record.size > 0;
    });
    if (peer == report.peers.end() || ring_member_of(peer->peer.record) == member) continue;
    const std::string id = member.id.to_string();
    report.problems.push_back(fmt::format("peer {} is in the ring with another size or other labels than "
                                          "it has; 'agroctl peer add {}' takes them over", id, id));
  }
  for (const ReportedVolume& volume : report.volumes) {
    if (volume.copies <= well_count || volume.copies <= copies) continue;
    report.problems.push_back(fmt::format("volume {} wants {} copies and {} ring members are well",
                                          volume.volume.name, volume.copies, well_count));
  }
  for (const ReportedPeer& peer : report.peers) {
    if (!peer.work.has_value() || peer.work->gc.problem.empty()) continue;
    report.problems.push_back(fmt::format("peer {}: gc: {}", peer.peer.record.id.to_string(),
                                          peer.work->gc.problem));
  }
  for (const Tombstone& tombstone : report.view.tombstones) {
    report.problems.push_back(fmt::format("deleted volume {} is still to be removed from {} peers",
                                          tombstone.name, tombstone.peers.size()));
  }
}

}  // namespace

Task<ClusterReport> gather_cluster_report(Env& env, ClusterClient& client) {
  ClusterReport report;
  report.view = client.view();
  AGRO_CO_TRY_OK(co_await ask_peers(env, client, report));
  AGRO_CO_TRY_OK(co_await look_at_volumes(client.metadata(), report));
  const Result<std::shared_ptr<const Ring>> ring = make_ring(report.view.ring);
  if (ring.has_value()) report.risk = loss_risk(**ring);
  judge(report);
  co_return report;
}

std::string peer_state_name(const ReportedPeer& peer) {
  if (!peer.peer.alive) return peer.reachable ? "dead, but answers" : "dead";
  return peer.reachable ? "well" : "unreachable";
}

std::uint32_t copy_count_of(const VolumeRecord& volume, const RingSpec& ring) {
  const Result<BlocksetSpec> spec = parse_blockset_spec(volume.block_spec);
  if (spec.has_value()) {
    for (const LayerSpec& layer : spec->layers) {
      if (layer.kind == LayerKind::replication) return layer.argument;
    }
  }
  return volume.replication > 0 ? volume.replication : ring.replication;
}

}  // namespace agro
