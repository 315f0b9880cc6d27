// The kernel's NBD driver, commanded through netlink: connect, reconnect, resize, disconnect devices.
//
// Threading: everything blocks, for as long as the kernel takes; on a worker thread only.
// Source: drivers/block/nbd.c, linux/nbd-netlink.h. Needs Linux 5.14 (backend identifiers) and CAP_SYS_ADMIN.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/descriptor.hpp"
#include "internal/nbd_kernel/netlink_message.hpp"

namespace agro::nbd_kernel {

/// A device to be made.
struct DeviceRequest {
  std::optional<std::uint32_t> index;  // N of /dev/nbdN; without: a free one
  std::uint64_t size_bytes = 0;
  std::uint32_t block_size = 4096;     // the sector that the device shows
  std::uint16_t transmission_flags = 0;
  Duration dead_connection_timeout{};  // requests wait so long for a connection, then fail
  Duration request_timeout{};          // then it is sent again, on another connection; zero: the kernel's 30 s
  std::string backend;                 // whoever reconnects must name the same
};

class Netlink {
 public:
  /// Errors: not_supported (no nbd in this kernel; says what to do), io_error.
  static Result<Netlink> open();

  /// Returns the index. The kernel keeps its own hold of `sockets`, connections after their handshake.
  /// Errors: already_exists (the device is in use), invalid_argument, io_error.
  Result<std::uint32_t> connect(const DeviceRequest& request, const std::vector<int>& sockets);
  /// New connections in place of those that died, and the size. Those too many are not taken. With none: only
  /// the size. Errors: not_found (not connected), invalid_argument (another backend's), io_error.
  Result<void> reconfigure(std::uint32_t index, const std::string& backend,
                           const std::vector<int>& sockets, std::optional<std::uint64_t> size_bytes);
  /// Errors: not_found, io_error.
  Result<void> disconnect(std::uint32_t index);

  /// From now on next_event() has something to wait for.
  Result<void> listen();
  /// A device that lost a connection, or kAnyDevice when events were lost; nullopt: none within `patience`.
  Result<std::optional<std::uint32_t>> next_event(Duration patience);
  static constexpr std::uint32_t kAnyDevice = UINT32_MAX;

 private:
  Netlink() = default;
  /// Sends it and collects answers until the acknowledgment. Errors: from the kernel's errno.
  Result<std::vector<std::byte>> exchange(NetlinkRequest& request, const char* what);

  Descriptor socket_;
  Descriptor events_;
  NbdFamily family_;
  std::uint32_t sequence_ = 0;
};

}  // namespace agro::nbd_kernel
