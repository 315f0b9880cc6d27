// agroctl peer: list, add to the ring, remove from it.
#include <fmt/format.h>

#include <algorithm>

#include "agroctl/program.hpp"
#include "base/units.hpp"
#include "distributor/peer_address.hpp"
#include "node/cluster_client.hpp"
#include "node/peer_node.hpp"

namespace agro {
namespace {

constexpr Duration kReachable = std::chrono::seconds(3);
constexpr Duration kReachableWhenDead = std::chrono::milliseconds(300);

struct ListOptions {
  Format format = Format::text;
};

struct AddOptions {
  std::string peer;
  bool all = false;
};

struct RemoveOptions {
  std::string peer;
  bool force = false;
};

bool is_in_ring(const RingSpec& ring, const PeerId& peer) {
  const std::vector<PeerId> members = ring_peers(ring);
  return std::binary_search(members.begin(), members.end(), peer);
}

Task<void> list(Session& session, ListOptions options) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  Table table({{"id", "PEER"},
               {"addresses", "ADDRESS"},
               {"size_bytes", "SIZE", true},
               {"used_bytes", "USED", true},
               {"in_ring", "IN RING"},
               {"state", "STATE"},
               {"updated", "UPDATED"},
               {"started", ""},
               {"zone", "ZONE"},
               {"rack", "RACK"},
               {"host", "HOST"}});
  for (const PeerView& peer : view.peers) {
    const PeerRecord& record = peer.record;
    table.add({Cell(record.id.to_string()), list_cell(record.addresses), size_cell(record.size),
               size_cell(record.used), flag_cell(is_in_ring(view.ring, record.id)),
               Cell(peer.alive ? "alive" : "dead"), time_cell(record.updated_unix_ms),
               time_cell(record.started_unix_ms), Cell(record.labels.zone),
               Cell(record.labels.rack), Cell(record.labels.host)});
  }
  co_return print(table.render(
      options.format, "no peers; start some with 'agro --metadata URI --peer-address ...'"));
}

/// The peer that `text` names, by UUID or by one of its addresses.
/// Errors: not_found; invalid_argument, when several have that address.
Result<PeerView> find_peer(const ClusterView& view, const std::string& text) {
  const Result<Uuid> id = parse_uuid(text);
  const Result<Address> address = parse_peer_address(text);
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
        fmt::format("there is no peer {}; 'agroctl peer list' shows those there are", text));
  }
  // An address is reused by the next peer of a machine; the one that runs is meant.
  if (found.size() > 1) std::erase_if(found, [](const PeerView& peer) { return !peer.alive; });
  if (found.size() == 1) return found.front();
  return fail(
      Errc::invalid_argument,
      fmt::format("several peers have the address {}; give a UUID of 'agroctl peer list'", text));
}

Task<void> add_one(Metadata& metadata, PeerView peer) {
  const std::string id = peer.record.id.to_string();
  if (!peer.alive) {
    co_return fail(Errc::unavailable, fmt::format("peer {} is not running; start it first", id));
  }
  const std::uint64_t weight = std::max<std::uint64_t>(1, peer.record.size / kGiB);
  AGRO_CO_TRY(const RingSpec ring, co_await add_to_ring(metadata, peer.record.id, weight));
  co_return print(fmt::format("added peer {}; the ring is version {} with {} members\n", id,
                              ring.version, ring.members.size()));
}

Task<void> add(Session& session, AddOptions options) {
  if (options.all == !options.peer.empty()) {
    co_return fail(Errc::invalid_argument, "name one peer by UUID or address, or say --all-peers");
  }
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  if (!options.all) {
    AGRO_CO_TRY(PeerView peer, find_peer(view, options.peer));
    co_return co_await add_one(session.metadata, std::move(peer));
  }
  std::size_t added_count = 0;
  for (const PeerView& peer : view.peers) {
    if (!peer.alive || is_in_ring(view.ring, peer.record.id)) continue;
    const Result<void> added = co_await add_one(session.metadata, peer);
    if (added.code() == Errc::already_exists) continue;  // somebody else added it just now
    if (!added.has_value()) co_return fail(added.error());
    ++added_count;
  }
  if (added_count > 0) co_return Result<void>();
  if (view.peers.empty()) {
    co_return fail(Errc::not_found, "no peer has registered with this cluster yet");
  }
  co_return print("nothing to add: every peer that runs is in the ring\n");
}

