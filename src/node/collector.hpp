// Collector: deletes, from one peer's store, blocks that no volume needs.
//
// A cycle reads all volumes from the metadata, and of each volume that has candidates here its
// INode; gc/collect.hpp says what that proves. What is found dead is condemned; only when it is
// found dead again by a cycle after its grace period is it deleted. Invariants: fail-closed:
// whatever cannot be read, or does not fit together, condemns and deletes nothing of what it was
// needed for; the report says why. No block is deleted in the cycle that condemned it, nor without
// proof read by the cycle that deletes it. Volumes without checksums are left alone: an INode that
// nobody verified proves nothing. Cycles start at multiples of the interval in the time of day, so
// that all peers condemn at about the same time: what is condemned here is not copied to others
// (Rebalancer), who would copy it back. Threading: one loop. Source: DESIGN.md section 7.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "blockset/backend.hpp"
#include "distributor/peer_service.hpp"
#include "gc/collect.hpp"
#include "metadata/metadata.hpp"

namespace agro {

struct CollectorOptions {
  Duration interval = std::chrono::hours(1);  // between cycles. Zero: only when told to
  Duration grace = std::chrono::minutes(10);
  Duration first_after = std::chrono::seconds(5);  // the start
  Duration retry_after = std::chrono::minutes(5);  // a cycle that was not whole
};

class Collector {
 public:
  /// Shape: all references outlive it. `blocks` reads from all peers; `cluster` is the id of the
  /// cluster that the store belongs to.
  Collector(Env& env, Metadata& metadata, BlockBackend& blocks, PeerService& service, Uuid cluster,
            CollectorOptions options);

  void start();
  /// Starts a cycle now, or another one when one runs.
  void collect();
  /// One cycle, on its own; for tests. Errors: why nothing was judged at all.
  Task<void> cycle();
  bool is_condemned(const BlockRef& ref) const { return condemned_.contains(ref); }
  GcReport report() const;
  Awaitable<void> stop();

 private:
  /// A volume as it was when all of its blocks that are held here were found to be needed.
  struct Clean {
    VolumeHead head;
    std::vector<SnapshotRecord> snapshots;
    std::uint64_t covered_count = 0;
    std::uint64_t covered_hash = 0;
    bool operator==(const Clean&) const = default;
  };

  struct Condemned {
    TimePoint since;
    std::uint64_t cycle = 0;  // the last one that found it dead
  };

  Job run();
  Duration until_next() const;
  Task<VolumeAccount> read_account();
  Task<void> judge(VolumeId volume, std::vector<BlockRef> held, const VolumeAccount& account,
                   const VolumeCensus& census);
  static VolumeProof covering(const VolumeRecord& volume, const VolumeHead& head);
  Task<void> judge_by(VolumeRecord volume, VolumePosition position, std::vector<BlockRef> held);
  Task<VolumeProof> read_proof(VolumeRecord volume, VolumePosition position);
  Task<void> add_needed(VolumeRecord volume, VolumeHead head, std::vector<BlockRef>& live);
  static void add_log(const VolumeRecord& volume, const VolumeHead& head, std::vector<BlockRef>& live);
  Task<void> sentence(VolumeId volume, std::vector<BlockRef> dead);
  void complain(std::string problem);

  Env& env_;
  Metadata& metadata_;
  BlockBackend& blocks_;
  PeerService& service_;
  Uuid cluster_;
  CollectorOptions options_;
  std::map<BlockRef, Condemned> condemned_;
  std::uint64_t cycle_ = 0;
  std::map<VolumeId, Clean> clean_;
  GcReport report_;
  std::string problem_;  // the first of this cycle
  bool wanted_ = false;
  TimePoint next_at_;
  bool stopping_ = false;
  Event wake_;
  TaskGroup jobs_;
  Metric& metric_condemned_;
  Metric& metric_deleted_;
  Metric& metric_deleted_bytes_;
};

}  // namespace agro
