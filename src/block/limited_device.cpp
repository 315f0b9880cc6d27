#include "block/limited_device.hpp"

#include <algorithm>

namespace agro {
namespace {

Duration cost(std::uint64_t amount, std::uint64_t per_second) {
  if (per_second == 0) return Duration(0);
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(static_cast<double>(amount) / static_cast<double>(per_second)));
}

}  // namespace

void LimitedDevice::set_limits(DeviceLimits limits) {
  if (limits == limits_) return;
  limits_ = limits;
  // What was taken under the old limits is no debt under the new ones.
  requests_paid_to_ = bytes_paid_to_ = clock_.now();
  limits_changed_.notify_all();
}

TimePoint LimitedDevice::start_time() const { return std::max(requests_paid_to_, bytes_paid_to_); }

void LimitedDevice::take(std::uint64_t bytes) {
  const TimePoint oldest = clock_.now() - kBurst;
  requests_paid_to_ = std::max(requests_paid_to_, oldest) + cost(1, limits_.iops_max);
  bytes_paid_to_ = std::max(bytes_paid_to_, oldest) + cost(bytes, limits_.bandwidth_max);
}

/// At once, unless somebody is before us.
bool LimitedDevice::may_pass(std::uint64_t bytes) {
  if (!is_limited()) return true;
  if (waiting_count_ > 0 || start_time() > clock_.now()) return false;
  take(bytes);
  return true;
}

Awaitable<void> LimitedDevice::wait_for_turn(std::uint64_t bytes) {
  if (!is_limited() && waiting_count_ == 0) co_return;
  ++waiting_count_;
  {
    const AsyncMutex::Guard guard = co_await turn_.lock();
    while (is_limited() && start_time() > clock_.now()) {
      co_await wait_until(limits_changed_, clock_, start_time());
    }
    take(bytes);
  }
  --waiting_count_;
}

std::optional<Result<void>> LimitedDevice::try_read(std::uint64_t offset, MutableBytes out) {
  if (!is_limited()) return inner_.try_read(offset, out);
  return std::nullopt;
}

std::optional<Result<void>> LimitedDevice::try_write(std::uint64_t offset, ConstBytes data) {
  if (!is_limited()) return inner_.try_write(offset, data);
  return std::nullopt;
}

Task<void> LimitedDevice::read(std::uint64_t offset, MutableBytes out) {
  if (!may_pass(out.size())) co_await wait_for_turn(out.size());
  co_return co_await inner_.read(offset, out);
}

Task<void> LimitedDevice::write(std::uint64_t offset, ConstBytes data) {
  if (!may_pass(data.size())) co_await wait_for_turn(data.size());
  co_return co_await inner_.write(offset, data);
}

Task<void> LimitedDevice::trim(std::uint64_t offset, std::uint64_t size) {
  if (!may_pass(0)) co_await wait_for_turn(0);
  co_return co_await inner_.trim(offset, size);
}

Task<void> LimitedDevice::write_zeroes(std::uint64_t offset, std::uint64_t size, bool may_punch_hole) {
  if (!may_pass(0)) co_await wait_for_turn(0);
  co_return co_await inner_.write_zeroes(offset, size, may_punch_hole);
}

}  // namespace agro
