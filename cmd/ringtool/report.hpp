// ringtool's figures as text, rings side by side, and as JSON.
//
// Invariants: JSON has exact values (sizes in bytes, ratios as fractions), text rounded ones.
#pragma once

#include <string>
#include <vector>

#include "ringtool/study.hpp"

namespace agro {

/// `with_peers`: the load of each peer too.
std::string text_report(const RingtoolPlan& plan, const std::vector<RingReport>& reports,
                        bool with_peers);
std::string json_report(const RingtoolPlan& plan, const std::vector<RingReport>& reports,
                        bool with_peers);

}  // namespace agro
