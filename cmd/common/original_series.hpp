// The series of the original (CoreOS torus) that have a meaning here, under their names with agro_
// for torus_, so that its dashboards need little change. All but the distributor's, which count for
// themselves, repeat what other series say.
#pragma once

#include "base/metrics.hpp"

namespace agro {

/// Adds them to a snapshot that has everything else.
void add_original_series(MetricsSnapshot& snapshot, std::uint32_t block_size);

}  // namespace agro
