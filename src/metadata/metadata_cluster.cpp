// Metadata, the part about peers, the ring and the view of everything.
#include <algorithm>
#include <map>
#include <set>

#include "metadata/metadata_internal.hpp"

namespace agro {
namespace {

void collect_peers(const RingSpec& ring, std::vector<PeerId>& out) {
  for (const RingMember& member : ring.members) out.push_back(member.id);
  for (const RingSpec& part : ring.parts) collect_peers(part, out);
}

/// Adds one key of the view. Keys of later versions are passed over.
Result<void> add_to_view(const KeyValue& entry, ClusterView& view, std::set<std::string>& alive,
                         std::map<std::string, std::uint64_t>& settled) {
  const std::string_view key = entry.key;
  if (key == keys::kCluster) {
    AGRO_TRY(view.cluster, decode_cluster(entry.value));
  } else if (key == keys::kRing) {
    AGRO_TRY(view.ring, decode_ring(entry.value));
  } else if (key.starts_with(keys::kVolumes)) {
    AGRO_TRY(VolumeRecord volume, decode_volume(entry.value));
    view.volumes.push_back(std::move(volume));
  } else if (key.starts_with(keys::kSnapshotRequests)) {
    AGRO_TRY(SnapshotRequest request, decode_snapshot_request(entry.value));
    const std::string_view id = key.substr(keys::kSnapshotRequests.size(), keys::volume_text({}).size());
    AGRO_TRY(request.volume.value, keys::parse_number(id, 16, "volume id"));
    view.snapshot_requests.push_back(std::move(request));
  } else if (key.starts_with(keys::kPeers)) {
    AGRO_TRY(PeerRecord peer, decode_peer(entry.value));
    view.peers.push_back({.record = std::move(peer), .alive = false});
  } else if (key.starts_with(keys::kAlive)) {
    alive.emplace(key.substr(keys::kAlive.size()));
  } else if (key.starts_with(keys::kSettled)) {
    AGRO_TRY(const std::uint64_t version, keys::parse_number(entry.value, 10, "settled version"));
    settled[std::string(key.substr(keys::kSettled.size()))] = version;
  } else if (key.starts_with(keys::kTombstones)) {
    AGRO_TRY(Tombstone tombstone, decode_tombstone(entry.value));
    view.tombstones.push_back(std::move(tombstone));
  }
  return {};
}

}  // namespace

std::vector<PeerId> ring_peers(const RingSpec& ring) {
  std::vector<PeerId> peers;
  collect_peers(ring, peers);
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  return peers;
}

Task<ClusterView> Metadata::view() {
  AGRO_CO_TRY(const KvRange range, co_await kv_.list(std::string(keys::kView)));
  ClusterView view;
  view.revision = range.revision;
  std::set<std::string> alive;
  std::map<std::string, std::uint64_t> settled;
  for (const KeyValue& entry : range.entries) {
    AGRO_CO_TRY_OK(add_to_view(entry, view, alive, settled));
  }
  for (PeerView& peer : view.peers) {
    const std::string id = peer.record.id.to_string();
    peer.alive = alive.contains(id);
    if (const auto found = settled.find(id); found != settled.end()) {
      peer.settled_version = found->second;
    }
  }
  co_return view;
}

Task<std::unique_ptr<ClusterWatch>> Metadata::watch(std::uint64_t revision) {
  AGRO_CO_TRY(auto watch, co_await kv_.watch(std::string(keys::kView), revision));
  co_return std::make_unique<ClusterWatch>(std::move(watch));
}

Task<void> Metadata::register_peer(PeerRecord peer, std::uint64_t lease) {
  if (peer.started_unix_ms == 0) peer.started_unix_ms = env_.clock.unix_time_ms();
  peer.updated_unix_ms = env_.clock.unix_time_ms();
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    AGRO_CO_TRY_OK(co_await cluster());
    AGRO_CO_TRY(const auto alive, co_await kv_.get(keys::alive(peer.id)));
    if (alive.has_value() && alive->lease != lease) {
      co_return fail(Errc::already_exists,
                     fmt::format("peer {} is running already; was its data directory copied?",
                                 peer.id.to_string()));
    }
    std::vector<KvCompare> compares = {keys::present(keys::kCluster)};
    compares.push_back(alive ? keys::unchanged(*alive) : keys::absent(keys::alive(peer.id)));
    std::vector<KvOp> ops = {keys::put(keys::peer(peer.id), encode(peer)),
                             keys::put(keys::alive(peer.id), "", lease)};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
  }
  co_return fail_contended("register peer");
}

