#include "internal/nbd/memory_device.hpp"

#include <sys/mman.h>

#include <algorithm>

namespace agro::nbd {

namespace {
/// Zeroed, and backed only where touched: tests may have devices of gigabytes.
std::byte* map_memory(std::size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  AGRO_ASSERT(memory != MAP_FAILED);
  return static_cast<std::byte*>(memory);
}
}  // namespace

void MemoryDevice::Unmap::operator()(std::byte* memory) const { munmap(memory, size); }

MemoryDevice::MemoryDevice(std::uint64_t size, bool read_only)
    : size_(size),
      read_only_(read_only),
      memory_(map_memory(std::max<std::uint64_t>(size, 1)),
              Unmap{std::max<std::uint64_t>(size, 1)}),
      allocated_((size + kPageSize - 1) / kPageSize) {}

bool MemoryDevice::is_held(std::uint64_t offset, std::uint64_t size) const {
  return std::any_of(held_.begin(), held_.end(),
                     [=](const Range& range) { return range.touches(offset, size); });
}

Result<void> MemoryDevice::check(std::uint64_t offset, std::uint64_t size) const {
  AGRO_ASSERT(size <= size_ && offset <= size_ - size);
  for (const auto& [range, error] : failing_) {
    if (range.touches(offset, size)) return fail(error);
  }
  return {};
}

Task<void> MemoryDevice::wait(std::uint64_t offset, std::uint64_t size) {
  while (is_held(offset, size)) co_await released_.wait();
  co_return check(offset, size);
}

/// Parts of sectors count as allocated, as in the volume.
void MemoryDevice::mark(std::uint64_t offset, std::uint64_t size, bool allocated) {
  if (size == 0) return;
  std::uint64_t first = offset / kPageSize;
  std::uint64_t end = (offset + size + kPageSize - 1) / kPageSize;
  if (!allocated) {
    first = (offset + kPageSize - 1) / kPageSize;
    if (offset + size != size_) end = (offset + size) / kPageSize;
  }
  for (std::uint64_t sector = first; sector < end; ++sector) allocated_[sector] = allocated;
}

Task<void> MemoryDevice::read(std::uint64_t offset, MutableBytes out) {
  AGRO_CO_TRY_OK(co_await wait(offset, out.size()));
  std::memcpy(out.data(), memory_.get() + offset, out.size());
  co_return Result<void>();
}

Task<void> MemoryDevice::write(std::uint64_t offset, ConstBytes data) {
  AGRO_CO_TRY_OK(co_await wait(offset, data.size()));
  std::memcpy(memory_.get() + offset, data.data(), data.size());
  mark(offset, data.size(), true);
  ++write_count_;
  co_return Result<void>();
}

std::optional<Result<void>> MemoryDevice::try_read(std::uint64_t offset, MutableBytes out) {
  if (is_held(offset, out.size())) return std::nullopt;
  Result<void> checked = check(offset, out.size());
  if (checked.has_value()) std::memcpy(out.data(), memory_.get() + offset, out.size());
  return checked;
}

std::optional<Result<void>> MemoryDevice::try_write(std::uint64_t offset, ConstBytes data) {
  AGRO_ASSERT(!read_only_);
  if (is_held(offset, data.size())) return std::nullopt;
  Result<void> checked = check(offset, data.size());
  if (!checked.has_value()) return checked;
  std::memcpy(memory_.get() + offset, data.data(), data.size());
  mark(offset, data.size(), true);
  ++write_count_;
  return checked;
}

Task<void> MemoryDevice::flush() {
  const std::uint64_t covered = write_count_;
  while (flushes_held_) co_await released_.wait();
  ++flush_count_;
  if (flush_error_ != nullptr) co_return fail(*flush_error_);
  flushed_write_count_ = covered;
  co_return Result<void>();
}

Task<void> MemoryDevice::trim(std::uint64_t offset, std::uint64_t size) {
  AGRO_ASSERT(!read_only_);
  AGRO_CO_TRY_OK(co_await wait(offset, size));
  const std::uint64_t first = round_up(offset, kPageSize);
  const std::uint64_t end = round_down(offset + size, kPageSize);
  if (first < end) {
    std::memset(memory_.get() + first, 0, end - first);
    mark(first, end - first, false);
  }
  co_return Result<void>();
}

Task<void> MemoryDevice::write_zeroes(std::uint64_t offset, std::uint64_t size,
                                      bool may_punch_hole) {
  AGRO_ASSERT(!read_only_);
  AGRO_CO_TRY_OK(co_await wait(offset, size));
  std::memset(memory_.get() + offset, 0, size);
  mark(offset, size, !may_punch_hole);
  co_return Result<void>();
}

Task<void> MemoryDevice::cache(std::uint64_t offset, std::uint64_t size) {
  ++cache_count_;
  co_return co_await wait(offset, size);
}

Task<std::vector<StatusExtent>> MemoryDevice::status(std::uint64_t offset, std::uint64_t size) {
  AGRO_CO_TRY_OK(co_await wait(offset, size));
  std::vector<StatusExtent> extents;
  while (size > 0) {
    const std::uint64_t part = std::min(size, kPageSize - offset % kPageSize);
    const bool hole = !allocated_[offset / kPageSize];
    if (extents.empty() || extents.back().hole != hole) {
      extents.push_back({.size = 0, .hole = hole, .zero = hole});
    }
    extents.back().size += part;
    offset += part;
    size -= part;
  }
  co_return extents;
}

void MemoryDevice::hold(std::uint64_t offset, std::uint64_t size) {
  held_.push_back({offset, size});
}

void MemoryDevice::release() {
  held_.clear();
  flushes_held_ = false;
  released_.notify_all();
}

void MemoryDevice::fail_range(std::uint64_t offset, std::uint64_t size, Error error) {
  failing_.push_back({{offset, size}, std::move(error)});
}

void MemoryDevice::heal() {
  failing_.clear();
  flush_error_.reset();
}

std::vector<DeviceProvider::Export> MemoryProvider::list() {
  std::vector<Export> exports;
  for (const auto& [name, entry] : entries_) {
    exports.push_back({.name = name,
                       .description = entry.description,
                       .size_bytes = entry.device->size_bytes(),
                       .read_only = entry.device->read_only()});
  }
  return exports;
}

Task<std::shared_ptr<BlockDevice>> MemoryProvider::open(std::string name) {
  ++open_count_;
  if (const auto found = failing_.find(name); found != failing_.end()) {
    co_return fail(found->second);
  }
  const auto found = entries_.find(name);
  if (found == entries_.end()) co_return fail(Errc::not_found, "no export is named '" + name + "'");
  co_return found->second.device;
}

std::shared_ptr<MemoryDevice> MemoryProvider::add(const std::string& name, std::uint64_t size,
                                                  bool read_only, std::string description) {
  auto device = std::make_shared<MemoryDevice>(size, read_only);
  entries_.insert_or_assign(name, Entry{.device = device, .description = std::move(description)});
  return device;
}

}  // namespace agro::nbd
