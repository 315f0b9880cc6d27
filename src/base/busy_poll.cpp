#include "base/busy_poll.hpp"

#include <sched.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>

namespace agro {
namespace {

/// Longer gaps are all the same: nobody polls for them.
constexpr Duration kGapMax = std::chrono::milliseconds(2);
/// The last gap's share in the usual one.
constexpr int kNewestShare = 8;

}  // namespace

BusyPoll::BusyPoll(asio::io_context& loop, const Clock& clock, Duration most)
    : loop_(loop), clock_(clock), most_(most), usual_gap_(kGapMax) {}

void BusyPoll::run() {
  while (!loop_.stopped()) {
    if (loop_.poll() > 0) continue;
    const TimePoint idle_since = clock_.now();
    if (!find_work(idle_since)) loop_.run_one();
    const Duration gap = std::min<Duration>(clock_.now() - idle_since, kGapMax);
    usual_gap_ += (gap - usual_gap_) / kNewestShare;
  }
}

bool BusyPoll::find_work(TimePoint idle_since) {
  if (usual_gap_ > most_) return false;
  const TimePoint until = idle_since + std::min(2 * usual_gap_, most_);
  do {
    ::sched_yield();
    if (loop_.poll() > 0 || loop_.stopped()) return true;
    ++empty_turn_count_;
  } while (clock_.now() < until);
  return false;
}

}  // namespace agro
