#include "base/metrics.hpp"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "base/assert.hpp"

namespace agro {
namespace {

bool is_name(std::string_view name) {
  const auto fits = [](char letter) {
    return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9') || letter == '_';
  };
  return !name.empty() && (name[0] < '0' || name[0] > '9') &&
         std::all_of(name.begin(), name.end(), fits);
}

}  // namespace

std::uint64_t Histogram::count() const {
  return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0});
}

void Histogram::add(const Histogram& other) {
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) counts_[bucket] += other.counts_[bucket];
  sum_ns_ += other.sum_ns_;
}

void MetricsSnapshot::merge(const MetricsSnapshot& other) {
  for (const auto& [name, family] : other.families_) {
    for (const Sample& sample : family.samples) {
      std::vector<Sample>* const own = families_.contains(name) ? &families_.at(name).samples : nullptr;
      const auto same = [&sample](const Sample& one) { return one.labels == sample.labels; };
      const auto found = own == nullptr ? std::vector<Sample>::iterator() : std::find_if(own->begin(), own->end(), same);
      if (own == nullptr || found == own->end()) {
        add(name, family.help, family.kind, sample);
        continue;
      }
      found->value += sample.value;
      found->histogram.add(sample.histogram);
    }
  }
}

double MetricsSnapshot::value(const std::string& name, const MetricLabels& labels) const {
  const auto family = families_.find(name);
  if (family == families_.end()) return 0;
  for (const Sample& sample : family->second.samples) {
    if (sample.labels == labels) return sample.value;
  }
  return 0;
}

void MetricsSnapshot::add(const std::string& name, const std::string& help, MetricKind kind,
                          Sample sample) {
  const auto [entry, is_new] = families_.try_emplace(name, Family{help, kind, {}});
  AGRO_ASSERT(entry->second.kind == kind);
  entry->second.samples.push_back(std::move(sample));
}

void MetricsSnapshot::gauge(const std::string& name, const std::string& help, double value,
                            MetricLabels labels) {
  add(name, help, MetricKind::gauge, {std::move(labels), value, {}, 1});
}

void MetricsSnapshot::counter(const std::string& name, const std::string& help, double value,
                              MetricLabels labels) {
  add(name, help, MetricKind::counter, {std::move(labels), value, {}, 1});
}

Metrics::Family& Metrics::family(const std::string& name, const char* help, MetricKind kind,
                                 const MetricLabels& labels) {
  AGRO_ASSERT(is_name(name));
  AGRO_ASSERT(help != nullptr && *help != '\0');
  for (const auto& label : labels) AGRO_ASSERT(is_name(label.first));
  const auto [entry, is_new] = families_.try_emplace(name, Family{help, kind, {}, {}});
  AGRO_ASSERT(entry->second.kind == kind);
  return entry->second;
}

Metric& Metrics::counter(const std::string& name, const char* help, MetricLabels labels) {
  return family(name, help, MetricKind::counter, labels).metrics[std::move(labels)];
}

Metric& Metrics::gauge(const std::string& name, const char* help, MetricLabels labels) {
  return family(name, help, MetricKind::gauge, labels).metrics[std::move(labels)];
}

Histogram& Metrics::histogram(const std::string& name, const char* help, MetricLabels labels) {
  return family(name, help, MetricKind::histogram, labels).histograms[std::move(labels)];
}

Metric& Metrics::get(const std::string& name, const char* help, MetricLabels labels) {
  const bool counts = std::string_view(name).ends_with("_total");
  return counts ? counter(name, help, std::move(labels)) : gauge(name, help, std::move(labels));
}

std::uint64_t Metrics::value(const std::string& name, const MetricLabels& labels) const {
  const auto family = families_.find(name);
  if (family == families_.end()) return 0;
  const auto found = family->second.metrics.find(labels);
  return found == family->second.metrics.end() ? 0 : found->second.value;
}

MetricsSnapshot Metrics::snapshot() const {
  MetricsSnapshot snapshot;
  for (const auto& [name, family] : families_) {
    for (const auto& [labels, metric] : family.metrics) {
      snapshot.add(name, family.help, family.kind,
                   {labels, static_cast<double>(metric.value), {}, 1});
    }
    for (const auto& [labels, histogram] : family.histograms) {
      snapshot.add(name, family.help, family.kind, {labels, 0, histogram, 1});
    }
  }
  return snapshot;
}

}  // namespace agro
