#include "sim/sim_clock.hpp"

#include <algorithm>

namespace agro {

std::int64_t SimClock::unix_time_ms() const {
  constexpr std::int64_t kStartMs = 1'577'836'800'000;  // 2020-01-01
  return kStartMs +
         std::chrono::duration_cast<std::chrono::milliseconds>(now_.time_since_epoch()).count();
}

void SimClock::fire_next() {
  now_ = std::max(now_, timers_.next_at());  // one armed for the past fires now
  timers_.pop()();
}

void SimClock::advance_to(TimePoint at) {
  while (has_timers() && next_at() <= at) fire_next();
  now_ = std::max(now_, at);
}

}  // namespace agro
