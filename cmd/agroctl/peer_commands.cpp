// agroctl peer: list, add to the ring, remove or drain from it.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "agroctl/program.hpp"
#include "base/parallel.hpp"
#include "base/units.hpp"
#include "distributor/peer_address.hpp"
#include "node/cluster_client.hpp"
#include "node/ring_change.hpp"

namespace agro {
namespace {

constexpr Duration kReachable = std::chrono::seconds(1);

struct ListOptions {
  Format format = Format::text;
};

struct AddOptions {
  std::vector<std::string> peers;
  bool all = false;
  bool force = false;
  std::uint64_t weight = 0;  // 0: by size
};

struct RemoveOptions {
  std::vector<std::string> peers;
  bool force = false;
};

bool is_in_ring(const RingSpec& ring, const PeerId& peer) {
  const std::vector<PeerId> members = ring_peers(ring);
  return std::binary_search(members.begin(), members.end(), peer);
}

/// Whether its blocks stay with it: of a union, in the part that is to be.
bool is_in_target(const RingSpec& ring, const PeerId& peer) {
  return is_in_ring(target_of(ring), peer);
}

/// "in ring", "joining" (not in all parts of a change), "leaving" (not in the last), "not in ring";
/// "down" when it should be there and is not alive.
std::string member_state(const RingSpec& ring, const PeerView& peer) {
  const PeerId& id = peer.record.id;
  if (!is_in_ring(ring, id)) return "not in ring";
  if (!peer.alive) return "down";
  if (!is_in_target(ring, id)) return "leaving";
  const bool everywhere = std::all_of(ring.parts.begin(), ring.parts.end(),
                                      [&id](const RingSpec& part) { return is_in_ring(part, id); });
  return everywhere ? "in ring" : "joining";
}

using Reports = std::map<PeerId, PeerReport>;

Task<void> ask_peer(ClusterClient& client, PeerId id, TimePoint deadline, Clock& clock,
                    Reports& reports) {
  const std::shared_ptr<Peer> peer = client.peer(id);
  while (peer != nullptr && !peer->connected() && clock.now() < deadline) {
    co_await sleep_for(clock, std::chrono::milliseconds(5));
  }
  if (peer == nullptr) co_return Result<void>();
  const Result<PeerReport> report = co_await peer->report(deadline);
  if (report.has_value()) reports[id] = *report;  // who is silent has no rate to show
  co_return Result<void>();
}

/// What the peers that are alive say of their work.
Task<Reports> ask_peers(Session& session) {
  AGRO_CO_TRY(const std::unique_ptr<ClusterClient> client,
              co_await ClusterClient::start(session.env, session.kv));
  Reports reports;
  std::vector<PeerId> alive;
  for (const PeerView& peer : client->view().peers) {
    if (peer.alive) alive.push_back(peer.record.id);
  }
  Clock& clock = session.env.clock;
  const TimePoint deadline = clock.now() + kReachable;
  const auto ask = [&](std::size_t index) {
    return ask_peer(*client, alive[index], deadline, clock, reports);
  };
  const Result<void> asked = co_await for_each_parallel(alive.size(), 64, ask);
  co_await client->stop();
  if (!asked.has_value()) co_return fail(asked.error());
  co_return std::move(reports);
}

Cell rate_cell(const Reports& reports, const PeerId& id) {
  const auto found = reports.find(id);
  if (found == reports.end()) return {nullptr, "-"};
  const std::uint64_t rate = found->second.rebalance.bytes_per_second;
  return {rate, rate == 0 ? "0" : format_size(rate) + "/s"};
}

Cell left_cell(const Reports& reports, const PeerId& id) {
  const auto found = reports.find(id);
  if (found == reports.end()) return {nullptr, "-"};
  return size_cell(found->second.rebalance.bytes_left);
}

/// Balanced: no change is under way and nobody has blocks to move.
std::string summary_of(const ClusterView& view, const Reports& reports) {
  bool balanced = view.ring.kind != RingKind::union_;
  for (const auto& [id, report] : reports) {
    const RebalanceReport& work = report.rebalance;
    balanced &= work.blocks_left == 0 && work.bytes_left == 0;
  }
  double size = 0;
  double used = 0;
  for (const PeerView& peer : view.peers) {
    size += static_cast<double>(peer.record.size);
    used += static_cast<double>(peer.record.used);
    balanced &= peer.alive || !is_in_ring(view.ring, peer.record.id);
  }
  return fmt::format("Balanced: {} Usage: {:.2f}%\n", balanced, size > 0 ? 100 * used / size : 0);
}

Task<void> list(Session& session, ListOptions options) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  AGRO_CO_TRY(const Reports reports, co_await ask_peers(session));
  Table table({{"id", "PEER"},
               {"addresses", "ADDRESS"},
               {"size_bytes", "SIZE", true},
               {"used_bytes", "USED", true},
               {"in_ring", ""},
               {"member", "MEMBER"},
               {"state", "STATE"},
               {"updated", "UPDATED"},
               {"rebalance_bytes_per_second", "REBALANCE", true},
               {"rebalance_bytes_left", "LEFT", true},
               {"started", ""},
               {"zone", "ZONE"},
               {"rack", "RACK"},
               {"host", "HOST"}});
  for (const PeerView& peer : view.peers) {
    const PeerRecord& record = peer.record;
    table.add({Cell(record.id.to_string()), list_cell(record.addresses), size_cell(record.size),
               size_cell(record.used), flag_cell(is_in_target(view.ring, record.id)),
               Cell(member_state(view.ring, peer)), Cell(peer.alive ? "alive" : "dead"),
               time_cell(record.updated_unix_ms), rate_cell(reports, record.id),
               left_cell(reports, record.id), time_cell(record.started_unix_ms),
               Cell(record.labels.zone), Cell(record.labels.rack), Cell(record.labels.host)});
  }
  const std::string text = table.render(
      options.format, "no peers; start some with 'agro --metadata URI --peer-address ...'");
  const bool with_summary = options.format == Format::text && !view.peers.empty();
  co_return print(text + (with_summary ? summary_of(view, reports) : ""));
}

}  // namespace

