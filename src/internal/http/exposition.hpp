// Exposition: a metrics snapshot as Prometheus text, version 0.0.4, printed by prometheus-cpp.
#pragma once

#include <string>

#include "base/metrics.hpp"

namespace agro::http {

inline constexpr const char* kExpositionType = "text/plain; version=0.0.4; charset=utf-8";

/// A HELP and a TYPE line for each family, then its samples. Histograms are in seconds.
std::string to_exposition(const MetricsSnapshot& snapshot);

}  // namespace agro::http
