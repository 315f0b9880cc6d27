#include "node/peer_node.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/units.hpp"
#include "blockset/crc.hpp"
#include "node/cluster_report.hpp"
#include "node/peer_protocols.hpp"
#include "node/ring_change.hpp"
#include "storage/mmap_store.hpp"
#include "storage/temp_store.hpp"

namespace agro {
namespace {

constexpr Duration kReportEvery = std::chrono::seconds(10);
constexpr Duration kRegisterAgain = std::chrono::milliseconds(200);
constexpr std::size_t kPurgeAtOnce = 4096;
constexpr Duration kCoordinateEvery = std::chrono::seconds(1);
constexpr Duration kDetachedCopiesEvery = std::chrono::seconds(5);

bool is_alive(const ClusterView& view, const PeerId& id) {
  return std::any_of(view.peers.begin(), view.peers.end(), [&id](const PeerView& peer) {
    return peer.record.id == id && peer.alive;
  });
}

}  // namespace

Result<StorageKind> parse_storage_kind(std::string_view text) {
  if (text == "mmap") return StorageKind::mmap;
  if (text == "disk") return StorageKind::disk;
  if (text == "temp") return StorageKind::temp;
  return fail(Errc::invalid_argument,
              fmt::format("unknown storage '{}'; it is mmap (files), disk (past the page cache) or temp "
                          "(memory)",
                          text));
}

PeerNode::PeerNode(Env& env, Kv& kv, PeerNodeOptions options)
    : env_(env),
      kv_(kv),
      metadata_(env, kv),
      options_(std::move(options)),
      jobs_(env.executor) {}

PeerNode::~PeerNode() = default;

Task<std::unique_ptr<PeerNode>> PeerNode::start(Env& env, Kv& kv, PeerNodeOptions options) {
  std::unique_ptr<PeerNode> node(new PeerNode(env, kv, std::move(options)));
  Result<void> begun = co_await node->begin();
  if (!begun.has_value()) {
    Error error = std::move(begun).error();
    // What was opened is closed again; the reason it failed is what the caller must hear.
    if (node->store_ != nullptr) {
      const Result<void> stopped = co_await node->stop();
      if (!stopped.has_value()) error.message += "; then: " + stopped.error().message;
    }
    co_return fail(std::move(error));
  }
  co_return std::move(node);
}

Task<void> PeerNode::begin() {
  AGRO_CO_TRY(const ClusterRecord cluster, co_await metadata_.cluster());
  AGRO_CO_TRY_OK(co_await open_store(cluster));
  service_ = std::make_shared<PeerService>(id_, *store_, env_.metrics);
  AGRO_CO_TRY(cluster_, co_await ClusterClient::start(env_, kv_));
  cluster_->add_local_peer(service_);
  // Before the first write: what a settled peer said of older rings must hold after a restart too.
  co_await service_->require_ring(cluster_->view().ring.version);
  for (const PeerAddress& address : options_.addresses) {
    std::unique_ptr<PeerServer>& server = servers_[address.protocol];
    if (server == nullptr) {
      server = make_peer_server(env_, address.protocol, cluster.id, service_);
    }
    AGRO_CO_TRY(Address bound, co_await server->listen(address.address));
    record_addresses_.push_back({std::move(bound), address.protocol});
  }
  AGRO_CO_TRY_OK(co_await listen_near());
  started_unix_ms_ = env_.clock.unix_time_ms();
  AGRO_CO_TRY_OK(co_await register_self());
  if (options_.auto_join) AGRO_CO_TRY_OK(co_await join_ring());
  rebalancer_ = std::make_unique<Rebalancer>(env_, *cluster_, *service_, options_.background.rebalance);
  collector_ = std::make_unique<Collector>(env_, cluster_->metadata(), cluster_->distributor(),
                                           *service_, cluster.id, options_.background.gc);
  // What nobody needs is not copied to others, who would copy it back when it is deleted here.
  rebalancer_->leave_alone([this](const BlockRef& ref) { return collector_->is_condemned(ref); });
  rebalancer_->start();
  detached_copies_ = std::make_unique<DetachedCopies>(env_, *cluster_);
  collector_->start();
  const bool keeps = options_.storage != StorageKind::temp && !options_.data_dir.empty();
  if (keeps) options_.background.scrub.state_path = options_.data_dir + "/scrub";
  scrubber_ = std::make_unique<Scrubber>(env_, *cluster_, *service_, options_.background.scrub);
  scrubber_->start();
  service_->set_background(this);
  jobs_.spawn(keep_registered());
  jobs_.spawn(follow_tombstones());
  jobs_.spawn(coordinate());
  co_return Result<void>();
}

/// Those who share the machine need not go through TCP. An address that nobody need know: its name
/// follows from the peer's id.
Task<void> PeerNode::listen_near() {
  const auto server = servers_.find(PeerProtocol::adp);
  const std::optional<Address> near = near_address(env_.network, id_);
  if (server == servers_.end() || !near.has_value()) co_return Result<void>();
  const Result<Address> bound = co_await server->second->listen(*near);
  if (!bound.has_value()) {
    log_warning("peer {}: clients of this machine will use TCP: {}", id_.to_string(),
                bound.error().message);
  }
  co_return Result<void>();
}

Task<void> PeerNode::open_store(const ClusterRecord& cluster) {
  if (options_.storage == StorageKind::temp) {
    id_ = make_uuid(env_.random);
    store_ = make_temp_store({options_.size, cluster.block_size});
    co_return Result<void>();
  }
  StoreOptions store_options;
  store_options.directory = options_.data_dir;
  store_options.device = options_.device;
  store_options.format = options_.format;
  store_options.size = options_.size;
  store_options.block_size = cluster.block_size;
  store_options.cluster_id = cluster.id;
  const Result<StoreIdentity> identity =
      co_await read_store_identity(env_.disk, store_options);
  // What a device holds may be no store; opening it says what to do about that.
  const bool may_be_new = identity.code() == Errc::not_found ||
                          (options_.storage == StorageKind::disk && identity.code() == Errc::corrupt);
  if (!identity.has_value() && !may_be_new) co_return fail(identity.error());
  store_options.peer_id = identity.has_value() ? identity->peer_id : make_uuid(env_.random);
  id_ = store_options.peer_id;
  store_options.is_damaged = [this](const BlockRef& ref, ConstBytes bytes) {
    return cluster_ != nullptr && cluster_->is_checksummed(ref.volume) &&
           !crc_verify_block(ref, bytes).has_value();
  };
  Task<std::unique_ptr<BlockStore>> opening = options_.storage == StorageKind::disk
                                                  ? open_disk_store(env_, store_options)
                                                  : open_mmap_store(env_, store_options);
  AGRO_CO_TRY(store_, co_await std::move(opening));
  co_return Result<void>();
}

PeerRecord PeerNode::record() const {
  PeerRecord record;
  record.id = id_;
  for (const PeerAddress& address : record_addresses_) {
    record.addresses.push_back(format_peer_address(address));
  }
  const StoreStats stats = store_->stats();
  record.size = stats.size;
  record.used = stats.used;
  record.labels = options_.labels;
  record.started_unix_ms = started_unix_ms_;
  record.updated_unix_ms = env_.clock.unix_time_ms();
  return record;
}

Task<void> PeerNode::register_self() {
  // Before us, this peer may have died without a word: its lease then ends within its time. And where
  // stores and metadata share a full disk, stores that start take the last of it for a moment.
  const TimePoint deadline = env_.clock.now() + options_.lease_ttl * 3 / 2;
  while (true) {
    const Result<void> registered = co_await register_once();
    const bool passes =
        registered.code() == Errc::already_exists || registered.code() == Errc::out_of_space;
    if (!passes || env_.clock.now() >= deadline || stopping_) co_return registered;
    co_await wait_until(stop_event_, env_.clock, env_.clock.now() + kRegisterAgain);
  }
}

Task<void> PeerNode::register_once() {
  if (lease_ == nullptr || lease_->lost()) {
    AGRO_CO_TRY(std::unique_ptr<Lease> fresh,
                co_await Lease::grant(env_, kv_, options_.lease_ttl));
    if (lease_ != nullptr) co_await lease_->stop();
    lease_ = std::move(fresh);
    registered_ = false;
  }
  const PeerRecord own = record();
  reported_used_ = own.used;
  AGRO_CO_TRY_OK(co_await metadata_.register_peer(own, lease_->id()));
  registered_ = true;
  co_return Result<void>();
}

Task<void> PeerNode::join_ring() {
  // A member stays what people made of it: its weight may be theirs.
  AGRO_CO_TRY(const RingSpec ring, co_await metadata_.ring());
  const std::vector<PeerId> members = ring_peers(target_of(ring));
  joined_ = std::binary_search(members.begin(), members.end(), id_);
  if (joined_) co_return Result<void>();
  RingChange change;
  change.kind = RingChangeKind::add;
  change.members.push_back(ring_member_of(record()));
  const Result<RingSpec> joined = co_await change_ring(metadata_, std::move(change));
  joined_ = joined.has_value() || joined.code() == Errc::already_exists;
  if (joined_) co_return Result<void>();
  if (joined.code() != Errc::conflict) co_return fail(joined.error());
  // Many join at once; it is a peer all the same, and in the ring later.
  log_warning("peer {}: not in the ring yet: {}", id_.to_string(), joined.error().to_string());
  co_return Result<void>();
}

Job PeerNode::keep_registered() {
  while (!stopping_) {
    co_await wait_until(stop_event_, env_.clock, env_.clock.now() + kReportEvery);
    if (stopping_) co_return;
    Result<void> done;
    if (options_.auto_join && !joined_ && !lease_->lost()) done = co_await join_ring();
    if (!done.has_value()) {
      log_warning("peer {}: joining the ring: {}", id_.to_string(), done.error().to_string());
      done = {};
    }
    if (lease_->lost() || !registered_) {
      log_warning("peer {}: its lease ended; registering again", id_.to_string());
      done = co_await register_self();
    } else {
      // Only a change worth knowing is written: steady operation costs no metadata writes.
      const std::uint64_t used = store_->stats().used;
      const std::uint64_t change = used > reported_used_ ? used - reported_used_ : reported_used_ - used;
      if (change <= store_->stats().size / 100) continue;
      done = co_await metadata_.update_peer(record());
      if (done.has_value()) reported_used_ = used;
    }
    if (!done.has_value()) {
      log_warning("peer {}: registering: {}", id_.to_string(), done.error().to_string());
    }
  }
}

Job PeerNode::follow_tombstones() {
  while (!stopping_) {
    const std::uint64_t revision = cluster_->view().revision;
    const std::vector<Tombstone> tombstones = cluster_->view().tombstones;
    Result<void> outcome;
    for (std::size_t index = 0; outcome.has_value() && index < tombstones.size(); ++index) {
      const Tombstone& tombstone = tombstones[index];
      const bool ours = std::binary_search(tombstone.peers.begin(), tombstone.peers.end(), id_);
      if (ours && !stopping_) outcome = co_await purge(tombstone.volume);
    }
    if (outcome.has_value()) {
      while (!stopping_ && cluster_->view().revision == revision) co_await cluster_->changed().wait();
    } else if (!stopping_) {
      log_warning("peer {}: following deleted volumes: {}", id_.to_string(),
                  outcome.error().to_string());
      co_await wait_until(stop_event_, env_.clock, env_.clock.now() + std::chrono::seconds(1));
    }
  }
}

PeerReport PeerNode::report() const {
  PeerReport report;
  report.rebalance = rebalancer_->report();
  report.scrub = scrubber_->report();
  report.gc = collector_->report();
  report.store_problem = store_->problem();
  return report;
}

Result<void> PeerNode::start(WorkKind kind) {
  switch (kind) {
    case WorkKind::rebalance: rebalancer_->look(); return {};
    case WorkKind::scrub: scrubber_->scrub(); return {};
    case WorkKind::gc: collector_->collect(); return {};
  }
  return fail(Errc::not_supported, "this peer cannot do that yet");
}

/// Who does what one peer alone should do. Nothing depends on it being one: every change is a
/// transaction that fails when another was quicker.
bool PeerNode::is_coordinator() const {
  for (const PeerView& peer : cluster_->view().peers) {
    if (peer.alive) return peer.record.id == id_;
  }
  return false;
}

Job PeerNode::coordinate() {
  while (!stopping_) {
    Result<void> done;
    note_the_dead();
    if (is_coordinator()) {
      done = co_await finish_ring_change();
      if (done.has_value()) done = co_await take_out_the_dead();
      if (done.has_value()) done = co_await look_after_detached();
    }
    if (!done.has_value() && done.code() != Errc::conflict) {
      log_warning("peer {}: coordinating: {}", id_.to_string(), done.error().to_string());
    }
    if (stopping_) co_return;
    co_await wait_until(cluster_->changed(), env_.clock, env_.clock.now() + kCoordinateEvery);
  }
}

/// Publishes the plain new ring once every peer that is alive said that all it holds is in its
/// place. A block is then where the new ring wants it unless all of its holders are dead: which is
/// why there must be fewer of those than copies.
Task<void> PeerNode::finish_ring_change() {
  const ClusterView view = cluster_->view();
  if (view.ring.kind != RingKind::union_) co_return Result<void>();
  for (const PeerView& peer : view.peers) {
    if (peer.alive && peer.settled_version != view.ring.version) co_return Result<void>();
  }
  std::uint32_t sure_copies = view.ring.parts.front().replication;
  for (const RingSpec& part : view.ring.parts) {
    if (!part.members.empty()) sure_copies = std::min(sure_copies, part.replication);
  }
  for (const VolumeRecord& volume : view.volumes) {
    sure_copies = std::min(sure_copies, copy_count_of(volume, target_of(view.ring)));
  }
  AGRO_CO_TRY(const std::vector<VolumePosition> positions, co_await metadata_.positions());
  for (const VolumePosition& position : positions) {
    sure_copies = std::min(sure_copies, position.degraded_copies.value_or(sure_copies));
  }
  std::uint32_t dead_count = 0;
  for (const PeerId& id : ring_peers(view.ring)) dead_count += is_alive(view, id) ? 0 : 1;
  if (dead_count > 0 && dead_count >= sure_copies) co_return Result<void>();
  const RingSpec target = plain_target(view.ring);
  AGRO_CO_TRY_OK(co_await metadata_.publish_ring(target, view.ring.version));
  log_info("ring {}: the change is complete", target.version);
  co_return Result<void>();
}

/// While we are not registered ourselves the metadata store was away from us all: nobody's absence
/// counts, or the first to register again would take out those that are about to.
void PeerNode::note_the_dead() {
  std::vector<PeerId> down;
  if (is_alive(cluster_->view(), id_)) {
    for (const PeerId& id : ring_peers(target_of(cluster_->view().ring))) {
      if (!is_alive(cluster_->view(), id)) down.push_back(id);
    }
  }
  down_times_.observe(down, env_.clock.now());
}

/// Members that were down for too long leave the ring, one at a time, where that can be done without
/// a doubt: what is refused without force is left for people to decide.
Task<void> PeerNode::take_out_the_dead() {
  if (options_.background.down_out == Duration(0)) co_return Result<void>();
  const std::vector<PeerId> due =
      down_times_.longer_than(options_.background.down_out, env_.clock.now());
  for (std::size_t index = 0; index < due.size(); ++index) {
    RingChange change;
    change.kind = RingChangeKind::remove;
    change.members.push_back({.id = due[index]});
    change.only_dead = true;  // our own view may be of a time before the metadata store was away
    const Result<RingSpec> changed = co_await change_ring(metadata_, std::move(change));
    if (changed.has_value()) {
      log_warning("peer {} was down for {} s: taken out of the ring", due[index].to_string(),
                  std::chrono::duration_cast<std::chrono::seconds>(options_.background.down_out)
                      .count());
    } else if (changed.code() != Errc::conflict) {
      co_return fail(changed.error());
    }
  }
  co_return Result<void>();
}

Task<void> PeerNode::look_after_detached() {
  if (env_.clock.now() < detached_copies_at_) co_return Result<void>();
  detached_copies_at_ = env_.clock.now() + kDetachedCopiesEvery;
  co_return co_await detached_copies_->step();
}

Task<void> PeerNode::purge(VolumeId volume) {
  // The fence first: a writer that does not know yet can add no block behind our back.
  AGRO_CO_TRY_OK(co_await store_->fence(volume, Epoch{UINT64_MAX}));
  BlockFilter filter;
  filter.volume = volume;
  std::vector<BlockRef> refs;
  for (const BlockInfo& block : store_->list(filter)) refs.push_back(block.ref);
  for (std::size_t begin = 0; begin < refs.size(); begin += kPurgeAtOnce) {
    const std::size_t end = std::min(begin + kPurgeAtOnce, refs.size());
    std::vector<BlockRef> batch(refs.begin() + static_cast<std::ptrdiff_t>(begin),
                                refs.begin() + static_cast<std::ptrdiff_t>(end));
    AGRO_CO_TRY_OK(co_await store_->remove(std::move(batch)));
  }
  log_info("peer {}: purged {} blocks of deleted volume {}", id_.to_string(), refs.size(),
           volume.value);
  co_return co_await metadata_.purge_done(volume, id_);
}

Task<void> PeerNode::stop() {
  stopping_ = true;
  stop_event_.notify_all();
  if (cluster_ != nullptr) cluster_->changed().notify_all();
  for (const auto& [protocol, server] : servers_) co_await server->stop();
  if (service_ != nullptr) service_->set_background(nullptr);
  if (rebalancer_ != nullptr) co_await rebalancer_->stop();
  if (scrubber_ != nullptr) co_await scrubber_->stop();
  if (collector_ != nullptr) co_await collector_->stop();
  co_await jobs_.join();
  if (cluster_ != nullptr) co_await cluster_->stop();
  if (lease_ != nullptr) co_await lease_->stop();
  co_return co_await store_->close();
}

}  // namespace agro
