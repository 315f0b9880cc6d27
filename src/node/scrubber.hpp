// Scrubber: reads every block that one peer holds from its disk, and replaces what has rotted.
//
// A pass goes through the blocks in order of their names. Of volumes with a crc layer all checksums
// are verified, of others it is seen that the disk still reads them. A bad copy is replaced by one
// that verifies, from wherever the distributor finds it, and then read and verified again. The
// store's own records are in memory; they are written anew at the end of a pass, whatever became of
// the old ones.
// Invariants: what is verified comes from the disk, never from a cache (BlockStore::read_stored); a
// bad copy stays as it is until there is a good one; a block that is deleted meanwhile is no error.
// The state of the pass is kept in the data directory, so that a restart goes on where it was.
// Threading: one loop. Format: models/agro.proto, ScrubState; docs/formats/store.md. Source:
// DESIGN.md section 7.
#pragma once

#include <string>

#include "base/env.hpp"
#include "blockset/crc.hpp"
#include "distributor/peer_service.hpp"
#include "node/cluster_client.hpp"
#include "node/work_rate.hpp"

namespace agro {

struct ScrubberOptions {
  std::uint64_t rate = 32 * 1024 * 1024;  // bytes a second; 0: no limit
  /// From the end of a pass to the start of the next. Zero: only when told to.
  Duration interval = std::chrono::hours(7 * 24);
  std::string state_path;  // empty: the state is not kept
  /// After a pass that could not go on, because the store takes no writes.
  Duration retry_after = std::chrono::minutes(10);
  Duration save_every = std::chrono::minutes(1);
};

class Scrubber {
 public:
  /// Shape: `env`, `cluster` and `service` outlive it; `service` is a local peer of `cluster`.
  Scrubber(Env& env, ClusterClient& cluster, PeerService& service, ScrubberOptions options);

  void start();
  /// Starts a pass now, or goes on with one that waits for better times, unless one runs.
  void scrub();
  ScrubReport report() const;
  Awaitable<void> stop();

 private:
  Job run();
  Awaitable<void> load_state();
  Awaitable<void> save_state();
  Duration until_due() const;
  void begin_pass();
  Task<void> pass();
  Task<void> check(BlockInfo block);
  Task<bool> is_good(BlockInfo block);
  Task<void> repair(BlockInfo block);
  Awaitable<void> wait_for_rate(std::uint64_t size);
  Awaitable<void> wait_for(Duration duration);

  Env& env_;
  ClusterClient& cluster_;
  PeerService& service_;
  ScrubberOptions options_;
  CrcCheck check_;
  AlignedBuffer buffer_;
  ScrubState state_;
  bool wanted_ = false;
  TimePoint retry_at_;
  TimePoint save_at_;
  WorkRate rate_;
  bool stopping_ = false;
  Event wake_;
  TaskGroup jobs_;
  Metric& metric_bytes_;
  Metric& metric_bad_;
  Metric& metric_repaired_;
  Metric& metric_lost_;
};

}  // namespace agro
