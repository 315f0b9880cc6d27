#include "gc/sweep.hpp"

#include <algorithm>

namespace agro {

std::vector<BlockRef> plan_sweep(const Listing& listing, const std::vector<BlockRef>& live,
                                 Epoch epoch) {
  AGRO_ASSERT(std::is_sorted(live.begin(), live.end()));
  std::vector<BlockRef> dead;
  for (const Listing::Entry& entry : listing.entries) {
    if (entry.ref.epoch >= epoch) continue;
    if (std::binary_search(live.begin(), live.end(), entry.ref)) continue;
    dead.push_back(entry.ref);
  }
  return dead;
}

}  // namespace agro