Task<void> Metadata::update_peer(PeerRecord peer) {
  peer.updated_unix_ms = env_.clock.unix_time_ms();
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    std::vector<KvCompare> compares = {keys::present(keys::peer(peer.id))};
    std::vector<KvOp> ops = {keys::put(keys::peer(peer.id), encode(peer))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    if (outcome == Outcome::refused) {
      co_return fail(Errc::not_found,
                     fmt::format("peer {} is not registered", peer.id.to_string()));
    }
  }
  co_return fail_contended("update peer");
}

/// The counter first: every volume whose id is below it was made before the list was read, as long as
/// the list is no older than the counter.
Task<VolumeAccount> Metadata::volume_account() {
  VolumeAccount account;
  AGRO_CO_TRY(const KvRange counters, co_await kv_.list(std::string(keys::kNextVolume)));
  for (const KeyValue& entry : counters.entries) {
    AGRO_CO_TRY(const std::uint64_t id, keys::parse_number(entry.value, 10, "next volume id"));
    if (entry.key == keys::kNextVolume) account.next_volume = id;
    if (entry.key == keys::kRebuiltVolumes) account.rebuilt_below = id;
  }
  if (account.next_volume == 0) {
    AGRO_CO_TRY_OK(co_await cluster());
    co_return fail(Errc::corrupt, "the metadata store lost its counter of volume ids");
  }
  AGRO_CO_TRY(ClusterView view, co_await this->view());
  if (view.revision < counters.revision) {
    co_return fail(Errc::unavailable, "the metadata store answers with old states");
  }
  if (!view.cluster.has_value()) {
    co_return fail(Errc::not_found, "the metadata store holds no cluster; run 'agroctl init'");
  }
  account.cluster = view.cluster->id;
  for (const PeerView& peer : view.peers) account.peers.push_back(peer.record.id);
  AGRO_CO_TRY(account.positions, co_await positions());
  account.volumes = std::move(view.volumes);
  account.tombstones = std::move(view.tombstones);
  co_return account;
}

/// Heads, epochs and snapshots under a prefix of kVolumeState.
Task<std::vector<VolumePosition>> Metadata::read_positions(std::string prefix) {
  AGRO_CO_TRY(const KvRange range, co_await kv_.list(std::move(prefix)));
  std::map<VolumeId, VolumePosition> volumes;
  for (const KeyValue& entry : range.entries) {
    const std::string_view rest = std::string_view(entry.key).substr(keys::kVolumeState.size());
    const std::size_t mark = rest.find_first_of("/@");
    AGRO_CO_TRY(const std::uint64_t id, keys::parse_number(rest.substr(0, mark), 16, "volume id"));
    if (mark == std::string_view::npos) continue;
    VolumePosition& volume = volumes[VolumeId{id}];
    volume.volume = VolumeId{id};
    const std::string_view what = rest.substr(mark + 1);
    if (rest[mark] == '@') {
      AGRO_CO_TRY(SnapshotRecord snapshot, decode_snapshot(entry.value));
      volume.snapshots.push_back(std::move(snapshot));
    } else if (what == "head") {
      AGRO_CO_TRY(volume.head, decode_volume_head(entry.value));
    } else if (what == "epoch") {
      AGRO_CO_TRY(const std::uint64_t epoch, keys::parse_number(entry.value, 10, "epoch"));
      volume.epoch = Epoch{epoch};
    } else if (what == "lock") {
      volume.locked = true;
    } else if (what == "degraded") {
      AGRO_CO_TRY(const std::uint64_t copies, keys::parse_number(entry.value, 10, "copy count"));
      volume.degraded_copies = static_cast<std::uint32_t>(copies);
    }
  }
  std::vector<VolumePosition> all;
  for (const auto& [id, volume] : volumes) all.push_back(volume);
  co_return all;
}

Task<std::vector<VolumePosition>> Metadata::positions() {
  return read_positions(std::string(keys::kVolumeState));
}

Task<VolumePosition> Metadata::position(VolumeId volume) {
  AGRO_CO_TRY(std::vector<VolumePosition> found,
              co_await read_positions(std::string(keys::kVolumeState) + keys::volume_text(volume)));
  if (found.empty()) co_return fail(Errc::not_found, fmt::format("there is no volume {}", volume.value));
  co_return std::move(found.front());
}

Task<void> Metadata::report_settled(PeerId peer, std::uint64_t version) {
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    std::vector<KvCompare> compares = {keys::present(keys::peer(peer))};
    std::vector<KvOp> ops = {keys::put(keys::settled(peer), std::to_string(version))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    if (outcome == Outcome::refused) {
      co_return fail(Errc::not_found,
                     fmt::format("peer {} is not registered", peer.to_string()));
    }
  }
  co_return fail_contended("report settled");
}

