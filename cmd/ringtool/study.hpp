// Studies one kind of ring: makes it before and after the change, places blocks by both, counts.
#pragma once

#include <optional>
#include <vector>

#include "base/clock.hpp"
#include "ring/ring_study.hpp"
#include "ringtool/options.hpp"

namespace agro {

/// Loads before or after. Shape: vectors in order of RingtoolPlan::peers, of the members alone.
struct RingLoads {
  std::vector<std::uint64_t> loads;  // replicas of sampled blocks
  std::vector<double> shares;        // of the replicas of one block
  Evenness even;
};

struct RingReport {
  std::string name;
  RingLoads before;
  RingLoads after;
  Movement movement;        // of sampled blocks
  double least_sent = 0;    // of one block
  std::size_t set_count = 0;  // distinct replica sets, before
  std::vector<LossChance> losses;
  struct Times {
    double owners_ns = 0;  // to find where a block belongs
    double order_ns = 0;   // to find the order of all peers for it
  };
  std::optional<Times> times;  // of the ring before
};

/// `clock`: to measure times by, or none. Errors: invalid_argument (a ring that cannot be).
Result<RingReport> study_ring(const RingtoolPlan& plan, const RingChoice& choice,
                              const Clock* clock);

}  // namespace agro
