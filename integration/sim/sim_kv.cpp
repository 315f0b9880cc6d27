#include "sim_kv.hpp"

namespace agro {

/// Between the process and the store; shared with the watches.
struct SimKv::Way {
  Way(Clock& the_clock, Random the_random) : clock(the_clock), random(the_random) {}

  Clock& clock;
  Random random;
  SimKvFaults faults;
  SimKvCounts counts;
  bool cut = false;
  Event changed;  // cut or faults

  enum class Fate : std::uint8_t { passes, question_lost, answer_lost };

  Duration between(Duration least, Duration most) {
    const auto range = static_cast<std::uint64_t>((most - least).count());
    return least + Duration(range == 0 ? 0 : random.below(range + 1));
  }
  bool happens(std::uint32_t ppm) { return ppm > 0 && random.chance(ppm, 1'000'000); }

  Result<void> state() const {
    if (cut) return fail(Errc::closed, "the process is dead");
    if (faults.down) return fail(Errc::unavailable, "the metadata store cannot be reached");
    return {};
  }
  Awaitable<void> pass_half() {
    const Duration half = between(faults.latency_min, faults.latency_max) / 2;
    if (half.count() > 0) co_await sleep_for(clock, half);
  }
  /// An answer that never comes is waited for, and then given up.
  Awaitable<void> wait_in_vain() {
    const TimePoint until = clock.now() + faults.patience;
    while (!cut && clock.now() < until) co_await wait_until(changed, clock, until);
  }

  /// The start of a call; errors are those of one that was not made. Sets `fate` for the rest.
  Task<void> set_out(Fate& fate);
  /// Passes on a call that may be repeated.
  template <class T>
  static Task<T> ask(std::shared_ptr<Way> way, Task<T> call);
};

Task<void> SimKv::Way::set_out(Fate& fate) {
  ++counts.calls;
  AGRO_CO_TRY_OK(state());
  if (happens(faults.refuse_ppm)) {
    ++counts.refused;
    if (random.chance(1, 2)) co_return fail(Errc::unavailable, "the metadata store refused: injected");
    co_await wait_in_vain();
    co_return fail(Errc::timed_out, "no connection to the metadata store: injected");
  }
  fate = Fate::passes;
  if (happens(faults.lose_question_ppm)) {
    fate = Fate::question_lost;
    ++counts.lost_questions;
  } else if (happens(faults.lose_answer_ppm)) {
    fate = Fate::answer_lost;
    ++counts.lost_answers;
  }
  co_await pass_half();
  co_return Result<void>();
}

template <class T>
Task<T> SimKv::Way::ask(std::shared_ptr<Way> way, Task<T> call) {
  Fate fate = Fate::passes;
  AGRO_CO_TRY_OK(co_await way->set_out(fate));
  AGRO_CO_TRY_OK(way->state());
  if (fate == Fate::question_lost) {
    co_await way->wait_in_vain();
    co_return fail(Errc::timed_out, "no answer from the metadata store: injected");
  }
  Result<T> answer = co_await std::move(call);
  co_await way->pass_half();
  AGRO_CO_TRY_OK(way->state());
  if (fate == Fate::answer_lost) {
    co_await way->wait_in_vain();
    co_return fail(Errc::timed_out, "no answer from the metadata store: injected");
  }
  co_return std::move(answer);
}

namespace {

/// The other end of a watch is told late, or that it missed something.
class SimKvWatch final : public KvWatch {
 public:
  SimKvWatch(std::unique_ptr<KvWatch> inner, std::shared_ptr<SimKv::Way> way)
      : shared_(std::make_shared<Shared>()) {
    shared_->inner = std::move(inner);
    shared_->way = std::move(way);
  }
  ~SimKvWatch() override { close(); }
  Task<std::vector<KvEvent>> next() override { return next_of(shared_); }
  void close() override {
    shared_->closed = true;
    shared_->inner->close();
    shared_->way->changed.notify_all();
  }

