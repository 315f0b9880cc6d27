// Block backend: the blocks of the whole cluster, as a blockset and a volume see them.
//
// The distributor is one, and so is every layer of a blockset (blockset/blockset.hpp) above it.
// Invariants: write() returns success only when as many copies as it says are durable, on distinct peers.
// Threading: one loop. Source: DESIGN.md sections 3 and 5.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"
#include "core/block_ref.hpp"
#include "core/uuid.hpp"
#include "storage/block_store.hpp"

namespace agro {

/// The checksums of a block's pages, as the crc layer lays them out (blockset/crc.hpp). A backend
/// with several copies asks it about each answer, so that it can go on to the next copy.
struct ReadCheck {
  virtual ~ReadCheck() = default;
  /// Shape: `bytes` are those read; `page_crcs` are the stored ones of the pages they lie in.
  virtual bool verify(const BlockRef& ref, std::uint32_t offset, ConstBytes bytes,
                      std::span<const std::uint32_t> page_crcs) const = 0;
  /// Whether a whole block verifies; what repairs are made from must.
  virtual bool verify_block(const BlockRef& ref, ConstBytes block) const = 0;
};

struct WriteOptions {
  std::uint8_t copy_count = 0;  // 0: the ring's replication
  bool checksummed = false;     // it carries a crc trailer: peers verify before they store
  bool reserve = false;         // PutOptions::reserve
  /// The block exists and lacks copies (recovery, re-replication): peers store it even below the
  /// volume's fence, which is there to stop new blocks of an old writer.
  bool repair = false;
  /// Fewest copies that will do when no more can be had: the other peers are gone, or silent for
  /// some time. 0: all of copy_count. Whoever acknowledges fewer must have recorded it before.
  std::uint8_t min_copies = 0;
  /// So few were acknowledged before: do not wait for peers that are known to be silent.
  bool hasty = false;
  /// It will be read in small pieces here and there: one peer keeps it in memory (PutOptions::keep).
  bool keep = true;
};

struct ReadOptions {
  const ReadCheck* check = nullptr;  // outlives the await; null: take the bytes as they are
};

/// Which members of the ring took part in a question to everybody.
struct Reached {
  std::vector<PeerId> members;   // sorted
  std::vector<PeerId> answered;  // of the members; sorted
};

/// The members that did not take part in both. Sorted.
std::vector<PeerId> missing_in(const Reached& first, const Reached& second);

/// What list() found, over all peers that answered.
struct Listing {
  struct Entry {
    BlockRef ref;
    std::uint32_t size = 0;
    std::uint32_t copy_count = 0;  // on how many members of the ring
  };
  std::vector<Entry> entries;          // sorted by ref
  std::uint32_t unreachable_count = 0; // ring members that did not answer
  Reached reached;
};

struct Space {
  std::uint64_t size = 0;       // bytes of all peers' stores
  std::uint64_t used = 0;
  /// What blocks with all their copies (of which each counts) can still take before the reserve:
  /// what one peer alone has free is no use when two copies are wanted. Of the peers that can be
  /// reached, unless those are too few for the copies.
  std::uint64_t available = 0;
};

class BlockBackend {
 public:
  virtual ~BlockBackend() = default;

  /// Stores a block with its copies, durably. Shape: page-aligned, padded to whole pages, up to
  /// block_size(). A peer that fails or is slow is passed over for the next of the permutation.
  /// Returns how many copies are durable: copy_count, or fewer down to min_copies when no more can
  /// be had. Errors: fenced (any peer said so: the writer is no longer one), out_of_space (nothing
  /// frees up on its own: retry after space was freed), no_quorum (too few peers alive: retry when
  /// peers_changed()), closed. After an error some copies may exist; writing again is fine.
  virtual Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) = 0;

  /// Fills `out` from byte `offset` of the block, from whichever copy is right and near. A copy
  /// that fails the check is counted and repaired from a good one in the background.
  /// Errors: not_found (every member answered, nobody has it), corrupt (every copy is bad),
  /// unavailable (some copy may exist on a peer that does not answer), closed.
  virtual Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                          ReadOptions options) = 0;

  /// The same at once, when a copy is in this process's memory and verifies; nullopt: use read().
  virtual std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset,
                                               MutableBytes out, const ReadOptions& options) = 0;

  /// The whole block. Errors as read().
  virtual Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) = 0;

  /// Deletes all copies that can be reached. Copies on absent peers stay until gc finds them.
  virtual Task<void> remove(std::vector<BlockRef> refs) = 0;

  /// Blocks that match, on every reachable peer. Shape: filter.volume is set. With at most
  /// `missing_allowed` members missing, it does not wait long for a silent one; 0: for all.
  virtual Task<Listing> list(BlockFilter filter, std::uint32_t missing_allowed = 0) = 0;

  /// Tells every reachable peer to refuse lower epochs, and returns who was told. `missing_allowed`
  /// as in list(). Errors: fenced, when a peer already refuses `epoch` itself.
  virtual Task<Reached> fence(VolumeId volume, Epoch epoch, std::uint32_t missing_allowed = 0) = 0;

  /// Copies of a block when WriteOptions::copy_count is 0.
  virtual std::uint32_t copy_count() const = 0;
  /// Copies that blocks written until now are sure to have, unless their writer recorded fewer:
  /// lower than copy_count() while the ring is changed to more.
  virtual std::uint32_t sure_copies() const = 0;
  /// Ring members that a write has a chance with now: connected, and not known to be silent.
  virtual std::uint32_t ready_count() const = 0;
  /// Notified when a peer was connected or lost, or the ring has changed.
  virtual Event& peers_changed() = 0;
  virtual std::uint32_t block_size() const = 0;
  /// From what peers last said; cheap.
  virtual Space space() const = 0;
};

}  // namespace agro
