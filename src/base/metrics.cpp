#include "base/metrics.hpp"

#include <fmt/format.h>

namespace agro {

Metric& Metrics::get(const std::string& name, const char* help) {
  Entry& entry = entries_[name];
  if (entry.help.empty()) entry.help = help;
  return entry.metric;
}

std::uint64_t Metrics::value(const std::string& name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? 0 : found->second.metric.value;
}

std::string Metrics::to_text() const {
  std::string text;
  std::string previous_family;
  for (const auto& [name, entry] : entries_) {
    const std::string family = name.substr(0, name.find('{'));
    if (family != previous_family) {
      if (!entry.help.empty()) text += fmt::format("# HELP {} {}\n", family, entry.help);
      text += fmt::format("# TYPE {} {}\n", family, family.ends_with("_total") ? "counter" : "gauge");
      previous_family = family;
    }
    text += fmt::format("{} {}\n", name, entry.metric.value);
  }
  return text;
}

}  // namespace agro
