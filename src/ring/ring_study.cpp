#include "ring/ring_study.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/assert.hpp"
#include "ring/failure_domains.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kRunSizeMax = 1000;   // blocks of a volume
constexpr std::uint64_t kPieceSizeMax = 64;   // of one epoch in it, when it is rewritten
constexpr double kShareMin = 1e-15;
/// Up to so many ways to lose members, all are tried.
constexpr double kLossCasesMax = 100'000;
/// With fewer lost sets expected, trials would see too few.
constexpr double kSampledExpectationMin = 0.01;

/// How many sets of `taken` there are; infinity when a double cannot say.
double combinations(std::size_t count, std::size_t taken) {
  double result = 1;
  for (std::size_t step = 0; step < taken; ++step) {
    result *= static_cast<double>(count - step) / static_cast<double>(step + 1);
  }
  return result;
}

/// Finds out whether a loss of members covers any replica set.
class LossTest {
 public:
  LossTest(const std::vector<std::vector<std::uint32_t>>& sets, std::size_t member_count)
      : sets_(sets), by_member_(member_count), lost_(member_count, false) {
    for (std::uint32_t index = 0; index < sets.size(); ++index) {
      by_member_[sets[index].front()].push_back(index);
    }
  }

  bool loses(std::span<const std::uint32_t> members) {
    for (const std::uint32_t member : members) lost_[member] = true;
    const bool found = std::any_of(members.begin(), members.end(), [&](std::uint32_t member) {
      return std::any_of(by_member_[member].begin(), by_member_[member].end(),
                         [&](std::uint32_t index) { return is_lost(sets_[index]); });
    });
    for (const std::uint32_t member : members) lost_[member] = false;
    return found;
  }

 private:
  bool is_lost(const std::vector<std::uint32_t>& set) const {
    return std::all_of(set.begin(), set.end(), [&](std::uint32_t member) { return lost_[member]; });
  }

  const std::vector<std::vector<std::uint32_t>>& sets_;
  std::vector<std::vector<std::uint32_t>> by_member_;  // the sets it is the first of
  std::vector<bool> lost_;
};

/// The next set of members in lexical order. Returns false after the last.
bool next_combination(std::vector<std::uint32_t>& members, std::size_t member_count) {
  std::size_t place = members.size();
  while (place > 0 && members[place - 1] == member_count - members.size() + place - 1) --place;
  if (place == 0) return false;
  ++members[place - 1];
  for (; place < members.size(); ++place) members[place] = members[place - 1] + 1;
  return true;
}

double counted_loss(LossTest& test, std::size_t member_count, std::size_t failed) {
  std::vector<std::uint32_t> members(failed);
  std::iota(members.begin(), members.end(), 0U);
  std::uint64_t losses = 0;
  std::uint64_t cases = 0;
  do {
    losses += test.loses(members) ? 1 : 0;
    ++cases;
  } while (next_combination(members, member_count));
  return static_cast<double>(losses) / static_cast<double>(cases);
}

double sampled_loss(LossTest& test, std::size_t member_count, std::size_t failed, Random random) {
  std::vector<std::uint32_t> members(member_count);
  std::iota(members.begin(), members.end(), 0U);
  std::uint64_t losses = 0;
  for (std::size_t trial = 0; trial < kLossTrialCount; ++trial) {
    for (std::size_t place = 0; place < failed; ++place) {
      std::swap(members[place], members[place + random.below(member_count - place)]);
    }
    losses += test.loses(std::span(members).first(failed)) ? 1 : 0;
  }
  return static_cast<double>(losses) / static_cast<double>(kLossTrialCount);
}

}  // namespace

BlockStream::BlockStream(std::uint64_t seed, std::uint32_t rewritten_percent)
    : random_(seed), rewritten_percent_(rewritten_percent) {
  AGRO_ASSERT(rewritten_percent <= 100);
}

void BlockStream::begin_run() {
  ref_ = {.volume = {ref_.volume.value + 1}, .epoch = {1}};
  run_left_ = 1 + random_.below(kRunSizeMax);
  rewritten_ = random_.chance(rewritten_percent_, 100);
  piece_left_ = rewritten_ ? 1 + random_.below(kPieceSizeMax) : run_left_;
}

BlockRef BlockStream::next() {
  if (run_left_ == 0) begin_run();
  if (piece_left_ == 0) {
    ++ref_.epoch.value;
    ref_.index += random_.below(kRunSizeMax);  // what was between is dead and deleted
    piece_left_ = 1 + random_.below(kPieceSizeMax);
  }
  --run_left_;
  --piece_left_;
  ++ref_.index;
  return ref_;
}