Result<PeerView> find_peer(const ClusterView& view, const std::string& text) {
  const Result<Uuid> id = parse_uuid(text);
  const Result<PeerAddress> address = parse_peer_address(text);
  if (!id.has_value() && !address.has_value()) {
    return fail(Errc::invalid_argument, fmt::format("'{}' is neither a peer's UUID nor an address "
                                                    "like adp://HOST:PORT or adp+unix:PATH",
                                                    text));
  }
  std::vector<PeerView> found;
  for (const PeerView& peer : view.peers) {
    const std::vector<std::string>& own = peer.record.addresses;
    const bool same = id.has_value() ? peer.record.id == *id
                                     : std::find(own.begin(), own.end(),
                                                 format_peer_address(*address)) != own.end();
    if (same) found.push_back(peer);
  }
  if (found.empty()) {
    return fail(
        Errc::not_found,
        fmt::format("there is no peer {}; start its agro first; 'agroctl peer list' shows those there are", text));
  }
  // An address is reused by the next peer of a machine; the one that runs is meant.
  if (found.size() > 1) std::erase_if(found, [](const PeerView& peer) { return !peer.alive; });
  if (found.size() == 1) return found.front();
  return fail(
      Errc::invalid_argument,
      fmt::format("several peers have the address {}; give a UUID of 'agroctl peer list'", text));
}

namespace {

std::string names_of(const std::vector<RingMember>& members) {
  std::string text = members.size() == 1 ? "peer" : "peers";
  for (const RingMember& member : members) text += " " + member.id.to_string();
  return text;
}

/// The peers to add: those named, or all that run and are not in the ring.
Result<std::vector<PeerView>> peers_to_add(const ClusterView& view, const AddOptions& options) {
  std::vector<PeerView> found;
  for (const std::string& text : options.peers) {
    AGRO_TRY(PeerView peer, find_peer(view, text));
    found.push_back(std::move(peer));
  }
  for (const PeerView& peer : view.peers) {
    if (options.all && peer.alive && !is_in_target(view.ring, peer.record.id)) found.push_back(peer);
  }
  for (const PeerView& peer : found) {
    if (peer.alive || options.force) continue;
    return fail(Errc::unavailable, fmt::format("peer {} is not running; start it first",
                                               peer.record.id.to_string()));
  }
  return found;
}

Task<void> add(Session& session, AddOptions options) {
  if (options.all == !options.peers.empty()) {
    co_return fail(Errc::invalid_argument,
                   "name peers by UUID or address, or say --all-peers");
  }
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  AGRO_CO_TRY(const std::vector<PeerView> peers, peers_to_add(view, options));
  if (peers.empty() && view.peers.empty()) {
    co_return fail(Errc::not_found, "no peer has registered with this cluster yet");
  }
  if (peers.empty()) co_return print("nothing to add: every peer that runs is in the ring\n");
  RingChange change;
  change.kind = RingChangeKind::add;
  change.force = options.force;
  for (const PeerView& peer : peers) {
    change.members.push_back(ring_member_of(peer.record));
    if (options.weight > 0) change.members.back().weight = options.weight;
  }
  const std::string names = names_of(change.members);
  co_return co_await change_and_tell(session.metadata, std::move(change), "added " + names);
}

/// The peer to remove. One that only the ring knows still can be, by its UUID.
Result<PeerView> find_removed(const ClusterView& view, const std::string& text) {
  const Result<Uuid> id = parse_uuid(text);
  if (id.has_value() && is_in_ring(view.ring, *id)) {
    for (const PeerView& peer : view.peers) {
      if (peer.record.id == *id) return peer;
    }
    PeerView unknown;
    unknown.record.id = *id;
    return unknown;
  }
  return find_peer(view, text);
}

/// What does not run any more and is in no ring is forgotten, so that nobody waits for it.
Task<void> forget(Session& session, PeerView peer) {
  const std::string id = peer.record.id.to_string();
  if (peer.alive) {
    co_return fail(Errc::not_found,
                   fmt::format("peer {} is not in the ring; stop it, then its record can be removed",
                               id));
  }
  AGRO_CO_TRY_OK(co_await session.metadata.forget_peer(peer.record.id));
  co_return print(fmt::format("peer {} is not in the ring; its record is gone\n", id));
}

Task<void> remove(Session& session, RemoveOptions options) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  RingChange change;
  change.kind = RingChangeKind::remove;
  change.force = options.force;
  std::vector<PeerView> dead;
  for (const std::string& text : options.peers) {
    AGRO_CO_TRY(const PeerView peer, find_removed(view, text));
    const std::string id = peer.record.id.to_string();
    if (!is_in_target(view.ring, peer.record.id)) {
      if (options.peers.size() == 1 && !is_in_ring(view.ring, peer.record.id)) {
        co_return co_await forget(session, peer);
      }
      co_return fail(Errc::not_found,
                     fmt::format("peer {} is not in the ring, or leaves it already", id));
    }
    change.members.push_back({peer.record.id});
    if (!peer.alive) dead.push_back(peer);
  }
  const std::string names = names_of(change.members);
  AGRO_CO_TRY_OK(co_await change_and_tell(session.metadata, std::move(change), "removed " + names));
  for (const PeerView& peer : dead) {
    const Result<void> forgotten = co_await session.metadata.forget_peer(peer.record.id);
    // While a change is under way its old parts name the peer; removing it again forgets it then.
    const bool expected = forgotten.has_value() || forgotten.code() == Errc::conflict ||
                          forgotten.code() == Errc::locked || forgotten.code() == Errc::not_found;
    if (!expected) co_return fail(forgotten.error());
    if (forgotten.has_value()) {
      AGRO_CO_TRY_OK(print(fmt::format("peer {}: its record is gone\n", peer.record.id.to_string())));
    }
  }
  co_return Result<void>();
}

