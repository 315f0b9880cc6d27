// Load plot: how full each peer is before and after, one panel a ring, as SVG.
//
// Heights are loads over shares, so that peers of different weights compare. Where there are more peers
// than columns, a column shows the range of its peers.
#pragma once

#include <string>
#include <vector>

#include "ringtool/study.hpp"

namespace agro {

/// A whole SVG document.
std::string load_plot(const RingtoolPlan& plan, const std::vector<RingReport>& reports);

}  // namespace agro
