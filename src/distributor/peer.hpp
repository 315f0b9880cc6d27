// Peer: one peer's operations as the distributor calls them, wherever it runs.
//
// Implementations: LocalPeer (in this process, distributor/peer_service), AdpPeer (protocols/adp).
// Threading: one loop. Every call has a deadline. Source: DESIGN.md section 8.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"
#include "base/clock.hpp"
#include "core/block_ref.hpp"
#include "core/uuid.hpp"
#include "models/peer_report.hpp"
#include "storage/block_store.hpp"

namespace agro {

struct PeerWrite {
  BlockRef ref;
  SharedBytes block;
  bool checksummed = false;  // verify the crc trailer before storing
  bool reserve = false;      // PutOptions::reserve
  bool repair = false;       // BlockStore::repair
  bool keep = false;         // PutOptions::keep
  /// Its trailer was made or verified in this process, and nothing has touched the bytes since: a peer in the
  /// same process need not verify them again. It goes over no wire.
  bool verified = false;
  /// Of the ring the writer placed it by; a peer that knows a newer one answers stale_ring.
  std::uint64_t ring_version = 0;
};

struct PeerStat {
  PeerId id;
  StoreStats store;
};

/// Ends a read before its deadline: another replica was quicker.
struct ReadStop {
  std::shared_ptr<void> call;           // set by the peer while the read can be ended
  void (*end)(void* call) = nullptr;
  void stop() const {
    if (call != nullptr) end(call.get());
  }
};

/// Errors of every call: timed_out, unavailable (not connected, connection lost), closed,
/// protocol_error; and those of BlockStore.
class Peer {
 public:
  virtual ~Peer() = default;
  virtual PeerId id() const = 0;
  /// Whether calls have a chance now: connected, or in this process.
  virtual bool connected() const = 0;
  /// Called from now on whenever connected() has changed; empty: no longer. One at a time.
  virtual void on_connection(std::function<void()> /*listener*/) {}
  /// Whether it shares this machine: preferred for reads.
  virtual bool local() const = 0;

  /// Errors also: corrupt (the block does not verify; it was damaged on the way); stale_ring.
  virtual Task<void> write(PeerWrite request, TimePoint deadline) = 0;

  /// Fills `out` from byte `offset` of the block, and `page_crcs`, when not null, with the stored
  /// checksums of the pages they lie in (blockset/crc.hpp). Shape: both outlive the await.
  virtual Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                          std::vector<std::uint32_t>* page_crcs, TimePoint deadline) = 0;
  /// Whether read_stoppable() keeps its word.
  virtual bool stops_reads() const { return false; }
  /// The same; after stop.stop() it ends with timed_out at once, or soon with what is arriving.
  /// Shape: `stop` outlives the await.
  virtual Task<void> read_stoppable(BlockRef ref, std::uint32_t offset, MutableBytes out,
                                    std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                                    ReadStop& /*stop*/) {
    return read(ref, offset, out, page_crcs, deadline);
  }
  /// At once, from this process's memory only; nullopt otherwise.
  virtual std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset,
                                               MutableBytes out,
                                               std::vector<std::uint32_t>* page_crcs) = 0;

  /// Sizes of the blocks it holds durably, in the order asked for; 0 for those it does not hold.
  /// A peer that answers for a ring version will never again give up a block by an older ring's
  /// word. 0: no matter. Errors also: unavailable, when it does not know that ring yet.
  virtual Task<std::vector<std::uint32_t>> has(std::vector<BlockRef> refs,
                                               std::uint64_t ring_version, TimePoint deadline) = 0;
  virtual Task<std::vector<BlockInfo>> list(BlockFilter filter, TimePoint deadline) = 0;
  virtual Task<void> remove(std::vector<BlockRef> refs, TimePoint deadline) = 0;
  /// Errors: fenced, when the present fence is higher than `epoch`.
  virtual Task<void> fence(VolumeId volume, Epoch epoch, TimePoint deadline) = 0;
  virtual Task<PeerStat> stat(TimePoint deadline) = 0;
  /// What its background work is doing.
  virtual Task<PeerReport> report(TimePoint deadline) = 0;
  /// Starts background work now, unless it runs. Errors: not_supported.
  virtual Task<void> start(WorkKind kind, TimePoint deadline) = 0;
  /// What stat() said last, without asking.
  virtual std::optional<PeerStat> last_stat() const = 0;

  virtual void close() = 0;
};

}  // namespace agro
