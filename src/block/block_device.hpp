// Block device: what front ends (NBD, AoE) serve. A Volume is one.
//
// Invariants: offsets and sizes are bytes, any alignment, within size_bytes(); an acknowledged write
// is volatile until a flush() that started after the acknowledgment has returned success.
// Threading: one loop. Calls may overlap; overlapping writes to the same bytes under way at once end
// in either order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"

namespace agro {

/// A run of bytes that are alike, for NBD block status.
struct StatusExtent {
  std::uint64_t size = 0;  // bytes
  bool hole = false;       // nothing allocated
  bool zero = false;       // reads as zeros
};

/// Errors of every call: io_error, corrupt, fenced, out_of_space, closed; the front end answers the
/// client with an error, always.
class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  virtual std::uint64_t size_bytes() const = 0;
  virtual bool read_only() const = 0;

  /// Fills `out` from `offset`. Shape: `out` outlives the await.
  virtual Task<void> read(std::uint64_t offset, MutableBytes out) = 0;
  /// Takes a copy of `data` before it returns. Shape: `data` outlives the await.
  virtual Task<void> write(std::uint64_t offset, ConstBytes data) = 0;

  /// The same at once and without a coroutine, when nothing has to be waited for; nullopt: nothing
  /// was done, use the call above.
  virtual std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) = 0;
  virtual std::optional<Result<void>> try_write(std::uint64_t offset, ConstBytes data) = 0;

  /// Makes every write, trim and zero that was acknowledged before the call durable.
  virtual Task<void> flush() = 0;
  /// The range may be forgotten: whole 4 KiB sectors of it read as zeros from now on.
  virtual Task<void> trim(std::uint64_t offset, std::uint64_t size) = 0;
  /// The range reads as zeros. `may_punch_hole`: as a hole, else as allocated space.
  virtual Task<void> write_zeroes(std::uint64_t offset, std::uint64_t size,
                                  bool may_punch_hole) = 0;
  /// Hints that the range will be read soon.
  virtual Task<void> cache(std::uint64_t offset, std::uint64_t size) = 0;
  /// What the range consists of, in order; may cover less than asked but at least one extent.
  virtual Task<std::vector<StatusExtent>> status(std::uint64_t offset, std::uint64_t size) = 0;
};

/// Devices by name, as a front end lists and opens them.
class DeviceProvider {
 public:
  struct Export {
    std::string name;
    std::string description;
    std::uint64_t size_bytes = 0;
    bool read_only = false;
  };
  virtual ~DeviceProvider() = default;
  /// What exists now, sorted by name; opens nothing.
  virtual std::vector<Export> list() = 0;
  /// The named device, opened (attached) if it is not yet; shared between connections, released
  /// when the last handle goes. Errors: not_found, locked (open elsewhere), unavailable, no_quorum.
  virtual Task<std::shared_ptr<BlockDevice>> open(std::string name) = 0;
};

}  // namespace agro
