#include "internal/nbd_kernel/attachment.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "internal/nbd/protocol.hpp"

namespace agro::nbd_kernel {
namespace {

constexpr Duration kHandshakeTimeout = std::chrono::seconds(5);
constexpr int kLooksPerSize = 20;  // each at most as long as look() is told

}  // namespace

Attachment::Attachment(AttachOptions options, Netlink netlink)
    : options_(std::move(options)), netlink_(std::move(netlink)), looks_until_size_(kLooksPerSize) {
  device_.backend = backend_of(options_.volume);
}

Result<std::unique_ptr<Attachment>> Attachment::attach(AttachOptions options) {
  AGRO_TRY(Netlink netlink, Netlink::open());
  std::unique_ptr<Attachment> attachment(new Attachment(std::move(options), std::move(netlink)));
  // Before there is a connection that could be lost.
  AGRO_TRY_OK(attachment->netlink_.listen());
  for (const KernelDevice& device : connected_devices()) {
    const bool is_ours = device.backend == attachment->device_.backend;
    if (attachment->options_.index.has_value() && device.index != *attachment->options_.index) continue;
    if (!is_ours && !attachment->options_.index.has_value()) continue;
    if (!is_ours) {
      return fail(Errc::already_exists,
                  fmt::format("{} is connected to something else ({}): take another, or detach it first", device.path(),
                              device.backend.empty() ? fmt::format("pid {}", device.pid) : device.backend));
    }
    attachment->device_ = device;
    AGRO_TRY_OK(attachment->take_over());
    return attachment;
  }
  AGRO_TRY_OK(attachment->make());
  return attachment;
}

Result<ExportConnection> Attachment::connect() {
  Result<ExportConnection> connected;
  for (std::size_t tried = 0; tried < options_.servers.size(); ++tried) {
    const Address& server = options_.servers[next_server_++ % options_.servers.size()];
    connected = connect_export(server, options_.volume, kHandshakeTimeout);
    if (connected.has_value()) break;
  }
  return connected;
}

Result<void> Attachment::make() {
  AGRO_TRY(ExportConnection first, connect());
  const bool shares = (first.transmission_flags & nbd::kCanMultiConn) != 0;
  DeviceRequest request{.index = options_.index,
                        .size_bytes = first.size_bytes,
                        .block_size = options_.block_size,
                        .transmission_flags = first.transmission_flags,
                        .dead_connection_timeout = options_.dead_connection_timeout,
                        .request_timeout = options_.request_timeout,
                        .backend = device_.backend};
  std::vector<Descriptor> connections;
  connections.push_back(std::move(first.socket));
  while (shares && connections.size() < options_.connection_count) {
    AGRO_TRY(ExportConnection next, connect());
    connections.push_back(std::move(next.socket));
  }
  std::vector<int> sockets;
  for (const Descriptor& one : connections) sockets.push_back(one.get());
  AGRO_TRY(device_.index, netlink_.connect(request, sockets));
  device_.size_bytes = request.size_bytes;
  return {};
}

Result<void> Attachment::take_over() {
  taken_over_ = true;
  dead_count_ = options_.connection_count;
  return reconnect();
}

/// As many connections as died. The kernel takes those that it needs.
Result<void> Attachment::reconnect() {
  std::vector<Descriptor> connections;
  std::vector<int> sockets;
  std::uint64_t size_bytes = 0;
  for (std::uint32_t count = 0; count < dead_count_; ++count) {
    AGRO_TRY(ExportConnection next, connect());
    size_bytes = next.size_bytes;
    connections.push_back(std::move(next.socket));
    sockets.push_back(connections.back().get());
  }
  AGRO_TRY_OK(netlink_.reconfigure(device_.index, device_.backend, sockets, size_bytes));
  device_.size_bytes = size_bytes;
  dead_count_ = 0;
  return {};
}

Result<void> Attachment::follow_size() {
  AGRO_TRY(const ExportConnection seen, connect());
  if (seen.size_bytes == device_.size_bytes) return {};
  AGRO_TRY_OK(netlink_.reconfigure(device_.index, device_.backend, {}, seen.size_bytes));
  log_info("{}: volume '{}' has {} bytes now", device_.path(), options_.volume, seen.size_bytes);
  device_.size_bytes = seen.size_bytes;
  return {};
}

Result<bool> Attachment::look(Duration patience) {
  AGRO_TRY(const std::optional<std::uint32_t> event, netlink_.next_event(patience));
  const std::optional<KernelDevice> present = connected_device(device_.index);
  if (!present.has_value() || present->backend != device_.backend) return false;
  if (event == device_.index) ++dead_count_;
  if (event == Netlink::kAnyDevice) dead_count_ = options_.connection_count;
  dead_count_ = std::min(dead_count_, options_.connection_count);
  Result<void> done;
  if (dead_count_ > 0) {
    if (problem_.empty())
      log_warning("{}: a connection to volume '{}' is dead, making a new one", device_.path(), options_.volume);
    done = reconnect();
    if (done.has_value()) log_info("{}: connected again", device_.path());
  } else if (--looks_until_size_ <= 0) {
    looks_until_size_ = kLooksPerSize;
    done = follow_size();
  }
  problem_ = done.has_value() ? "" : done.error().to_string();
  return true;
}

Result<void> Attachment::detach() {
  AGRO_TRY(const bool in_use, is_in_use(device_.path()));
  if (in_use) return fail(Errc::locked, device_.path() + " is in use: unmount it first");
  return netlink_.disconnect(device_.index);
}

}  // namespace agro::nbd_kernel
