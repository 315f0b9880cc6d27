// Busy polling: how a thread waits for work on its loop.
//
// Waking a sleeping core costs 20 to 35 us, more than most requests do (docs/performance.md). So while
// work comes at short gaps the thread looks for it instead of sleeping, for twice the usual gap and
// never longer than a limit; it yields the core at each turn, so that others lose little. Where work
// comes seldom it sleeps at once, and an idle process costs nothing.
// Threading: the loop's thread.
#pragma once

#include "base/async.hpp"
#include "base/clock.hpp"

namespace agro {

inline constexpr Duration kBusyPollDefault = std::chrono::microseconds(200);

class BusyPoll {
 public:
  /// Shape: `most` zero: never polls.
  BusyPoll(asio::io_context& loop, const Clock& clock, Duration most);

  /// Runs the loop until it is stopped.
  void run();
  /// Turns that found nothing to do.
  std::uint64_t empty_turn_count() const { return empty_turn_count_; }

 private:
  bool find_work(TimePoint idle_since);

  asio::io_context& loop_;
  const Clock& clock_;
  Duration most_;
  Duration usual_gap_;
  std::uint64_t empty_turn_count_ = 0;
};

}  // namespace agro
