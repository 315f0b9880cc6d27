// The `mmap` and `disk` engines: a block store in one file or device, crash-safe, with group commit.
//
// They share everything but the file below. Reads of `mmap` come from the page cache, as those of a
// mapping do, and its writes go past it (base/system_disk.hpp says why there is no actual mapping).
// `disk` goes past it both ways, through io_uring (base/direct_file.hpp), and may have a raw device.
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
  std::string device;       // of `disk`, instead of a directory: a block device or a file that is there
  bool format = false;      // what the device holds may be overwritten, unless it is a store
  std::uint64_t size = 0;   // bytes the file may grow to; of a device, those that are used; 0: all
  std::uint32_t block_size = kBlockSizeDefault;
  Uuid cluster_id;
  PeerId peer_id;           // nil: whatever the store says; a new store needs one
  /// Whether the bytes cannot be the block's. A block that is moved gets a new checksum of the store's
  /// own, which would make a misread last; null: nobody knows.
  std::function<bool(const BlockRef& ref, ConstBytes bytes)> is_damaged;

  bool direct = false;  // set by open_disk_store(): no page cache keeps what is read beside what was wanted

  // For tests; the defaults are good.
  std::uint64_t checkpoint_log_size = 64 * kMiB;  // log bytes after which the index is written
  std::uint64_t grow_step_max = 128 * kMiB;
};

/// Opens the store in a directory, or makes one where there is none. It must be closed, and the
/// close awaited, before it is destroyed. `env`'s references must outlive it.
/// Errors: locked (open elsewhere); cluster_mismatch; invalid_argument (another peer's, another block
/// size, a size smaller than what it holds); corrupt; io_error; out_of_space.
Task<std::unique_ptr<BlockStore>> open_mmap_store(Env& env, StoreOptions options);

/// The same past the page cache, in a directory or on a device. More errors: already_exists (the device
/// holds something, and `format` was not given); not_supported (no direct I/O or no io_uring there).
Task<std::unique_ptr<BlockStore>> open_disk_store(Env& env, StoreOptions options);

struct StoreIdentity {
  Uuid cluster_id;
  PeerId peer_id;
  std::uint32_t block_size = 0;
};

/// The path of the file or device of a store.
std::string store_path(const StoreOptions& options);

/// Whose store is in a directory or on a device, without opening it. Shape: the rest of the options does not
/// matter. Errors: not_found; corrupt.
Task<StoreIdentity> read_store_identity(Disk& disk, StoreOptions options);

}  // namespace agro
