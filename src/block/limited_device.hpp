// A device with limits: so many requests, and so many bytes, a second.
//
// Reads, writes, trims and zeroes count as requests, reads and writes by their bytes, too; flushes pass. Requests that
// must wait do so in order of arrival. What was not used in the last tenth of a second may be used at once.
// Invariants: without limits nothing waits, and a call costs one look. New limits hold for those who wait, too.
// Threading: one loop.
#pragma once

#include "base/clock.hpp"
#include "block/block_device.hpp"

namespace agro {

struct DeviceLimits {
  std::uint64_t iops_max = 0;       // requests a second; 0: no limit
  std::uint64_t bandwidth_max = 0;  // bytes a second; 0: no limit
  bool operator==(const DeviceLimits&) const = default;
};

class LimitedDevice final : public BlockDevice {
 public:
  /// Lifetime: `clock` and `inner` outlive it.
  LimitedDevice(Clock& clock, BlockDevice& inner) : clock_(clock), inner_(inner) {}

  void set_limits(DeviceLimits limits);

  std::uint64_t size_bytes() const override { return inner_.size_bytes(); }
  bool read_only() const override { return inner_.read_only(); }
  Task<void> read(std::uint64_t offset, MutableBytes out) override;
  Task<void> write(std::uint64_t offset, ConstBytes data) override;
  std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) override;
  std::optional<Result<void>> try_write(std::uint64_t offset, ConstBytes data) override;
  Task<void> flush() override { return inner_.flush(); }
  Task<void> trim(std::uint64_t offset, std::uint64_t size) override;
  Task<void> write_zeroes(std::uint64_t offset, std::uint64_t size, bool may_punch_hole) override;
  Task<void> cache(std::uint64_t offset, std::uint64_t size) override { return inner_.cache(offset, size); }
  Task<std::vector<StatusExtent>> status(std::uint64_t offset, std::uint64_t size) override {
    return inner_.status(offset, size);
  }

 private:
  static constexpr Duration kBurst = std::chrono::milliseconds(100);

  bool is_limited() const { return limits_.iops_max != 0 || limits_.bandwidth_max != 0; }
  /// When the next request may begin.
  TimePoint start_time() const;
  void take(std::uint64_t bytes);
  bool may_pass(std::uint64_t bytes);
  Awaitable<void> wait_for_turn(std::uint64_t bytes);

  Clock& clock_;
  BlockDevice& inner_;
  DeviceLimits limits_;
  TimePoint requests_paid_to_;  // what began until now is paid for up to this time
  TimePoint bytes_paid_to_;
  std::size_t waiting_count_ = 0;
  AsyncMutex turn_;
  Event limits_changed_;
};

}  // namespace agro