/// Like removing, of peers that run: they go on serving what they hold until others have it.
Task<void> drain(Session& session, RemoveOptions options) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  RingChange change;
  change.kind = RingChangeKind::remove;
  change.force = options.force;
  for (const std::string& text : options.peers) {
    AGRO_CO_TRY(const PeerView peer, find_peer(view, text));
    if (!peer.alive) {
      co_return fail(Errc::unavailable,
                     fmt::format("peer {} is not running, so it cannot hand over its blocks; "
                                 "'agroctl peer remove' takes it out",
                                 peer.record.id.to_string()));
    }
    change.members.push_back({peer.record.id});
  }
  const std::string names = names_of(change.members);
  co_return co_await change_and_tell(session.metadata, std::move(change), "draining " + names);
}

void add_list_command(CLI::App& parent, Program& program, const std::string& name) {
  auto options = std::make_shared<ListOptions>();
  CLI::App* command = add_command(parent, name, "list the peers");
  add_format_options(*command, options->format);
  on_command(program, *command, options, list);
}

}  // namespace

void add_peer_commands(CLI::App& app, Program& program) {
  CLI::App* peer = add_command(app, "peer", "list peers, and choose who is in the ring");
  peer->require_subcommand(1);
  add_list_command(*peer, program, "list");
  add_list_command(app, program, "list-peers");
  auto add_options = std::make_shared<AddOptions>();
  CLI::App* add_peer =
      add_command(*peer, "add", "add peers to the ring: they get blocks from now on");
  add_peer->add_option("peers", add_options->peers, "their UUIDs or addresses");
  add_peer->add_flag("--all-peers", add_options->all, "every peer that runs");
  add_peer->add_option("--weight", add_options->weight, "its share (default: its size in GiB)")
      ->check(CLI::PositiveNumber);
  add_peer->add_flag("--force", add_options->force, "also peers that do not run");
  on_command(program, *add_peer, add_options, add);
  auto remove_options = std::make_shared<RemoveOptions>();
  CLI::App* remove_peer = add_command(
      *peer, "remove", "take peers out of the ring; forget one that is out of it and dead");
  remove_peer->add_option("peers", remove_options->peers, "their UUIDs or addresses")->required();
  remove_peer->add_flag("--force", remove_options->force,
                        "also when too few peers would be left, or blocks may be lost");
  on_command(program, *remove_peer, remove_options, remove);
  auto drain_options = std::make_shared<RemoveOptions>();
  CLI::App* drain_peer = add_command(
      *peer, "drain", "take running peers out of the ring; they serve until others have their blocks");
  drain_peer->add_option("peers", drain_options->peers, "their UUIDs or addresses")->required();
  drain_peer->add_flag("--force", drain_options->force, "also when too few peers would be left");
  on_command(program, *drain_peer, drain_options, drain);
}

}  // namespace agro
