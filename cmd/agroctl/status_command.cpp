// agroctl status: is the cluster well, and if not, why (node/cluster_report), for people and programs.
#include <fmt/format.h>

#include "agroctl/program.hpp"
#include "base/units.hpp"
#include "common/cluster_json.hpp"
#include "node/cluster_report.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

struct StatusOptions {
  Format format = Format::text;
};

Table peer_table(const ClusterReport& report) {
  Table table({{"id", "PEER"},
               {"addresses", "ADDRESS"},
               {"in_ring", "IN RING"},
               {"alive", ""},
               {"reachable", ""},
               {"state", "STATE"},
               {"size_bytes", "SIZE", true},
               {"used_bytes", "USED", true},
               {"block_count", "BLOCKS", true}});
  for (const ReportedPeer& peer : report.peers) {
    const PeerRecord& record = peer.peer.record;
    table.add({Cell(record.id.to_string()), list_cell(record.addresses), flag_cell(peer.in_ring),
               flag_cell(peer.peer.alive), flag_cell(peer.reachable), Cell(peer_state_name(peer)),
               size_cell(peer.store ? peer.store->size : record.size),
               size_cell(peer.store ? peer.store->used : record.used),
               peer.store ? number_cell(peer.store->block_count) : Cell(nullptr, "?")});
  }
  return table;
}

Table volume_table(const ClusterReport& report) {
  Table table({{"name", "VOLUME"},
               {"size_bytes", "SIZE", true},
               {"copies", "COPIES", true},
               {"open_by", "OPEN BY"}});
  for (const ReportedVolume& one : report.volumes) {
    table.add({Cell(one.volume.name), size_cell(one.volume.size), number_cell(one.copies),
               one.lock ? Cell(one.lock->holder) : Cell(nullptr, "-")});
  }
  return table;
}

/// One table of everything, for spreadsheets and scripts.
std::string to_csv(const ClusterReport& report) {
  Table table({{"kind", ""},
               {"name", ""},
               {"state", ""},
               {"size_bytes", ""},
               {"used_bytes", ""},
               {"detail", ""}});
  const Cell none(nullptr, "");
  table.add({Cell("cluster"), Cell(report.view.cluster->id.to_string()),
             Cell(report.healthy ? "healthy" : "unhealthy"), none, none, none});
  for (const ReportedPeer& peer : report.peers) {
    const PeerRecord& record = peer.peer.record;
    table.add({Cell("peer"), Cell(record.id.to_string()), Cell(peer_state_name(peer)),
               size_cell(peer.store ? peer.store->size : record.size),
               size_cell(peer.store ? peer.store->used : record.used),
               Cell(peer.in_ring ? "in ring" : "not in ring")});
  }
  for (const ReportedVolume& one : report.volumes) {
    table.add({Cell("volume"), Cell(one.volume.name), Cell(one.lock ? "open" : "idle"),
               size_cell(one.volume.size), none, one.lock ? Cell(one.lock->holder) : none});
  }
  for (const std::string& problem : report.problems) {
    table.add({Cell("problem"), none, none, none, none, Cell(problem)});
  }
  return table.to_csv();
}

std::string to_text(const ClusterReport& report) {
  const ClusterRecord& cluster = *report.view.cluster;
  const RingSpec& ring = report.view.ring;
  std::string out = fmt::format("cluster {}, blocks of {}, {}\n", cluster.id.to_string(),
                                format_size(cluster.block_size), cluster.block_spec);
  out += fmt::format("ring version {}, {}, {} members, {} copies\n", ring.version,
                     ring_kind_name(ring.kind), ring_peers(ring).size(), ring.replication);
  out += fmt::format("{} distinct replica sets: when {} random peers are lost at once, data is lost "
                     "with a chance of {:.3g} %\n\n",
                     report.risk.set_count, ring.replication, 100 * report.risk.chance);
  out += peer_table(report).render(Format::text, "no peers") + "\n";
  out += volume_table(report).render(Format::text, "no volumes") + "\n";
  for (const std::string& problem : report.problems) out += "! " + problem + "\n";
  out += report.healthy ? "healthy\n" : "unhealthy\n";
  return out;
}

Task<void> status(Session& session, StatusOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<ClusterClient> client,
              co_await ClusterClient::start(session.env, session.kv));
  const Result<ClusterReport> gathered = co_await gather_cluster_report(session.env, *client);
  co_await client->stop();
  if (!gathered.has_value()) co_return fail(gathered.error());
  const ClusterReport& report = *gathered;
  const std::string text = options.format == Format::json  ? render_json(status_json(report))
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
