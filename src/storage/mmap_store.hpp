// The `mmap` engine: a block store in one file, crash-safe, with group commit.
//
// Its reads come from the page cache, as those of a mapping do, and its writes go past it
// (base/system_disk.hpp says why there is no actual mapping).
// Format: docs/formats/store.md. Source: DESIGN.md section 7.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/env.hpp"
#include "base/units.hpp"
#include "core/uuid.hpp"
#include "storage/block_store.hpp"

namespace agro {

struct StoreOptions {
  std::string directory;    // made when missing; the file in it is `blocks`
  std::uint64_t size = 0;   // bytes the file may grow to
  std::uint32_t block_size = kBlockSizeDefault;
  Uuid cluster_id;
  PeerId peer_id;           // nil: whatever the store says; a new store needs one
  /// Whether the bytes cannot be the block's. A block that is moved gets a new checksum of the store's
  /// own, which would make a misread last; null: nobody knows.
  std::function<bool(const BlockRef& ref, ConstBytes bytes)> is_damaged;

  // For tests; the defaults are good.
  std::uint64_t checkpoint_log_size = 64 * kMiB;  // log bytes after which the index is written
  std::uint64_t grow_step_max = 128 * kMiB;
};

/// Opens the store in a directory, or makes one where there is none. It must be closed, and the
/// close awaited, before it is destroyed. `env`'s references must outlive it.
/// Errors: locked (open elsewhere); cluster_mismatch; invalid_argument (another peer's, another block
/// size, a size smaller than what it holds); corrupt; io_error; out_of_space.
Task<std::unique_ptr<BlockStore>> open_mmap_store(Env& env, StoreOptions options);

struct StoreIdentity {
  Uuid cluster_id;
  PeerId peer_id;
  std::uint32_t block_size = 0;
};

/// Whose store lies in a directory, without opening it. Errors: not_found; corrupt.
Task<StoreIdentity> read_store_identity(Disk& disk, std::string directory);

}  // namespace agro
