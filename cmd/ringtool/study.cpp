#include "ringtool/study.hpp"

#include <algorithm>
#include <chrono>

#include "ring/balance.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

constexpr Duration kMeasuredTime = std::chrono::milliseconds(20);
constexpr std::size_t kMeasuredRefCount = 16'384;

/// Members are sorted by id, as rings have them.
RingSpec spec_of(const RingtoolPlan& plan, const RingChoice& choice, bool after) {
  RingSpec spec;
  spec.kind = choice.kind;
  spec.version = after ? 2 : 1;
  spec.replication = after ? plan.replication_after : plan.replication_before;
  if (choice.kind == RingKind::placement) spec.group_count = plan.group_count;
  const std::size_t count = after ? plan.member_count_after : plan.member_count_before;
  spec.members.assign(plan.peers.begin(), plan.peers.begin() + static_cast<std::ptrdiff_t>(count));
  std::sort(spec.members.begin(), spec.members.end(),
            [](const RingMember& a, const RingMember& b) { return a.id < b.id; });
  return spec;
}

/// Values by the places of a ring's members, in order of plan.peers.
template <typename Value>
std::vector<Value> by_peer(const RingtoolPlan& plan, const Ring& ring,
                           const std::vector<Value>& values) {
  std::vector<Value> result;
  for (std::size_t peer = 0; peer < values.size(); ++peer) {
    const auto found = std::lower_bound(
        ring.members().begin(), ring.members().end(), plan.peers[peer],
        [](const RingMember& a, const RingMember& b) { return a.id < b.id; });
    result.push_back(values[static_cast<std::size_t>(found - ring.members().begin())]);
  }
  return result;
}

RingLoads loads_of(const RingtoolPlan& plan, const Ring& ring,
                   const std::vector<std::uint64_t>& counts) {
  RingLoads result;
  result.loads = by_peer(plan, ring, counts);
  result.shares = by_peer(plan, ring, fair_shares(ring.spec()));
  result.even = evenness(result.loads, result.shares, plan.sample_count);
  return result;
}

/// Nanoseconds that `look_up(ref)` takes. Checks the time every `batch` calls.
template <typename LookUp>
double time_of(const Clock& clock, const std::vector<BlockRef>& refs, std::size_t batch,
               const LookUp& look_up) {
  std::uint64_t count = 0;
  const TimePoint begin = clock.now();
  Duration taken{0};
  while (taken < kMeasuredTime) {
    for (std::size_t number = 0; number < batch; ++number) look_up(refs[count++ % refs.size()]);
    taken = clock.now() - begin;
  }
  return static_cast<double>(taken.count()) / static_cast<double>(count);
}

RingReport::Times measure(const RingtoolPlan& plan, const Ring& ring, const Clock& clock) {
  std::vector<BlockRef> refs;
  BlockStream blocks(plan.seed, plan.rewritten_percent);
  for (std::size_t number = 0; number < kMeasuredRefCount; ++number) refs.push_back(blocks.next());
  std::vector<std::uint32_t> out;
  RingReport::Times times;
  times.owners_ns =
      time_of(clock, refs, 1024, [&](const BlockRef& ref) { ring.owners(ref, out); });
  times.order_ns =
      time_of(clock, refs, 16, [&](const BlockRef& ref) { ring.permutation(ref, out); });
  return times;
}

}  // namespace

Result<RingReport> study_ring(const RingtoolPlan& plan, const RingChoice& choice,
                              const Clock* clock) {
  RingSpec from_spec = spec_of(plan, choice, false);
  RingSpec to_spec = spec_of(plan, choice, true);
  if (choice.balanced) {
    // The balancer takes only what is right.
    AGRO_TRY_OK(check_placement(from_spec));
    AGRO_TRY_OK(check_placement(to_spec));
    from_spec = balance(std::move(from_spec));
    to_spec = balance(std::move(to_spec), &from_spec);
  }
  AGRO_TRY(const std::shared_ptr<const Ring> from, make_ring(std::move(from_spec)));
  AGRO_TRY(const std::shared_ptr<const Ring> to, make_ring(std::move(to_spec)));
  const RingChange change = study_change(
      *from, *to, BlockStream(plan.seed, plan.rewritten_percent), plan.sample_count);
  RingReport report;
  report.name = choice.name;
  report.before = loads_of(plan, *from, change.before);
  report.after = loads_of(plan, *to, change.after);
  report.movement = change.movement;
  std::vector<double> shares_before = report.before.shares;
  std::vector<double> shares_after = report.after.shares;
  shares_before.resize(plan.peers.size(), 0);
  shares_after.resize(plan.peers.size(), 0);
  report.least_sent = least_sent(shares_before, shares_after);
  const std::vector<std::vector<std::uint32_t>> sets = from->replica_sets();
  report.set_count = sets.size();
  for (const std::size_t failed : plan.failures) {
    report.losses.push_back(
        loss_chance(sets, plan.member_count_before, failed, Random(plan.seed + failed)));
  }
  if (clock != nullptr) report.times = measure(plan, *from, *clock);
  return report;
}

}  // namespace agro
