// Named counters and gauges of one process, printed as Prometheus text.
//
// Threading: one loop. A Counter's address is stable for the life of the registry.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace agro {

struct Metric {
  std::uint64_t value = 0;
  void add(std::uint64_t count = 1) { value += count; }
};

class Metrics {
 public:
  /// The metric of that name, made at first use. Shape: "agro_reads_total", or with labels
  /// "agro_reads_total{peer=\"…\"}"; names ending in _total are counters, others gauges.
  Metric& get(const std::string& name, const char* help = "");
  /// 0 when nobody made it.
  std::uint64_t value(const std::string& name) const;
  /// The Prometheus text exposition format, sorted by name.
  std::string to_text() const;

 private:
  struct Entry {
    Metric metric;
    std::string help;
  };
  std::map<std::string, Entry> entries_;
};

}  // namespace agro
