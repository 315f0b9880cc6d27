// Hedge policy: when a read is slow enough to ask another replica as well, and whether that may be.
//
// The delay is the 99th percentile of what first answers took lately, over all peers, so that one slow
// peer stands out against the others. The estimate moves up by a tenth for an answer that took longer
// and down by a thousandth for one that did not: it rests where one in a hundred takes longer.
// Invariants: extra reads are at most kShare of all reads, and kCreditMax more after a quiet time.
// Threading: one loop. Pure: it is told the time.
#pragma once

#include <algorithm>
#include <chrono>

#include "base/clock.hpp"

namespace agro {

class HedgePolicy {
 public:
  static constexpr Duration kDelayMin = std::chrono::milliseconds(3);
  static constexpr Duration kDelayMax = std::chrono::milliseconds(100);
  static constexpr double kShare = 0.05;
  static constexpr double kCreditMax = 10;

  /// How long a first answer may take before another replica is asked.
  Duration delay() const {
    return std::clamp(std::chrono::duration_cast<Duration>(estimate_), kDelayMin, kDelayMax);
  }
  /// A first attempt was answered, or given up, after so long.
  void note(Duration latency) {
    estimate_ *= latency > delay() ? 1.099 : 0.999;
    estimate_ = std::clamp(estimate_, Estimate(kDelayMin), Estimate(kDelayMax));
  }
  /// A read begins, which earns its share of an extra one.
  void earn() { credit_ = std::min(credit_ + kShare, kCreditMax); }
  /// Takes an extra read; false: there have been too many.
  bool spend() {
    if (credit_ < 1) return false;
    credit_ -= 1;
    return true;
  }

 private:
  using Estimate = std::chrono::duration<double, std::nano>;
  Estimate estimate_ = std::chrono::milliseconds(20);
  double credit_ = kCreditMax;
};

}  // namespace agro
