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

Job count_to(Clock& clock, int count, std::string name, std::vector<std::string>& notes) {
  for (int i = 0; i < count; ++i) {
    co_await sleep_for(clock, seconds(1));
    notes.push_back(name);
  }
}

// Goal: a stopped process does nothing while time and others go on; then it finds all that came.
TEST(SimLoopTest, StoppedProcess) {
  SimLoop sim;
  SimProcess& a = sim.add_process();
  SimProcess& b = sim.add_process();
  std::vector<std::string> notes;
  spawn(a.executor(), count_to(sim.clock(), 3, "a", notes));
  spawn(b.executor(), count_to(sim.clock(), 3, "b", notes));
  sim.run_for(std::chrono::milliseconds(1500));
  EXPECT_EQ(notes, (std::vector<std::string>{"a", "b"}));
  a.set_stopped(true);
  sim.run_for(seconds(10));
  EXPECT_EQ(notes, (std::vector<std::string>{"a", "b", "b", "b"}));
  a.set_stopped(false);
  sim.poll();
  EXPECT_EQ(notes.size(), 5U);  // the timer that ended long ago
  sim.run_for(std::chrono::milliseconds(900));
  EXPECT_EQ(notes.size(), 5U);  // the next one began when it went on
  sim.run_for(seconds(1));
  EXPECT_EQ(notes.size(), 6U);
}

Job step_through(int count, std::string name, std::vector<std::string>& notes) {
  for (int i = 0; i < count; ++i) {
    notes.push_back(name);
    co_await yield_to_loop();
  }
}

// Goal: run_steps() stops between any two handlers, also where nothing waits for time.
TEST(SimLoopTest, Steps) {
  SimLoop sim;
  SimProcess& a = sim.add_process();
  std::vector<std::string> notes;
  spawn(a.executor(), step_through(3, "a", notes));
  spawn(a.executor(), step_through(3, "b", notes));
  std::vector<std::size_t> sizes;
  while (sim.run_steps(1) == 1) sizes.push_back(notes.size());
  EXPECT_EQ(notes, (std::vector<std::string>{"a", "b", "a", "b", "a", "b"}));
  EXPECT_EQ(sizes, (std::vector<std::size_t>{1, 2, 3, 4, 5, 6, 6, 6}));
  spawn(sim.executor(), note_later(sim.clock(), hours(1), "late", notes));
  EXPECT_EQ(sim.run_steps(100, std::chrono::minutes(1)), 1U);
  EXPECT_NE(notes.back(), "late");
  EXPECT_EQ(sim.run_steps(100), 1U);
  EXPECT_EQ(notes.back(), "late");
}

}  // namespace
}  // namespace agro
