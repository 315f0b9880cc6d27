// Distributor: a cluster's blocks as one BlockBackend, over a ring and the peers it names.
//
// Invariants: write() succeeds only when as many distinct peers as asked for said durable; a bad
// copy is never returned while a good one can be reached, and is repaired from it; after a call
// returned, nothing touches the caller's buffer (a block written stays shared with late attempts).
// Threading: one loop, the peers'. Source: DESIGN.md sections 5 and 10.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "blockset/backend.hpp"
#include "distributor/buffer_classes.hpp"
#include "distributor/hedge_policy.hpp"
#include "distributor/peer.hpp"
#include "ring/ring.hpp"

namespace agro {

/// The original's counters of reads, under its names.
struct ReadCounters {
  explicit ReadCounters(Metrics& metrics);
  Metric& requests;
  Metric& inode_requests;
  Metric& local_blocks;
  Metric& local_fails;
  Metric& peer_blocks;
  Metric& peer_fails;
  Metric& failures;
  Metric& inode_failures;
};

struct DistributorOptions {
  Duration write_slow = std::chrono::milliseconds(500);  // then the next peer is tried as well
  Duration write_limit = std::chrono::seconds(5);        // per peer
  Duration write_patience = std::chrono::milliseconds(1200);  // for silent peers, then min_copies
  Duration read_slow = std::chrono::milliseconds(200);   // then the next replica is asked instead
  Duration read_limit = std::chrono::seconds(5);         // per peer, when all were slow
  Duration list_limit = std::chrono::seconds(10);
  Duration ring_limit = std::chrono::seconds(3);     // to learn of a newer ring
  Duration control_limit = std::chrono::seconds(3);  // remove, fence
  Duration straggler_wait = std::chrono::milliseconds(300);  // list, fence: when enough answered
  Duration suspicion = std::chrono::seconds(5);      // a peer that timed out is asked last; doubles
  Duration suspicion_max = std::chrono::seconds(60);
};

class Distributor final : public BlockBackend {
 public:
  Distributor(Env env, std::uint32_t block_size, DistributorOptions options = {});
  /// Shape: stop() has returned, or nothing was ever called.
  ~Distributor() override;
  Distributor(const Distributor&) = delete;
  Distributor& operator=(const Distributor&) = delete;

  /// Both take effect for calls that start afterwards, and for writes that a peer answered with
  /// stale_ring.
  void set_ring(std::shared_ptr<const Ring> ring);
  void set_peers(std::map<PeerId, std::shared_ptr<Peer>> peers);

