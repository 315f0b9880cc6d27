#include "ringtool/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <numeric>
#include <optional>
#include <sstream>

#include "base/units.hpp"
#include "common/program.hpp"
#include "core/uuid.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kSampleCountDefault = 4'000'000;
constexpr std::uint64_t kSamplesPerNode = 1000;
constexpr std::size_t kFailureCountDefault = 3;
constexpr std::uint64_t kStoredMax = kTiB << 22;  // what is printed fits 63 bits

tl::unexpected<Error> bad(std::string why) { return fail(Errc::invalid_argument, std::move(why)); }

/// The parts between commas, blanks and newlines; nothing between two commas is an empty part.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  bool ended = false;  // by a blank: a comma or another part may follow
  for (const char letter : text) {
    if (letter == ',') {
      parts.emplace_back();
      ended = false;
    } else if (letter == ' ' || letter == '\t' || letter == '\r' || letter == '\n') {
      ended = !parts.back().empty();
    } else {
      if (ended) parts.emplace_back();
      ended = false;
      parts.back() += letter;
    }
  }
  return parts;
}

/// A whole number from 1 to `max`, and nothing else.
std::optional<std::uint64_t> positive(std::string_view text, std::uint64_t max) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (number == 0 || number > max) return std::nullopt;
  return number;
}

