// Runs processes on simulated time: everything that is ready, then the next timer, and so on.
//
// Each process has an io_context, so that its handlers can be held back while time, the network and
// all others go on, which is what SIGSTOP does: timers that end and bytes that come meanwhile are
// waiting when it goes on.
// Invariants: time moves only when nothing is ready in a process that is not stopped; the handlers of
// a process run in order of posting, and processes take turns in order of creation; so a run depends
// on its inputs alone. Source: DESIGN.md section 10.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>

#include "sim/sim_clock.hpp"

namespace agro {

/// The handlers of one process; made by SimLoop::add_process().
class SimProcess {
 public:
  Executor executor() { return loop_.get_executor(); }
  /// While stopped (SIGSTOP) none of its handlers runs.
  void set_stopped(bool stopped) { stopped_ = stopped; }
  bool is_stopped() const { return stopped_; }
  /// Runs the next handler; false: none is ready, or it is stopped.
  bool step() { return !stopped_ && loop_.poll_one() == 1; }

 private:
  asio::io_context loop_{1};
  // A loop without work would have to be told to start again.
  asio::executor_work_guard<Executor> work_{loop_.get_executor()};
  bool stopped_ = false;
};

class SimLoop {
 public:
  /// Far more than any test needs, so that a hang ends.
  static constexpr Duration kLimit = std::chrono::hours(10);

  SimLoop() { add_process(); }

  /// Of the test itself, and of what belongs to no process.
  Executor executor() { return processes_.front()->executor(); }
  SimClock& clock() { return clock_; }
  /// Lives as long as the loop.
  SimProcess& add_process();

  /// Runs what is ready, without moving time.
  void poll();

  /// Runs one handler that is ready; false: there is none.
  bool step();
  /// Runs so many handlers, moving time when none is ready; so a caller can come between any two.
  /// Returns how many ran: fewer, when `limit` passed or nothing is left to wait for.
  std::uint64_t run_steps(std::uint64_t count, Duration limit = kLimit);

  /// Runs until `done()` holds (tested whenever nothing is ready); false when `limit` of simulated
  /// time passed or nothing is left to wait for.
  bool run_until(const std::function<bool()>& done, Duration limit = kLimit);

  /// Runs for `duration` of simulated time, which passes even when nothing happens.
  void run_for(Duration duration);

  /// Runs `task` to its end; timed_out after `limit` of simulated time, or when it waits for what
  /// can never come.
  template <class T>
  Result<T> run(Task<T> task, Duration limit = kLimit) {
    return run_on(executor(), std::move(task), limit);
  }
  /// The same, as a part of the process that has this executor.
  template <class T>
  Result<T> run_on(Executor process, Task<T> task, Duration limit = kLimit) {
    auto result = std::make_shared<std::optional<Result<T>>>();
    spawn(process, store_result<T>(std::move(task), result));
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

  std::vector<std::unique_ptr<SimProcess>> processes_;
  std::size_t turn_ = 0;  // whose turn it is
  SimClock clock_;        // its timers hold coroutines of the processes, so it goes first
};

}  // namespace agro
