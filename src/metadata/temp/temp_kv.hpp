// TempKv: the metadata store in memory, for tests, the simulator and throw-away clusters.
//
// Invariants: as kv.hpp, but nothing is durable. Several clients of a process share one TempKvStore
// and see one order of transactions. Threading: one loop for the store and all its clients.
#pragma once

#include <memory>

#include "base/clock.hpp"
#include "metadata/kv.hpp"

namespace agro {

/// What the clients share.
class TempKvStore {
 public:
  /// Shape: `clock` outlives the store and its clients; it ends the leases. Watches may start so
  /// many revisions back.
  explicit TempKvStore(Clock& clock, std::size_t history_count = 4096);
  ~TempKvStore();

  /// A client. It keeps the contents alive.
  std::unique_ptr<Kv> connect();

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace agro
