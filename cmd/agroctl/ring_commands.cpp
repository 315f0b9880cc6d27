// agroctl ring: what the ring is made from, and changing that.
#include <fmt/format.h>

#include "agroctl/program.hpp"
#include "agroctl/ring_file.hpp"
#include "ring/placement.hpp"
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
    const bool is_target = index + 1 == ring.parts.size();
    add_members(view, ring.parts[index], is_target ? "new" : "old", table);
  }
}

/// What `ring manual-change --file` takes, too.
Json to_json(const ClusterView& view, const RingSpec& ring) {
  Json json = {{"version", ring.version},
               {"kind", ring_kind_name(ring.kind)},
               {"replication", ring.replication}};
  if (ring.planned_kind != RingKind::empty) json["planned_kind"] = ring_kind_name(ring.planned_kind);
  if (ring.group_count != 0) json["group_count"] = ring.group_count;
  json["members"] = Json::array();
  for (const RingMember& member : ring.members) {
    Json one = {{"id", member.id.to_string()},
                {"weight", member.weight},
                {"addresses", addresses_of(view, member.id)}};
    if (!member.labels.zone.empty()) one["zone"] = member.labels.zone;
    if (!member.labels.rack.empty()) one["rack"] = member.labels.rack;
    if (!member.labels.host.empty()) one["host"] = member.labels.host;
    json["members"].push_back(std::move(one));
  }
  if (ring.kind == RingKind::placement) json["overrides"] = Json::array();
  for (const RingOverride& one : ring.overrides) {
    Json ids = Json::array();
    for (const std::uint16_t member : one.members) ids.push_back(ring.members[member].id.to_string());
    json["overrides"].push_back({{"group", one.group}, {"members", std::move(ids)}});
  }
  if (ring.kind == RingKind::union_) {
    json["parts"] = Json::array();
    for (const RingSpec& part : ring.parts) json["parts"].push_back(to_json(view, part));
  }
  return json;
}

std::string more_of(const RingSpec& ring) {
  if (ring.kind == RingKind::placement) {
    return fmt::format(", {} groups, {} overridden", ring.group_count, ring.overrides.size());
  }
  if (ring.kind == RingKind::union_) {
    return fmt::format(", {} changes under way", ring.parts.size() - 1);
  }
  if (ring.planned_kind == RingKind::empty) return "";
  return fmt::format(", becomes {}", ring_kind_name(ring.planned_kind));
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
      fmt::format("version {}, kind {}, {} copies of each block{}\n", view.ring.version,
                  ring_kind_name(view.ring.kind), view.ring.replication, more_of(view.ring));
  co_return print(head + table.render(Format::text, "no members; 'agroctl peer add' adds some"));
}

struct ReplicationOptions {
  std::uint32_t replication = 0;
  bool force = false;
};

Task<void> set_replication(Session& session, ReplicationOptions options) {
  RingChange change;
  change.kind = RingChangeKind::set_replication;
  change.replication = options.replication;
  change.force = options.force;
  const std::string done = fmt::format("blocks get {} copies", options.replication);
  co_return co_await change_and_tell(session.metadata, std::move(change), done);
}

struct ManualOptions {
  std::string file;
  std::string kind;
  std::uint32_t replication = 0;  // 0: as it is
  bool force = false;
};

/// The ring that is to be, with another kind or number of copies.
Result<RingSpec> spec_of_options(const ClusterView& view, const ManualOptions& options) {
  RingSpec spec = target_of(view.ring);
  spec.overrides.clear();
  if (options.replication != 0) spec.replication = options.replication;
  if (options.kind.empty()) return spec;
  AGRO_TRY(const RingKind kind, parse_ring_kind(options.kind));
  RingKind& changed = spec.members.empty() ? spec.planned_kind : spec.kind;
  changed = kind;
  if (kind != RingKind::placement) spec.group_count = 0;
  if (kind == RingKind::placement && spec.group_count == 0) spec.group_count = kGroupCountDefault;
  return spec;
}

Task<void> manual_change(Session& session, ManualOptions options) {
  if (options.file.empty() == (options.kind.empty() && options.replication == 0)) {
    co_return fail(Errc::invalid_argument,
                   "say --file SPEC.json ('agroctl ring get --json' prints one), or --type and "
                   "--replication");
  }
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  RingChange change;
  change.kind = RingChangeKind::replace;
  change.force = options.force;
  if (options.file.empty()) {
    AGRO_CO_TRY(change.spec, spec_of_options(view, options));
  } else {
    AGRO_CO_TRY(change.spec, read_ring_file(options.file));
  }
  co_return co_await change_and_tell(session.metadata, std::move(change), "changed the ring");
}

void add_type_options(CLI::App& command, ManualOptions& options) {
  command.add_option("--type", options.kind, "placement, ketama, mod or single");
  command.add_option("--replication", options.replication, "copies of each block");
  command.add_flag("--force", options.force, "also what may lose data, or moves nearly everything");
}

}  // namespace

Task<void> change_and_tell(Metadata& metadata, RingChange change, std::string done) {
  AGRO_CO_TRY(const RingSpec ring, co_await change_ring(metadata, std::move(change)));
  const bool moving = ring.kind == RingKind::union_;
  co_return print(fmt::format("{}; the ring is version {} with {} members{}\n", done, ring.version,
                              target_of(ring).members.size(),
                              moving ? "; blocks are moved now, 'agroctl peer list' shows how far"
                                     : ""));
}

void add_ring_commands(CLI::App& app, Program& program) {
  CLI::App* ring = add_command(app, "ring", "show and change the ring");
  ring->require_subcommand(1);
  auto options = std::make_shared<GetOptions>();
  CLI::App* command = add_command(*ring, "get", "kind, version, replication and members");
  add_format_options(*command, options->format);
  on_command(program, *command, options, get);
  auto copies = std::make_shared<ReplicationOptions>();
  CLI::App* set = add_command(*ring, "set-replication", "change the number of copies of each block");
  set->add_option("copies", copies->replication, "1 to 16")->required()->check(CLI::Range(1, 16));
  set->add_flag("--force", copies->force, "also more copies than the ring has peers");
  on_command(program, *set, copies, set_replication);
  auto kind = std::make_shared<ManualOptions>();
  CLI::App* change = add_command(*ring, "change", "change the kind of the ring, with its members");
  add_type_options(*change, *kind);
  on_command(program, *change, kind, manual_change);
  auto manual = std::make_shared<ManualOptions>();
  CLI::App* by_hand = add_command(*ring, "manual-change", "replace the ring by one of your own");
  by_hand->add_option("--file", manual->file, "as 'ring get --json' prints it; - is standard input");
  add_type_options(*by_hand, *manual);
  on_command(program, *by_hand, manual, manual_change);
}

}  // namespace agro
