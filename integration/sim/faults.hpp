// The faults of a scenario: what goes wrong, drawn from a weighted table, and what is put right again.
//
// Every fault has its repair, some time later; repair_everything() does them all at once. Only what
// the cluster promises to survive is done to it: processes die and machines lose power as they like,
// but what a disk holds durably is spoiled only where a good copy is left (docs/internals/simulation.md).
// Threading: one loop.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "node/ring_change.hpp"
#include "sim_cluster.hpp"
#include "trace.hpp"

namespace agro {

class FaultInjector {
 public:
  /// Shape: `names` are of fault_names(); `client_died` is told before a client dies.
  FaultInjector(SimCluster& cluster, Trace& trace, Random random, std::set<std::string> names,
                std::uint32_t copies, std::function<void(std::size_t)> client_died);

  /// Those of `all`, in order of the table.
  static std::vector<std::string> fault_names();
  /// Those that must be asked for by name.
  static std::vector<std::string> opt_in_names();

  /// Something goes wrong.
  void inject();
  /// What is due is put right: processes started, networks healed.
  void repair_due();
  /// No fault lasts longer than now; processes are up soon after.
  void repair_everything();
  /// Kills a peer that is up, until repair_everything().
  void keep_down(std::size_t peer) {
    end_peer(peer, SimCluster::Death::killed, now() + std::chrono::hours(100));
  }
  /// Many reads of that peer's disk fail or bring something else, until repair_everything(). Nothing is
  /// done (false) where a copy on another peer may be bad, too. Shape: the peer is up.
  bool keep_misreading(std::size_t peer);
  /// Peers that were part of the cluster ever; the others wait to join.
  bool joined(std::size_t peer) const { return joined_.contains(peer); }
  void set_joined(std::size_t peer) { joined_.insert(peer); }
  /// Every process that should be is up. Empty, or what is missing.
  std::string not_up() const;
  /// How often each was injected.
  const std::map<std::string, std::uint64_t>& counts() const { return counts_; }
  /// A peer lost its disk for good, ever.
  bool lost_a_disk() const { return lost_a_disk_; }
  /// Peers that never come back and whom the cluster still knows; empty: none.
  std::string still_lost() const;
  /// Whether they are to be removed from the ring by force.
  void force_removals(bool force) { force_removals_ = force; }
  /// Kills and starts a client.
  void restart_client(std::size_t client) { end_client(client, SimCluster::Death::killed, now()); }
  /// Called when that peer dies and forgets what it had acknowledged.
  std::function<void(const PeerId& peer)> lost_writes;

 private:
  struct Kind {
    const char* name;
    std::uint32_t weight;
    bool (FaultInjector::*inject)();  // false: not possible now
    bool gentle = false;  // takes no peer away and no copy, not even for a while
    bool opt_in = false;
  };
  struct Repair {
    TimePoint at;
    std::function<bool()> act;  // false: again later
  };
  static const std::vector<Kind>& table();

  bool crash();
  bool kill();
  bool stop();
  bool end_random_peer(SimCluster::Death death, const char* word);
  bool client_crash();
  bool client_stop();
  bool lost_tail();
  bool blackout();
  bool partition();
  bool one_way();
  bool isolate();
  bool slow_link();
  bool reset();
  bool mds_down();
  bool mds_outage();
  bool mds_flaky();
  bool pause();
  bool freeze();
  bool freeze_peer(std::size_t index, Duration duration);
  bool freeze_client(std::size_t index, Duration duration);
  bool disk_errors();
  void restart_store(std::size_t index);
  bool disk_full();
  bool disk_slow();
  bool disk_mishaps();
  bool rot();
  void set_disk_faults(std::size_t index, SimDiskFaults faults);
  bool disk_lost();
  void give_up(const PeerId& id);
  void look_after_lost();
  Job remove_lost(PeerId id);
  bool can_spare(std::size_t peer);
  bool two_copies_are_sure();
  Job ask_for_copies(std::shared_ptr<std::optional<bool>> sure);
  bool lying_sync();
  bool is_careful() const { return calming_since_.has_value() || unrestored_; }
  bool is_calm();
  void look_after_liar();
  void lose_writes();
  bool is_restored();
  void note_id(std::size_t peer);
  Task<std::string> read_block(std::size_t peer, BlockInfo block);
  bool has_good_copy_elsewhere(std::size_t peer, const BlockRef& ref);
  bool join();
  bool ring_remove();
  bool ring_add();
  bool ring_copies();
  bool ring_weight();
  bool work();

  TimePoint now() { return cluster_.loop.clock().now(); }
  TimePoint later(Duration most);
  void repair_at(TimePoint at, std::function<bool()> act);
  std::optional<std::size_t> random_peer(SimCluster::Life life);
  std::string random_host();
  std::vector<std::string> hosts() const;
  void end_peer(std::size_t index, SimCluster::Death death, TimePoint up_again);
  void end_client(std::size_t index, SimCluster::Death death, TimePoint up_again);
  void change(RingChange change, const std::string& what);
  Job change_job(RingChange change, std::string what);

  SimCluster& cluster_;
  Trace& trace_;
  Random random_;
  std::vector<const Kind*> kinds_;
  std::uint32_t weight_sum_ = 0;
  std::function<void(std::size_t)> client_died_;
  std::set<std::size_t> joined_;
  std::map<std::size_t, TimePoint> peer_up_at_;    // of those that are to be up
  std::map<std::size_t, TimePoint> client_up_at_;
  std::map<std::size_t, PeerId> peer_ids_;         // of peers that were up once
  std::uint32_t lowest_copies_;  // that were ever wanted
  std::map<BlockRef, std::set<std::size_t>> rotten_;  // on which peers
  bool lost_a_disk_ = false;
  std::set<PeerId> lost_;  // never come back, and are to be removed
  TimePoint look_after_lost_at_;
  bool force_removals_ = false;
  std::optional<std::size_t> liar_;         // whose disk lies about sync
  std::optional<TimePoint> calming_since_;  // it is to lose its power, once all is calm
  TimePoint calm_since_;
  bool unrestored_ = false;  // it did, and not all copies are there again
  std::optional<std::int64_t> scrub_before_;  // the last scrub's end when it was up again
  std::vector<Repair> repairs_;
  std::map<std::string, std::uint64_t> counts_;
  TaskGroup jobs_;
};

}  // namespace agro
