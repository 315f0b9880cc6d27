// Simulated time: it moves only when told.
//
// Invariants: timers fire in order of (time, order of arming), and now() is exactly a timer's time
// while it fires.
// Threading: one loop.
#pragma once

#include "base/clock.hpp"

namespace agro {

class SimClock final : public Clock {
 public:
  TimePoint now() const override { return now_; }
  /// Starts on 2020-01-01 and moves with now().
  std::int64_t unix_time_ms() const override;
  TimerId call_at(TimePoint at, UniqueFunction callback) override {
    return timers_.add(at, std::move(callback));
  }
  void cancel(TimerId id) override { timers_.remove(id); }

  bool has_timers() const { return !timers_.empty(); }
  /// Shape: has_timers().
  TimePoint next_at() const { return timers_.next_at(); }
  /// Moves time to the next timer and fires that one. Shape: has_timers().
  void fire_next();
  /// Fires every timer up to `at`, then moves time there. Callbacks only post: run the loop between
  /// timers (SimLoop does) where that matters.
  void advance_to(TimePoint at);

 private:
  TimePoint now_{std::chrono::seconds(1)};
  TimerQueue timers_;
};

}  // namespace agro
