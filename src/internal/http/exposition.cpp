#include "internal/http/exposition.hpp"

#include <prometheus/collectable.h>
#include <prometheus/text_serializer.h>

#include <limits>

namespace agro::http {
namespace {

prometheus::MetricType type_of(MetricKind kind) {
  switch (kind) {
    case MetricKind::counter: return prometheus::MetricType::Counter;
    case MetricKind::gauge: return prometheus::MetricType::Gauge;
    case MetricKind::histogram: return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

prometheus::ClientMetric::Histogram to_prometheus(const Histogram& histogram, double scale) {
  prometheus::ClientMetric::Histogram out;
  for (unsigned index = 0; index <= Histogram::kBoundCount; ++index) {
    out.sample_count += histogram.counts()[index];
    const double bound = index < Histogram::kBoundCount ? Histogram::bound_s(index) * scale
                                                        : std::numeric_limits<double>::infinity();
    out.bucket.push_back({out.sample_count, bound});
  }
  out.sample_sum = static_cast<double>(histogram.sum_ns()) * 1e-9 * scale;
  return out;
}

/// A snapshot as what prometheus-cpp collects from.
class SnapshotCollectable final : public prometheus::Collectable {
 public:
  explicit SnapshotCollectable(const MetricsSnapshot& snapshot) : snapshot_(snapshot) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    for (const auto& [name, family] : snapshot_.families()) {
      prometheus::MetricFamily out{name, family.help, type_of(family.kind), {}};
      for (const MetricsSnapshot::Sample& sample : family.samples) {
        prometheus::ClientMetric metric;
        for (const auto& [label, value] : sample.labels) metric.label.push_back({label, value});
        metric.counter.value = sample.value;
        metric.gauge.value = sample.value;
        if (family.kind == MetricKind::histogram) {
          metric.histogram = to_prometheus(sample.histogram, sample.scale);
        }
        out.metric.push_back(std::move(metric));
      }
      families.push_back(std::move(out));
    }
    return families;
  }

 private:
  const MetricsSnapshot& snapshot_;
};

}  // namespace

std::string to_exposition(const MetricsSnapshot& snapshot) {
  return prometheus::TextSerializer().Serialize(SnapshotCollectable(snapshot).Collect());
}

}  // namespace agro::http
