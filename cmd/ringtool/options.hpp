// ringtool's command line: what cluster, what change of it, which rings.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "ring/placement.hpp"

namespace agro {

/// As the user said it; the names of the original's options stay.
struct RingtoolOptions {
  std::string rings = "placement";
  std::int64_t nodes = 0;
  std::int64_t delta = 2;
  std::int64_t replication = 2;
  std::int64_t replication_end = 0;
  std::string weights;
  std::string zones;
  std::uint64_t total_data = kDefaultTotalData;
  std::uint64_t block_size = kDefaultBlockSize;
  std::uint32_t rewritten_percent = 40;
  std::uint32_t group_count = kGroupCountDefault;
  std::uint64_t sample_count = 0;
  std::uint64_t seed = 1;
  std::string failures;
  std::string plot_path;
  bool json = false;
  bool peers = false;
  bool no_times = false;

  static constexpr std::uint64_t kDefaultTotalData = std::uint64_t{1} << 40;
  static constexpr std::uint64_t kDefaultBlockSize = std::uint64_t{1} << 20;
};

void add_options(CLI::App& app, RingtoolOptions& options);

/// A ring that can be studied: its kind, and whether the balancer has a say in it.
struct RingChoice {
  std::string name;
  RingKind kind = RingKind::placement;
  bool balanced = false;
};

/// What is to be studied, checked.
struct RingtoolPlan {
  std::vector<RingChoice> rings;
  /// Peers before and after, in the order they joined: the first `member_count_before` and the first
  /// `member_count_after` of `peers`.
  std::vector<RingMember> peers;
  std::size_t member_count_before = 0;
  std::size_t member_count_after = 0;
  std::uint32_t replication_before = 0;
  std::uint32_t replication_after = 0;
  std::uint32_t group_count = 0;
  std::uint64_t block_count = 0;
  std::uint64_t block_size = 0;
  std::uint64_t sample_count = 0;  // at most block_count
  std::uint32_t rewritten_percent = 0;
  std::uint64_t seed = 0;
  std::vector<std::size_t> failures;  // peers that die at once; ascending
};

/// Errors: invalid_argument, naming the option and what to do; not_found and io_error (a weights file).
Result<RingtoolPlan> make_plan(const RingtoolOptions& options);

}  // namespace agro
