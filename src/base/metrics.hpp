// Counters, gauges and latency histograms of one loop, and their sums where a process has several.
//
// Invariants: counting is one add and observing a latency a handful of instructions, without lock or
// lookup; whoever counts looks the metric up once and keeps the reference, which stays valid for the
// life of the registry. Every family has a help text and one kind.
// Threading: one loop; a MetricsSnapshot is a value of its own.
// Format: internal/http/exposition prints snapshots for Prometheus.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.hpp"

namespace agro {

struct Metric {
  std::uint64_t value = 0;
  void add(std::uint64_t count = 1) { value += count; }
};

/// Durations in buckets of powers of two: at most 1.024 us, 2.048 us, ... 68.7 s, and above.
class Histogram {
 public:
  static constexpr unsigned kFirstBit = 10;  // the first bucket ends at 2^10 ns
  static constexpr unsigned kBoundCount = 27;

  /// `weight`: how many observations it stands for, where only some are measured.
  void observe(Duration duration, std::uint64_t weight = 1) {
    const auto ns = static_cast<std::uint64_t>(duration.count() < 0 ? 0 : duration.count());
    const unsigned bits = std::bit_width(ns == 0 ? 0 : ns - 1);  // ns is at most 2^bits
    const unsigned bucket = bits <= kFirstBit ? 0 : bits - kFirstBit;
    counts_[bucket < kBoundCount ? bucket : kBoundCount] += weight;
    sum_ns_ += ns * weight;
  }

  /// The bound of bucket `index` in seconds, inclusive.
  static double bound_s(unsigned index) {
    return static_cast<double>(std::uint64_t{1} << (kFirstBit + index)) * 1e-9;
  }
  /// Per bucket, the last without bound; not cumulative.
  const std::array<std::uint64_t, kBoundCount + 1>& counts() const { return counts_; }
  std::uint64_t sum_ns() const { return sum_ns_; }
  std::uint64_t count() const;
  void add(const Histogram& other);

 private:
  std::array<std::uint64_t, kBoundCount + 1> counts_{};
  std::uint64_t sum_ns_ = 0;
};

/// Observes how long it lived.
class ScopedLatency {
 public:
  ScopedLatency(Clock& clock, Histogram& histogram)
      : clock_(clock), histogram_(histogram), begin_(clock.now()) {}
  ~ScopedLatency() { histogram_.observe(clock_.now() - begin_); }
  ScopedLatency(const ScopedLatency&) = delete;
  ScopedLatency& operator=(const ScopedLatency&) = delete;

 private:
  Clock& clock_;
  Histogram& histogram_;
  TimePoint begin_;
};

/// {name, value} pairs; values are any text.
using MetricLabels = std::vector<std::pair<std::string, std::string>>;

enum class MetricKind : std::uint8_t { counter, gauge, histogram };

/// Metrics as they were at one instant, and what is only known when somebody asks.
class MetricsSnapshot {
 public:
  struct Sample {
    MetricLabels labels;
    double value = 0;     // counter, gauge
    Histogram histogram{};  // histogram
    double scale = 1;       // histogram: 1 prints seconds, 1e6 microseconds
  };
  struct Family {
    std::string help;
    MetricKind kind = MetricKind::gauge;
    std::vector<Sample> samples;
  };

  /// Shape: help and kind are the family's at every call; no two samples have the same labels.
  void add(const std::string& name, const std::string& help, MetricKind kind, Sample sample);
  void gauge(const std::string& name, const std::string& help, double value,
             MetricLabels labels = {});
  void counter(const std::string& name, const std::string& help, double value,
               MetricLabels labels = {});

  /// What another loop of the process counted: where name and labels are the same, the sum.
  void merge(const MetricsSnapshot& other);
  /// A counter's or gauge's; 0 when there is none.
  double value(const std::string& name, const MetricLabels& labels = {}) const;

  const std::map<std::string, Family>& families() const { return families_; }

 private:
  std::map<std::string, Family> families_;
};

/// The registry of one loop.
class Metrics {
 public:
  /// The metric of that name and labels, made at first use.
  /// Shape: names and label names as Prometheus takes them; `help` is one line, the same each time.
  Metric& counter(const std::string& name, const char* help, MetricLabels labels = {});
  Metric& gauge(const std::string& name, const char* help, MetricLabels labels = {});
  Histogram& histogram(const std::string& name, const char* help, MetricLabels labels = {});
  /// A counter when its name ends in _total, else a gauge.
  Metric& get(const std::string& name, const char* help, MetricLabels labels = {});

  /// 0 when nobody made it.
  std::uint64_t value(const std::string& name, const MetricLabels& labels = {}) const;
  MetricsSnapshot snapshot() const;

 private:
  struct Family {
    std::string help;
    MetricKind kind;
    std::map<MetricLabels, Metric> metrics;
    std::map<MetricLabels, Histogram> histograms;
  };
  Family& family(const std::string& name, const char* help, MetricKind kind,
                 const MetricLabels& labels);
  std::map<std::string, Family> families_;
};

}  // namespace agro
