// The clock of one simulated host: it runs a little too fast or too slow, started at another time than
// others, and its time of day is off.
//
// Invariants: a timer fires when this clock, not true time, reaches it; without drift that is the
// exact instant. Threading: one loop.
#pragma once

#include "base/clock.hpp"

namespace agro {

struct HostClockOptions {
  std::int32_t drift_ppm = 0;           // too fast when positive
  Duration since_boot{0};               // what now() is ahead of true time at the start
  std::int64_t unix_offset_ms = 0;      // what the time of day is ahead
};

class HostClock final : public Clock {
 public:
  static constexpr std::int32_t kDriftPpmMax = 100'000;

  /// Shape: `clock`, the true time, outlives this; |drift_ppm| <= kDriftPpmMax.
  explicit HostClock(Clock& clock, HostClockOptions options = {});

  TimePoint now() const override { return shown_at(clock_.now()); }
  std::int64_t unix_time_ms() const override;
  TimerId call_at(TimePoint at, UniqueFunction callback) override;
  void cancel(TimerId id) override { clock_.cancel(id); }

  /// The time of day jumps, as when somebody sets it.
  void set_unix_offset_ms(std::int64_t offset) { options_.unix_offset_ms = offset; }

 private:
  TimePoint shown_at(TimePoint real) const;
  TimePoint first_that_shows(TimePoint shown) const;

  Clock& clock_;
  HostClockOptions options_;
  const TimePoint start_;
  const std::int64_t unix_start_ms_;
};

}  // namespace agro
