// Block store: where one peer keeps its blocks, keyed by BlockRef, and its fences.
//
// Invariants: the bytes of a ref never change; a reply to put(), remove() or fence() leaves only
// after data and index record are on stable storage; a crash at any instant loses nothing that was
// acknowledged and serves nothing that was not put. Once fence(v, e) has returned, every put of a
// lower epoch of v that will ever be acknowledged is already visible to list().
// Threading: one loop; nothing here blocks it.
// Format: docs/formats/store.md. Source: DESIGN.md section 7.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"
#include "core/block_ref.hpp"

namespace agro {

/// Largest and smallest block of any cluster; the block size is chosen at init, a power of two.
inline constexpr std::uint32_t kBlockSizeMin = 64 * 1024;
inline constexpr std::uint32_t kBlockSizeMax = 16 * 1024 * 1024;
inline constexpr std::uint32_t kBlockSizeDefault = 1024 * 1024;

struct BlockInfo {
  BlockRef ref;
  std::uint32_t size = 0;  // bytes
  auto operator<=>(const BlockInfo&) const = default;
};

/// Which blocks list() returns: those that match every field that is set.
struct BlockFilter {
  std::optional<VolumeId> volume;
  std::optional<BlockType> type;
  std::optional<Epoch> epoch;
  std::uint64_t index_from = 0;  // index >= this
};

struct StoreStats {
  std::uint64_t size = 0;         // bytes it may use (--size)
  std::uint64_t used = 0;         // bytes taken by blocks, as allocated, with their overhead
  std::uint64_t available = 0;    // bytes that put() without `reserve` can still take
  std::uint64_t block_count = 0;
  std::uint64_t index_bytes = 0;  // memory of the index
  std::uint64_t sync_count = 0;
  std::uint64_t bytes_written = 0;  // to the files, all of it
};

struct PutOptions {
  /// May use the last few percent, which are kept for cleaning and checkpoints: what frees space
  /// must be able to run on a full store.
  bool reserve = false;
  /// It will be read here soon: worth memory that reads find it in.
  bool keep = false;
};

/// Blocks of one peer. Implementations: TempStore, MmapStore; FaultStore in tests.
/// Errors of every call: closed; io_error after the disk failed a write or sync: the store then
/// refuses all writes (what reached the disk is unknown) and goes on serving reads.
class BlockStore {
 public:
  virtual ~BlockStore() = default;

  /// Stores a block durably. One that is there already is left and is a success (the same ref means
  /// the same bytes), unless its stored bytes differ in size: already_exists.
  /// Shape: 1 to block_size() bytes, page-aligned memory; no copy is made.
  /// Errors: out_of_space, before anything is written; fenced (the ref's epoch is below the fence);
  /// too_large.
  virtual Task<void> put(BlockRef ref, SharedBytes bytes, PutOptions options) = 0;

  /// Replaces the bytes of a block that was found corrupt, or adds a copy of a block that exists
  /// elsewhere: fences do not apply, for they stop new blocks of old writers. Replacing may always
  /// use the reserve. As put() otherwise.
  virtual Task<void> repair(BlockRef ref, SharedBytes bytes, PutOptions options) = 0;

  /// Size in bytes, or nothing when the block is not here.
  virtual std::optional<std::uint32_t> find(const BlockRef& ref) const = 0;

  /// Fills `out` from byte `offset` of the block. Unverified: checksums are the blockset's.
  /// Shape: `out` outlives the await. Errors: not_found; invalid_argument (beyond its end).
  virtual Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out) = 0;

  /// Fills `out` with the whole block as the disk holds it, past every cache; for scrubs.
  /// Shape: `out` is page-aligned memory of find()'s size rounded up to whole pages.
  /// Errors: as read(). Without a disk it is read().
  virtual Task<void> read_stored(BlockRef ref, MutableBytes out);

  /// Writes the store's own records anew from memory, so that nobody needs the old ones, which may
  /// have rotted. Errors: out_of_space.
  virtual Task<void> renew_records() { co_return Result<void>(); }

  /// The same as read() at once, or nullopt when it would have to wait for the disk: then use read().
  virtual std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset,
                                               MutableBytes out) = 0;

  /// Deletes blocks, durably on return; those that are not here are skipped. Returns how many were.
  /// After an error a block counts as gone if it may be so when the store is opened again: others take
  /// what find() and list() say for durable.
  virtual Task<std::size_t> remove(std::vector<BlockRef> refs) = 0;

  /// Blocks that match, sorted by ref. What is put or removed meanwhile may or may not show.
  virtual std::vector<BlockInfo> list(const BlockFilter& filter) const = 0;

  /// Refuses from now on, durably, puts of epochs of `volume` below `epoch`. Lower than the present
  /// fence: no change, success. Epoch UINT64_MAX refuses all (the volume is deleted).
  virtual Task<void> fence(VolumeId volume, Epoch epoch) = 0;
  virtual Epoch fence_of(VolumeId volume) const = 0;

  virtual StoreStats stats() const = 0;

  /// Why it takes no writes any more, in one line; empty: it takes them.
  virtual std::string problem() const { return {}; }
  virtual std::uint32_t block_size() const = 0;

  /// Lets what is under way finish, makes a clean restart quick, and closes.
  virtual Task<void> close() = 0;
};

}  // namespace agro
