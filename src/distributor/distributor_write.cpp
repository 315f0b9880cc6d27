// The distributor's writes: the first R connected peers at once, the next one for each that fails
// or is slow.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "distributor/distributor_ops.hpp"

namespace agro {

/// Members of the ring that is to be, only: what a leaving peer took now, nobody would know of once
/// it has left.
std::vector<Distributor::PeerPtr> Distributor::write_candidates(const BlockRef& ref) {
  std::vector<PeerPtr> candidates;
  if (ring_ == nullptr) return candidates;
  ring_->target().permutation(ref, permutation_);
  candidates.reserve(permutation_.size());
  for (const std::uint32_t member : permutation_) {
    const PeerPtr& state = target_peers_[member];
    if (state != nullptr && state->peer->connected()) candidates.push_back(state);
  }
  std::stable_partition(candidates.begin(), candidates.end(),
                        [this](const PeerPtr& state) { return !is_suspect(*state); });
  return candidates;
}

Job Distributor::write_attempt(std::shared_ptr<WriteOp> op, std::size_t index) {
  const PeerPtr state = op->attempts[index].state;
  state->requests.add();
  PeerWrite request = op->request;
  request.keep = request.keep && index == 0;  // reads ask it first
  const TimePoint deadline = env_.clock.now() + options_.write_limit;
  const Result<void> written = co_await state->peer->write(std::move(request), deadline);
  note(*state, written.code());
  WriteOp::Attempt& attempt = op->attempts[index];
  if (attempt.phase == WriteOp::Phase::slow) --state->slow_count;
  attempt.phase = WriteOp::Phase::ended;
  switch (written.code()) {
    case Errc::ok:
      ++op->durable_count;
      attempt.stored = true;
      break;
    case Errc::fenced:
      op->fenced = true;
      break;
    case Errc::out_of_space:
      ++op->full_count;
      break;
    case Errc::stale_ring:
      op->stale_ring = true;
      break;
    default:
      if (AGRO_MUTANT(kFlushWithoutReplica)) ++op->durable_count;
      log_debug("peer {}: write {}: {}", state->peer->id().to_string(), op->request.ref.to_string(),
                written.error().to_string());
  }
  if (!written.has_value()) op->last_problem = written.error().to_string();
  op->changed.notify_all();
}

/// Keeps as many attempts going that are not slow as copies are missing, while there are peers.
void Distributor::start_write_attempts(const std::shared_ptr<WriteOp>& op) {
  const TimePoint now = env_.clock.now();
  for (WriteOp::Attempt& attempt : op->attempts) {
    if (attempt.phase != WriteOp::Phase::fresh || attempt.slow_at > now) continue;
    attempt.phase = WriteOp::Phase::slow;
    ++attempt.state->slow_count;
  }
  // An attempt may end before spawn() returns.
  while (!op->fenced && !op->stale_ring && !closed_ && op->attempts.size() < op->candidates.size() &&
         op->durable_count + op->count(WriteOp::Phase::fresh) < op->wanted) {
    const std::size_t index = op->attempts.size();
    op->attempts.push_back(
        {op->candidates[index], now + options_.write_slow, WriteOp::Phase::fresh});
    jobs_.spawn(write_attempt(op, index));
  }
}

Error Distributor::write_failure(const WriteOp& op) const {
  const std::string name = op.request.ref.to_string();
  if (op.full_count > 0 && op.durable_count + op.full_count >= op.wanted) {
    return {Errc::out_of_space, fmt::format("block {}: {} of {} copies stored, {} peers are full",
                                            name, op.durable_count, op.wanted, op.full_count)};
  }
  return {Errc::no_quorum, fmt::format("block {}: {} of {} copies stored, {} peers connected{}{}",
                                       name, op.durable_count, op.wanted, op.candidates.size(),
                                       op.last_problem.empty() ? "" : "; last: ", op.last_problem)};
}

/// Whether the copies there are will do: only peers that are known to be silent could add one. A
/// full peer is another matter: space is missing then, and not peers. A copy whose peer has gone since
/// may have gone with its disk, and who goes on with fewer copies had better have them.
bool Distributor::has_settled(const WriteOp& op) const {
  if (op.copies_in_reach() < op.least || op.full_count > 0) return false;
  bool only_silent = true;
  std::uint32_t under_way = 0;
  for (const WriteOp::Attempt& attempt : op.attempts) {
    if (attempt.phase == WriteOp::Phase::ended) continue;
    ++under_way;
    const bool silent = attempt.phase == WriteOp::Phase::slow || is_suspect(*attempt.state);
    only_silent = only_silent && silent;
  }
  return only_silent && (under_way == 0 || env_.clock.now() >= op.settle_at);
}

/// When something is to be done though no attempt ends before.
TimePoint Distributor::next_look(const WriteOp& op) const {
  const TimePoint now = env_.clock.now();
  TimePoint next = op.settle_at > now ? op.settle_at : TimePoint::max();
  for (const WriteOp::Attempt& attempt : op.attempts) {
    if (attempt.phase == WriteOp::Phase::fresh) next = std::min(next, attempt.slow_at);
  }
  return next;
}

Task<std::uint32_t> Distributor::write(BlockRef ref, SharedBytes block, WriteOptions options) {
  const CallGuard guard(*this);
  const TimePoint give_up = env_.clock.now() + options_.ring_limit;
  while (true) {
    const std::uint64_t version = ring_ == nullptr ? 0 : ring_->version();
    Result<std::uint32_t> written = co_await write_once(ref, block, options);
    if (written.code() != Errc::stale_ring) co_return written;
    // Again by the newer ring, which may be here by now; copies that were made stay until the peers
    // find them misplaced.
    if (ring_->version() == version) ring_is_stale_.notify_all();
    while (!closed_ && ring_->version() == version && env_.clock.now() < give_up) {
      co_await wait_until(ring_changed_, env_.clock, give_up);
    }
    if (ring_->version() == version) {
      co_return fail(Errc::no_quorum, fmt::format("block {}: the peers know a newer ring than {}",
                                                  ref.to_string(), version));
    }
  }
}

Task<std::uint32_t> Distributor::write_once(BlockRef ref, SharedBytes block, WriteOptions options) {
  if (closed_) co_return fail(Errc::closed, "the distributor is closed");
  auto op = std::make_shared<WriteOp>();
  op->request.ref = ref;
  op->request.block = std::move(block);
  op->request.checksummed = options.checksummed;
  op->request.reserve = options.reserve;
  op->request.repair = options.repair;
  op->request.keep = options.keep;
  op->request.verified = options.checksummed;  // by the crc layer above us
  op->request.ring_version = ring_ == nullptr ? 0 : ring_->version();
  op->wanted = options.copy_count != 0 ? options.copy_count : copy_count();
  op->least = options.min_copies != 0 ? std::min<std::uint32_t>(options.min_copies, op->wanted)
                                      : op->wanted;
  op->settle_at = env_.clock.now() + (options.hasty ? Duration(0) : options_.write_patience);
  op->candidates = write_candidates(ref);
  if (op->wanted == 0 || op->candidates.size() < op->least) co_return fail(write_failure(*op));
  op->attempts.reserve(op->candidates.size());
  const std::uint64_t closing_waiter = closing_.add([weak = std::weak_ptr<WriteOp>(op)] {
    if (const std::shared_ptr<WriteOp> alive = weak.lock()) alive->changed.notify_all();
  });
  Result<void> result;
  while (true) {
    start_write_attempts(op);
    if (op->fenced) {
      result = fail(Errc::fenced,
                    fmt::format("block {}: a newer writer has the volume", ref.to_string()));
      break;
    }
    if (op->durable_count >= op->wanted) break;
    if (op->stale_ring) {
      result = fail(Errc::stale_ring, fmt::format("block {}", ref.to_string()));
      break;
    }
    if (has_settled(*op)) break;
    if (closed_) {
      result = fail(Errc::closed, "the distributor was closed");
      break;
    }
    if (op->count(WriteOp::Phase::ended) == op->candidates.size()) {
      result = fail(write_failure(*op));
      break;
    }
    const TimePoint look_at = next_look(*op);
    if (look_at == TimePoint::max()) {
      co_await op->changed.wait();
    } else {
      co_await wait_until(op->changed, env_.clock, look_at);
    }
  }
  closing_.remove(closing_waiter);
  if (!result.has_value()) co_return fail(std::move(result).error());
  co_return op->durable_count;
}

}  // namespace agro
