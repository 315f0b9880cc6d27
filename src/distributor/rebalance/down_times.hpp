// DownTimes: since when peers are seen to be down, by one observer's monotonic clock.
//
// An observer that starts again starts counting again: a peer is then taken for down later, never
// earlier. Source: DESIGN.md section 6.
#pragma once

#include <map>
#include <vector>

#include "base/clock.hpp"
#include "core/uuid.hpp"

namespace agro {

class DownTimes {
 public:
  /// Those that are down now; all others are up.
  void observe(const std::vector<PeerId>& down, TimePoint now) {
    std::map<PeerId, TimePoint> since;
    for (const PeerId& id : down) {
      const auto known = since_.find(id);
      since[id] = known == since_.end() ? now : known->second;
    }
    since_ = std::move(since);
  }

  /// Those that were down at every look for at least `limit`, sorted.
  std::vector<PeerId> longer_than(Duration limit, TimePoint now) const {
    std::vector<PeerId> ids;
    for (const auto& [id, since] : since_) {
      if (now - since >= limit) ids.push_back(id);
    }
    return ids;
  }

 private:
  std::map<PeerId, TimePoint> since_;
};

}  // namespace agro
