// Losses of what a disk had said it holds: a disk that is gone for good, and one that lies about sync.
//
// Both are done only while each block is sure to have two copies. After a disk is gone, processes and
// networks fail on: what only it knew is known to be missing. A liar comes back and answers as if it had
// never had what it lost; that is survived only while all others answer, too, so everything else is
// calm before, and until the copies are there again (docs/internals/simulation.md).
#include "faults.hpp"

#include "ring/ring.hpp"

namespace agro {

using std::chrono::seconds;
using Death = SimCluster::Death;
using Life = SimCluster::Life;

namespace {

constexpr Duration kLookAgain = seconds(2);
constexpr Duration kCalm = seconds(2);       // for so long, before the liar loses its power
constexpr Duration kCalmPatience = seconds(20);

}  // namespace

// --- is each block sure to have two copies? -------------------------------------------------------

Job FaultInjector::ask_for_copies(std::shared_ptr<std::optional<bool>> sure) {
  const Result<RingSpec> spec = co_await cluster_.metadata().ring();
  const Result<std::vector<VolumePosition>> positions = co_await cluster_.metadata().positions();
  if (!spec.has_value() || !positions.has_value()) co_return;
  const Result<std::shared_ptr<const Ring>> ring = make_ring(*spec);
  bool enough = ring.has_value() && (*ring)->sure_copies() >= 2;
  for (const VolumePosition& position : *positions) enough &= !position.degraded_copies.has_value();
  *sure = enough;
}

/// As the metadata store has it now. Nothing else goes on longer than it takes to ask.
bool FaultInjector::two_copies_are_sure() {
  if (lowest_copies_ < 2) return false;
  auto sure = std::make_shared<std::optional<bool>>();
  jobs_.spawn(ask_for_copies(sure));
  while (!sure->has_value() && cluster_.loop.step()) {
  }
  return sure->value_or(false);
}

/// Nothing is bad on all the others of what this peer has.
bool FaultInjector::can_spare(std::size_t peer) {
  for (const auto& [ref, bad] : rotten_) {
    if (!cluster_.node(peer).service()->store().find(ref).has_value()) continue;
    if (!has_good_copy_elsewhere(peer, ref)) return false;
  }
  return true;
}

// --- a disk that is gone --------------------------------------------------------------------------

/// One in a life. The machine comes back with an empty disk, as a new peer.
bool FaultInjector::disk_lost() {
  if (lost_a_disk_ || liar_.has_value()) return false;
  const std::optional<std::size_t> peer = random_peer(Life::up);
  if (!peer.has_value() || !two_copies_are_sure()) return false;
  if (cluster_.peer_life(*peer) != Life::up || !can_spare(*peer)) return false;
  const PeerId id = cluster_.node(*peer).id();
  trace_.event(SimCluster::peer_name(*peer), "its disk is lost, and all that was peer {}",
               id.to_string());
  end_peer(*peer, Death::power, later(seconds(20)));
  cluster_.disk(*peer).replace();
  peer_ids_.erase(*peer);
  give_up(id);
  return true;
}

void FaultInjector::give_up(const PeerId& id) {
  lost_a_disk_ = true;
  lost_.insert(id);
  look_after_lost_at_ = later(seconds(20));
}

/// What an operator does about peers that never come back, until it is done.
void FaultInjector::look_after_lost() {
  if (lost_.empty() || now() < look_after_lost_at_) return;
  look_after_lost_at_ = now() + kLookAgain;
  if (jobs_.count() > 0) return;
  for (const PeerId& id : lost_) jobs_.spawn(remove_lost(id));
}

Job FaultInjector::remove_lost(PeerId id) {
  RingChange wanted;
  wanted.kind = RingChangeKind::remove;
  wanted.members.push_back({.id = id});
  wanted.force = force_removals_;
  const Result<RingSpec> changed = co_await change_ring(cluster_.metadata(), std::move(wanted));
  if (changed.code() != Errc::not_found) {
    trace_.event("-", "peer {} is removed: {}", id.to_string(),
                 changed.has_value() ? fmt::format("ring {}", changed->version)
                                     : changed.error().to_string());
  }
  // Until the change has ended an old part of the ring names it.
  const Result<void> forgotten = co_await cluster_.metadata().forget_peer(id);
  if (!forgotten.has_value() && forgotten.code() != Errc::not_found) co_return;
  trace_.event("-", "peer {} is forgotten", id.to_string());
  lost_.erase(id);
}

std::string FaultInjector::still_lost() const {
  return lost_.empty() ? "" : "peer " + lost_.begin()->to_string() + " is lost, and not yet forgotten";
}

// --- a disk that lies -----------------------------------------------------------------------------

/// Not at once: everything else must be calm.
bool FaultInjector::lying_sync() {
  if (!liar_.has_value() || is_careful() || !joined_.contains(*liar_)) return false;
  calming_since_ = now();
  calm_since_ = now();
  trace_.event("-", "nothing else is to happen");
  return false;  // counted when it comes to it
}

bool FaultInjector::is_calm() {
  // One that is lost and in the ring still may have held the other copy, for all that the cluster knows.
  bool calm = repairs_.empty() && jobs_.count() == 0 && lost_.empty();
  for (const std::size_t peer : joined_) {
    calm &= cluster_.peer_life(peer) == Life::up && !cluster_.peer_is_frozen(peer);
  }
  if (!calm) calm_since_ = now();
  return now() - calm_since_ >= kCalm;
}

/// The liar's cache reaches its platter now and then; only what was written since can be lost.
void FaultInjector::look_after_liar() {
  if (!liar_.has_value() || !joined_.contains(*liar_)) return;
  if (random_.chance(1, 20)) cluster_.disk(*liar_).write_back();
  if (calming_since_.has_value()) {
    if (is_calm() && two_copies_are_sure() && is_calm()) {
      lose_writes();
    } else if (now() - *calming_since_ > kCalmPatience) {
      calming_since_.reset();
    }
  }
  if (!unrestored_) return;
  // What cannot be read is replaced, as any broken disk.
  const bool refused = cluster_.peer_life(*liar_) == Life::down &&
                       cluster_.start_error(*liar_).find("corrupt") != std::string::npos;
  if (refused && !cluster_.disk(*liar_).files().empty()) {
    trace_.event(SimCluster::peer_name(*liar_), "its disk is replaced: {}", cluster_.start_error(*liar_));
    cluster_.disk(*liar_).replace();
  }
  if (!is_restored()) return;
  trace_.event(SimCluster::peer_name(*liar_), "has all its copies again");
  unrestored_ = false;
}

void FaultInjector::lose_writes() {
  calming_since_.reset();
  unrestored_ = true;
  scrub_before_.reset();
  ++counts_["lying-sync"];
  const PeerId id = cluster_.node(*liar_).id();
  peer_ids_[*liar_] = id;
  trace_.event(SimCluster::peer_name(*liar_), "loses its power, and writes that it had synced");
  if (lost_writes) lost_writes(id);
  cluster_.end_peer(*liar_, Death::power);
  peer_up_at_[*liar_] = later(seconds(20));
}

/// It was scrubbed since, and whatever anybody holds is on two peers.
bool FaultInjector::is_restored() {
  if (cluster_.peer_life(*liar_) != Life::up) {
    scrub_before_.reset();
    return false;
  }
  PeerService& service = *cluster_.node(*liar_).service();
  const std::int64_t finished = service.report().scrub.finished_unix_ms;
  if (!scrub_before_.has_value()) {
    scrub_before_ = finished;
    (void)service.start(WorkKind::scrub);
  }
  if (finished == *scrub_before_) return false;
  std::map<BlockRef, int> copies;
  for (const std::size_t peer : joined_) {
    if (cluster_.peer_life(peer) != Life::up) return false;
    for (const BlockInfo& block : cluster_.node(peer).service()->store().list({})) ++copies[block.ref];
  }
  for (const auto& [ref, count] : copies) {
    if (count < 2) return false;
  }
  return two_copies_are_sure();
}

/// The peer that is up has this id; one that had another before lost everything.
void FaultInjector::note_id(std::size_t peer) {
  const PeerId id = cluster_.node(peer).id();
  const auto [known, fresh] = peer_ids_.try_emplace(peer, id);
  if (known->second == id) return;
  give_up(known->second);
  known->second = id;
}

}  // namespace agro
