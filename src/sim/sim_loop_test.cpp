#include "sim/sim_loop.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace agro {
namespace {

using std::chrono::hours;
using std::chrono::seconds;

Job note_later(Clock& clock, Duration delay, std::string name, std::vector<std::string>& notes) {
  co_await sleep_for(clock, delay);
  notes.push_back(name);
}

// Goal: hours pass in no time, in order of (time, arming). Method: three sleepers.
TEST(SimLoopTest, TimersFireInOrder) {
  SimLoop sim;
  std::vector<std::string> notes;
  const TimePoint start = sim.clock().now();
  spawn(sim.executor(), note_later(sim.clock(), hours(2), "last", notes));
  spawn(sim.executor(), note_later(sim.clock(), hours(1), "first", notes));
  spawn(sim.executor(), note_later(sim.clock(), hours(1), "second", notes));
  EXPECT_TRUE(sim.run_until([&] { return notes.size() == 2; }));
  EXPECT_EQ(sim.clock().now() - start, hours(1));
  EXPECT_TRUE(sim.run_until([&] { return notes.size() == 3; }));
  EXPECT_EQ(notes, (std::vector<std::string>{"first", "second", "last"}));
}

Task<int> add_later(Clock& clock, int left, int right) {
  co_await sleep_for(clock, seconds(1));
  co_return left + right;
}

Task<void> wait_for_ever(Event& event) {
  co_await event.wait();
  co_return Result<void>{};
}

TEST(SimLoopTest, RunReturnsTheResultOrGivesUp) {
  SimLoop sim;
  EXPECT_EQ(sim.run(add_later(sim.clock(), 2, 3)).value(), 5);
  EXPECT_EQ(sim.run(add_later(sim.clock(), 2, 3), std::chrono::milliseconds(1)).code(),
            Errc::timed_out);
  Event never;
  EXPECT_EQ(sim.run(wait_for_ever(never)).code(), Errc::timed_out);
  never.notify_all();
  const TimePoint before = sim.clock().now();
  sim.run_for(seconds(5));
  EXPECT_EQ(sim.clock().now() - before, seconds(5));
}

}  // namespace
}  // namespace agro
