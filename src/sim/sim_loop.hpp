// Runs one io_context on simulated time: everything that is ready, then the next timer, and so on.
//
// Invariants: time moves only when nothing is ready; so a run depends on its inputs alone.
// Source: DESIGN.md section 10.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "sim/sim_clock.hpp"

namespace agro {

class SimLoop {
 public:
  /// Far more than any test needs, so that a hang ends.
  static constexpr Duration kLimit = std::chrono::hours(10);

  asio::io_context& loop() { return loop_; }
  Executor executor() { return loop_.get_executor(); }
  SimClock& clock() { return clock_; }

  /// Runs what is ready, without moving time.
  void poll();

  /// Runs until `done()` holds (tested whenever nothing is ready); false when `limit` of simulated
  /// time passed or nothing is left to wait for.
  bool run_until(const std::function<bool()>& done, Duration limit = kLimit);

  /// Runs for `duration` of simulated time, which passes even when nothing happens.
  void run_for(Duration duration);

  /// Runs `task` to its end; timed_out after `limit` of simulated time, or when it waits for what
  /// can never come.
  template <class T>
  Result<T> run(Task<T> task, Duration limit = kLimit) {
    auto result = std::make_shared<std::optional<Result<T>>>();
    spawn(executor(), store_result<T>(std::move(task), result));
    if (!run_until([&] { return result->has_value(); }, limit)) {
      return fail(Errc::timed_out, "the task did not end in simulated time");
    }
    return std::move(**result);
  }

  /// Runs `job` to its end; false as run_until().
  bool run_job(Job job, Duration limit = kLimit);

 private:
  template <class T>
  static Job store_result(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
    Result<T> result = co_await std::move(task);
    out->emplace(std::move(result));
  }
  static Job note_end(Job job, std::shared_ptr<bool> done);

  asio::io_context loop_{1};
  SimClock clock_;  // its timers hold coroutines of loop_, so it goes first
};

}  // namespace agro
