#include "ringtool/load_plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace agro {
namespace {

// Pixels.
constexpr double kWidth = 960;
constexpr double kLeft = 56;    // of the columns
constexpr double kRight = 944;  // of the columns
constexpr double kHeadHeight = 34;
constexpr double kPanelHeight = 190;
constexpr double kTitleHeight = 24;  // of a panel
constexpr double kPlotHeight = 140;
constexpr std::size_t kColumnCountMax = 444;
constexpr const char* kBeforeColor = "#b0b7c0";
constexpr const char* kAfterColor = "#2b6cb0";

/// Maps loads over shares to heights.
struct Scale {
  double top = 0;   // of the panel's plot
  double most = 0;  // the load at the top
  double y(double load) const { return top + kPlotHeight * (1 - std::min(load, most) / most); }
};

double relative(const RingtoolPlan& plan, const RingLoads& side, std::size_t peer) {
  return static_cast<double>(side.loads[peer]) /
         (side.shares[peer] * static_cast<double>(plan.sample_count));
}

/// One path for all columns: each the left or the right half of its room.
std::string columns_path(const RingtoolPlan& plan, const RingLoads& side, bool right_half,
                         const Scale& scale) {
  const std::size_t peer_count = plan.peers.size();
  const std::size_t column_count = std::min(peer_count, kColumnCountMax);
  const double room = (kRight - kLeft) / static_cast<double>(column_count);
  const double width = room * 0.42;
  std::string path;
  for (std::size_t column = 0; column < column_count; ++column) {
    const std::size_t first = column * peer_count / column_count;
    const std::size_t end = std::min((column + 1) * peer_count / column_count, side.loads.size());
    if (first >= end) break;  // who is no member has no load
    double least = relative(plan, side, first);
    double most = least;
    for (std::size_t peer = first; peer < end; ++peer) {
      least = std::min(least, relative(plan, side, peer));
      most = std::max(most, relative(plan, side, peer));
    }
    if (peer_count <= kColumnCountMax) least = 0;
    const double x = kLeft + room * (static_cast<double>(column) + (right_half ? 0.5 : 0.08));
    path += fmt::format("M{:.1f} {:.1f}V{:.1f}h{:.2f}V{:.1f}z", x, scale.y(least), scale.y(most),
                        width, scale.y(least));
  }
  return path;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, text);
}

std::string grid(const Scale& scale) {
  std::string out;
  const double step = scale.most > 4 ? std::ceil(scale.most / 4) : scale.most > 2 ? 1 : 0.5;
  const auto line = [&](double load, const char* color) {
    return fmt::format("<path d=\"M{:.0f} {:.1f}H{:.0f}\" stroke=\"{}\"/>\n", kLeft, scale.y(load), kRight, color);
  };
  for (double load = 0; load <= scale.most; load += step) {
    out += line(load, "#d8dce2");
    out += text_at(kLeft - 6, scale.y(load) + 4, "end", fmt::format("{:.0f} %", 100 * load));
  }
  return out + line(1, "#c53030");
}

std::string panel(const RingtoolPlan& plan, const RingReport& report, double top) {
  const double most = std::max(report.before.even.fullest, report.after.even.fullest);
  const Scale scale{.top = top + kTitleHeight, .most = std::max(1.25, std::ceil(most * 1.05 * 4) / 4)};
  std::string out = text_at(
      kLeft, top + 16, "start",
      fmt::format("<tspan font-weight=\"bold\">{}</tspan>  before: fullest {:.1f} %, emptiest {:.1f} %; "
                  "after: fullest {:.1f} %, emptiest {:.1f} % of its share",
                  report.name, 100 * report.before.even.fullest, 100 * report.before.even.emptiest,
                  100 * report.after.even.fullest, 100 * report.after.even.emptiest));
  out += fmt::format("<path d=\"{}\" fill=\"{}\"/>\n",
                     columns_path(plan, report.before, false, scale), kBeforeColor);
  out += fmt::format("<path d=\"{}\" fill=\"{}\"/>\n",
                     columns_path(plan, report.after, true, scale), kAfterColor);
  return out + grid(scale);
}

std::string legend(const RingtoolPlan& plan) {
  std::string out = text_at(
      kLeft, 20, "start",
      fmt::format("Load of each node, of its share: {} nodes with copies: {}, then {} with {}",
                  plan.member_count_before, plan.replication_before, plan.member_count_after,
                  plan.replication_after));
  out += fmt::format("<rect x=\"800\" y=\"10\" width=\"11\" height=\"11\" fill=\"{}\"/>\n", kBeforeColor);
  out += text_at(816, 20, "start", "before");
  out += fmt::format("<rect x=\"880\" y=\"10\" width=\"11\" height=\"11\" fill=\"{}\"/>\n", kAfterColor);
  return out + text_at(896, 20, "start", "after");
}

}  // namespace

std::string load_plot(const RingtoolPlan& plan, const std::vector<RingReport>& reports) {
  const double height = kHeadHeight + kPanelHeight * static_cast<double>(reports.size());
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kWidth, height);
  out += legend(plan);
  double top = kHeadHeight;
  for (const RingReport& report : reports) {
    out += panel(plan, report, top);
    top += kPanelHeight;
  }
  return out + "</svg>\n";
}

}  // namespace agro