Task<std::vector<PeerView>> Metadata::list_peers() {
  AGRO_CO_TRY(ClusterView all, co_await view());
  co_return std::move(all.peers);
}

Task<void> Metadata::forget_peer(PeerId peer) {
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto range = co_await kv_.list(std::string(keys::kView));
    if (!range.has_value()) co_return fail_read(unresolved, range.error());
    bool known = false;
    std::vector<KvCompare> compares = {keys::absent(keys::alive(peer))};
    std::vector<KvOp> ops = {keys::remove(keys::peer(peer)), keys::remove(keys::settled(peer))};
    for (const KeyValue& entry : range->entries) {
      if (entry.key == keys::peer(peer)) known = true;
      if (entry.key == keys::alive(peer)) {
        co_return fail(Errc::locked,
                       fmt::format("peer {} is running; stop it first", peer.to_string()));
      }
      if (entry.key == keys::kRing) {
        AGRO_CO_TRY(const RingSpec ring, decode_ring(entry.value));
        const std::vector<PeerId> members = ring_peers(ring);
        if (std::binary_search(members.begin(), members.end(), peer)) {
          co_return fail(
              Errc::conflict,
              fmt::format("peer {} is in the ring; remove it there first", peer.to_string()));
        }
        compares.push_back(keys::unchanged(entry));
      }
      if (entry.key.starts_with(keys::kTombstones)) {
        AGRO_CO_TRY(Tombstone tombstone, decode_tombstone(entry.value));
        if (std::erase(tombstone.peers, peer) == 0) continue;
        compares.push_back(keys::unchanged(entry));
        ops.push_back(tombstone.peers.empty() ? keys::remove(entry.key)
                                              : keys::put(entry.key, encode(tombstone)));
      }
    }
    if (!known) {
      if (unresolved) co_return Result<void>();
      co_return fail(Errc::not_found, fmt::format("there is no peer {}", peer.to_string()));
    }
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("forget peer");
}

Task<RingSpec> Metadata::ring() {
  AGRO_CO_TRY(const auto found, co_await kv_.get(std::string(keys::kRing)));
  if (!found.has_value()) {
    AGRO_CO_TRY_OK(co_await cluster());
    co_return fail(Errc::corrupt, "the metadata store lost the cluster's ring");
  }
  co_return decode_ring(found->value);
}

Task<void> Metadata::publish_ring(RingSpec ring, std::uint64_t expected_version,
                                  bool without_volumes) {
  if (ring.version != expected_version + 1) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("the ring after version {} cannot be version {}", expected_version,
                               ring.version));
  }
  if (const std::size_t size = encode(ring).size(); size >= kRingRecordSizeMax) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("the ring would take {} bytes of metadata, {} is the limit; if changes "
                               "are under way, let them end first",
                               size, kRingRecordSizeMax));
  }
  bool unresolved = false;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const auto found = co_await kv_.get(std::string(keys::kRing));
    if (!found.has_value()) co_return fail_read(unresolved, found.error());
    if (!found->has_value()) {
      AGRO_CO_TRY_OK(co_await cluster());
      co_return fail(Errc::corrupt, "the metadata store lost the cluster's ring");
    }
    AGRO_CO_TRY(const RingSpec present, decode_ring((*found)->value));
    if (unresolved && present == ring) co_return Result<void>();
    if (present.version != expected_version) {
      co_return fail(Errc::conflict,
                     fmt::format("the ring was changed meanwhile: it is version {}, not {}; look "
                                 "again and repeat",
                                 present.version, expected_version));
    }
    std::vector<KvCompare> compares = {keys::unchanged(**found)};
    if (without_volumes) {
      // The counter before the list: a volume that is made in between moves it.
      const auto counter = co_await kv_.get(std::string(keys::kNextVolume));
      if (!counter.has_value()) co_return fail_read(unresolved, counter.error());
      const auto volumes = co_await kv_.list(std::string(keys::kVolumes));
      if (!volumes.has_value()) co_return fail_read(unresolved, volumes.error());
      if (!counter->has_value() || !volumes->entries.empty()) {
        co_return fail(Errc::conflict, "a volume was made meanwhile; look again and repeat");
      }
      compares.push_back(keys::unchanged(**counter));
    }
    std::vector<KvOp> ops = {keys::put(keys::kRing, encode(ring))};
    AGRO_CO_TRY(const Outcome outcome, co_await commit(std::move(compares), std::move(ops)));
    if (outcome == Outcome::committed) co_return Result<void>();
    unresolved |= outcome == Outcome::unknown;
  }
  co_return fail_contended("publish ring");
}

}  // namespace agro