Result<std::vector<std::uint64_t>> parse_numbers(const std::string& option, const std::string& text,
                                                 std::uint64_t max) {
  std::vector<std::uint64_t> numbers;
  for (const std::string& part : split(text)) {
    const std::optional<std::uint64_t> number = positive(part, max);
    if (!number.has_value()) {
      return bad(fmt::format("{}: '{}' is no whole number from 1 to {}", option, part, max));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

/// A file's text without what follows a '#' on a line.
Result<std::string> read_list_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return fail(errno_error("reading the weights of " + path, errno));
  std::string text;
  for (std::string line; std::getline(file, line);) {
    text += line.substr(0, line.find('#')) + "\n";
  }
  if (file.bad()) return fail(errno_error("reading the weights of " + path, errno));
  return text;
}

/// "4000,8000x3" or "@FILE": 4000 8000 8000 8000.
Result<std::vector<std::uint64_t>> parse_weights(const std::string& given, std::size_t peer_count) {
  std::string text = given;
  if (given.starts_with('@')) {
    AGRO_TRY(text, read_list_file(given.substr(1)));
  }
  std::vector<std::uint64_t> weights;
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return bad("--weights has no weight in it");
  for (const std::string& part : split(text)) {
    const std::size_t times_at = part.find('x');
    const auto weight = positive(std::string_view(part).substr(0, times_at), kRingWeightMax);
    const auto times = times_at == std::string::npos
                           ? std::optional<std::uint64_t>(1)
                           : positive(std::string_view(part).substr(times_at + 1), kRingMemberCountMax);
    if (!weight.has_value() || !times.has_value()) {
      return bad(fmt::format("--weights: '{}' is neither WEIGHT nor WEIGHTxCOUNT, in whole numbers from 1",
                             part));
    }
    weights.insert(weights.end(), *times, *weight);
    if (weights.size() > peer_count) {
      return bad(fmt::format("--weights has more than {} weights, as many as there are nodes; "
                             "fewer are dealt out in turn",
                             peer_count));
    }
  }
  return weights;
}

/// "3": dealt out in turn; "10,10,5": so many in each. Returns the zone of each peer.
Result<std::vector<std::size_t>> parse_zones(const std::string& text, std::size_t node_count,
                                             std::size_t peer_count) {
  AGRO_TRY(const auto numbers, parse_numbers("--zones", text, kRingMemberCountMax));
  std::vector<std::size_t> zones;
  const std::size_t zone_count = numbers.size() == 1 ? numbers.front() : numbers.size();
  if (zone_count > node_count) {
    return bad(fmt::format("--zones: {} zones need as many nodes, there are {}", zone_count, node_count));
  }
  if (numbers.size() == 1) {
    for (std::size_t peer = 0; peer < peer_count; ++peer) zones.push_back(peer % zone_count);
    return zones;
  }
  const std::uint64_t sum = std::accumulate(numbers.begin(), numbers.end(), std::uint64_t{0});
  if (sum != peer_count) {
    return bad(fmt::format("--zones has room for {} nodes, there are {} (those that --delta adds with them)", sum,
                           peer_count));
  }
  for (std::size_t zone = 0; zone < numbers.size(); ++zone) {
    zones.insert(zones.end(), numbers[zone], zone);
  }
  return zones;
}

const std::vector<RingChoice>& studied_rings() {
  static const std::vector<RingChoice> kRings = {{"placement", RingKind::placement, true},
                                                 {"unbalanced", RingKind::placement, false},
                                                 {"ketama", RingKind::ketama, false},
                                                 {"mod", RingKind::mod, false}};
  return kRings;
}

Result<std::vector<RingChoice>> parse_rings(const std::string& text) {
  if (text == "all") return studied_rings();
  std::vector<RingChoice> rings;
  for (const std::string& name : split(text)) {
    const auto named = [&](const RingChoice& one) { return one.name == name; };
    const auto found = std::find_if(studied_rings().begin(), studied_rings().end(), named);
    if (std::any_of(rings.begin(), rings.end(), named)) {
      return bad(fmt::format("--ring names '{}' twice", name));
    }
    if (found != studied_rings().end()) {
      rings.push_back(*found);
    } else if (name == "single") {
      rings.push_back({name, RingKind::single, false});
    } else {
      return bad(fmt::format("--ring: '{}' is none of placement, unbalanced, ketama, mod, single, or all",
                             name));
    }
  }
  return rings;
}

Result<std::uint32_t> copies(const char* option, std::int64_t given, std::size_t node_count,
                             const char* when) {
  if (given < 1) return bad(fmt::format("{} {}: a block has one copy at least", option, given));
  if (static_cast<std::uint64_t>(given) > node_count) {
    return bad(fmt::format("{} {}: as many copies need as many nodes, there {} {}{}", option, given,
                           node_count == 1 ? "is" : "are", node_count, when));
  }
  return static_cast<std::uint32_t>(given);
}

/// How many nodes and copies, before and after. Errors: invalid_argument.
Result<void> plan_counts(const RingtoolOptions& options, RingtoolPlan& plan) {
  constexpr auto kMost = static_cast<std::int64_t>(kRingMemberCountMax);
  if (options.nodes < 1) return bad("--nodes: say how many nodes there are, at least 1");
  if (options.nodes > kMost || options.delta > kMost - options.nodes) {
    return bad(fmt::format("--nodes and --delta: a ring has at most {} nodes", kMost));
  }
  if (options.delta < -kMost || options.nodes + options.delta < 1) {
    return bad(fmt::format("--delta {} leaves none of {} nodes", options.delta, options.nodes));
  }
  plan.member_count_before = static_cast<std::size_t>(options.nodes);
  plan.member_count_after = static_cast<std::size_t>(options.nodes + options.delta);
  AGRO_TRY(plan.replication_before,
           copies("--rep", options.replication, plan.member_count_before, ""));
  const bool same = options.replication_end == 0;
  AGRO_TRY(plan.replication_after,
           copies(same ? "--rep" : "--rep-end", same ? options.replication : options.replication_end,
                  plan.member_count_after, " after the change"));
  return {};
}

/// Errors: as make_plan().
Result<void> plan_peers(const RingtoolOptions& options, RingtoolPlan& plan) {
  const std::size_t peer_count = std::max(plan.member_count_before, plan.member_count_after);
  std::vector<std::uint64_t> weights = {1};
  if (!options.weights.empty()) {
    AGRO_TRY(weights, parse_weights(options.weights, peer_count));
  }
  std::vector<std::size_t> zones;
  if (!options.zones.empty()) {
    AGRO_TRY(zones, parse_zones(options.zones, plan.member_count_before, peer_count));
  }
  Random random(options.seed);
  for (std::size_t peer = 0; peer < peer_count; ++peer) {
    RingMember member{.id = make_uuid(random), .weight = weights[peer % weights.size()]};
    if (!zones.empty()) member.labels.zone = fmt::format("zone-{}", zones[peer] + 1);
    plan.peers.push_back(std::move(member));
  }
  return {};
}

Result<void> plan_blocks(const RingtoolOptions& options, RingtoolPlan& plan) {
  if (options.block_size == 0) return bad("--block-size: a block has some bytes");
  plan.block_size = options.block_size;
  plan.block_count = options.total_data / options.block_size;
  if (plan.block_count == 0) {
    return bad("--total-data is smaller than one block; give more, or a smaller --block-size");
  }
  const std::uint64_t copies = std::max(plan.replication_before, plan.replication_after);
  if (options.total_data > kStoredMax / copies) {
    return bad("--total-data: with all copies at most 4 EiB are simulated");
  }
  const std::uint64_t wanted =
      options.sample_count != 0
          ? options.sample_count
          : std::max(kSampleCountDefault, kSamplesPerNode * plan.peers.size());
  plan.sample_count = std::min(plan.block_count, wanted);
  return {};
}

Result<void> plan_failures(const RingtoolOptions& options, RingtoolPlan& plan) {
  if (options.failures.empty()) {
    for (std::size_t more = 0; more < kFailureCountDefault; ++more) {
      const std::size_t failed = plan.replication_before + more;
      if (failed <= plan.member_count_before) plan.failures.push_back(failed);
    }
    return {};
  }
  AGRO_TRY(const auto numbers,
           parse_numbers("--failures", options.failures, plan.member_count_before));
  plan.failures.assign(numbers.begin(), numbers.end());
  std::sort(plan.failures.begin(), plan.failures.end());
  plan.failures.erase(std::unique(plan.failures.begin(), plan.failures.end()), plan.failures.end());
  return {};
}

}  // namespace

void add_options(CLI::App& app, RingtoolOptions& options) {
  app.set_version_flag("--version", std::string("ringtool ") + AGRO_VERSION);
  app.add_option("--ring", options.rings,
                 "placement, unbalanced (placement without its balancer), ketama, mod, single; several with commas, "
                 "or all: side by side")
      ->capture_default_str();
  app.add_option("--nodes", options.nodes, "nodes before the change")->required();
  app.add_option("--delta", options.delta, "nodes that are added, or with a minus removed (the last ones)")
      ->capture_default_str();
  app.add_option("--rep", options.replication, "copies of each block")->capture_default_str();
  app.add_option("--rep-end,--repEnd", options.replication_end,
                 "copies after the change; 0: as before")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--weights", options.weights,
                 "weights of the nodes, dealt out in turn: 4000,8000x3, or @FILE with such a list ('#' to comment)");
  app.add_option("--zones", options.zones,
                 "failure domains (placement keeps copies apart): 3, nodes dealt out in turn, or 10,10,5 nodes each");
  add_size_option(app, "--total-data", options.total_data, "users' data, without copies [1TiB]");
  add_size_option(app, "--block-size", options.block_size, "size of a block [1MiB]");
  app.add_option("--rewrite-edge", options.rewritten_percent,
                 "percentage of volumes with small later writes")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app.add_option("--groups", options.group_count, "groups of a placement ring, a power of two")
      ->capture_default_str();
  app.add_option("--sample", options.sample_count,
                 "place at most so many blocks [4 million, or 1,000 a node if that is more]")
      ->check(CLI::PositiveNumber);
  app.add_option("--failures", options.failures,
                 "numbers of nodes that die at once, with commas [as many as copies, one more, two more]");
  app.add_option("--seed", options.seed, "of nodes' ids and blocks: the same gives the same figures, but for times")
      ->capture_default_str();
  app.add_flag("--peers", options.peers, "print the load of each node too");
  app.add_flag("--no-times", options.no_times, "do not measure lookups: output is the same every time");
  app.add_flag("--json", options.json, "print JSON; sizes in bytes");
  app.add_option("--plot", options.plot_path, "write the load of each node before and after, as SVG")
      ->type_name("FILE.svg");
}

Result<RingtoolPlan> make_plan(const RingtoolOptions& options) {
  RingtoolPlan plan;
  AGRO_TRY(plan.rings, parse_rings(options.rings));
  AGRO_TRY_OK(plan_counts(options, plan));
  AGRO_TRY_OK(plan_peers(options, plan));
  AGRO_TRY_OK(plan_blocks(options, plan));
  AGRO_TRY_OK(plan_failures(options, plan));
  plan.group_count = options.group_count;
  plan.rewritten_percent = options.rewritten_percent;
  plan.seed = options.seed;
  return plan;
}

}  // namespace agro
