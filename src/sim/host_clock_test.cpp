// A host's clock against true time.
#include "sim/host_clock.hpp"

#include <gtest/gtest.h>

#include "sim/sim_loop.hpp"

namespace agro {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Goal: without options a host's clock is the true one, to the nanosecond.
TEST(HostClockTest, ExactWithoutDrift) {
  SimLoop sim;
  HostClock clock(sim.clock());
  const TimePoint at = clock.now() + Duration(1'234'567'891);
  bool fired = false;
  clock.call_at(at, [&] { fired = clock.now() == at && sim.clock().now() == at; });
  sim.run_for(seconds(2));
  EXPECT_TRUE(fired);
  EXPECT_EQ(clock.now(), sim.clock().now());
  EXPECT_EQ(clock.unix_time_ms(), sim.clock().unix_time_ms());
}

// Goal: with drift, timers fire when the host's clock reaches them, neither before nor more than a
// few nanoseconds after, at true times that differ by the drift.
TEST(HostClockTest, DriftMovesTimers) {
  for (const std::int32_t ppm : {-10'000, -3, 7, 10'000}) {
    SCOPED_TRACE(ppm);
    SimLoop sim;
    HostClock clock(sim.clock(), {.drift_ppm = ppm, .since_boot = hours(5)});
    const TimePoint start = sim.clock().now();
    EXPECT_EQ(clock.now() - start, hours(5));
    for (int round = 0; round < 50; ++round) {
      const TimePoint at = clock.now() + Duration(1 + 777'777'777LL * round);
      Duration late = seconds(-1);
      clock.call_at(at, [&] { late = clock.now() - at; });
      sim.run_until([&] { return late >= Duration(0); });
      EXPECT_GE(late, Duration(0));
      EXPECT_LE(late, Duration(2));
    }
    const double real = static_cast<double>((sim.clock().now() - start).count());
    const double shown = static_cast<double>((clock.now() - start - hours(5)).count());
    EXPECT_NEAR(shown / real, 1 + ppm / 1e6, 1e-9);
  }
}

// Goal: "never" stays never, a cancelled timer does not fire, the time of day is off as told.
TEST(HostClockTest, NeverCancelAndTimeOfDay) {
  SimLoop sim;
  HostClock clock(sim.clock(), {.drift_ppm = -10'000, .since_boot = hours(1), .unix_offset_ms = 250});
  EXPECT_EQ(clock.unix_time_ms() - sim.clock().unix_time_ms(), 250);
  clock.set_unix_offset_ms(-250);
  EXPECT_EQ(clock.unix_time_ms() - sim.clock().unix_time_ms(), -250);
  bool fired = false;
  clock.call_at(TimePoint::max(), [&] { fired = true; });
  const TimerId id = clock.call_at(clock.now() + milliseconds(1), [&] { fired = true; });
  clock.cancel(id);
  sim.run_for(hours(9));
  EXPECT_FALSE(fired);
}

}  // namespace
}  // namespace agro
