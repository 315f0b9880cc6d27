// The distributor's reads: one replica after another until one verifies; bad copies are repaired.
//
// The caller's memory has one writer: a replica that is slow is given up (its peer lets go of the
// buffer) before the next is asked; a hedge (distributor_hedge.cpp) has a buffer of its own. When all
// were slow, each gets the long limit. Giving up in the middle of a reply breaks that connection, for everybody who reads over
// it; hence nobody's failing to answer is an error only after some time of trying.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "blockset/crc.hpp"
#include "distributor/distributor_ops.hpp"

namespace agro {
namespace {

/// More than this at once would be a scrub; what is left out is found again by the next read.
constexpr std::size_t kRepairsAtOnceMax = 16;

/// Until peers that could not be reached are asked again; a broken connection is back by then.
constexpr Duration kAskAgainAfter = std::chrono::milliseconds(100);

}  // namespace

ReadCounters::ReadCounters(Metrics& metrics)
    : requests(metrics.counter("agro_distributor_block_requests_total",
                               "Total number of blocks requested of the distributor layer")),
      inode_requests(metrics.counter("agro_distributor_inode_requests_total",
                                     "Total number of inode blocks requested of it")),
      local_blocks(metrics.counter("agro_distributor_block_local_blocks",
                                   "Number of blocks returned from a peer of this machine")),
      local_fails(metrics.counter("agro_distributor_block_local_block_fails",
                                  "Number of blocks that a peer of this machine did not return")),
      peer_blocks(metrics.counter("agro_distributor_block_peer_blocks",
                                  "Number of blocks returned from another machine's peer")),
      peer_fails(metrics.counter("agro_distributor_block_peer_block_fails",
                                 "Number of failures in retrieving a block from such a peer")),
      failures(metrics.counter("agro_distributor_block_request_failures",
                               "Number of failed block requests")),
      inode_failures(metrics.counter("agro_distributor_inode_request_failures",
                                     "Number of failed requests for inode blocks")) {}

/// Replicas first, of them local ones before others and those that are overtaken again and again
/// last; then the rest of the ring, then everybody else; those that did not answer lately last. The same order at every read of a block, so that one page cache has
/// it.
std::vector<Distributor::PeerPtr> Distributor::read_candidates(const BlockRef& ref) {
  std::vector<PeerPtr> candidates;
  std::size_t replica_count = 0;
  if (ring_ != nullptr) {
    ring_->permutation(ref, permutation_);
    for (std::size_t rank = 0; rank < permutation_.size(); ++rank) {
      const PeerPtr& state = member_peers_[permutation_[rank]];
      if (state == nullptr || !state->peer->connected()) continue;
      candidates.push_back(state);
      if (rank < ring_->replication()) ++replica_count;
    }
  }
  std::stable_partition(candidates.begin(),
                        candidates.begin() + static_cast<std::ptrdiff_t>(replica_count),
                        [](const PeerPtr& state) { return state->peer->local(); });
  const TimePoint now = env_.clock.now();
  std::stable_partition(candidates.begin(),
                        candidates.begin() + static_cast<std::ptrdiff_t>(replica_count),
                        [now](const PeerPtr& state) { return now >= state->shunned_until; });
  for (const auto& [id, state] : peers_) {
    if (!state->peer->connected()) continue;
    if (std::find(candidates.begin(), candidates.end(), state) == candidates.end()) {
      candidates.push_back(state);
    }
  }
  std::stable_partition(candidates.begin(), candidates.end(),
                        [this](const PeerPtr& state) { return !is_suspect(*state); });
  return candidates;
}

Task<void> Distributor::read_whole(ReadOp& op, PeerPtr state, TimePoint deadline) {
  std::vector<BlockRef> refs{op.ref};
  AGRO_CO_TRY(const std::vector<std::uint32_t> sizes,
              co_await state->peer->has(std::move(refs), 0, deadline));
  const std::uint32_t size = sizes.at(0);
  if (size == 0) co_return fail(Errc::not_found, op.ref.to_string() + ": not there");
  if (size > block_size_) {
    co_return fail(Errc::corrupt, fmt::format("a block of {} bytes", size));
  }
  std::shared_ptr<AlignedBuffer> buffer = buffers_.take(size);
  const MutableBytes place = buffer->bytes().first(size);
  AGRO_CO_TRY_OK(co_await state->peer->read(op.ref, 0, place, nullptr, deadline));
  if (op.check != nullptr && !op.check->verify_block(op.ref, place)) {
    co_return fail(Errc::corrupt, "the block does not verify");
  }
  op.block = {std::move(buffer), place};
  co_return Result<void>();
}

Result<void> Distributor::check_pages(const ReadOp& op, ConstBytes bytes,
                                      std::span<const std::uint32_t> page_crcs) {
  if (AGRO_MUTANT(kBadChecksumReturned)) return {};
  if (op.check == nullptr || op.check->verify(op.ref, op.offset, bytes, page_crcs)) return {};
  return fail(Errc::corrupt, "the pages do not verify");
}

Task<void> Distributor::read_attempt(ReadOp& op, PeerPtr state, TimePoint deadline, Race* race) {
  state->requests.add();
  if (op.whole) co_return co_await read_whole(op, state, deadline);
  std::vector<std::uint32_t> page_crcs;
  std::vector<std::uint32_t>* wanted = op.check != nullptr ? &page_crcs : nullptr;
  AGRO_CO_TRY_OK(co_await receive(op, state, wanted, deadline, race));
  co_return check_pages(op, op.out, page_crcs);
}

Task<void> Distributor::read_any(ReadOp& op) {
  const TimePoint give_up = env_.clock.now() + options_.read_limit;
  const bool is_inode = op.ref.type == BlockType::inode;
  reads_.requests.add();
  if (is_inode) reads_.inode_requests.add();
  Result<void> read = co_await ask_candidates(op, false);
  while (read.code() == Errc::unavailable && !closed_ && env_.clock.now() < give_up) {
    co_await wait_until(closing_, env_.clock, env_.clock.now() + kAskAgainAfter);
    read = co_await ask_candidates(op, true);
  }
  // A block that moved while it was looked for may have been missed at both places.
  for (int again = 0; again < 2 && read.code() == Errc::not_found && !closed_; ++again) {
    op.answered = op.bad;
    read = co_await ask_candidates(op, true);
  }
  if (!read.has_value()) {
    reads_.failures.add();
    if (is_inode) reads_.inode_failures.add();
  }
  co_return read;
}

/// What a peer answered, good or not.
void Distributor::take_answer(ReadOp& op, const PeerPtr& state, const Result<void>& read,
                              bool patient) {
  note(*state, read.code());
  const bool local = state->peer->local();
  if (read.has_value()) {
    (local ? reads_.local_blocks : reads_.peer_blocks).add();
    op.good = state;
    return;
  }
  (local ? reads_.local_fails : reads_.peer_fails).add();
  if (read.code() == Errc::timed_out && !patient) {
    op.slow.push_back(state);
  } else if (read.code() == Errc::corrupt || read.code() == Errc::io_error) {
    if (read.code() == Errc::corrupt) corrupt_replicas_.add();
    log_warning("peer {}: block {}: {}", state->peer->id().to_string(), op.ref.to_string(),
                read.error().to_string());
    op.bad.push_back(state);
    op.answered.push_back(state);
  } else if (read.code() == Errc::not_found || read.code() == Errc::invalid_argument) {
    op.answered.push_back(state);
  }
  if (read.code() != Errc::not_found || op.last_problem.message.empty()) {
    op.last_problem = read.error();
  }
}

Task<void> Distributor::ask_alone(ReadOp& op, PeerPtr state, bool patient) {
  const Duration limit = patient ? options_.read_limit : options_.read_slow;
  const TimePoint deadline = env_.clock.now() + limit;
  Result<void> read = co_await read_attempt(op, state, deadline, nullptr);
  take_answer(op, state, read, patient);
  co_return read;
}

/// Asks one of the candidates; a replica after it stands by, for when that takes long.
Task<void> Distributor::ask_candidate(ReadOp& op, const std::vector<PeerPtr>& candidates,
                                      std::size_t index, bool patient) {
  const PeerPtr state = candidates[index];
  const bool has_next = index + 1 < candidates.size() && index + 1 < copy_count();
  if (has_next && !op.whole && can_ask(op, candidates[index + 1])) {
    return ask_hedged(op, state, candidates[index + 1], patient);
  }
  return ask_alone(op, state, patient);
}

bool Distributor::can_ask(const ReadOp& op, const PeerPtr& state) {
  const auto has = [&state](const std::vector<PeerPtr>& peers) {
    return std::find(peers.begin(), peers.end(), state) != peers.end();
  };
  return state->peer->connected() && !has(op.answered) && !has(op.asked);
}

/// Asks everybody who has not answered yet, with the short limit first unless `patient_only`.
Task<void> Distributor::ask_candidates(ReadOp& op, bool patient_only) {
  std::vector<PeerPtr> candidates = read_candidates(op.ref);
  hedge_.earn();
  for (const bool patient : {false, true}) {
    if (patient_only && !patient) continue;
    op.asked.clear();
    for (std::size_t index = 0; index < candidates.size(); ++index) {
      if (closed_) co_return fail(Errc::closed, "the distributor was closed");
      if (!can_ask(op, candidates[index])) continue;
      const Result<void> read = co_await ask_candidate(op, candidates, index, patient);
      if (read.has_value()) {
        if (op.check != nullptr) start_repairs(op.ref, op.good, op.bad);
        co_return Result<void>();
      }
      const bool bad = read.code() == Errc::corrupt || read.code() == Errc::io_error;
      if (AGRO_MUTANT(kNoOtherReplica) && bad) co_return fail(read.error());
    }
    candidates = std::exchange(op.slow, {});
  }
  co_return fail(read_failure(op));
}

Error Distributor::read_failure(const ReadOp& op) const {
  const std::string name = op.ref.to_string();
  const std::uint32_t missing = members_missing(op.answered);
  if (missing > 0 || member_peers_.empty()) {
    return {
        Errc::unavailable,
        fmt::format("block {}: no good copy in reach; {} of {} peers do not answer, {} bad "
                    "copies; last: {}",
                    name, missing, member_peers_.size(), op.bad.size(), op.last_problem.message)};
  }
  if (!op.bad.empty()) {
    return {Errc::corrupt,
            fmt::format("block {}: every copy is bad ({} of them)", name, op.bad.size())};
  }
  if (op.last_problem.code == Errc::invalid_argument) return with_context(op.last_problem, name);
  return {Errc::not_found, fmt::format("block {}: on no peer", name)};
}

Task<void> Distributor::read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                             ReadOptions options) {
  const CallGuard guard(*this);
  if (closed_) co_return fail(Errc::closed, "the distributor is closed");
  ReadOp op;
  op.ref = ref;
  op.offset = offset;
  op.out = out;
  op.check = options.check;
  co_return co_await read_any(op);
}

