// Goal: the loop runs as ever, and polls only where work comes often.
#include "base/busy_poll.hpp"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/clock.hpp"

namespace agro {
namespace {

/// Fires so often, at such gaps, and then stops the loop.
struct Ticker {
  asio::io_context& loop;
  std::chrono::microseconds gap;
  int left;
  asio::steady_timer timer{loop};

  void start() {
    timer.expires_after(gap);
    timer.async_wait([this](const boost::system::error_code&) {
      if (--left == 0) return loop.stop();
      start();
    });
  }
};

std::uint64_t empty_turns(std::chrono::microseconds gap, int count, Duration most) {
  asio::io_context loop(1);
  SystemClock clock(loop);
  Ticker ticker{loop, gap, count};
  ticker.start();
  BusyPoll poll(loop, clock, most);
  poll.run();
  EXPECT_EQ(ticker.left, 0);
  return poll.empty_turn_count();
}

TEST(BusyPollTest, PollsWhereWorkComesOften) {
  EXPECT_GT(empty_turns(std::chrono::microseconds(20), 200, std::chrono::milliseconds(2)), 0U);
}

TEST(BusyPollTest, SleepsWhereItComesSeldom) {
  EXPECT_EQ(empty_turns(std::chrono::milliseconds(5), 20, kBusyPollDefault), 0U);
}

TEST(BusyPollTest, ZeroIsNever) {
  EXPECT_EQ(empty_turns(std::chrono::microseconds(20), 200, Duration(0)), 0U);
}

}  // namespace
}  // namespace agro
