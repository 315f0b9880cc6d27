// Goal: what several loops counted is told as one process's.
#include "base/metrics.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

TEST(MetricsSnapshotTest, MergeAddsWhatHasTheSameLabels) {
  Metrics one;
  Metrics two;
  one.counter("agro_x_total", "X", {{"op", "read"}}).add(3);
  two.counter("agro_x_total", "X", {{"op", "read"}}).add(4);
  two.counter("agro_x_total", "X", {{"op", "write"}}).add(5);
  two.gauge("agro_y", "Y").value = 6;
  one.histogram("agro_z_seconds", "Z").observe(std::chrono::microseconds(1));
  two.histogram("agro_z_seconds", "Z").observe(std::chrono::seconds(1), 2);
  MetricsSnapshot sum = one.snapshot();
  sum.merge(two.snapshot());
  EXPECT_EQ(sum.value("agro_x_total", {{"op", "read"}}), 7);
  EXPECT_EQ(sum.value("agro_x_total", {{"op", "write"}}), 5);
  EXPECT_EQ(sum.value("agro_y"), 6);
  EXPECT_EQ(sum.value("agro_none"), 0);
  const MetricsSnapshot::Family& latencies = sum.families().at("agro_z_seconds");
  ASSERT_EQ(latencies.samples.size(), 1U);
  EXPECT_EQ(latencies.samples[0].histogram.count(), 3U);
  EXPECT_EQ(latencies.samples[0].histogram.sum_ns(), 2'000'001'000U);
  EXPECT_EQ(sum.families().at("agro_x_total").samples.size(), 2U);
}

}  // namespace
}  // namespace agro
