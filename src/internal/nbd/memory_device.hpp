// MemoryDevice: a block device in memory for tests, with errors and delays on demand, and the
// provider that lists such devices. Never part of a program that users run.
//
// Invariants: remembers which sectors were ever written, so that status() tells the truth.
// Threading: one loop.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "block/block_device.hpp"

namespace agro::nbd {

class MemoryDevice final : public BlockDevice {
 public:
  explicit MemoryDevice(std::uint64_t size, bool read_only = false);

  std::uint64_t size_bytes() const override { return size_; }
  bool read_only() const override { return read_only_; }
  Task<void> read(std::uint64_t offset, MutableBytes out) override;
  Task<void> write(std::uint64_t offset, ConstBytes data) override;
  std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) override;
  std::optional<Result<void>> try_write(std::uint64_t offset, ConstBytes data) override;
  Task<void> flush() override;
  Task<void> trim(std::uint64_t offset, std::uint64_t size) override;
  Task<void> write_zeroes(std::uint64_t offset, std::uint64_t size, bool may_punch_hole) override;
  Task<void> cache(std::uint64_t offset, std::uint64_t size) override;
  Task<std::vector<StatusExtent>> status(std::uint64_t offset, std::uint64_t size) override;

  MutableBytes bytes() { return {memory_.get(), size_}; }
  /// What the last successful flush made durable is up to this many writes.
  std::uint64_t write_count() const { return write_count_; }
  std::uint64_t flushed_write_count() const { return flushed_write_count_; }
  std::uint64_t flush_count() const { return flush_count_; }
  std::uint64_t cache_count() const { return cache_count_; }

  /// Calls that touch [offset, offset + size) wait for release(), and are not done at once.
  void hold(std::uint64_t offset, std::uint64_t size);
  /// Flushes wait as well.
  void hold_flushes() { flushes_held_ = true; }
  void release();
  /// Calls that touch the range fail with `error`.
  void fail_range(std::uint64_t offset, std::uint64_t size, Error error);
  void fail_flushes(Error error) { flush_error_ = std::make_unique<Error>(std::move(error)); }
  void heal();

 private:
  struct Range {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool touches(std::uint64_t other_offset, std::uint64_t other_size) const {
      return offset < other_offset + other_size && other_offset < offset + size;
    }
  };
  bool is_held(std::uint64_t offset, std::uint64_t size) const;
  Result<void> check(std::uint64_t offset, std::uint64_t size) const;
  Task<void> wait(std::uint64_t offset, std::uint64_t size);
  void mark(std::uint64_t offset, std::uint64_t size, bool allocated);

  struct Unmap {
    std::size_t size;
    void operator()(std::byte* memory) const;
  };
  std::uint64_t size_;
  bool read_only_;
  std::unique_ptr<std::byte[], Unmap> memory_;
  std::vector<bool> allocated_;  // per 4 KiB
  std::uint64_t write_count_ = 0;
  std::uint64_t flushed_write_count_ = 0;
  std::uint64_t flush_count_ = 0;
  std::uint64_t cache_count_ = 0;
  std::vector<Range> held_;
  bool flushes_held_ = false;
  Event released_;
  std::vector<std::pair<Range, Error>> failing_;
  std::unique_ptr<Error> flush_error_;
};

/// Devices by name; openings can be made to fail.
class MemoryProvider final : public DeviceProvider {
 public:
  std::vector<Export> list() override;
  Task<std::shared_ptr<BlockDevice>> open(std::string name) override;

  std::shared_ptr<MemoryDevice> add(const std::string& name, std::uint64_t size,
                                    bool read_only = false, std::string description = {});
  void fail_opening(const std::string& name, Error error) {
    failing_.insert_or_assign(name, error);
  }
  std::size_t open_count() const { return open_count_; }

 private:
  struct Entry {
    std::shared_ptr<MemoryDevice> device;
    std::string description;
  };
  std::map<std::string, Entry> entries_;
  std::map<std::string, Error> failing_;
  std::size_t open_count_ = 0;
};

}  // namespace agro::nbd
