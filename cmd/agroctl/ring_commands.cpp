// agroctl ring: what the ring is made from.
#include <fmt/format.h>

#include "agroctl/program.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

struct GetOptions {
  Format format = Format::text;
};

std::vector<std::string> addresses_of(const ClusterView& view, const PeerId& id) {
  for (const PeerView& peer : view.peers) {
    if (peer.record.id == id) return peer.record.addresses;
  }
  return {};
}

/// A union's members are those of its parts, each under the part it belongs to.
void add_members(const ClusterView& view, const RingSpec& ring, const std::string& part,
                 Table& table) {
  for (const RingMember& member : ring.members) {
    table.add({number_cell(view.ring.version), Cell(std::string(ring_kind_name(view.ring.kind))),
               number_cell(view.ring.replication), Cell(part), Cell(member.id.to_string()),
               number_cell(member.weight), list_cell(addresses_of(view, member.id))});
  }
  for (std::size_t index = 0; index < ring.parts.size(); ++index) {
    add_members(view, ring.parts[index], index == 0 ? "old" : "new", table);
  }
}

Json to_json(const ClusterView& view, const RingSpec& ring) {
  Json json = {{"version", ring.version},
               {"kind", ring_kind_name(ring.kind)},
               {"replication", ring.replication}};
  json["members"] = Json::array();
  for (const RingMember& member : ring.members) {
    json["members"].push_back({{"id", member.id.to_string()},
                               {"weight", member.weight},
                               {"addresses", addresses_of(view, member.id)}});
  }
  if (ring.kind == RingKind::union_) {
    json["parts"] = Json::array();
    for (const RingSpec& part : ring.parts) json["parts"].push_back(to_json(view, part));
  }
  return json;
}

Task<void> get(Session& session, GetOptions options) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  if (options.format == Format::json) co_return print(render_json(to_json(view, view.ring)));
  const bool is_union = view.ring.kind == RingKind::union_;
  Table table({{"version", ""},
               {"kind", ""},
               {"replication", ""},
               {"part", is_union ? "PART" : ""},
               {"id", "MEMBER"},
               {"weight", "WEIGHT", true},
               {"addresses", "ADDRESS"}});
  add_members(view, view.ring, "", table);
  if (options.format == Format::csv) co_return print(table.to_csv());
  const std::string head =
      fmt::format("version {}, kind {}, {} copies of each block\n", view.ring.version,
                  ring_kind_name(view.ring.kind), view.ring.replication);
  co_return print(head + table.render(Format::text, "no members; 'agroctl peer add' adds some"));
}

}  // namespace

void add_ring_commands(CLI::App& app, Program& program) {
  CLI::App* ring = add_command(app, "ring", "show the ring");
  ring->require_subcommand(1);
  auto options = std::make_shared<GetOptions>();
  CLI::App* command = add_command(*ring, "get", "kind, version, replication and members");
  add_format_options(*command, options->format);
  on_command(program, *command, options, get);
}

}  // namespace agro
