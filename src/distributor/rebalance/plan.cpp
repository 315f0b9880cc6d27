#include "distributor/rebalance/plan.hpp"

#include "base/mutant.hpp"

namespace agro {
namespace {

/// Times a block is planned in vain before the next holder in order takes over from one that may be slow:
/// too early, and both push the same.
constexpr std::uint32_t kPatience = 10;

}  // namespace

BlockPlan plan_block(std::span<const AskedPeer> asked, std::uint32_t attempt, bool covered) {
  BlockPlan plan;
  bool is_owner = false;
  bool all_present = true;
  bool any_silent = false;
  std::uint32_t holders_before_self = 0;
  bool self_seen = false;
  for (std::size_t index = 0; index < asked.size(); ++index) {
    const AskedPeer& peer = asked[index];
    if (peer.self) {
      self_seen = true;
      is_owner = peer.owner;
    } else if (!self_seen && peer.holding == Holding::present) {
      ++holders_before_self;
    }
    if (!peer.owner || peer.self) continue;
    if (peer.holding != Holding::present) all_present = false;
    if (peer.holding == Holding::silent) any_silent = true;
    if (peer.holding == Holding::dead) plan.is_short = true;
    if (peer.holding == Holding::missing) plan.push_to.push_back(index);
  }
  plan.settled = plan.push_to.empty() && !any_silent;
  if (AGRO_MUTANT(kGivenUpUnconfirmed)) all_present = true;
  plan.give_up = !is_owner && all_present && covered;
  if (attempt < kPatience * holders_before_self) plan.push_to.clear();
  return plan;
}

}  // namespace agro
