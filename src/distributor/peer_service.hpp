// What a peer does with requests, over its block store; and a Peer that calls it in this process.
//
// Invariants: a checksummed block is verified before it is stored; an acknowledged fence can only
// be raised. Threading: one loop, the store's. Source: DESIGN.md sections 7 and 8.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/metrics.hpp"
#include "distributor/peer.hpp"

namespace agro {

/// The original's counters of a store and of the requests to it, under its names.
struct StoreCounters {
  explicit StoreCounters(Metrics& metrics);
  void count_write(bool stored);
  void count_read(bool found);
  void count_removal(std::size_t block_count, bool removed);
  Metric& written;
  Metric& failed_written;
  Metric& read;
  Metric& failed_read;
  Metric& deleted;
  Metric& failed_deleted;
  Metric& put_rpcs;
  Metric& put_rpc_failures;
  Metric& get_rpcs;
  Metric& get_rpc_failures;
};

class PeerService {
 public:
  /// Shape: `store` outlives the service.
  PeerService(PeerId id, BlockStore& store, Metrics& metrics);

  PeerId id() const { return id_; }
  std::uint32_t block_size() const { return store_.block_size(); }

  /// What report() and start() do; without it reports say nothing and start() is not_supported.
  struct Background {
    virtual ~Background() = default;
    virtual PeerReport report() const = 0;
    virtual Result<void> start(WorkKind kind) = 0;
    /// A new block was stored here.
    virtual void stored(const BlockRef& ref) = 0;
  };
  /// Shape: `background` outlives the service, or is taken away with null.
  void set_background(Background* background) { background_ = background; }

  /// Gives up blocks that others hold by the word of ring `ring_version`, unless this peer knows a
  /// newer ring by now. has() denies them at once.
  Task<void> give_up(std::vector<BlockRef> refs, std::uint64_t ring_version);

  /// From now on writes placed by older rings are refused; on return all that were accepted are done.
  Awaitable<void> require_ring(std::uint64_t version);
  std::uint64_t required_ring() const { return required_ring_; }

  /// Errors: corrupt (it does not verify), stale_ring, and those of BlockStore::put.
  Task<void> write(PeerWrite request);
  /// Shape: as Peer::read. Errors: not_found, invalid_argument, and those of the store.
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  std::vector<std::uint32_t>* page_crcs);
  /// The same at once, or nullopt when the store has to wait for its disk.
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       std::vector<std::uint32_t>* page_crcs);
  /// Shape, errors: as Peer::has.
  Result<std::vector<std::uint32_t>> has(const std::vector<BlockRef>& refs,
                                         std::uint64_t ring_version) const;
  std::vector<BlockInfo> list(const BlockFilter& filter) const { return store_.list(filter); }
  Task<void> remove(std::vector<BlockRef> refs);
  /// Errors: fenced, when the present fence is higher.
  Task<void> fence(VolumeId volume, Epoch epoch);
  PeerStat stat() const { return {id_, store_.stats()}; }
  PeerReport report() const;
  Result<void> start(WorkKind kind);
  BlockStore& store() { return store_; }
  /// Moves whenever a client reads or writes here.
  std::uint64_t activity() const { return activity_; }

 private:
  Task<void> put(PeerWrite request);
  Task<void> read_stored(BlockRef ref, std::uint32_t offset, MutableBytes out,
                         std::vector<std::uint32_t>* page_crcs);
  std::optional<Result<void>> try_read_stored(const BlockRef& ref, std::uint32_t offset,
                                              MutableBytes out,
                                              std::vector<std::uint32_t>* page_crcs);
  PeerId id_;
  BlockStore& store_;
  Background* background_ = nullptr;
  std::uint64_t required_ring_ = 0;
  std::map<std::uint64_t, std::uint32_t> writes_by_ring_;  // under way
  Event writes_done_;
  std::set<BlockRef> giving_up_;
  std::uint64_t activity_ = 0;
  Metric& corrupt_writes_;
  StoreCounters counters_;
};

/// A Peer in this process: direct calls, blocks shared and not copied.
/// Deadlines: a call takes as long as the store does; a store that hangs hangs its callers. The
/// distributor goes on to another peer meanwhile.
class LocalPeer final : public Peer {
 public:
  explicit LocalPeer(std::shared_ptr<PeerService> service) : service_(std::move(service)) {}

  PeerId id() const override { return service_->id(); }
  bool connected() const override { return !closed_; }
  bool local() const override { return true; }
  Task<void> write(PeerWrite request, TimePoint deadline) override;
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  std::vector<std::uint32_t>* page_crcs, TimePoint deadline) override;
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       std::vector<std::uint32_t>* page_crcs) override;
  Task<std::vector<std::uint32_t>> has(std::vector<BlockRef> refs, std::uint64_t ring_version,
                                       TimePoint deadline) override;
  Task<std::vector<BlockInfo>> list(BlockFilter filter, TimePoint deadline) override;
  Task<void> remove(std::vector<BlockRef> refs, TimePoint deadline) override;
  Task<void> fence(VolumeId volume, Epoch epoch, TimePoint deadline) override;
  Task<PeerStat> stat(TimePoint deadline) override;
  Task<PeerReport> report(TimePoint deadline) override;
  Task<void> start(WorkKind kind, TimePoint deadline) override;
  std::optional<PeerStat> last_stat() const override { return service_->stat(); }
  void close() override { closed_ = true; }

 private:
  Result<void> check_open() const;
  std::shared_ptr<PeerService> service_;
  bool closed_ = false;
};

}  // namespace agro
