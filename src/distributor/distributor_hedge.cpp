// Hedged reads: when a replica takes longer than reads use to, another one is asked as well; the
// first good answer wins.
//
// The first attempt fills the caller's memory, as ever; the second, which may outlast the call, a
// buffer of its own. When the second wins, the first is ended before the call returns: a peer that
// cannot end a read (one in this process, whose disk writes where it was told) reads into a buffer of
// its own from the beginning. A second answer that is bad or an error only counts when the first is, too.
// Source: DESIGN.md section 5.
#include <algorithm>
#include <cstring>

#include "base/mutant.hpp"
#include "distributor/distributor_ops.hpp"

namespace agro {
namespace {

/// Overtaken so often in a row, a peer is asked after other replicas for a while.
constexpr std::uint32_t kOvertakenMax = 3;
constexpr Duration kShunned = std::chrono::seconds(1);  // doubles
constexpr Duration kShunnedMax = std::chrono::seconds(60);

}  // namespace

/// A read that may outlast who asked for it.
struct Distributor::OwnRead {
  PeerPtr state;
  BlockRef ref;
  std::uint32_t offset = 0;
  bool with_crcs = false;
  std::shared_ptr<AlignedBuffer> buffer;
  MutableBytes place;
  std::vector<std::uint32_t> page_crcs;
  Promise<void> received;
  ReadStop stop;
  Race* race = nullptr;  // of a hedge, while somebody waits for it
  std::optional<Result<void>> answer;

  static void give_up(void* read) {
    static_cast<OwnRead*>(read)->received.set(fail(Errc::timed_out, "another replica was quicker"));
  }
};

/// A first attempt under way, and its hedge if there is one. Lives in the frame of ask_hedged().
struct Distributor::Race {
  Race(Distributor& its_owner, ReadOp& its_op, PeerPtr its_next, Duration its_limit)
      : owner(its_owner),
        op(its_op),
        next(std::move(its_next)),
        limit(its_limit),
        begin(owner.env_.clock.now()),
        timer(owner.env_.clock.call_at(begin + owner.hedge_.delay(),
                                       [this] { owner.start_hedge(*this); })) {}
  ~Race() {
    owner.env_.clock.cancel(timer);
    if (hedge == nullptr) return;
    hedge->race = nullptr;
    if (!hedge->answer.has_value()) hedge->stop.stop();
  }
  Race(const Race&) = delete;
  Race& operator=(const Race&) = delete;
  bool is_won() const { return hedge != nullptr && hedge->answer && hedge->answer->has_value(); }

  Distributor& owner;
  ReadOp& op;
  PeerPtr next;
  Duration limit;
  TimePoint begin;
  TimerId timer;
  ReadStop first;
  std::shared_ptr<OwnRead> hedge;
  Event answered;
};

Job Distributor::own_read_job(std::shared_ptr<OwnRead> read, TimePoint deadline) {
  std::vector<std::uint32_t>* crcs = read->with_crcs ? &read->page_crcs : nullptr;
  Result<void> answer = co_await read->state->peer->read_stoppable(
      read->ref, read->offset, read->place, crcs, deadline, read->stop);
  if (read->race != nullptr) {
    if (answer.has_value()) answer = check_pages(read->race->op, read->place, read->page_crcs);
    read->answer = answer;
    if (answer.has_value()) read->race->first.stop();
    read->race->answered.notify_all();
  }
  read->received.set(std::move(answer));
}

std::shared_ptr<Distributor::OwnRead> Distributor::start_own_read(const ReadOp& op,
                                                                  const PeerPtr& state,
                                                                  TimePoint deadline, Race* race) {
  auto read = std::make_shared<OwnRead>();
  read->state = state;
  read->ref = op.ref;
  read->offset = op.offset;
  read->with_crcs = op.check != nullptr;
  read->buffer = buffers_.take(op.out.size());
  read->place = read->buffer->bytes().first(op.out.size());
  read->race = race;
  if (race != nullptr) race->hedge = read;  // its answer may come before spawn() returns
  jobs_.spawn(own_read_job(read, deadline));
  return read;
}

/// The timer's: the first attempt is slow.
void Distributor::start_hedge(Race& race) {
  if (closed_ || !race.next->peer->connected() || !hedge_.spend()) return;
  hedged_reads_.add();
  race.next->requests.add();
  start_own_read(race.op, race.next, env_.clock.now() + race.limit, &race);
}

/// The bytes of `state`'s copy to op.out; nothing touches that afterwards.
Task<void> Distributor::receive(ReadOp& op, const PeerPtr& state,
                                std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                                Race* race) {
  if (race == nullptr) return state->peer->read(op.ref, op.offset, op.out, page_crcs, deadline);
  if (state->peer->stops_reads()) {
    return state->peer->read_stoppable(op.ref, op.offset, op.out, page_crcs, deadline, race->first);
  }
  return receive_apart(op, state, page_crcs, deadline, race);
}

Task<void> Distributor::receive_apart(ReadOp& op, PeerPtr state,
                                      std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                                      Race* race) {
  const std::shared_ptr<OwnRead> read = start_own_read(op, state, deadline, nullptr);
  race->first = {read, &OwnRead::give_up};
  AGRO_CO_TRY_OK(co_await read->received.get());
  std::memcpy(op.out.data(), read->place.data(), op.out.size());
  if (page_crcs != nullptr) *page_crcs = std::move(read->page_crcs);
  co_return Result<void>();
}

/// Another replica was quicker: it may be asked first for a while.
void Distributor::note_overtaken(PeerState& state) {
  const TimePoint now = env_.clock.now();
  hedged_reads_won_.add();
  if (++state.overtaken_count < kOvertakenMax || now < state.shunned_until) return;
  state.shunned = std::clamp(2 * state.shunned, kShunned, kShunnedMax);
  state.shunned_until = now + state.shunned;
}

/// Asks `state`, and `next` as well when that takes long. What both said is noted in `op`.
Task<void> Distributor::ask_hedged(ReadOp& op, PeerPtr state, PeerPtr next, bool patient) {
  const Duration limit = patient ? options_.read_limit : options_.read_slow;
  Race race(*this, op, next, limit);
  Result<void> first = co_await read_attempt(op, state, race.begin + limit, &race);
  const bool overtaken = race.is_won() && first.code() == Errc::timed_out;
  if (first.has_value() || first.code() == Errc::timed_out) {
    hedge_.note(env_.clock.now() - race.begin);
  }
  if (overtaken) {
    note_overtaken(*state);
  } else {
    take_answer(op, state, first, patient);
  }
  if (first.has_value()) {
    state->overtaken_count = 0;
    state->shunned = Duration(0);
  }
  if (first.has_value() || race.hedge == nullptr) {
    if (race.hedge != nullptr && race.hedge->answer.has_value() && !race.is_won()) {
      take_answer(op, next, *race.hedge->answer, patient);
    }
    co_return first;
  }
  while (!race.hedge->answer.has_value()) co_await race.answered.wait();
  if (race.is_won()) std::memcpy(op.out.data(), race.hedge->place.data(), op.out.size());
  take_answer(op, next, *race.hedge->answer, patient);
  op.asked.push_back(next);
  co_return *race.hedge->answer;
}

}  // namespace agro