  /// Notified when a peer knows a newer ring than ours: read it, and call set_ring().
  Event& ring_is_stale() { return ring_is_stale_; }

  Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) override;
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  ReadOptions options) override;
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       const ReadOptions& options) override;
  Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) override;
  Task<void> remove(std::vector<BlockRef> refs) override;
  Task<Listing> list(BlockFilter filter, std::uint32_t missing_allowed = 0) override;
  Task<Reached> fence(VolumeId volume, Epoch epoch, std::uint32_t missing_allowed = 0) override;
  std::uint32_t copy_count() const override;
  std::uint32_t sure_copies() const override;
  std::uint32_t ready_count() const override;
  Event& peers_changed() override { return peers_changed_; }
  std::uint32_t block_size() const override { return block_size_; }
  /// Sums over the ring's members that ever answered: with R copies, a volume can use 1/R of it, or
  /// less when peers differ in size.
  Space space() const override;

  /// Refuses new calls, and waits for calls, late attempts and repairs under way.
  Awaitable<void> stop();

 private:
  /// A peer, and what we think of it.
  struct PeerState {
    std::shared_ptr<Peer> peer;
    Metric& requests;
    Metric& errors;
    std::uint32_t slow_count = 0;  // attempts under way that are slow
    TimePoint suspect_until;
    Duration suspicion{0};         // how long the last one was; 0: it answered since
    std::uint32_t overtaken_count = 0;  // reads in a row that another replica answered earlier
    TimePoint shunned_until;       // reads ask other replicas first
    Duration shunned{0};           // how long the last time was; 0: it was quick enough since
  };
  using PeerPtr = std::shared_ptr<PeerState>;
  struct WriteOp;
  struct ReadOp;
  struct OwnRead;
  struct Race;
  struct FanOut;
  class CallGuard;

  PeerPtr find_peer(const PeerId& id) const;
  void match_members();
  bool is_suspect(const PeerState& state) const;
  void suspect(PeerState& state);
  void note(PeerState& state, Errc code);
  std::vector<PeerPtr> write_candidates(const BlockRef& ref);
  std::vector<PeerPtr> read_candidates(const BlockRef& ref);
  std::vector<PeerPtr> connected_peers() const;
  std::uint32_t members_missing(const std::vector<PeerPtr>& answered) const;
  Reached reached(const std::vector<PeerPtr>& answered) const;
  void listen(const PeerPtr& state);

  Task<std::uint32_t> write_once(BlockRef ref, SharedBytes block, WriteOptions options);
  Job write_attempt(std::shared_ptr<WriteOp> op, std::size_t index);
  void start_write_attempts(const std::shared_ptr<WriteOp>& op);
  bool has_settled(const WriteOp& op) const;
  TimePoint next_look(const WriteOp& op) const;
  Error write_failure(const WriteOp& op) const;

  Task<void> read_any(ReadOp& op);
  Task<void> ask_candidate(ReadOp& op, const std::vector<PeerPtr>& candidates, std::size_t index,
                           bool patient);
  Task<void> ask_alone(ReadOp& op, PeerPtr state, bool patient);
  static bool can_ask(const ReadOp& op, const PeerPtr& state);
  static Result<void> check_pages(const ReadOp& op, ConstBytes bytes,
                                  std::span<const std::uint32_t> page_crcs);
  Task<void> ask_candidates(ReadOp& op, bool patient_only);
  Task<void> read_attempt(ReadOp& op, PeerPtr state, TimePoint deadline, Race* race);
  void take_answer(ReadOp& op, const PeerPtr& state, const Result<void>& read, bool patient);
  Task<void> read_whole(ReadOp& op, PeerPtr state, TimePoint deadline);
  Error read_failure(const ReadOp& op) const;

  // distributor_hedge.cpp: asking another replica as well
  Task<void> ask_hedged(ReadOp& op, PeerPtr state, PeerPtr next, bool patient);
  Task<void> receive(ReadOp& op, const PeerPtr& state, std::vector<std::uint32_t>* page_crcs,
                     TimePoint deadline, Race* race);
  Task<void> receive_apart(ReadOp& op, PeerPtr state, std::vector<std::uint32_t>* page_crcs,
                           TimePoint deadline, Race* race);
  std::shared_ptr<OwnRead> start_own_read(const ReadOp& op, const PeerPtr& state,
                                          TimePoint deadline, Race* race);
  Job own_read_job(std::shared_ptr<OwnRead> read, TimePoint deadline);
  void start_hedge(Race& race);
  void note_overtaken(PeerState& state);

  void start_repairs(const BlockRef& ref, const PeerPtr& good, const std::vector<PeerPtr>& bad);
  Job repair_job(BlockRef ref, PeerPtr good, PeerPtr bad);
  Task<void> repair(BlockRef ref, PeerPtr good, PeerPtr bad);

  Job list_job(std::shared_ptr<FanOut> op, PeerPtr state, BlockFilter filter);
  Job remove_job(std::shared_ptr<FanOut> op, PeerPtr state,
                 std::shared_ptr<const std::vector<BlockRef>> refs);
  Job fence_job(std::shared_ptr<FanOut> op, PeerPtr state, VolumeId volume, Epoch epoch);
  void finish(FanOut& op, const PeerPtr& state, Errc code);
  Awaitable<void> wait_for_answers(std::shared_ptr<FanOut> op, std::uint32_t missing_allowed);

  Env env_;
  std::uint32_t block_size_;
  DistributorOptions options_;
  BufferClasses buffers_;
  std::shared_ptr<const Ring> ring_;
  std::map<PeerId, PeerPtr> peers_;
  std::vector<PeerPtr> member_peers_;  // as ring_->members(); null: no such peer
  std::vector<PeerPtr> target_peers_;  // as ring_->target().members()
  bool any_local_ = false;
  std::vector<std::uint32_t> permutation_;  // scratch; no await while it is in use
  std::vector<std::uint32_t> page_crcs_;    // scratch of try_read()
  mutable std::vector<std::uint64_t> free_;            // scratch of space()
  mutable std::vector<std::uint64_t> free_connected_;  // likewise
  std::set<std::pair<PeerId, BlockRef>> repairing_;
  bool closed_ = false;
  std::uint32_t call_count_ = 0;
  Event calls_changed_;
  Event ring_is_stale_;
  Event ring_changed_;
  Event peers_changed_;
  Event closing_;
  TaskGroup jobs_;
  Metric& corrupt_replicas_;
  Metric& repaired_replicas_;
  HedgePolicy hedge_;
  Metric& hedged_reads_;
  Metric& hedged_reads_won_;
  ReadCounters reads_;
};

}  // namespace agro
