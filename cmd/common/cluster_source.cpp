#include "common/cluster_source.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "common/cluster_json.hpp"
#include "common/original_series.hpp"

namespace agro {
namespace {

constexpr Duration kFresh = std::chrono::seconds(1);

Json attached_json(const std::vector<VolumeManager::Attached>& attached) {
  Json json = Json::array();
  for (const VolumeManager::Attached& one : attached) {
    const VolumeStatus& status = one.status;
    json.push_back({{"name", one.name},
                        {"mapped_bytes", status.mapped_bytes},
                        {"stored_bytes", status.stored_bytes},
                        {"block_count", status.block_count},
                        {"log_bytes", status.log_bytes},
                        {"cleaned_bytes", status.cleaned_bytes},
                        {"suspended", status.suspended},
                        {"failed", status.failed}});
  }
  return json;
}

}  // namespace

void ClusterSource::add_store_metrics(MetricsSnapshot& snapshot, const PeerNode& peer) const {
  const StoreStats stats = peer.stats();
  const MetricLabels label{{"peer", peer.id().to_string()}};
  const auto gauge = [&](const char* name, const char* help, std::uint64_t value) {
    snapshot.gauge(name, help, static_cast<double>(value), label);
  };
  gauge("agro_store_size_bytes", "Bytes that the store may use", stats.size);
  gauge("agro_store_used_bytes", "Bytes that blocks take in the store", stats.used);
  gauge("agro_store_available_bytes", "Bytes that the store can still take", stats.available);
  gauge("agro_store_blocks", "Blocks in the store", stats.block_count);
  gauge("agro_store_index_bytes", "Memory of the store's index", stats.index_bytes);
  snapshot.counter("agro_store_syncs_total", "Syncs of the store's files",
                   static_cast<double>(stats.sync_count), label);
  snapshot.counter("agro_store_written_bytes_total", "Bytes written to the store's files",
                   static_cast<double>(stats.bytes_written), label);
  const PeerReport work = peer.service()->report();
  gauge("agro_rebalance_blocks_left", "Copies to make or to give up", work.rebalance.blocks_left);
  gauge("agro_rebalance_short_blocks", "Blocks held here whose other owners were not all alive",
        work.rebalance.short_blocks);
  gauge("agro_scrub_bad_blocks", "Bad blocks that the last scrub found", work.scrub.bad_blocks);
  gauge("agro_scrub_lost_blocks", "Blocks that it found no good copy of", work.scrub.lost_blocks);
  snapshot.counter("agro_gc_deleted_bytes_total", "Bytes that gc deleted",
                   static_cast<double>(work.gc.deleted_bytes), label);
  gauge("agro_peer_registered", "Whether the peer's lease is held", peer.registered() ? 1 : 0);
}

void ClusterSource::add_volume_metrics(const std::vector<VolumeManager::Attached>& attached, MetricsSnapshot& snapshot) {
  for (const VolumeManager::Attached& one : attached) {
    const auto gauge = [&](const char* name, const char* help, std::uint64_t value) {
      snapshot.gauge(name, help, static_cast<double>(value), {{"volume", one.name}});
    };
    const VolumeStatus& status = one.status;
    gauge("agro_volume_mapped_bytes", "Bytes of an attached volume that hold data",
          status.mapped_bytes);
    gauge("agro_volume_stored_bytes", "Bytes of its blocks, live or not, one copy",
          status.stored_bytes);
    gauge("agro_volume_blocks", "Blocks of an attached volume", status.block_count);
    gauge("agro_volume_map_memory_bytes", "Memory of its extent map", status.map_memory_bytes);
    gauge("agro_volume_log_bytes", "Bytes of its log since the last checkpoint", status.log_bytes);
    gauge("agro_volume_suspended", "Whether its writes wait", status.suspended.empty() ? 0 : 1);
    gauge("agro_volume_failed", "Whether its device failed", status.failed.empty() ? 0 : 1);
  }
  snapshot.gauge("agro_volumes_attached", "Volumes attached in this process",
                 static_cast<double>(attached.size()));
}

void ClusterSource::add_cluster_metrics(MetricsSnapshot& snapshot) const {
  const ClusterView& view = cluster_.view();
  const auto gauge = [&](const char* name, const char* help, auto value) {
    snapshot.gauge(name, help, static_cast<double>(value));
  };
  const auto alive_count = std::count_if(view.peers.begin(), view.peers.end(),
                                         [](const PeerView& peer) { return peer.alive; });
  const Space space = cluster_.distributor().space();
  gauge("agro_space_size_bytes", "Bytes that all ring members may use", space.size);
  gauge("agro_space_used_bytes", "Bytes that all ring members use", space.used);
  gauge("agro_space_available_bytes", "Bytes left for blocks with all their copies",
        space.available);
  gauge("agro_ring_version", "Version of the ring in use", view.ring.version);
  gauge("agro_ring_members", "Members of the ring in use", ring_peers(view.ring).size());
  gauge("agro_ring_changing", "Whether the ring is being changed",
        view.ring.kind == RingKind::union_ ? 1 : 0);
  gauge("agro_cluster_peers", "Peers with a record in the metadata", view.peers.size());
  gauge("agro_cluster_peers_alive", "Peers whose lease is held", alive_count);
  gauge("agro_cluster_volumes", "Volumes of the cluster", view.volumes.size());
}

Awaitable<void> ClusterSource::add_metrics(MetricsSnapshot& snapshot) {
  for (const PeerNode* peer : peers_) add_store_metrics(snapshot, *peer);
  if (loops_ != nullptr) {
    const LoopReport report = co_await loops_->report();
    snapshot.merge(report.metrics);
    add_volume_metrics(report.attached, snapshot);
  }
  add_cluster_metrics(snapshot);
  add_original_series(snapshot, cluster_.cluster().block_size);
}

std::vector<http::ReadyCheck> ClusterSource::readiness() {
  std::vector<http::ReadyCheck> checks;
  for (const PeerNode* peer : peers_) {
    const std::string id = peer->id().to_string();
    checks.push_back({fmt::format("peer {} is registered", id),
                      peer->registered() ? "" : "its lease is not held; is the metadata in reach?"});
    const std::string problem = peer->store_problem();
    checks.push_back({fmt::format("peer {} has its store open", id),
                      peer->stats().size > 0 ? problem : "it is not open"});
  }
  const RingSpec& ring = cluster_.view().ring;
  const std::vector<PeerId> members = ring_peers(ring);
  checks.push_back({"the ring is known",
                    members.empty() ? "it has no members; 'agroctl peer add' adds some" : ""});
  if (loops_ == nullptr) return checks;
  const auto connected_count =
      static_cast<std::size_t>(std::count_if(members.begin(), members.end(), [&](const PeerId& id) {
        const std::shared_ptr<Peer> peer = cluster_.peer(id);
        return peer != nullptr && peer->connected();
      }));
  const bool enough = connected_count >= ring.replication;
  checks.push_back({"enough peers are connected",
                    enough ? "" : fmt::format("{} of {} ring members, too few for {} copies",
                                              connected_count, members.size(), ring.replication)});
  return checks;
}

std::vector<std::string> ClusterSource::topics() const {
  return {"peers", "ring", "volumes", "work", "status"};
}

Task<void> ClusterSource::refresh() {
  // The guard must not be a temporary of the await.
  const AsyncMutex::Guard guard = co_await asking_.lock();
  if (report_.has_value() && env_.clock.now() < asked_at_ + kFresh) co_return Result<void>();
  AGRO_CO_TRY(ClusterReport report, co_await gather_cluster_report(env_, cluster_));
  report_ = std::move(report);
  asked_at_ = env_.clock.now();
  co_return Result<void>();
}

namespace {

Json answer_json(const std::string& topic, const ClusterReport& report, const std::vector<VolumeManager::Attached>& attached) {
  if (topic == "peers") return peers_json(report);
  if (topic == "ring") return ring_json(report);
  if (topic == "status") return status_json(report);
  if (topic == "work") return work_json(report);
  return {{"volumes", volumes_json(report)}, {"attached_here", attached_json(attached)}};
}

}  // namespace

Task<std::string> ClusterSource::answer(std::string topic) {
  AGRO_CO_TRY_OK(co_await refresh());
  LoopReport loops;
  if (loops_ != nullptr) loops = co_await loops_->report();
  co_return answer_json(topic, *report_, loops.attached)
          .dump(2, ' ', false, Json::error_handler_t::replace) +
      "\n";
}

Result<std::vector<Address>> http_addresses(const std::vector<std::string>& texts) {
  std::vector<Address> addresses;
  for (const std::string& text : texts) {
    AGRO_TRY(const Address address, http::parse_http_address(text));
    addresses.push_back(address);
  }
  return addresses;
}

}  // namespace agro
