// A process's connection to the metadata store, with the faults of a real one on demand.
//
// The store itself (TempKvStore) is perfect and outlives all crashes; whatever goes wrong, goes wrong
// on the way there, on the way back, or because the process at this end dies.
// Invariants: a call that fails with unavailable or timed_out before it was sent changed nothing; a
// transaction of which nobody knows fails with outcome_unknown, done or not; after cut() every call
// fails with closed, and a transaction that was on its way then may still be done. With no fault set,
// no random number is drawn and no time passes.
// Threading: one loop. Source: DESIGN.md section 10.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "metadata/kv.hpp"

namespace agro {

/// What goes wrong, from now on. Chances are in parts per million of the calls.
struct SimKvFaults {
  bool down = false;              // unavailable at once; events arrive when it is over
  bool fail_keep_alives = false;  // leases end although the store can be reached
  Duration latency_min{0};        // of a call, half of it before the store sees it
  Duration latency_max{0};
  std::uint32_t refuse_ppm = 0;         // not done: unavailable at once, or timed_out
  std::uint32_t lose_question_ppm = 0;  // not done: timed_out; of a transaction outcome_unknown
  std::uint32_t lose_answer_ppm = 0;    // done, and the same errors
  Duration patience = std::chrono::milliseconds(500);  // so long a lost answer is waited for
  Duration watch_lag_min{0};            // of each batch of events
  Duration watch_lag_max{0};
  std::uint32_t watch_compaction_ppm = 0;  // of batches: lost, next() is outcome_unknown
};

/// How often what went wrong.
struct SimKvCounts {
  std::uint64_t calls = 0;
  std::uint64_t refused = 0;
  std::uint64_t lost_questions = 0;
  std::uint64_t lost_answers = 0;
  std::uint64_t failed_keep_alives = 0;
  std::uint64_t lagged_batches = 0;
  std::uint64_t compactions = 0;
};

class SimKv final : public Kv {
 public:
  /// Shape: `clock` outlives the connection and its watches.
  SimKv(std::unique_ptr<Kv> inner, Clock& clock, Random random);
  ~SimKv() override;

  /// The process is dead: nothing it asks for happens any more.
  void cut();
  void set_faults(SimKvFaults faults);
  const SimKvFaults& faults() const;
  /// The store cannot be reached until told otherwise.
  void set_down(bool down);
  const SimKvCounts& counts() const;

  Task<std::optional<KeyValue>> get(std::string key) override;
  Task<KvRange> list(std::string prefix) override;
  Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) override;
  Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) override;
  Task<std::uint64_t> grant_lease(std::chrono::milliseconds ttl) override;
  Task<void> keep_alive(std::uint64_t lease) override;
  Task<void> revoke_lease(std::uint64_t lease) override;
  Task<void> close() override;

  struct Way;

 private:
  std::unique_ptr<Kv> inner_;
  std::shared_ptr<Way> way_;
};

}  // namespace agro
