// Ring study: how well a ring spreads blocks, what a change of it moves, what losing peers costs.
//
// Blocks are sampled: a stream of refs as volumes make them goes through the ring before and after
// the change. What can be counted is counted (replica sets, shares), the rest says how much of it is
// chance. Pure functions of their arguments; times are measured by ringtool.
// Threading: none. Source: DESIGN.md section 6; docs/placement.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.hpp"
#include "ring/ring.hpp"

namespace agro {

/// Refs of blocks as volumes hold them: runs of sequence numbers of one epoch, 1 to 1,000 blocks
/// long; of `rewritten_percent` of the runs, pieces are from later epochs. No ref comes twice.
class BlockStream {
 public:
  BlockStream(std::uint64_t seed, std::uint32_t rewritten_percent);
  BlockRef next();

 private:
  void begin_run();

  Random random_;
  std::uint32_t rewritten_percent_;
  BlockRef ref_;
  std::uint64_t run_left_ = 0;    // blocks of this volume
  std::uint64_t piece_left_ = 0;  // blocks of this epoch
  bool rewritten_ = false;
};

/// Replicas of one block that each member should hold on average, by weight and, of a placement
/// ring, failure domains; nobody more than one or nothing at all. The sum is min(replication, members).
/// Shape: in order of `spec.members`; a plain ring, not a union.
std::vector<double> fair_shares(const RingSpec& spec);

/// How evenly members are loaded; 1 is a member's share.
struct Evenness {
  double deviation = 0;  // root mean square of load / share - 1
  double fullest = 0;    // load / share
  double emptiest = 0;
  double chance = 0;     // the deviation that a perfect ring would show with as many blocks
};
/// Shape: as many loads (replicas held) as shares, all shares above 0; `block_count` > 0.
Evenness evenness(std::span<const std::uint64_t> loads, std::span<const double> shares,
                  std::uint64_t block_count);

/// What a change does to replicas. kept + sent: what there is afterwards; kept + dropped: before.
struct Movement {
  std::uint64_t kept = 0;     // stay where they are
  std::uint64_t sent = 0;     // on a peer that did not hold the block
  std::uint64_t dropped = 0;  // no longer wanted where they are
};

/// Replicas of one block that any change between such shares has to send: what grows.
/// Shape: `before` and `after` by the same numbering of peers, 0 for no member.
double least_sent(std::span<const double> before, std::span<const double> after);

struct RingChange {
  std::vector<std::uint64_t> before;  // replicas on each member of the ring before
  std::vector<std::uint64_t> after;   // and of the one after
  Movement movement;
};
/// Places `block_count` blocks by both rings.
RingChange study_change(const Ring& from, const Ring& to, BlockStream blocks,
                        std::uint64_t block_count);

/// The chance that losing `failed` random members at once loses a block.
struct LossChance {
  enum class Method : std::uint8_t {
    exact,    // counted
    sampled,  // of kLossTrialCount random losses
    at_most,  // the expected number of lost sets: too rare to be sampled
  };
  std::size_t failed = 0;
  double chance = 0;
  Method method = Method::exact;
};
inline constexpr std::size_t kLossTrialCount = 20'000;
/// Shape: `sets` as of Ring::replica_sets(), all of one size, none twice; failed <= member_count.
LossChance loss_chance(const std::vector<std::vector<std::uint32_t>>& sets,
                       std::size_t member_count, std::size_t failed, Random random);

}  // namespace agro