std::vector<double> fair_shares(const RingSpec& spec) {
  AGRO_ASSERT(spec.parts.empty());
  std::vector<RingMember> members = spec.members;
  if (spec.kind != RingKind::placement) {
    for (RingMember& member : members) member.labels = {};
  }
  std::vector<double> shares = FailureDomains(members).shares(members, spec.replication);
  // Beside members of 2^40, one of weight 1 may be left with nothing by rounding.
  for (double& share : shares) share = std::max(share, kShareMin);
  return shares;
}

Evenness evenness(std::span<const std::uint64_t> loads, std::span<const double> shares,
                  std::uint64_t block_count) {
  AGRO_ASSERT(loads.size() == shares.size());
  AGRO_ASSERT(!loads.empty() && block_count > 0);
  const auto blocks = static_cast<double>(block_count);
  Evenness result{.emptiest = std::numeric_limits<double>::infinity()};
  double squares = 0;
  double chance_squares = 0;
  for (std::size_t index = 0; index < loads.size(); ++index) {
    AGRO_ASSERT(shares[index] > 0);
    const double relative = static_cast<double>(loads[index]) / (shares[index] * blocks);
    squares += (relative - 1) * (relative - 1);
    // A block is on the member or not, with the share as its probability.
    chance_squares += std::max(1 - shares[index], 0.0) / (shares[index] * blocks);
    result.fullest = std::max(result.fullest, relative);
    result.emptiest = std::min(result.emptiest, relative);
  }
  const auto count = static_cast<double>(loads.size());
  result.deviation = std::sqrt(squares / count);
  result.chance = std::sqrt(chance_squares / count);
  return result;
}

double least_sent(std::span<const double> before, std::span<const double> after) {
  AGRO_ASSERT(before.size() == after.size());
  double sent = 0;
  for (std::size_t index = 0; index < before.size(); ++index) {
    sent += std::max(after[index] - before[index], 0.0);
  }
  return sent;
}

RingChange study_change(const Ring& from, const Ring& to, BlockStream blocks,
                        std::uint64_t block_count) {
  RingChange change;
  change.before.assign(from.members().size(), 0);
  change.after.assign(to.members().size(), 0);
  constexpr std::uint32_t kGone = UINT32_MAX;
  std::vector<std::uint32_t> place_after;  // of each member of `from`, in `to`
  for (const RingMember& member : from.members()) {
    const auto found = std::lower_bound(
        to.members().begin(), to.members().end(), member,
        [](const RingMember& a, const RingMember& b) { return a.id < b.id; });
    const bool stays = found != to.members().end() && found->id == member.id;
    place_after.push_back(stays ? static_cast<std::uint32_t>(found - to.members().begin()) : kGone);
  }
  std::vector<std::uint32_t> old_owners;
  std::vector<std::uint32_t> new_owners;
  for (std::uint64_t number = 0; number < block_count; ++number) {
    const BlockRef ref = blocks.next();
    from.owners(ref, old_owners);
    to.owners(ref, new_owners);
    for (const std::uint32_t owner : new_owners) ++change.after[owner];
    for (const std::uint32_t owner : old_owners) {
      ++change.before[owner];
      const bool keeps = std::find(new_owners.begin(), new_owners.end(), place_after[owner]) !=
                         new_owners.end();
      ++(keeps ? change.movement.kept : change.movement.dropped);
    }
  }
  const std::uint64_t held =
      std::accumulate(change.after.begin(), change.after.end(), std::uint64_t{0});
  change.movement.sent = held - change.movement.kept;
  return change;
}

LossChance loss_chance(const std::vector<std::vector<std::uint32_t>>& sets,
                       std::size_t member_count, std::size_t failed, Random random) {
  AGRO_ASSERT(failed <= member_count);
  using Method = LossChance::Method;
  if (sets.empty() || failed < sets.front().size()) return {failed, 0, Method::exact};
  const std::size_t copies = sets.front().size();
  // The first of a set is among the lost with the chance failed / members, and so on.
  const double cases = combinations(member_count, failed);
  auto expected = static_cast<double>(sets.size());
  for (std::size_t place = 0; place < copies; ++place) {
    expected *= static_cast<double>(failed - place) / static_cast<double>(member_count - place);
  }
  if (failed == copies) return {failed, expected, Method::exact};
  LossTest test(sets, member_count);
  if (cases <= kLossCasesMax) {
    return {failed, counted_loss(test, member_count, failed), Method::exact};
  }
  if (expected < kSampledExpectationMin) return {failed, expected, Method::at_most};
  return {failed, sampled_loss(test, member_count, failed, random), Method::sampled};
}

}  // namespace agro
