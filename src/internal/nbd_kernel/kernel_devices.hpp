// What the kernel's NBD devices are, as /sys tells it.
//
// Threading: blocks a little; on any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace agro::nbd_kernel {

inline constexpr const char* kSysBlock = "/sys/block";

/// A connected device.
struct KernelDevice {
  std::uint32_t index = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t pid = 0;  // of the process that connected it
  bool read_only = false;
  std::string backend;    // who reconnects it: "agro:VOLUME" of ours
  std::string path() const;
  /// Empty, unless it is ours.
  std::string volume() const;
};

/// "agro:VOLUME".
std::string backend_of(const std::string& volume);

/// All that are connected, by index.
std::vector<KernelDevice> connected_devices(const std::string& sys_block = kSysBlock);
std::optional<KernelDevice> connected_device(std::uint32_t index, const std::string& sys_block = kSysBlock);

/// The N of "/dev/nbdN". Errors: invalid_argument.
Result<std::uint32_t> parse_device_path(const std::string& path);

/// Whether a file system, or whoever opened it for himself, holds it. Errors: io_error.
Result<bool> is_in_use(const std::string& path);

}  // namespace agro::nbd_kernel
