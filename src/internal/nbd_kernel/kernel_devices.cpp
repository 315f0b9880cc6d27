#include "internal/nbd_kernel/kernel_devices.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include "base/descriptor.hpp"

namespace agro::nbd_kernel {
namespace {

constexpr std::string_view kDevicePrefix = "/dev/nbd";
constexpr std::string_view kBackendPrefix = "agro:";
constexpr std::uint64_t kSysSectorSize = 512;  // of /sys/block/*/size, whatever the device's is

std::optional<std::uint32_t> parse_index(std::string_view text) {
  std::uint32_t index = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (text.empty() || problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return index;
}

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

std::string KernelDevice::path() const { return fmt::format("{}{}", kDevicePrefix, index); }

std::string KernelDevice::volume() const {
  return backend.starts_with(kBackendPrefix) ? backend.substr(kBackendPrefix.size()) : "";
}

std::string backend_of(const std::string& volume) { return std::string(kBackendPrefix) + volume; }

std::optional<KernelDevice> connected_device(std::uint32_t index, const std::string& sys_block) {
  const std::string folder = fmt::format("{}/nbd{}", sys_block, index);
  const std::string pid = read_line(folder + "/pid");  // is there while it is connected
  if (pid.empty()) return std::nullopt;
  KernelDevice device;
  device.index = index;
  device.pid = std::strtoull(pid.c_str(), nullptr, 10);
  device.size_bytes = kSysSectorSize * std::strtoull(read_line(folder + "/size").c_str(), nullptr, 10);
  device.read_only = read_line(folder + "/ro") == "1";
  device.backend = read_line(folder + "/backend");
  return device;
}

std::vector<KernelDevice> connected_devices(const std::string& sys_block) {
  std::vector<KernelDevice> devices;
  std::error_code problem;
  for (const auto& entry : std::filesystem::directory_iterator(sys_block, problem)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("nbd")) continue;
    const std::optional<std::uint32_t> index = parse_index(std::string_view(name).substr(3));
    if (!index.has_value()) continue;
    std::optional<KernelDevice> device = connected_device(*index, sys_block);
    if (device.has_value()) devices.push_back(std::move(*device));
  }
  std::sort(devices.begin(), devices.end(),
            [](const KernelDevice& a, const KernelDevice& b) { return a.index < b.index; });
  return devices;
}

Result<std::uint32_t> parse_device_path(const std::string& path) {
  const std::string_view text = path;
  if (text.starts_with(kDevicePrefix)) {
    const std::optional<std::uint32_t> index = parse_index(text.substr(kDevicePrefix.size()));
    if (index.has_value()) return *index;
  }
  return fail(Errc::invalid_argument, fmt::format("'{}' is no NBD device: give one like /dev/nbd0", path));
}

Result<bool> is_in_use(const std::string& path) {
  const Descriptor opened(::open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  if (opened.is_open()) return false;
  if (errno == EBUSY) return true;
  return fail(Errc::io_error, fmt::format("{}: {}", path, std::generic_category().message(errno)));
}

}  // namespace agro::nbd_kernel
