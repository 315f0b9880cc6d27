// agroctl status: is the cluster well, and if not, why.
//
// Healthy means: every ring member is alive and answers, and at least as many as the ring's copies
// do.
#include <fmt/format.h>

#include <algorithm>

#include "agroctl/program.hpp"
#include "base/parallel.hpp"
#include "base/units.hpp"
#include "node/cluster_client.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

constexpr Duration kReachable = std::chrono::seconds(3);

struct StatusOptions {
  Format format = Format::text;
};

struct PeerReport {
  PeerView peer{};  // its record is empty but for the id when only the ring knows it
  bool in_ring = false;
  bool reachable = false;
  std::optional<StoreStats> store{};  // when it answered
  std::string problem{};              // why it did not
};

struct VolumeReport {
  VolumeRecord volume;
  std::uint32_t copies = 0;
  std::optional<VolumeLock> lock;
};

struct Report {
  ClusterView view;
  std::vector<PeerReport> peers;
  std::vector<VolumeReport> volumes;
  std::vector<std::string> problems;
  bool healthy = false;
};

Task<void> ask_peer(ClusterClient& client, PeerReport& report, TimePoint deadline, Clock& clock) {
  const std::shared_ptr<Peer> peer = client.peer(report.peer.record.id);
  if (peer == nullptr) {
    report.problem = "has no address that this agroctl knows";
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
  co_return Result<void>();
}

Task<void> ask_peers(Session& session, Report& report) {
  AGRO_CO_TRY(const std::unique_ptr<ClusterClient> client,
              co_await ClusterClient::start(session.env, session.kv));
  report.view = client->view();
  const std::vector<PeerId> members = ring_peers(report.view.ring);
  for (const PeerView& peer : report.view.peers) {
    const bool in_ring = std::binary_search(members.begin(), members.end(), peer.record.id);
    report.peers.push_back({.peer = peer, .in_ring = in_ring});
  }
  for (const PeerId& member : members) {
    const bool known = std::any_of(report.peers.begin(), report.peers.end(),
                                   [&](const auto& one) { return one.peer.record.id == member; });
    if (known) continue;
    PeerReport unknown;
    unknown.in_ring = true;
    unknown.peer.record.id = member;
    report.peers.push_back(std::move(unknown));
  }
  const TimePoint deadline = session.env.clock.now() + kReachable;
  const auto ask = [&](std::size_t index) {
    return ask_peer(*client, report.peers[index], deadline, session.env.clock);
  };
  const Result<void> asked = co_await for_each_parallel(report.peers.size(), 64, ask);
  co_await client->stop();
  co_return asked;
}

Task<void> look_at_volumes(Metadata& metadata, Report& report) {
  for (const VolumeRecord& volume : report.view.volumes) {
    const Result<std::optional<VolumeLock>> lock = co_await metadata.lock_of(volume.id);
    if (lock.code() == Errc::not_found) continue;  // deleted meanwhile
    if (!lock.has_value()) co_return fail(lock.error());
    report.volumes.push_back({volume, copy_count_of(volume, report.view.ring), *lock});
  }
  co_return Result<void>();
}

void judge(Report& report) {
  std::size_t member_count = 0;
  std::size_t well_count = 0;
  for (const PeerReport& peer : report.peers) {
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
  report.healthy = report.problems.empty();
  // From here on what somebody should know and no reason to call the cluster ill.
  for (const PeerReport& peer : report.peers) {
    if (!peer.store.has_value() || !peer.in_ring || peer.store->available > 0) continue;
    report.problems.push_back(fmt::format("peer {} is full", peer.peer.record.id.to_string()));
  }
  for (const VolumeReport& volume : report.volumes) {
    if (volume.copies <= well_count || volume.copies <= copies) continue;
    report.problems.push_back(fmt::format("volume {} wants {} copies and {} ring members are well",
                                          volume.volume.name, volume.copies, well_count));
  }
  for (const Tombstone& tombstone : report.view.tombstones) {
    report.problems.push_back(fmt::format("deleted volume {} is still to be removed from {} peers",
                                          tombstone.name, tombstone.peers.size()));
  }
}

std::string state_of(const PeerReport& peer) {
  if (!peer.peer.alive) return peer.reachable ? "dead, but answers" : "dead";
  return peer.reachable ? "well" : "unreachable";
}

Table peer_table(const Report& report) {
  Table table({{"id", "PEER"},
               {"addresses", "ADDRESS"},
               {"in_ring", "IN RING"},
               {"alive", ""},
               {"reachable", ""},
               {"state", "STATE"},
               {"size_bytes", "SIZE", true},
               {"used_bytes", "USED", true},
               {"block_count", "BLOCKS", true}});
  for (const PeerReport& peer : report.peers) {
    const PeerRecord& record = peer.peer.record;
    table.add({Cell(record.id.to_string()), list_cell(record.addresses), flag_cell(peer.in_ring),
               flag_cell(peer.peer.alive), flag_cell(peer.reachable), Cell(state_of(peer)),
               size_cell(peer.store ? peer.store->size : record.size),
               size_cell(peer.store ? peer.store->used : record.used),
               peer.store ? number_cell(peer.store->block_count) : Cell(nullptr, "?")});
  }
  return table;
}

Table volume_table(const Report& report) {
  Table table({{"name", "VOLUME"},
               {"size_bytes", "SIZE", true},
               {"copies", "COPIES", true},
               {"open_by", "OPEN BY"}});
  for (const VolumeReport& one : report.volumes) {
    table.add({Cell(one.volume.name), size_cell(one.volume.size), number_cell(one.copies),
               one.lock ? Cell(one.lock->holder) : Cell(nullptr, "-")});
  }
  return table;
}

Json to_json(const Report& report) {
  const ClusterRecord& cluster = *report.view.cluster;
  const RingSpec& ring = report.view.ring;
  Json json = {{"healthy", report.healthy}, {"problems", report.problems}};
  json["cluster"] = {{"id", cluster.id.to_string()},
                     {"block_size_bytes", cluster.block_size},
                     {"block_spec", cluster.block_spec},
                     {"created", time_cell(cluster.created_unix_ms).value}};
  json["ring"] = {{"version", ring.version},
                  {"kind", ring_kind_name(ring.kind)},
                  {"replication", ring.replication},
                  {"member_count", ring_peers(ring).size()}};
  json["peers"] = peer_table(report).to_json();
  json["volumes"] = volume_table(report).to_json();
  return json;
}

/// One table of everything, for spreadsheets and scripts.
std::string to_csv(const Report& report) {
  Table table({{"kind", ""},
               {"name", ""},
               {"state", ""},
               {"size_bytes", ""},
               {"used_bytes", ""},
               {"detail", ""}});
  const Cell none(nullptr, "");
  table.add({Cell("cluster"), Cell(report.view.cluster->id.to_string()),
             Cell(report.healthy ? "healthy" : "unhealthy"), none, none, none});
  for (const PeerReport& peer : report.peers) {
    const PeerRecord& record = peer.peer.record;
    table.add({Cell("peer"), Cell(record.id.to_string()), Cell(state_of(peer)),
               size_cell(peer.store ? peer.store->size : record.size),
               size_cell(peer.store ? peer.store->used : record.used),
               Cell(peer.in_ring ? "in ring" : "not in ring")});
  }
  for (const VolumeReport& one : report.volumes) {
    table.add({Cell("volume"), Cell(one.volume.name), Cell(one.lock ? "open" : "idle"),
               size_cell(one.volume.size), none, one.lock ? Cell(one.lock->holder) : none});
  }
  for (const std::string& problem : report.problems) {
    table.add({Cell("problem"), none, none, none, none, Cell(problem)});
  }
  return table.to_csv();
}

std::string to_text(const Report& report) {
  const ClusterRecord& cluster = *report.view.cluster;
  const RingSpec& ring = report.view.ring;
  std::string out = fmt::format("cluster {}, blocks of {}, {}\n", cluster.id.to_string(),
                                format_size(cluster.block_size), cluster.block_spec);
  out += fmt::format("ring version {}, {}, {} members, {} copies\n\n", ring.version,
                     ring_kind_name(ring.kind), ring_peers(ring).size(), ring.replication);
  out += peer_table(report).render(Format::text, "no peers") + "\n";
  out += volume_table(report).render(Format::text, "no volumes") + "\n";
  for (const std::string& problem : report.problems) out += "! " + problem + "\n";
  out += report.healthy ? "healthy\n" : "unhealthy\n";
  return out;
}

Task<void> status(Session& session, StatusOptions options) {
  Report report;
  AGRO_CO_TRY_OK(co_await ask_peers(session, report));
  AGRO_CO_TRY_OK(co_await look_at_volumes(session.metadata, report));
  judge(report);
  const std::string text = options.format == Format::json  ? render_json(to_json(report))
                           : options.format == Format::csv ? to_csv(report)
                                                           : to_text(report);
  AGRO_CO_TRY_OK(print(text));
  if (report.healthy) co_return Result<void>();
  co_return fail(Errc::unavailable, "the cluster is not healthy: " + report.problems.front());
}

}  // namespace

void add_status_command(CLI::App& app, Program& program) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command =
      add_command(app, "status", "cluster, peers and volumes; exit status 0 only when all is well");
  add_format_options(*command, options->format);
  on_command(program, *command, options, status);
}

}  // namespace agro
