#include "internal/http/exposition.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <regex>
#include <set>
#include <sstream>

namespace agro::http {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

bool has_line(const std::string& text, const std::string& line) {
  const std::vector<std::string> lines = lines_of(text);
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

// Goal: every family has HELP and TYPE before its samples, every line is of the format, and awkward
// label values are escaped. Method: one of each kind, checked line by line.
TEST(ExpositionTest, IsValid) {
  Metrics metrics;
  metrics.get("agro_things_total", "Things").add(7);
  metrics.gauge("agro_size_bytes", "Size", {{"peer", "a\\b\"c\nd"}}).value = 12345678901234;
  metrics.gauge("agro_size_bytes", "Size", {{"peer", "other"}}).value = 1;
  metrics.histogram("agro_op_seconds", "Latency", {{"op", "read"}}).observe(microseconds(3));
  const std::string text = to_exposition(metrics.snapshot());
  const std::regex sample(
      R"re(([a-z_][a-z0-9_]*)(\{[a-z_]+="([^"\\\n]|\\[\\"n])*"(,[a-z_]+="([^"\\\n]|\\[\\"n])*")*\})? ([-+0-9.e]+|\+Inf))re");
  std::set<std::string> helped;
  std::set<std::string> typed;
  std::size_t sample_count = 0;
  for (const std::string& line : lines_of(text)) {
    SCOPED_TRACE(line);
    std::smatch match;
    if (line.starts_with("# HELP ")) {
      helped.insert(line.substr(7, line.find(' ', 7) - 7));
    } else if (line.starts_with("# TYPE ")) {
      typed.insert(line.substr(7, line.find(' ', 7) - 7));
    } else {
      ASSERT_TRUE(std::regex_match(line, match, sample));
      ++sample_count;
      const std::string name =
          std::regex_replace(match[1].str(), std::regex("_(bucket|sum|count)$"), "");
      EXPECT_TRUE(helped.contains(name) && typed.contains(name));
    }
  }
  EXPECT_EQ(sample_count, 1 + 2 + Histogram::kBoundCount + 1 + 2);
  EXPECT_EQ(typed, (std::set<std::string>{"agro_things_total", "agro_size_bytes", "agro_op_seconds"}));
  EXPECT_TRUE(has_line(text, R"(agro_size_bytes{peer="a\\b\"c\nd"} 12345678901234)")) << text;
  EXPECT_TRUE(has_line(text, "# TYPE agro_things_total counter"));
  EXPECT_TRUE(has_line(text, "# TYPE agro_size_bytes gauge"));
}

// Goal: an observation counts in the first bucket whose bound it does not exceed, and in +Inf.
TEST(ExpositionTest, HistogramBuckets) {
  for (const auto& [duration, bucket] :
       {std::pair{nanoseconds(-5), 0U}, {nanoseconds(0), 0U}, {nanoseconds(1024), 0U},
        {nanoseconds(1025), 1U}, {nanoseconds(2048), 1U}, {nanoseconds(2049), 2U},
        {nanoseconds(std::uint64_t{1} << 36), 26U}, {nanoseconds((std::uint64_t{1} << 36) + 1), 27U},
        {nanoseconds(seconds(100'000)), 27U}}) {
    SCOPED_TRACE(duration.count());
    Histogram histogram;
    histogram.observe(duration);
    EXPECT_EQ(histogram.counts()[bucket], 1U);
    EXPECT_EQ(histogram.count(), 1U);
  }
  Metrics metrics;
  Histogram& histogram = metrics.histogram("agro_x_seconds", "X");
  histogram.observe(microseconds(1), 8);
  histogram.observe(microseconds(500));
  const std::string text = to_exposition(metrics.snapshot());
  EXPECT_TRUE(has_line(text, R"(agro_x_seconds_bucket{le="1.024e-06"} 8)")) << text;
  EXPECT_TRUE(has_line(text, R"(agro_x_seconds_bucket{le="+Inf"} 9)")) << text;
  EXPECT_TRUE(has_line(text, "agro_x_seconds_count 9")) << text;
  EXPECT_TRUE(has_line(text, "agro_x_seconds_sum 0.000508")) << text;
}

}  // namespace
}  // namespace agro::http