Task<SharedBytes> Distributor::read_block(BlockRef ref, ReadOptions options) {
  const CallGuard guard(*this);
  if (closed_) co_return fail(Errc::closed, "the distributor is closed");
  ReadOp op;
  op.ref = ref;
  op.check = options.check;
  op.whole = true;
  AGRO_CO_TRY_OK(co_await read_any(op));
  co_return std::move(op.block);
}

std::optional<Result<void>> Distributor::try_read(const BlockRef& ref, std::uint32_t offset,
                                                  MutableBytes out, const ReadOptions& options) {
  if (!any_local_ || closed_ || ring_ == nullptr) return std::nullopt;
  ring_->permutation(ref, permutation_);
  const std::size_t replica_count =
      std::min<std::size_t>(ring_->replication(), permutation_.size());
  for (std::size_t rank = 0; rank < replica_count; ++rank) {
    PeerState* state = member_peers_[permutation_[rank]].get();
    if (state == nullptr || !state->peer->local()) continue;
    std::vector<std::uint32_t>* page_crcs = options.check != nullptr ? &page_crcs_ : nullptr;
    const std::optional<Result<void>> read = state->peer->try_read(ref, offset, out, page_crcs);
    if (!read.has_value() || !read->has_value()) continue;
    // A bad copy is read() and counted again by read(), which knows what to do about it.
    if (page_crcs != nullptr && !options.check->verify(ref, offset, out, *page_crcs)) {
      return std::nullopt;
    }
    state->requests.add();
    reads_.requests.add();
    reads_.local_blocks.add();
    return read;
  }
  return std::nullopt;
}

