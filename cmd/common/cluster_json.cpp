#include "common/cluster_json.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "ring/ring.hpp"

namespace agro {
namespace {

Json time_json(std::int64_t unix_ms) {
  if (unix_ms == 0) return nullptr;
  const auto seconds = static_cast<std::time_t>(unix_ms / 1000);
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(seconds));
}

Json members_json(const RingSpec& ring) {
  Json members = Json::array();
  for (const RingMember& member : ring.members) {
    members.push_back({{"id", member.id.to_string()}, {"weight", member.weight}});
  }
  return members;
}

Json ring_summary(const RingSpec& ring) {
  Json json = {{"version", ring.version},
               {"kind", ring_kind_name(ring.kind)},
               {"replication", ring.replication},
               {"member_count", ring_peers(ring).size()}};
  if (ring.group_count != 0) json["group_count"] = ring.group_count;
  return json;
}

/// As the last line of `agroctl peer list`: nothing is on its way to another peer.
bool is_balanced(const ClusterReport& report) {
  bool balanced = report.view.ring.kind != RingKind::union_;
  for (const ReportedPeer& peer : report.peers) {
    balanced &= peer.peer.alive || !peer.in_ring;
    if (!peer.work.has_value()) continue;
    const RebalanceReport& work = peer.work->rebalance;
    balanced &= work.blocks_left == 0 && work.bytes_left == 0;
  }
  return balanced;
}

Json ring_and_risk(const ClusterReport& report) {
  Json json = ring_summary(report.view.ring);
  json["replica_set_count"] = report.risk.set_count;
  json["loss_chance"] = report.risk.chance;
  return json;
}

}  // namespace

Json peers_json(const ClusterReport& report) {
  Json peers = Json::array();
  for (const ReportedPeer& peer : report.peers) {
    const PeerRecord& record = peer.peer.record;
    peers.push_back({{"id", record.id.to_string()},
                     {"addresses", record.addresses},
                     {"in_ring", peer.in_ring},
                     {"alive", peer.peer.alive},
                     {"reachable", peer.reachable},
                     {"state", peer_state_name(peer)},
                     {"size_bytes", peer.store ? peer.store->size : record.size},
                     {"used_bytes", peer.store ? peer.store->used : record.used},
                     {"block_count", peer.store ? Json(peer.store->block_count) : Json(nullptr)},
                     {"started", time_json(record.started_unix_ms)},
                     {"updated", time_json(record.updated_unix_ms)},
                     {"zone", record.labels.zone},
                     {"rack", record.labels.rack},
                     {"host", record.labels.host}});
  }
  return peers;
}

Json ring_json(const ClusterReport& report) {
  Json json = ring_and_risk(report);
  json["members"] = members_json(report.view.ring);
  json["parts"] = Json::array();
  for (const RingSpec& part : report.view.ring.parts) {
    Json one = ring_summary(part);
    one["members"] = members_json(part);
    json["parts"].push_back(std::move(one));
  }
  return json;
}

Json volumes_json(const ClusterReport& report) {
  Json volumes = Json::array();
  for (const ReportedVolume& one : report.volumes) {
    volumes.push_back({{"name", one.volume.name},
                       {"size_bytes", one.volume.size},
                       {"copies", one.copies},
                       {"open_by", one.lock ? Json(one.lock->holder) : Json(nullptr)}});
  }
  return volumes;
}

namespace {

Json work_of(const PeerReport& work) {
  const RebalanceReport& rebalance = work.rebalance;
  const ScrubReport& scrub = work.scrub;
  const GcReport& gc = work.gc;
  return {{"peer", work.id.to_string()},
          {"ring_version", work.ring_version},
          {"store_problem", work.store_problem},
          {"rebalance",
           {{"running", rebalance.running},
            {"settled_version", rebalance.settled_version},
            {"blocks_left", rebalance.blocks_left},
            {"bytes_left", rebalance.bytes_left},
            {"blocks_moved", rebalance.blocks_moved},
            {"bytes_moved", rebalance.bytes_moved},
            {"bytes_per_second", rebalance.bytes_per_second},
            {"short_blocks", rebalance.short_blocks},
            {"problem", rebalance.problem}}},
          {"scrub",
           {{"running", scrub.running},
            {"bytes_done", scrub.bytes_done},
            {"bytes_total", scrub.bytes_total},
            {"bad_blocks", scrub.bad_blocks},
            {"repaired_blocks", scrub.repaired_blocks},
            {"lost_blocks", scrub.lost_blocks},
            {"started", time_json(scrub.started_unix_ms)},
            {"finished", time_json(scrub.finished_unix_ms)},
            {"problem", scrub.problem}}},
          {"gc",
           {{"running", gc.running},
            {"condemned_blocks", gc.condemned_blocks},
            {"deleted_blocks", gc.deleted_blocks},
            {"deleted_bytes", gc.deleted_bytes},
            {"finished", time_json(gc.finished_unix_ms)},
            {"problem", gc.problem}}}};
}

}  // namespace

Json work_json(const ClusterReport& report) {
  Json peers = Json::array();
  for (const ReportedPeer& peer : report.peers) {
    if (peer.work.has_value()) peers.push_back(work_of(*peer.work));
  }
  Json removals = Json::array();
  for (const Tombstone& tombstone : report.view.tombstones) {
    Json left = Json::array();
    for (const PeerId& peer : tombstone.peers) left.push_back(peer.to_string());
    removals.push_back({{"volume", tombstone.name},
                        {"deleted", time_json(tombstone.deleted_unix_ms)},
                        {"peers_left", std::move(left)}});
  }
  return {{"ring_changing", report.view.ring.kind == RingKind::union_},
          {"peers", std::move(peers)},
          {"removals", std::move(removals)}};
}

Json status_json(const ClusterReport& report) {
  const ClusterRecord& cluster = *report.view.cluster;
  Json json = {{"healthy", report.healthy},
               {"balanced", is_balanced(report)},
               {"problems", report.problems}};
  json["cluster"] = {{"id", cluster.id.to_string()},
                     {"block_size_bytes", cluster.block_size},
                     {"block_spec", cluster.block_spec},
                     {"created", time_json(cluster.created_unix_ms)}};
  json["ring"] = ring_and_risk(report);
  json["peers"] = peers_json(report);
  json["volumes"] = volumes_json(report);
  return json;
}

}  // namespace agro
