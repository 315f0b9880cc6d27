// The disk seam: files with asynchronous, explicitly durable I/O.
//
// Invariants: a write is volatile until a sync() that started after it completed has returned;
// a crash may keep, lose or tear (at 512 bytes) any unsynced write, in any order.
// Implementations: SystemDisk (base/system_disk), SimDisk (sim/sim_disk, with faults).
// Threading: one loop; what blocks runs elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"

namespace agro {

/// One of several writes of write_and_sync().
struct FileWrite {
  std::uint64_t offset = 0;
  std::vector<ConstBytes> parts;
  bool keep = false;  // it will be read soon: leave it in the page cache
};

/// One open file. Errors of every call: io_error, out_of_space, closed.
class File {
 public:
  virtual ~File() = default;

  /// Writes all parts one after another from `offset` on.
  /// Shape: offset, part addresses and part sizes are multiples of kPageSize; the parts outlive the
  /// await. Several writes may run at once; overlapping ones end up in an unspecified order.
  virtual Task<void> write(FileWrite write) = 0;
  Task<void> write(std::uint64_t offset, std::vector<ConstBytes> parts) {
    return write(FileWrite{.offset = offset, .parts = std::move(parts)});
  }

  /// Fills `out` from `offset`. Shape: any offset and size; beyond the end is an io_error.
  virtual Task<void> read(std::uint64_t offset, MutableBytes out) = 0;

  /// The same at once and without a coroutine, when the bytes are in memory (page cache); nullopt
  /// when it would block, then use read().
  virtual std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) = 0;

  /// Fills `out` with what the disk holds now, past every cache of ours and the kernel's.
  /// Shape: offset, size and address are multiples of kPageSize.
  virtual Task<void> read_stored(std::uint64_t offset, MutableBytes out) = 0;

  /// Makes every completed write durable (fdatasync).
  virtual Task<void> sync() = 0;

  /// All writes, then one sync, in as few trips off the loop as there can be. A failure says nothing
  /// about what reached the disk. Shape: as write().
  virtual Task<void> write_and_sync(std::vector<FileWrite> writes);

  /// One write that is durable when this returns; of others it says nothing. For small ones, where it
  /// saves a trip. Shape, failures: as write_and_sync().
  virtual Task<void> write_durably(FileWrite write);

  virtual std::uint64_t size() const = 0;

  /// Sets the size. Grown space reads as zeros and may not be there when it is written. Durable after sync().
  virtual Task<void> resize(std::uint64_t size) = 0;

  /// Sees to it that there is space for these bytes; the file becomes as large as it takes. What was not
  /// written before reads as zeros, after a crash too, and the first sync of a write to it is slow: write it
  /// once if it will be synced often. Durable after sync(). Shape: whole pages.
  /// Errors: out_of_space; some of it may be reserved then: resize() gives that back.
  virtual Task<void> allocate(std::uint64_t offset, std::uint64_t size) = 0;

  /// Gives the space of whole pages back to the file system; they read as zeros or as before.
  virtual Task<void> discard(std::uint64_t offset, std::uint64_t size) = 0;

  /// Waits for what is under way and closes. Idempotent.
  virtual Awaitable<void> close() = 0;
};

struct OpenOptions {
  bool create = false;     // make the file if there is none
  bool exclusive = false;  // refuse with `locked` when another process has it open so
  /// Past the page cache both ways: try_read() finds nothing. The path may be a block device, which has one
  /// size. More errors: not_supported, where there is no direct I/O.
  bool direct = false;
};

/// Files by path. Errors: not_found, already_exists, locked, io_error, out_of_space.
class Disk {
 public:
  virtual ~Disk() = default;
  virtual Task<std::unique_ptr<File>> open(std::string path, OpenOptions options) = 0;
  /// Makes a directory and its parents; one that exists is fine. Durable on return.
  virtual Task<void> make_directories(std::string path) = 0;
  /// Names in a directory, sorted, without "." and "..".
  virtual Task<std::vector<std::string>> list(std::string path) = 0;
  virtual Task<void> remove(std::string path) = 0;
  /// A small file, whole.
  virtual Task<std::string> read_file(std::string path) = 0;
  /// Replaces or creates a small file atomically and durably.
  virtual Task<void> write_file(std::string path, std::string contents) = 0;
  /// Bytes that the file system of a directory has left for us; others may take them.
  virtual Task<std::uint64_t> free_space(std::string directory) = 0;
};

}  // namespace agro
