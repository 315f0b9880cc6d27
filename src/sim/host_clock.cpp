#include "sim/host_clock.hpp"

#include <algorithm>
#include <limits>

#include "base/assert.hpp"

namespace agro {
namespace {

__extension__ using Wide = __int128;
constexpr Wide kMillion = 1'000'000;

/// Times beyond the range stay at its ends: "never" is TimePoint::max().
TimePoint clamped(Wide ns) {
  constexpr Wide kMost = std::numeric_limits<std::int64_t>::max();
  return TimePoint(Duration(static_cast<std::int64_t>(std::clamp(ns, -kMost, kMost))));
}

Wide ns_of(TimePoint at) { return at.time_since_epoch().count(); }

}  // namespace

HostClock::HostClock(Clock& clock, HostClockOptions options)
    : clock_(clock),
      options_(options),
      start_(clock.now()),
      unix_start_ms_(clock.unix_time_ms()) {
  AGRO_ASSERT(std::abs(options.drift_ppm) <= kDriftPpmMax);
}

TimePoint HostClock::shown_at(TimePoint real) const {
  const Wide passed = ns_of(real) - ns_of(start_);
  return clamped(ns_of(start_) + options_.since_boot.count() + passed +
                 passed * options_.drift_ppm / kMillion);
}

TimePoint HostClock::first_that_shows(TimePoint shown) const {
  const Wide passed = ns_of(shown) - options_.since_boot.count() - ns_of(start_);
  TimePoint real =
      clamped(ns_of(start_) + passed * kMillion / (kMillion + options_.drift_ppm));
  while (real < TimePoint::max() && shown_at(real) < shown) real += Duration(1);  // rounded down
  return real;
}

std::int64_t HostClock::unix_time_ms() const {
  const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(
      now() - start_ - options_.since_boot);
  return unix_start_ms_ + options_.unix_offset_ms + passed.count();
}

TimerId HostClock::call_at(TimePoint at, UniqueFunction callback) {
  return clock_.call_at(first_that_shows(at), std::move(callback));
}

}  // namespace agro
