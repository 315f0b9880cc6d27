// Work rate: paces background work of a peer in bytes a second, and gives way to its users.
//
// Threading: one loop. Source: DESIGN.md section 6.
#pragma once

#include <algorithm>

#include "base/clock.hpp"
#include "distributor/peer_service.hpp"

namespace agro {

class WorkRate {
 public:
  /// What is left of the rate while users are at work: one of so many parts.
  static constexpr std::uint64_t kForegroundShare = 4;

  /// Bytes a second; 0: no limit. Shape: both outlive it.
  WorkRate(Clock& clock, const PeerService& service, std::uint64_t rate)
      : clock_(clock), service_(service), rate_(rate) {}

  /// Books `size` bytes; the work may begin at the time returned, which may be now.
  TimePoint book(std::uint64_t size) {
    const TimePoint at = std::max(clock_.now(), next_at_);
    if (rate_ == 0) return clock_.now();
    const bool users_at_work = service_.activity() != activity_;
    activity_ = service_.activity();
    const std::uint64_t rate =
        std::max<std::uint64_t>(1, users_at_work ? rate_ / kForegroundShare : rate_);
    next_at_ = at + Duration(static_cast<std::int64_t>(1e9 * static_cast<double>(size) /
                                                       static_cast<double>(rate)));
    return at;
  }

 private:
  Clock& clock_;
  const PeerService& service_;
  std::uint64_t rate_;
  std::uint64_t activity_ = 0;
  TimePoint next_at_;
};

}  // namespace agro
