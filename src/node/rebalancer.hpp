// Rebalancer: brings the blocks that one peer holds to where the ring wants them.
//
// It walks all blocks held here, asks the others who holds them, gives copies to owners that lack one
// and gives up what is not ours (distributor/rebalance/plan.hpp decides). It does so when the ring
// changes, when a peer comes or goes, when a block was stored here that belongs elsewhere, when told
// to, and now and then anyway.
// Invariants: what it says of a ring version ("settled") covers every block that was or can be
// placed by an older one: those are refused first (PeerService::require_ring). Copies travel
// verified. Threading: one loop. Source: DESIGN.md section 6.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/env.hpp"
#include "blockset/crc.hpp"
#include "distributor/peer_service.hpp"
#include "distributor/rebalance/plan.hpp"
#include "node/cluster_client.hpp"
#include "node/work_rate.hpp"

namespace agro {

struct RebalancerOptions {
  std::uint64_t rate = 64 * 1024 * 1024;  // bytes a second sent by this peer; 0: no limit
  /// What is on its way between client and peers is left alone for so long.
  Duration settle_delay = std::chrono::seconds(2);
  Duration retry_after = std::chrono::seconds(2);
  Duration look_every = std::chrono::minutes(10);
};

class Rebalancer {
 public:
  /// Shape: `env`, `cluster` and `service` outlive it; `service` is a local peer of `cluster`.
  Rebalancer(Env& env, ClusterClient& cluster, PeerService& service, RebalancerOptions options);

  void start();
  /// Looks at everything now.
  void look();
  /// Blocks for which this holds are neither copied nor given up. Shape: before start().
  void leave_alone(std::function<bool(const BlockRef&)> holds) { leave_alone_ = std::move(holds); }
  /// A block was stored here; notes those that belong elsewhere.
  void stored(const BlockRef& ref);
  RebalanceReport report() const;
  Awaitable<void> stop();

 private:
  struct Item {
    BlockInfo block;
    std::uint32_t attempt = 0;
  };
  /// A ring and what it is made of, to ask for owners by.
  struct Placement {
    std::uint64_t version = 0;
    bool changing = false;
    std::vector<std::shared_ptr<const Ring>> parts;  // the target first, then from new to old
  };
  /// Whom to ask about a block, in the order of plan_block().
  struct Asked {
    std::vector<PeerId> ids;
    std::vector<AskedPeer> peers;
  };
  /// What a peer said: of those it was asked about, which it holds; nothing: it did not answer.
  using Answers = std::map<PeerId, std::optional<std::set<BlockRef>>>;
  struct Push {
    Item item;
    PeerId to;
  };
  /// What is to be done in a round, and what is to be looked at again in the next.
  struct Round {
    std::vector<Push> pushes;
    std::vector<BlockRef> give_up;
    std::vector<Item> again;
    std::uint64_t bytes = 0;
    std::uint64_t short_count = 0;  // done with, but for dead owners
    bool stuck = false;  // the round before moved and settled nothing
  };

  Job run();
  Job follow();
  Task<void> pass();
  Task<void> adopt_fences();
  std::vector<Item> items_to_look_at();
  Task<void> plan(std::span<const Item> items, Round& round);
  Task<void> ask(PeerId id, std::vector<BlockRef> refs, Answers& answers);
  Holding holding_of(const Answers& answers, const PeerId& id, const BlockRef& ref) const;
  Task<void> carry_out(Round& round);
  Task<void> push(Push push);
  Task<SharedBytes> read_verified(BlockRef ref, std::uint32_t size);
  Awaitable<void> wait_for_rate(std::uint64_t size);
  Asked asked_for(const BlockRef& ref) const;
  bool is_alive(const PeerId& id) const;
  bool is_stale() const { return stopping_ || placement_.version != version_; }
  bool is_covered(const BlockRef& ref) const;
  bool is_ours(const BlockRef& ref) const;
  /// Fills permutation_; returns how many of its first members own the block by that part.
  std::size_t owner_count(const Ring& part, const BlockRef& ref) const;
  void load_ring();
  void load_volumes();

  Env& env_;
  ClusterClient& cluster_;
  PeerService& service_;
  RebalancerOptions options_;
  CrcCheck check_;
  Placement placement_;
  std::uint64_t version_ = 0;  // of the pass under way
  std::set<PeerId> alive_;     // when last looked
  std::map<VolumeId, std::uint32_t> volumes_;  // known; copies of their blocks, 0: as the ring says
  std::vector<VolumePosition> positions_;
  std::function<bool(const BlockRef&)> leave_alone_;
  std::set<BlockRef> strays_;  // held here and not ours, to be looked at again soon
  bool wanted_ = true;         // everything is to be looked at
  bool running_ = false;
  std::uint64_t bytes_left_ = 0;
  std::uint64_t blocks_left_ = 0;
  std::uint64_t settled_version_ = 0;
  std::uint64_t short_blocks_ = 0;
  std::uint64_t blocks_moved_ = 0;
  std::uint64_t bytes_moved_ = 0;
  WorkRate rate_;
  std::vector<std::pair<TimePoint, std::uint64_t>> moves_;  // of the last seconds
  std::string problem_;
  bool stopping_ = false;
  Event wake_;
  TaskGroup jobs_;
  mutable std::vector<std::uint32_t> permutation_;
  Metric& metric_moved_bytes_;
  Metric& metric_left_bytes_;
};

}  // namespace agro
