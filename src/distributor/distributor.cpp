#include "distributor/distributor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/log.hpp"
#include "distributor/distributor_ops.hpp"

namespace agro {

Distributor::Distributor(Env env, std::uint32_t block_size, DistributorOptions options)
    : env_(env),
      block_size_(block_size),
      options_(options),
      buffers_(block_size),
      jobs_(env.executor),
      corrupt_replicas_(env.metrics.get("agro_corrupt_replicas_total",
                                        "Copies of blocks found not to verify when read")),
      repaired_replicas_(
          env.metrics.get("agro_repaired_replicas_total", "Bad copies replaced from a good one")),
      hedged_reads_(env.metrics.get("agro_hedged_reads_total",
                                    "Reads sent to another replica too, the first being slow")),
      hedged_reads_won_(env.metrics.get("agro_hedged_reads_won_total",
                                        "Of those, answered by the other replica first")),
      reads_(env.metrics) {}

Distributor::~Distributor() {
  AGRO_ASSERT(call_count_ == 0 && jobs_.count() == 0);
  for (const auto& [id, state] : peers_) state->peer->on_connection({});
}

void Distributor::set_ring(std::shared_ptr<const Ring> ring) {
  ring_ = std::move(ring);
  match_members();
  ring_changed_.notify_all();
  peers_changed_.notify_all();
}

void Distributor::set_peers(std::map<PeerId, std::shared_ptr<Peer>> peers) {
  std::map<PeerId, PeerPtr> states;
  for (auto& [id, peer] : peers) {
    AGRO_ASSERT(peer != nullptr);
    if (const PeerPtr known = find_peer(id); known != nullptr && known->peer == peer) {
      states[id] = known;
      continue;
    }
    const MetricLabels label{{"peer", id.to_string()}};
    states[id] = std::make_shared<PeerState>(PeerState{
        std::move(peer),
        env_.metrics.get("agro_peer_requests_total", "Requests sent to a peer", label),
        env_.metrics.get("agro_peer_errors_total", "Requests to a peer that failed", label), 0,
        TimePoint(), Duration(0), 0, TimePoint(), Duration(0)});
    listen(states[id]);
  }
  for (const auto& [id, state] : peers_) {
    const auto kept = states.find(id);
    if (kept == states.end() || kept->second != state) state->peer->on_connection({});
  }
  peers_ = std::move(states);
  match_members();
  peers_changed_.notify_all();
}

void Distributor::listen(const PeerPtr& state) {
  state->peer->on_connection([this, weak = std::weak_ptr<PeerState>(state)] {
    // It said hello: it does answer.
    const PeerPtr changed = weak.lock();
    if (changed != nullptr && changed->peer->connected()) changed->suspect_until = TimePoint();
    peers_changed_.notify_all();
  });
}

Distributor::PeerPtr Distributor::find_peer(const PeerId& id) const {
  const auto found = peers_.find(id);
  return found == peers_.end() ? nullptr : found->second;
}

void Distributor::match_members() {
  member_peers_.clear();
  target_peers_.clear();
  if (ring_ != nullptr) {
    for (const RingMember& member : ring_->members()) {
      member_peers_.push_back(find_peer(member.id));
    }
    for (const RingMember& member : ring_->target().members()) {
      target_peers_.push_back(find_peer(member.id));
    }
  }
  any_local_ = std::any_of(peers_.begin(), peers_.end(),
                           [](const auto& entry) { return entry.second->peer->local(); });
}

bool Distributor::is_suspect(const PeerState& state) const {
  return state.slow_count > 0 || env_.clock.now() < state.suspect_until;
}

/// A peer that stays silent is tried less and less often.
void Distributor::suspect(PeerState& state) {
  const TimePoint now = env_.clock.now();
  if (now < state.suspect_until) return;
  state.suspicion = std::clamp(2 * state.suspicion, options_.suspicion, options_.suspicion_max);
  state.suspect_until = now + state.suspicion;
}

void Distributor::note(PeerState& state, Errc code) {
  // These answers are no fault of the peer's.
  const bool fine = code == Errc::ok || code == Errc::not_found || code == Errc::fenced ||
                    code == Errc::out_of_space || code == Errc::stale_ring;
  if (!fine) state.errors.add();
  if (code == Errc::timed_out) suspect(state);
  if (code == Errc::ok) {
    state.suspect_until = TimePoint();
    state.suspicion = Duration(0);
  }
}

std::vector<Distributor::PeerPtr> Distributor::connected_peers() const {
  std::vector<PeerPtr> connected;
  for (const auto& [id, state] : peers_) {
    if (state->peer->connected()) connected.push_back(state);
  }
  return connected;
}

std::uint32_t Distributor::members_missing(const std::vector<PeerPtr>& answered) const {
  std::uint32_t missing = 0;
  for (const PeerPtr& member : member_peers_) {
    const bool there =
        member != nullptr && std::find(answered.begin(), answered.end(), member) != answered.end();
    missing += there ? 0 : 1;
  }
  return missing;
}

Reached Distributor::reached(const std::vector<PeerPtr>& answered) const {
  Reached reached;
  if (ring_ == nullptr) return reached;
  for (std::size_t index = 0; index < member_peers_.size(); ++index) {
    const PeerId& id = ring_->members()[index].id;
    reached.members.push_back(id);
    const PeerPtr& member = member_peers_[index];
    const bool there =
        member != nullptr && std::find(answered.begin(), answered.end(), member) != answered.end();
    if (there) reached.answered.push_back(id);
  }
  return reached;
}

std::uint32_t Distributor::copy_count() const {
  return ring_ == nullptr ? 0 : ring_->replication();
}

std::uint32_t Distributor::sure_copies() const {
  return ring_ == nullptr ? 0 : ring_->sure_copies();
}

std::uint32_t Distributor::ready_count() const {
  return static_cast<std::uint32_t>(
      std::count_if(target_peers_.begin(), target_peers_.end(), [this](const PeerPtr& member) {
        return member != nullptr && member->peer->connected() && !is_suspect(*member);
      }));
}

/// The most bytes that can be stored as `copies` equal copies, each on another peer, with so much
/// free on each: sort out the k largest, which get one copy each; the rest must take the others.
static std::uint64_t available_for_copies(std::vector<std::uint64_t>& free, std::uint32_t copies) {
  std::sort(free.begin(), free.end(), std::greater<>());
  if (copies == 0 || free.size() < copies) return 0;
  std::uint64_t rest = std::accumulate(free.begin(), free.end(), std::uint64_t{0});
  std::uint64_t best = rest;
  for (std::uint32_t large = 1; large < copies; ++large) {
    rest -= free[large - 1];
    best = std::min(best, rest / (copies - large) * copies);
  }
  return best;
}

Space Distributor::space() const {
  Space sum;
  std::vector<std::uint64_t>& free = free_;
  std::vector<std::uint64_t>& free_connected = free_connected_;
  free.clear();
  free_connected.clear();
  // As write_candidates(): what members that leave have free takes no more blocks.
  for (const PeerPtr& member : target_peers_) {
    if (member == nullptr) continue;
    const std::optional<PeerStat> stat = member->peer->last_stat();
    if (!stat.has_value()) continue;
    sum.size += stat->store.size;
    sum.used += stat->store.used;
    free.push_back(stat->store.available);
    if (member->peer->connected()) free_connected.push_back(stat->store.available);
  }
  // What a peer that cannot be reached has free is no use to anybody now. With fewer connected than
  // copies are wanted, it is not space that is missing.
  const bool enough = free_connected.size() >= copy_count();
  const auto known = static_cast<std::uint32_t>(free.size());  // others never said what they have
  sum.available = available_for_copies(enough ? free_connected : free, std::min(copy_count(), known));
  return sum;
}

Awaitable<void> Distributor::stop() {
  closed_ = true;
  closing_.notify_all();
  ring_changed_.notify_all();
  while (call_count_ > 0) co_await calls_changed_.wait();
  co_await jobs_.join();
}

// --- list, remove, fence: to everybody at once ---------------------------------------------------

void Distributor::finish(FanOut& op, const PeerPtr& state, Errc code) {
  note(*state, code);
  if (code == Errc::ok) op.answered.push_back(state);
  if (code == Errc::fenced) op.fenced = true;
  std::erase(op.waiting, state);
  op.changed.notify_all();
}

/// Returns when all have answered, or when enough have and the rest is silent.
Awaitable<void> Distributor::wait_for_answers(std::shared_ptr<FanOut> op,
                                              std::uint32_t missing_allowed) {
  const TimePoint patience = env_.clock.now() + options_.straggler_wait;
  while (!op->waiting.empty() && !op->fenced) {
    if (missing_allowed == 0 || members_missing(op->answered) > missing_allowed) {
      co_await op->changed.wait();
      continue;
    }
    const bool silent =
        std::all_of(op->waiting.begin(), op->waiting.end(),
                    [this](const PeerPtr& state) { return is_suspect(*state); });
    if (silent || env_.clock.now() >= patience) break;
    co_await wait_until(op->changed, env_.clock, patience);
  }
  for (const PeerPtr& state : op->waiting) suspect(*state);
}

Job Distributor::list_job(std::shared_ptr<FanOut> op, PeerPtr state, BlockFilter filter) {
  state->requests.add();
  const TimePoint deadline = env_.clock.now() + options_.list_limit;
  const Result<std::vector<BlockInfo>> listed = co_await state->peer->list(filter, deadline);
  if (listed.has_value()) {
    op->infos.emplace_back(state, *listed);
  } else {
    log_warning("peer {}: list: {}", state->peer->id().to_string(), listed.error().to_string());
  }
  finish(*op, state, listed.code());
}

Task<Listing> Distributor::list(BlockFilter filter, std::uint32_t missing_allowed) {
  const CallGuard guard(*this);
  if (closed_) co_return fail(Errc::closed, "the distributor is closed");
  auto op = std::make_shared<FanOut>();
  const std::vector<PeerPtr> targets = connected_peers();
  op->waiting = targets;
  for (const PeerPtr& state : targets) jobs_.spawn(list_job(op, state, filter));
  co_await wait_for_answers(op, missing_allowed);
  Listing listing;
  listing.unreachable_count = members_missing(op->answered);
  listing.reached = reached(op->answered);
  // Copies of peers that are leaving do not count.
  std::vector<std::pair<BlockInfo, std::uint32_t>> found;
  for (const auto& [state, infos] : op->infos) {
    const bool member = std::binary_search(listing.reached.answered.begin(),
                                           listing.reached.answered.end(), state->peer->id());
    for (const BlockInfo& info : infos) found.emplace_back(info, member ? 1 : 0);
  }
  std::sort(found.begin(), found.end());
  for (const auto& [info, copies] : found) {
    if (listing.entries.empty() || listing.entries.back().ref != info.ref) {
      listing.entries.push_back({info.ref, 0, 0});
    }
    Listing::Entry& entry = listing.entries.back();
    entry.size = std::max(entry.size, info.size);
    entry.copy_count += copies;
  }
  co_return listing;
}

Job Distributor::remove_job(std::shared_ptr<FanOut> op, PeerPtr state,
                            std::shared_ptr<const std::vector<BlockRef>> refs) {
  state->requests.add();
  const TimePoint deadline = env_.clock.now() + options_.control_limit;
  const Result<void> removed = co_await state->peer->remove(*refs, deadline);
  if (!removed.has_value()) {
    log_warning("peer {}: remove: {}; its copies stay until gc finds them",
                state->peer->id().to_string(), removed.error().to_string());
  }
  finish(*op, state, removed.code());
}

Task<void> Distributor::remove(std::vector<BlockRef> refs) {
  const CallGuard guard(*this);
  if (closed_) co_return fail(Errc::closed, "the distributor is closed");
  if (refs.empty()) co_return Result<void>();
  auto op = std::make_shared<FanOut>();
  const auto shared = std::make_shared<const std::vector<BlockRef>>(std::move(refs));
  const std::vector<PeerPtr> targets = connected_peers();
  op->waiting = targets;
  for (const PeerPtr& state : targets) jobs_.spawn(remove_job(op, state, shared));
  co_await wait_for_answers(op, 0);
  co_return Result<void>();
}

Job Distributor::fence_job(std::shared_ptr<FanOut> op, PeerPtr state, VolumeId volume,
                           Epoch epoch) {
  state->requests.add();
  const TimePoint deadline = env_.clock.now() + options_.control_limit;
  const Result<void> fenced = co_await state->peer->fence(volume, epoch, deadline);
  finish(*op, state, fenced.code());
}

Task<Reached> Distributor::fence(VolumeId volume, Epoch epoch, std::uint32_t missing_allowed) {
  const CallGuard guard(*this);
  if (closed_) co_return fail(Errc::closed, "the distributor is closed");
  auto op = std::make_shared<FanOut>();
  const std::vector<PeerPtr> targets = connected_peers();
  op->waiting = targets;
  for (const PeerPtr& state : targets) jobs_.spawn(fence_job(op, state, volume, epoch));
  co_await wait_for_answers(op, missing_allowed);
  if (op->fenced) {
    co_return fail(Errc::fenced, fmt::format("volume {}: a newer writer than epoch {} has it",
                                             volume.value, epoch.value));
  }
  co_return reached(op->answered);
}

}  // namespace agro