 private:
  struct Shared {
    std::unique_ptr<KvWatch> inner;
    std::shared_ptr<SimKv::Way> way;
    bool closed = false;
    bool over() const { return closed || way->cut; }
  };
  static Task<std::vector<KvEvent>> next_of(std::shared_ptr<Shared> shared);
  std::shared_ptr<Shared> shared_;
};

Task<std::vector<KvEvent>> SimKvWatch::next_of(std::shared_ptr<Shared> shared) {
  SimKv::Way& way = *shared->way;
  Result<std::vector<KvEvent>> events = co_await shared->inner->next();
  if (!events.has_value()) co_return std::move(events);
  if (way.faults.watch_lag_max.count() > 0) {
    ++way.counts.lagged_batches;
    const TimePoint until =
        way.clock.now() + way.between(way.faults.watch_lag_min, way.faults.watch_lag_max);
    while (!shared->over() && way.clock.now() < until) {
      co_await wait_until(way.changed, way.clock, until);
    }
  }
  while (!shared->over() && way.faults.down) co_await way.changed.wait();
  if (shared->over()) co_return fail(Errc::closed, "the metadata watch is closed");
  if (way.happens(way.faults.watch_compaction_ppm)) {
    ++way.counts.compactions;
    shared->inner->close();
    co_return fail(Errc::outcome_unknown, "the metadata watch missed changes: injected");
  }
  co_return std::move(events);
}

}  // namespace

SimKv::SimKv(std::unique_ptr<Kv> inner, Clock& clock, Random random)
    : inner_(std::move(inner)), way_(std::make_shared<Way>(clock, random)) {}
SimKv::~SimKv() = default;

void SimKv::cut() {
  way_->cut = true;
  way_->changed.notify_all();
}
void SimKv::set_faults(SimKvFaults faults) {
  way_->faults = faults;
  way_->changed.notify_all();
}
void SimKv::set_down(bool down) {
  way_->faults.down = down;
  way_->changed.notify_all();
}
const SimKvFaults& SimKv::faults() const { return way_->faults; }
const SimKvCounts& SimKv::counts() const { return way_->counts; }

Task<std::optional<KeyValue>> SimKv::get(std::string key) {
  return Way::ask(way_, inner_->get(std::move(key)));
}
Task<KvRange> SimKv::list(std::string prefix) {
  return Way::ask(way_, inner_->list(std::move(prefix)));
}

Task<KvTxnResult> SimKv::transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) {
  const std::shared_ptr<Way> way = way_;
  Way::Fate fate = Way::Fate::passes;
  AGRO_CO_TRY_OK(co_await way->set_out(fate));
  // What a process had sent when it died may have arrived.
  if (way->cut && way->random.chance(1, 2)) co_return fail(Errc::closed, "the process is dead");
  if (way->faults.down && !way->cut) fate = Way::Fate::question_lost;
  if (fate != Way::Fate::question_lost) {
    Result<KvTxnResult> answer = co_await inner_->transact(std::move(compares), std::move(ops));
    co_await way->pass_half();
    if (fate == Way::Fate::passes && !way->faults.down && !way->cut) co_return std::move(answer);
  }
  co_await way->wait_in_vain();
  if (way->cut) co_return fail(Errc::closed, "the process is dead");
  co_return fail(Errc::outcome_unknown, "no answer from the metadata store: injected");
}

Task<std::unique_ptr<KvWatch>> SimKv::watch(std::string prefix, std::uint64_t revision) {
  const std::shared_ptr<Way> way = way_;
  AGRO_CO_TRY(std::unique_ptr<KvWatch> inner,
              co_await Way::ask(way, inner_->watch(std::move(prefix), revision)));
  co_return std::make_unique<SimKvWatch>(std::move(inner), way);
}

Task<std::uint64_t> SimKv::grant_lease(std::chrono::milliseconds ttl) {
  return Way::ask(way_, inner_->grant_lease(ttl));
}

Task<void> SimKv::keep_alive(std::uint64_t lease) {
  if (way_->faults.fail_keep_alives && !way_->cut) {
    ++way_->counts.failed_keep_alives;
    co_await yield_to_loop();
    co_return fail(Errc::unavailable, "the metadata store does not renew: injected");
  }
  co_return co_await Way::ask(way_, inner_->keep_alive(lease));
}

Task<void> SimKv::revoke_lease(std::uint64_t lease) {
  return Way::ask(way_, inner_->revoke_lease(lease));
}
Task<void> SimKv::close() { co_return co_await inner_->close(); }

}  // namespace agro
