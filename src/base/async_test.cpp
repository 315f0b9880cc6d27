#include "base/async.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/clock.hpp"
#include "base/offload.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;

Job note_after_event(Event& event, std::vector<int>& notes, int number) {
  co_await event.wait();
  notes.push_back(number);
}

// Goal: notify_all wakes all waiters of that moment, in order, by posting.
TEST(AsyncTest, EventWakesInOrder) {
  asio::io_context loop(1);
  Event event;
  std::vector<int> notes;
  for (int number = 0; number < 3; ++number) {
    spawn(loop.get_executor(), note_after_event(event, notes, number));
  }
  loop.poll();
  EXPECT_TRUE(event.has_waiters());
  event.notify_all();
  EXPECT_TRUE(notes.empty());
  loop.restart();
  loop.poll();
  EXPECT_EQ(notes, (std::vector<int>{0, 1, 2}));
}

Job wait_and_note(Event& event, Clock& clock, milliseconds limit, std::vector<bool>& notes) {
  notes.push_back(co_await wait_until(event, clock, clock.now() + limit));
}

TEST(AsyncTest, WaitUntilEndsByEventOrDeadline) {
  asio::io_context loop(1);
  SystemClock clock(loop);
  Event event;
  std::vector<bool> notes;
  spawn(loop.get_executor(), wait_and_note(event, clock, milliseconds(1), notes));
  loop.run();
  EXPECT_EQ(notes, (std::vector<bool>{false}));
  EXPECT_FALSE(event.has_waiters());
  loop.restart();
  spawn(loop.get_executor(), wait_and_note(event, clock, std::chrono::hours(1), notes));
  loop.poll();
  event.notify_all();
  loop.restart();
  loop.poll();
  EXPECT_EQ(notes, (std::vector<bool>{false, true}));
}

Job hold(AsyncMutex& mutex, Event& release, std::vector<int>& notes, int number) {
  const AsyncMutex::Guard guard = co_await mutex.lock();
  notes.push_back(number);
  co_await release.wait();
}

TEST(AsyncTest, MutexIsFair) {
  asio::io_context loop(1);
  AsyncMutex mutex;
  Event release;
  std::vector<int> notes;
  for (int number = 0; number < 3; ++number) {
    spawn(loop.get_executor(), hold(mutex, release, notes, number));
  }
  for (std::size_t round = 1; round <= 3; ++round) {
    loop.restart();
    loop.poll();
    EXPECT_EQ(notes.size(), round);
    release.notify_all();
  }
  EXPECT_EQ(notes, (std::vector<int>{0, 1, 2}));
  loop.restart();
  loop.poll();
}

Job join_and_note(TaskGroup& group, bool& joined) {
  co_await group.join();
  joined = true;
}

TEST(AsyncTest, TaskGroupJoinsAll) {
  asio::io_context loop(1);
  TaskGroup group(loop.get_executor());
  Event event;
  std::vector<int> notes;
  group.spawn(note_after_event(event, notes, 1));
  group.spawn(note_after_event(event, notes, 2));
  bool joined = false;
  spawn(loop.get_executor(), join_and_note(group, joined));
  loop.poll();
  EXPECT_FALSE(joined);
  event.notify_all();
  loop.restart();
  loop.poll();
  EXPECT_TRUE(joined);
  EXPECT_EQ(group.count(), 0U);
}

Result<int> seven() { return 7; }

Job run_off_loop(Offload& offload, int& answer, asio::io_context& loop) {
  const Result<int> result = co_await run_blocking(offload, seven);
  answer = *result;
  loop.stop();
}

TEST(AsyncTest, OffloadReturnsToTheLoop) {
  asio::io_context loop(1);
  const auto guard = asio::make_work_guard(loop);
  ThreadOffload offload(loop, 2);
  int answer = 0;
  spawn(loop.get_executor(), run_off_loop(offload, answer, loop));
  loop.run();
  EXPECT_EQ(answer, 7);
}

}  // namespace
}  // namespace agro
