// A raw device or a file past the page cache: O_DIRECT both ways, through io_uring.
//
// A group of writes and its sync costs no thread and, when it is one stretch, one trip to the kernel.
// Invariants: reads of any shape are served from whole pages; nothing is read in order to write.
// Threading: one loop; opening, resizing and discarding run on a worker.
#pragma once

#include <memory>
#include <string>

#include "base/descriptor.hpp"
#include "base/disk.hpp"
#include "base/offload.hpp"
#include "base/uring.hpp"

namespace agro {

/// What open_direct() found.
struct DirectTarget {
  std::string path;
  Descriptor descriptor;
  std::uint64_t size = 0;  // bytes
  bool is_device = false;
};

/// Blocks; run it on a worker. Errors: not_supported (no direct I/O there); locked (a device that is mounted
/// or open elsewhere, a file that is); not_found; io_error.
Result<DirectTarget> open_direct(const std::string& path, OpenOptions options);

/// `uring` may be shared with other files. `workers` outlives the file.
std::unique_ptr<File> make_direct_file(std::shared_ptr<Uring> uring, Offload& workers, DirectTarget target);

}  // namespace agro
