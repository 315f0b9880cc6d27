// A scenario: from one seed a cluster, volumes, users and faults; and the verdict.
//
// It runs in three parts: faults and users for so many ticks; then all faults end, and the cluster
// must become healthy by itself while the users go on; then users leave, the space must come back,
// and with the volumes deleted nothing may be left. Source: DESIGN.md section 10;
// docs/internals/simulation.md.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "faults.hpp"
#include "fence_oracle.hpp"
#include "volume_user.hpp"

namespace agro {

struct ScenarioOptions {
  std::uint64_t seed = 1;
  std::uint64_t ticks = 300;
  std::set<std::string> faults;  // names; empty: none
  Trace::Level trace = Trace::Level::none;
  std::FILE* out = stdout;
};

struct ScenarioResult {
  std::string problem;  // empty: all is as promised
  Duration simulated{0};
  std::map<std::string, std::uint64_t> faults;
  std::uint64_t ticks = 0;             // of its life
  std::uint64_t mixed_ring_ticks = 0;  // at the end of which processes that ran knew different rings
  std::uint64_t operations = 0;
  std::uint64_t flushes = 0;
};

/// What kind of cluster, and how busy.
struct ScenarioShape {
  SimCluster::Options cluster;
  std::vector<std::uint64_t> volume_sizes;
  UserOptions users;
  std::uint64_t fault_one_in = 20;  // ticks
  std::string to_string() const;
};
ScenarioShape draw_shape(Random& random);

class Scenario {
 public:
  explicit Scenario(ScenarioOptions options);
  ScenarioResult run();

 private:
  Result<void> set_up();
  void live();
  void tick();
  void drive_volumes();
  void replace_volume();
  void use_snapshots();
  void settle();
  void expect_users_go_on();
  void expect_healthy();
  void expect_all_readable();
  void expect_snapshots_stay();
  void expect_enough_copies();
  void expect_space_back();
  void expect_bad_disk_unseen();
  void expect_nothing_left();
  /// Runs until `problem` says nothing more; a failure when that takes longer than `limit`.
  void expect_within(Duration limit, const char* what, const std::function<std::string()>& problem);
  void attach_all();
  void scrub_again();
  std::string unscrubbed();
  void tell_state();
  std::string report_problem();
  std::string misplaced();
  std::string space_problem();
  std::string left_over();
  std::vector<std::size_t> running_peers() const;
  void check_fences();
  bool rings_differ() const;
  std::string read_all(VolumeUser& volume, Errc* code = nullptr);
  void force_recovery();
  void fail(std::string text) { verdict_.fail(std::move(text)); }

  ScenarioOptions options_;
  Random random_;
  ScenarioShape shape_;
  std::unique_ptr<SimCluster> cluster_;
  std::unique_ptr<Trace> trace_;
  Verdict verdict_;
  std::vector<std::unique_ptr<VolumeUser>> volumes_;
  std::unique_ptr<FaultInjector> faults_;
  std::unique_ptr<FenceOracle> fences_;
  Random probe_random_;
  Random snapshot_random_;
  std::uint32_t next_tag_ = 1;
  std::uint64_t tick_ = 0;
  std::uint64_t mixed_ring_ticks_ = 0;
  TimePoint scrub_again_at_;
  std::map<std::size_t, std::int64_t> scrubbed_before_;  // when the faults ended; by peer
};

}  // namespace agro
