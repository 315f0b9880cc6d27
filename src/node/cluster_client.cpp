#include "node/cluster_client.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "distributor/measured_peer.hpp"
#include "node/peer_protocols.hpp"
#include "ring/ring.hpp"

namespace agro {

Task<std::unique_ptr<ClusterClient>> ClusterClient::start(Env& env, Kv& kv,
                                                          DistributorOptions options) {
  std::unique_ptr<ClusterClient> client(new ClusterClient(env, kv));
  AGRO_CO_TRY(client->view_, co_await client->metadata_.view());
  if (!client->view_.cluster) {
    co_return fail(Errc::not_found, "the metadata store holds no cluster; run 'agroctl init'");
  }
  client->distributor_ =
      std::make_unique<Distributor>(env, client->view_.cluster->block_size, options);
  client->apply();
  client->jobs_.spawn(client->follow());
  client->jobs_.spawn(client->refresh_stale_ring());
  co_return std::move(client);
}

ClusterClient::~ClusterClient() = default;

void ClusterClient::add_local_peer(std::shared_ptr<PeerService> service) {
  const PeerId id = service->id();
  local_[id] = make_measured_peer(std::make_shared<LocalPeer>(std::move(service)), env_.clock,
                                  env_.metrics);
  apply();
}

std::shared_ptr<Peer> ClusterClient::peer(const PeerId& id) const {
  if (const auto found = local_.find(id); found != local_.end()) return found->second;
  const auto found = remote_.find(id);
  return found == remote_.end() ? nullptr : found->second.measured;
}

std::shared_ptr<Peer> ClusterClient::peer_for(const PeerRecord& record) {
  if (const auto found = local_.find(record.id); found != local_.end()) return found->second;
  const std::optional<PeerAddress> address = choose_address(record.addresses);
  if (!address.has_value()) return nullptr;
  const std::string text = format_peer_address(*address);
  Remote& remote = remote_[record.id];
  if (remote.peer != nullptr && remote.address == text) {
    if (!remote.peer->connected()) remote.peer->connect_now();
    return remote.measured;
  }
  if (remote.peer != nullptr) retire(std::move(remote.peer));
  RemotePeerOptions options;
  options.cluster = view_.cluster->id;
  options.peer = record.id;
  options.address = address->address;
  options.block_size = view_.cluster->block_size;
  remote.address = text;
  remote.peer = make_remote_peer(env_, address->protocol, std::move(options));
  remote.measured = make_measured_peer(remote.peer, env_.clock, env_.metrics);
  return remote.measured;
}

namespace {

Job stop_peer(std::shared_ptr<RemotePeer> peer) { co_await peer->stop(); }

}  // namespace

void ClusterClient::retire(std::shared_ptr<RemotePeer> peer) {
  // Calls under way hold it until they end.
  jobs_.spawn(stop_peer(std::move(peer)));
}

void ClusterClient::apply() {
  std::map<PeerId, std::shared_ptr<Peer>> peers = local_;
  for (const PeerView& seen : view_.peers) {
    if (std::shared_ptr<Peer> one = peer_for(seen.record)) peers[seen.record.id] = std::move(one);
  }
  for (auto entry = remote_.begin(); entry != remote_.end();) {
    const bool used = peers.contains(entry->first) && !local_.contains(entry->first);
    if (!used && entry->second.peer != nullptr) retire(std::move(entry->second.peer));
    entry = used ? std::next(entry) : remote_.erase(entry);
  }
  distributor_->set_peers(std::move(peers));
  const Result<std::shared_ptr<const Ring>> ring = make_ring(view_.ring);
  if (ring.has_value()) {
    distributor_->set_ring(*ring);
  } else {
    // The old ring goes on: placement by a ring nobody can build would lose blocks.
    log_error("the ring in the metadata store is refused: {}", ring.error().to_string());
  }
}

Job ClusterClient::follow() {
  while (!stopping_) {
    Result<std::unique_ptr<ClusterWatch>> watch = co_await metadata_.watch(view_.revision);
    Result<void> outcome;
    if (watch.has_value() && !stopping_) {
      watch_ = std::move(*watch);
      outcome = co_await watch_->changed();
      watch_.reset();
    } else if (!watch.has_value()) {
      outcome = fail(std::move(watch).error());
    }
    if (outcome.has_value() && !stopping_) outcome = co_await refresh();
    if (!outcome.has_value() && !stopping_) {
      log_warning("following the metadata: {}", outcome.error().to_string());
      co_await wait_until(stop_event_, env_.clock, env_.clock.now() + std::chrono::seconds(1));
    }
  }
}

Job ClusterClient::refresh_stale_ring() {
  while (!stopping_) {
    co_await distributor_->ring_is_stale().wait();
    if (stopping_) co_return;
    const Result<void> refreshed = co_await refresh();
    if (!refreshed.has_value()) log_warning("reading the ring: {}", refreshed.error().to_string());
  }
}

Task<void> ClusterClient::refresh() {
  AGRO_CO_TRY(ClusterView view, co_await metadata_.view());
  if (!view.cluster || view.cluster->id != view_.cluster->id) {
    co_return fail(Errc::cluster_mismatch, "the metadata store now holds another cluster, or none");
  }
  if (view.revision > view_.revision) {
    view_ = std::move(view);
    apply();
    changed_.notify_all();
  }
  co_return Result<void>();
}

/// Whether the metadata says so.
bool ClusterClient::is_alive(const PeerId& id) const {
  return std::any_of(view_.peers.begin(), view_.peers.end(), [&id](const PeerView& seen) {
    return seen.record.id == id && seen.alive;
  });
}

Awaitable<void> ClusterClient::wait_for_members(std::uint32_t sure_copies) {
  constexpr Duration kForTheLiving = std::chrono::milliseconds(300);
  constexpr Duration kForEnough = std::chrono::seconds(2);
  const TimePoint begin = env_.clock.now();
  while (!stopping_) {
    std::size_t missing_count = 0;
    std::size_t missing_alive_count = 0;
    for (const PeerId& id : ring_peers(view_.ring)) {
      const std::shared_ptr<Peer> one = peer(id);
      if (one != nullptr && one->connected()) continue;
      ++missing_count;
      if (is_alive(id)) ++missing_alive_count;
    }
    if (missing_count == 0) co_return;
    const bool enough = missing_count < sure_copies;
    const Duration limit = !enough                  ? kForEnough
                           : missing_alive_count > 0 ? kForTheLiving
                                                     : Duration(0);
    if (env_.clock.now() >= begin + limit) co_return;
    const TimePoint look_again = env_.clock.now() + std::chrono::milliseconds(20);
    co_await wait_until(distributor_->peers_changed(), env_.clock, look_again);
  }
}

Awaitable<void> ClusterClient::stop() {
  stopping_ = true;
  if (watch_ != nullptr) watch_->close();
  stop_event_.notify_all();
  distributor_->ring_is_stale().notify_all();
  co_await jobs_.join();
  co_await distributor_->stop();
  for (const auto& [id, remote] : remote_) {
    if (remote.peer != nullptr) co_await remote.peer->stop();
  }
  for (const auto& [id, one] : local_) one->close();
}

bool ClusterClient::is_checksummed(VolumeId volume) const {
  for (const VolumeRecord& record : view_.volumes) {
    if (record.id == volume) return record.block_spec.find("crc") != std::string::npos;
  }
  return false;
}

}  // namespace agro