/// Errors: conflict, when too few would be left for the copies that the ring and its volumes want.
Result<void> check_enough_left(const ClusterView& view) {
  const std::size_t left_count = ring_peers(view.ring).size() - 1;
  if (left_count == 0) {
    return fail(Errc::conflict, "it is the last peer of the ring; --force removes it all the same");
  }
  if (left_count < view.ring.replication) {
    return fail(Errc::conflict, fmt::format("{} would be left for {} copies of each block; add "
                                            "another peer first, or use --force",
                                            left_count, view.ring.replication));
  }
  for (const VolumeRecord& volume : view.volumes) {
    const std::uint32_t copies = copy_count_of(volume, view.ring);
    if (left_count >= copies) continue;
    return fail(Errc::conflict,
                fmt::format("{} would be left for the {} copies of volume '{}'; add "
                            "another peer first, or use --force",
                            left_count, copies, volume.name));
  }
  return {};
}

/// Errors: conflict (it holds blocks); unavailable (it cannot be asked).
Task<void> check_holds_nothing(ClusterClient& client, PeerView view, Clock& clock) {
  const std::shared_ptr<Peer> peer = client.peer(view.record.id);
  const TimePoint deadline = clock.now() + (view.alive ? kReachable : kReachableWhenDead);
  while (peer != nullptr && !peer->connected() && clock.now() < deadline) {
    co_await sleep_for(clock, std::chrono::milliseconds(5));
  }
  Result<PeerStat> stat = fail(Errc::unavailable, "it has no address that this agroctl knows");
  if (peer != nullptr) stat = co_await peer->stat(deadline);
  if (!stat.has_value()) {
    co_return fail(Errc::unavailable,
                   fmt::format("it cannot be asked whether it still holds blocks ({}); use --force "
                               "when it is gone for good",
                               stat.error().message));
  }
  if (stat->store.block_count == 0) co_return Result<void>();
  co_return fail(
      Errc::conflict,
      fmt::format("its store still holds {} blocks, {}; --force removes it all the same, "
                  "those blocks then miss a copy",
                  stat->store.block_count, format_size(stat->store.used)));
}

Task<void> check_removable(Session& session, ClusterView view, PeerView peer) {
  AGRO_CO_TRY_OK(check_enough_left(view));
  AGRO_CO_TRY(const std::unique_ptr<ClusterClient> client,
              co_await ClusterClient::start(session.env, session.kv));
  const Result<void> checked = co_await check_holds_nothing(*client, peer, session.env.clock);
  co_await client->stop();
  co_return checked;
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

Task<void> remove(Session& session, RemoveOptions options) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  AGRO_CO_TRY(const PeerView peer, find_removed(view, options.peer));
  const std::string id = peer.record.id.to_string();
  const bool in_ring = is_in_ring(view.ring, peer.record.id);
  if (in_ring && !options.force) {
    const Result<void> checked = co_await check_removable(session, view, peer);
    if (!checked.has_value()) {
      co_return fail(with_context(checked.error(), fmt::format("peer {} is not removed", id)));
    }
  }
  std::string said = fmt::format("peer {} is not in the ring", id);
  if (in_ring) {
    AGRO_CO_TRY(const RingSpec ring, co_await remove_from_ring(session.metadata, peer.record.id));
    said = fmt::format("removed peer {}; the ring is version {} with {} members", id, ring.version,
                       ring.members.size());
  } else if (peer.alive) {
    co_return fail(Errc::not_found, said + "; stop it, then its record can be removed");
  }
  // What does not run any more is forgotten, so that nobody waits for it.
  const Result<void> forgotten = co_await session.metadata.forget_peer(peer.record.id);
  const bool expected = forgotten.has_value() || forgotten.code() == Errc::locked ||
                        forgotten.code() == Errc::not_found;
  if (!expected) co_return fail(forgotten.error());
  co_return print(said + (forgotten.has_value() ? "; its record is gone\n" : "\n"));
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
      add_command(*peer, "add", "add a peer to the ring: it gets blocks from now on");
  add_peer->add_option("peer", add_options->peer, "its UUID or address");
  add_peer->add_flag("--all-peers", add_options->all, "every peer that runs");
  on_command(program, *add_peer, add_options, add);
  auto remove_options = std::make_shared<RemoveOptions>();
  CLI::App* remove_peer = add_command(*peer, "remove", "take a peer out of the ring");
  remove_peer->add_option("peer", remove_options->peer, "its UUID or address")->required();
  remove_peer->add_flag("--force", remove_options->force,
                        "also when it holds blocks, or too few peers would be left");
  on_command(program, *remove_peer, remove_options, remove);
}

}  // namespace agro
