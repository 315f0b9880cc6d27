#include "node/detached_copies.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "node/cluster_report.hpp"

namespace agro {
namespace {

constexpr Duration kAnswerLimit = std::chrono::seconds(3);

std::set<PeerId> alive_peers(const ClusterView& view) {
  std::set<PeerId> alive;
  for (const PeerView& peer : view.peers) {
    if (peer.alive) alive.insert(peer.record.id);
  }
  return alive;
}

/// Whether every block can have all its copies in its place: no change under way, no member dead.
bool is_whole(const ClusterView& view) {
  if (view.ring.kind == RingKind::union_) return false;
  const std::set<PeerId> alive = alive_peers(view);
  const std::vector<PeerId> members = ring_peers(view.ring);
  return std::all_of(members.begin(), members.end(),
                     [&alive](const PeerId& member) { return alive.contains(member); });
}

}  // namespace

Task<void> DetachedCopies::step() {
  AGRO_CO_TRY(VolumeEpochs volumes, co_await recorded());
  if (volumes.empty() || !is_whole(cluster_.view())) {
    asked_about_.clear();
    co_return Result<void>();
  }
  const std::set<PeerId> alive = alive_peers(cluster_.view());
  if (asked_about_ != volumes || asked_ != alive) {
    asked_about_.clear();
    asked_ = alive;
    AGRO_CO_TRY_OK(co_await tell_all_to_look());
    asked_about_ = std::move(volumes);
    co_return Result<void>();
  }
  AGRO_CO_TRY(const bool in_place, co_await all_in_place());
  if (!in_place || !is_whole(cluster_.view()) || alive_peers(cluster_.view()) != asked_) {
    co_return Result<void>();
  }
  asked_about_.clear();
  for (const auto& [volume, epoch] : volumes) {
    const Result<void> cleared = co_await cluster_.metadata().clear_degraded(volume, epoch);
    if (cleared.code() == Errc::conflict || cleared.code() == Errc::not_found) continue;
    if (!cleared.has_value()) co_return fail(cleared.error());
    log_info("volume {}: all blocks have their copies again", volume.value);
  }
  co_return Result<void>();
}

/// Volumes with such a record that nobody has open, and that the ring has members enough for.
Task<DetachedCopies::VolumeEpochs> DetachedCopies::recorded() {
  AGRO_CO_TRY(const std::vector<VolumePosition> positions, co_await cluster_.metadata().positions());
  const ClusterView& view = cluster_.view();
  const std::size_t member_count = ring_peers(view.ring).size();
  VolumeEpochs volumes;
  for (const VolumePosition& position : positions) {
    if (!position.degraded_copies.has_value() || position.locked) continue;
    for (const VolumeRecord& volume : view.volumes) {
      if (volume.id != position.volume || copy_count_of(volume, view.ring) > member_count) continue;
      volumes[position.volume] = position.epoch;
    }
  }
  co_return volumes;
}

Task<void> DetachedCopies::tell_all_to_look() {
  const std::vector<PeerId> peers(asked_.begin(), asked_.end());
  for (std::size_t index = 0; index < peers.size(); ++index) {
    const std::shared_ptr<Peer> peer = cluster_.peer(peers[index]);
    if (peer == nullptr) co_return fail(Errc::unavailable, "a peer has no address known here");
    AGRO_CO_TRY_OK(co_await peer->start(WorkKind::rebalance, env_.clock.now() + kAnswerLimit));
  }
  co_return Result<void>();
}

/// Whether each peer, since it was told, looked at all it holds and nothing was amiss.
Task<bool> DetachedCopies::all_in_place() {
  const std::uint64_t version = cluster_.view().ring.version;
  const std::vector<PeerId> peers(asked_.begin(), asked_.end());
  for (std::size_t index = 0; index < peers.size(); ++index) {
    const std::shared_ptr<Peer> peer = cluster_.peer(peers[index]);
    if (peer == nullptr) co_return false;
    AGRO_CO_TRY(const PeerReport report, co_await peer->report(env_.clock.now() + kAnswerLimit));
    const RebalanceReport& work = report.rebalance;
    if (work.settled_version != version || work.short_blocks > 0) co_return false;
  }
  co_return true;
}

}  // namespace agro
