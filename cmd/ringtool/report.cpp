#include "ringtool/report.hpp"

#include <fmt/format.h>

#include <cmath>
#include <functional>

#include "agroctl/table.hpp"
#include "base/units.hpp"

namespace agro {
namespace {

/// Sampled replicas, as of all blocks.
double scaled(const RingtoolPlan& plan, double sampled) {
  return sampled * (static_cast<double>(plan.block_count) / static_cast<double>(plan.sample_count));
}

std::uint64_t whole(double value) { return static_cast<std::uint64_t>(std::llround(value)); }

std::uint64_t count_of(const RingtoolPlan& plan, std::uint64_t sampled) {
  return whole(scaled(plan, static_cast<double>(sampled)));
}

std::uint64_t size_of(const RingtoolPlan& plan, double sampled) {
  return whole(scaled(plan, sampled) * static_cast<double>(plan.block_size));
}

std::uint64_t load_size(const RingtoolPlan& plan, std::uint64_t load) {
  return size_of(plan, static_cast<double>(load));
}

double mean_load(const RingtoolPlan& plan, std::uint32_t copies, const RingLoads& loads) {
  return static_cast<double>(plan.sample_count) * copies / static_cast<double>(loads.loads.size());
}

/// Of bytes around the shares in bytes, as the original printed it.
std::uint64_t deviation_size(const RingtoolPlan& plan, const RingLoads& loads) {
  double squares = 0;
  for (std::size_t peer = 0; peer < loads.loads.size(); ++peer) {
    const double off = static_cast<double>(loads.loads[peer]) -
                       loads.shares[peer] * static_cast<double>(plan.sample_count);
    squares += off * off;
  }
  return size_of(plan, std::sqrt(squares / static_cast<double>(loads.loads.size())));
}

double least_traffic(const RingtoolPlan& plan, const RingReport& report) {
  return report.least_sent * static_cast<double>(plan.sample_count);
}

/// What is sent over the least that has to be; 0 when nothing has to be.
double traffic_ratio(const RingtoolPlan& plan, const RingReport& report) {
  const double least = least_traffic(plan, report);
  return least > 0.5 ? static_cast<double>(report.movement.sent) / least : 0;
}

std::string percent(double fraction) { return fmt::format("{:.2f} %", 100 * fraction); }

std::string loss_text(const LossChance& loss) {
  const double value = 100 * loss.chance;
  const std::string number =
      value == 0 || value >= 0.01 ? fmt::format("{:.2f}", value) : fmt::format("{:.1e}", value);
  switch (loss.method) {
    case LossChance::Method::exact:
      return number + " %";
    case LossChance::Method::sampled:
      return "~" + number + " %";
    case LossChance::Method::at_most:
      return "<" + number + " %";
  }
  return number;
}

const char* method_name(LossChance::Method method) {
  static constexpr const char* kNames[] = {"exact", "sampled", "at most"};
  return kNames[static_cast<std::size_t>(method)];
}

std::string time_text(double nanoseconds) {
  if (nanoseconds < 1000) return fmt::format("{:.0f} ns", nanoseconds);
  return fmt::format("{:.1f} us", nanoseconds / 1000);
}

using Value = std::function<std::string(const RingReport&)>;
struct Row {
  std::string title;
  Value value;
};

void add_side(const RingtoolPlan& plan, bool after, std::vector<Row>& rows) {
  const std::uint32_t copies = after ? plan.replication_after : plan.replication_before;
  const auto side = [after](const RingReport& report) -> const RingLoads& {
    return after ? report.after : report.before;
  };
  rows.push_back({fmt::format("{}: {} nodes, copies: {}", after ? "after" : "before",
                              after ? plan.member_count_after : plan.member_count_before, copies),
                  [](const RingReport&) { return std::string(); }});
  rows.push_back({"  mean of a node", [=, &plan](const RingReport& report) {
                    return format_size(size_of(plan, mean_load(plan, copies, side(report))));
                  }});
  rows.push_back({"  standard deviation",
                  [=](const RingReport& report) { return percent(side(report).even.deviation); }});
  rows.push_back({"  the same in bytes", [=, &plan](const RingReport& report) {
                    return format_size(deviation_size(plan, side(report)));
                  }});
  rows.push_back({"  of a perfect ring, by chance",
                  [=](const RingReport& report) { return percent(side(report).even.chance); }});
  rows.push_back({"  fullest, of its share",
                  [=](const RingReport& report) { return percent(side(report).even.fullest); }});
  rows.push_back({"  emptiest, of its share",
                  [=](const RingReport& report) { return percent(side(report).even.emptiest); }});
}

void add_change(const RingtoolPlan& plan, std::vector<Row>& rows) {
  rows.push_back({"the change", [](const RingReport&) { return std::string(); }});
  rows.push_back({"  blocks kept", [&plan](const RingReport& report) {
                    return std::to_string(count_of(plan, report.movement.kept));
                  }});
  rows.push_back({"  blocks sent", [&plan](const RingReport& report) {
                    return std::to_string(count_of(plan, report.movement.sent));
                  }});
  rows.push_back({"  sent, of all", [](const RingReport& report) {
                    const auto all = static_cast<double>(report.movement.kept + report.movement.sent);
                    return percent(static_cast<double>(report.movement.sent) / all);
                  }});
  rows.push_back({"  network traffic", [&plan](const RingReport& report) {
                    return format_size(load_size(plan, report.movement.sent));
                  }});
  rows.push_back({"  perfect traffic", [&plan](const RingReport& report) {
                    return format_size(size_of(plan, least_traffic(plan, report)));
                  }});
  rows.push_back({"  traffic over perfect", [&plan](const RingReport& report) {
                    const double ratio = traffic_ratio(plan, report);
                    return ratio > 0 ? fmt::format("{:.3f}", ratio) : std::string("-");
                  }});
}

void add_losses(const RingtoolPlan& plan, std::vector<Row>& rows) {
  rows.push_back({"loss, before the change", [](const RingReport&) { return std::string(); }});
  rows.push_back({"  distinct replica sets",
                  [](const RingReport& report) { return std::to_string(report.set_count); }});
  for (std::size_t index = 0; index < plan.failures.size(); ++index) {
    rows.push_back({fmt::format("  chance when {} nodes die", plan.failures[index]),
                    [index](const RingReport& report) { return loss_text(report.losses[index]); }});
  }
}

std::string table_of(const std::vector<Row>& rows, const std::vector<RingReport>& reports) {
  std::vector<Column> columns = {{.field = "figure", .title = "ring"}};
  for (const RingReport& report : reports) {
    columns.push_back({.field = report.name, .title = report.name, .right_aligned = true});
  }
  Table table(std::move(columns));
  for (const Row& row : rows) {
    std::vector<Cell> cells = {Cell(row.title)};
    for (const RingReport& report : reports) cells.emplace_back(row.value(report));
    table.add(std::move(cells));
  }
  return table.to_text();
}

std::string peers_table(const RingtoolPlan& plan, const std::vector<RingReport>& reports) {
  std::vector<Column> columns = {{.field = "node", .title = "node", .right_aligned = true},
                                 {.field = "weight", .title = "weight", .right_aligned = true},
                                 {.field = "zone", .title = "zone"}};
  for (const RingReport& report : reports) {
    columns.push_back({.field = "before", .title = report.name, .right_aligned = true});
    columns.push_back({.field = "after", .title = "after", .right_aligned = true});
  }
  Table table(std::move(columns));
  const auto cell = [&plan](const RingLoads& side, std::size_t peer) {
    return peer < side.loads.size() ? size_cell(load_size(plan, side.loads[peer])) : Cell("-");
  };
  for (std::size_t peer = 0; peer < plan.peers.size(); ++peer) {
    const std::string& zone = plan.peers[peer].labels.zone;
    std::vector<Cell> cells = {number_cell(peer + 1), number_cell(plan.peers[peer].weight),
                               Cell(zone.empty() ? "-" : zone)};
    for (const RingReport& report : reports) {
      cells.push_back(cell(report.before, peer));
      cells.push_back(cell(report.after, peer));
    }
    table.add(std::move(cells));
  }
  return table.to_text();
}

Json side_json(const RingtoolPlan& plan, std::uint32_t copies, const RingLoads& side,
               bool with_peers) {
  Json json = {{"nodes", side.loads.size()},
               {"copies", copies},
               {"mean_size", size_of(plan, mean_load(plan, copies, side))},
               {"deviation", side.even.deviation},
               {"deviation_size", deviation_size(plan, side)},
               {"deviation_by_chance", side.even.chance},
               {"fullest", side.even.fullest},
               {"emptiest", side.even.emptiest}};
  if (with_peers) {
    Json loads = Json::array();
    for (const std::uint64_t load : side.loads) loads.push_back(load_size(plan, load));
    json["node_sizes"] = std::move(loads);
  }
  return json;
}

Json ring_json(const RingtoolPlan& plan, const RingReport& report, bool with_peers) {
  const double ratio = traffic_ratio(plan, report);
  Json json;
  json["ring"] = report.name;
  json["before"] = side_json(plan, plan.replication_before, report.before, with_peers);
  json["after"] = side_json(plan, plan.replication_after, report.after, with_peers);
  json["change"] = {{"blocks_kept", count_of(plan, report.movement.kept)},
                    {"blocks_sent", count_of(plan, report.movement.sent)},
                    {"blocks_dropped", count_of(plan, report.movement.dropped)},
                    {"traffic_size", load_size(plan, report.movement.sent)},
                    {"perfect_traffic_size", size_of(plan, least_traffic(plan, report))},
                    {"traffic_over_perfect", ratio > 0 ? Json(ratio) : Json(nullptr)}};
  json["replica_sets"] = report.set_count;
  json["loss"] = Json::array();
  for (const LossChance& loss : report.losses) {
    json["loss"].push_back({{"failed_nodes", loss.failed},
                            {"chance", loss.chance},
                            {"method", method_name(loss.method)}});
  }
  if (report.times.has_value()) {
    json["lookup_ns"] = report.times->owners_ns;
    json["order_ns"] = report.times->order_ns;
  }
  return json;
}

}  // namespace

std::string text_report(const RingtoolPlan& plan, const std::vector<RingReport>& reports,
                        bool with_peers) {
  std::string out = fmt::format(
      "{} blocks of {}, {} of them placed\n\n", plan.block_count, format_size(plan.block_size),
      plan.sample_count == plan.block_count ? "all" : std::to_string(plan.sample_count));
  std::vector<Row> rows;
  add_side(plan, false, rows);
  add_side(plan, true, rows);
  add_change(plan, rows);
  add_losses(plan, rows);
  if (!reports.empty() && reports.front().times.has_value()) {
    rows.push_back({"time to find", [](const RingReport&) { return std::string(); }});
    rows.push_back({"  a block's nodes", [](const RingReport& report) {
                      return time_text(report.times->owners_ns);
                    }});
    rows.push_back({"  its order of all nodes", [](const RingReport& report) {
                      return time_text(report.times->order_ns);
                    }});
  }
  out += table_of(rows, reports);
  if (with_peers) out += "\n" + peers_table(plan, reports);
  return out;
}

std::string json_report(const RingtoolPlan& plan, const std::vector<RingReport>& reports,
                        bool with_peers) {
  Json json = {{"blocks", plan.block_count},
               {"block_size", plan.block_size},
               {"sampled_blocks", plan.sample_count},
               {"seed", plan.seed}};
  if (with_peers) {
    json["nodes"] = Json::array();
    for (const RingMember& peer : plan.peers) {
      json["nodes"].push_back({{"weight", peer.weight}, {"zone", peer.labels.zone}});
    }
  }
  json["rings"] = Json::array();
  for (const RingReport& report : reports) {
    json["rings"].push_back(ring_json(plan, report, with_peers));
  }
  return render_json(json);
}

}  // namespace agro