void Distributor::start_repairs(const BlockRef& ref, const PeerPtr& good,
                                const std::vector<PeerPtr>& bad) {
  for (const PeerPtr& state : bad) {
    if (closed_ || repairing_.size() >= kRepairsAtOnceMax) return;
    if (!repairing_.emplace(state->peer->id(), ref).second) continue;
    jobs_.spawn(repair_job(ref, good, state));
  }
}

Job Distributor::repair_job(BlockRef ref, PeerPtr good, PeerPtr bad) {
  const Result<void> repaired = co_await repair(ref, good, bad);
  repairing_.erase({bad->peer->id(), ref});
  if (repaired.has_value()) {
    repaired_replicas_.add();
    log_info("peer {}: block {} repaired", bad->peer->id().to_string(), ref.to_string());
  } else {
    log_warning("peer {}: block {} could not be repaired: {}", bad->peer->id().to_string(),
                ref.to_string(), repaired.error().to_string());
  }
}

Task<void> Distributor::repair(BlockRef ref, PeerPtr good, PeerPtr bad) {
  // The caller's check may be gone by now; it was the crc layer's, for nobody else has one.
  const CrcCheck check;
  ReadOp op;
  op.ref = ref;
  op.check = &check;
  op.whole = true;
  const TimePoint deadline = env_.clock.now() + options_.read_limit;
  good->requests.add();
  // The good copy was good where it was read; all of it must be, to make another from it.
  const Result<void> read = co_await read_whole(op, good, deadline);
  note(*good, read.code());
  if (!read.has_value()) co_return fail(read.error());
  PeerWrite request;
  request.ref = ref;
  request.block = op.block;
  request.checksummed = true;
  request.reserve = true;
  request.repair = true;
  bad->requests.add();
  const Result<void> written =
      co_await bad->peer->write(std::move(request), env_.clock.now() + options_.write_limit);
  note(*bad, written.code());
  co_return written;
}

}  // namespace agro
