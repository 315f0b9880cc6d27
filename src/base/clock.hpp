// Time as an interface: SystemClock in programs, SimClock (src/sim) in the simulator.
//
// Invariants: callbacks run on the clock's loop in order of (time, order of arming), never inside
// call_at() or cancel().
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>

#include "base/async.hpp"

namespace agro {

using Duration = std::chrono::nanoseconds;

struct MonotonicTime {
  using rep = Duration::rep;
  using period = Duration::period;
  using duration = Duration;
  using time_point = std::chrono::time_point<MonotonicTime>;
  static constexpr bool is_steady = true;
};
/// Nanoseconds since an arbitrary start; never goes back.
using TimePoint = MonotonicTime::time_point;

/// Names one armed timer.
struct TimerId {
  TimePoint at;
  std::uint64_t order = 0;
  auto operator<=>(const TimerId&) const = default;
};

/// The time of day, monotonic time, and timers.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  /// Milliseconds since 1970, for people and for leases in files; may jump.
  virtual std::int64_t unix_time_ms() const = 0;
  /// Runs `callback` once, at or after `at`, unless cancelled before.
  virtual TimerId call_at(TimePoint at, UniqueFunction callback) = 0;
  /// Forgets a timer; one that has run or never was is ignored.
  virtual void cancel(TimerId id) = 0;
};

/// What both clocks keep their timers in.
class TimerQueue {
 public:
  TimerId add(TimePoint at, UniqueFunction callback);
  void remove(TimerId id) { timers_.erase(id); }
  bool empty() const { return timers_.empty(); }
  /// Shape: not empty.
  TimePoint next_at() const { return timers_.begin()->first.at; }
  /// Removes and returns the earliest timer. Shape: not empty.
  UniqueFunction pop();

 private:
  std::map<TimerId, UniqueFunction> timers_;
  std::uint64_t next_order_ = 0;
};

/// The real clock (CLOCK_MONOTONIC), on an io_context.
class SystemClock final : public Clock {
 public:
  explicit SystemClock(asio::io_context& loop);
  ~SystemClock() override;
  TimePoint now() const override;
  std::int64_t unix_time_ms() const override;
  TimerId call_at(TimePoint at, UniqueFunction callback) override;
  void cancel(TimerId id) override;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// Returns at or after `at`.
Awaitable<void> sleep_until(Clock& clock, TimePoint at);
inline Awaitable<void> sleep_for(Clock& clock, Duration duration) {
  return sleep_until(clock, clock.now() + duration);
}

/// Waits for `event` until `deadline`; false when the deadline came first. The event must outlive
/// the wait.
Awaitable<bool> wait_until(Event& event, Clock& clock, TimePoint deadline);

/// The answer to one question, given once: set() wakes the one who waits. Both hold it shared.
template <class T>
class Promise {
 public:
  bool is_set() const { return value_ != nullptr; }
  /// Later calls are ignored: the first answer, or the deadline, has won.
  void set(Result<T> value) {
    if (value_ != nullptr) return;
    value_ = std::make_unique<Result<T>>(std::move(value));
    if (resume_) resume_();
  }
  /// Shape: awaited once. The Promise must be kept alive by the caller's shared_ptr.
  Task<T> get() {
    if (value_ == nullptr) {
      co_await suspend([this](UniqueFunction resume) { resume_ = std::move(resume); });
    }
    co_return std::move(*value_);
  }

 private:
  std::unique_ptr<Result<T>> value_;
  UniqueFunction resume_;
};

/// Awaits `promise` until `deadline`, then answers timed_out with `what` in its text.
template <class T>
Task<T> get_until(std::shared_ptr<Promise<T>> promise, Clock& clock, TimePoint deadline,
                  std::string what) {
  const TimerId timer = clock.call_at(deadline, UniqueFunction([promise, what] {
                                        promise->set(fail(Errc::timed_out, what + " timed out"));
                                      }));
  Result<T> result = co_await promise->get();
  clock.cancel(timer);
  co_return result;
}

}  // namespace agro
