#include "internal/nbd_kernel/netlink.hpp"

#include <fmt/format.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <system_error>

namespace agro::nbd_kernel {
namespace {

constexpr std::size_t kAnswerSizeMax = 64U << 10;

Error os_error(const char* what, int number) {
  Errc code = Errc::io_error;
  if (number == EBUSY) code = Errc::already_exists;
  if (number == ENOENT || number == ENOTCONN) code = Errc::not_found;
  if (number == EINVAL) code = Errc::invalid_argument;
  const char* hint = number == EPERM ? " (run it as root)" : "";
  return {code, fmt::format("{}: {}{}", what, std::generic_category().message(number), hint)};
}

Result<Descriptor> open_socket() {
  Descriptor opened(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC));
  if (!opened.is_open()) return fail(os_error("netlink socket", errno));
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  if (::bind(opened.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail(os_error("netlink socket", errno));
  return opened;
}

void add_sockets(NetlinkRequest& request, const std::vector<int>& sockets) {
  const std::size_t list = request.begin(NBD_ATTR_SOCKETS);
  for (const int descriptor : sockets) {
    const std::size_t item = request.begin(NBD_SOCK_ITEM);
    request.add(NBD_SOCK_FD, static_cast<std::uint32_t>(descriptor));
    request.end(item);
  }
  request.end(list);
}

std::uint64_t in_seconds(Duration duration) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(duration);
  return static_cast<std::uint64_t>(seconds.count());
}

}  // namespace

Result<Netlink> Netlink::open() {
  Netlink netlink;
  AGRO_TRY(netlink.socket_, open_socket());
  NetlinkRequest request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, ++netlink.sequence_);
  request.add(CTRL_ATTR_FAMILY_NAME, std::string_view(NBD_GENL_FAMILY_NAME));
  const Result<std::vector<std::byte>> answer = netlink.exchange(request, "looking for nbd");
  if (answer.code() == Errc::not_found)
    return fail(Errc::not_supported, "this kernel has no NBD driver loaded: run 'modprobe nbd'");
  if (!answer.has_value()) return fail(answer.error());
  AGRO_TRY(const std::vector<NetlinkMessage> messages, parse_netlink(*answer));
  if (messages.empty()) return fail(Errc::protocol_error, "netlink: no answer about nbd");
  AGRO_TRY(netlink.family_, parse_family(messages.front()));
  return netlink;
}

Result<std::vector<std::byte>> Netlink::exchange(NetlinkRequest& request, const char* what) {
  const ConstBytes bytes = request.bytes();
  if (::send(socket_.get(), bytes.data(), bytes.size(), 0) < 0) return fail(os_error(what, errno));
  std::vector<std::byte> answer;
  while (true) {
    std::vector<std::byte> datagram(kAnswerSizeMax);
    const ssize_t size = ::recv(socket_.get(), datagram.data(), datagram.size(), 0);
    if (size < 0) return fail(os_error(what, errno));
    datagram.resize(static_cast<std::size_t>(size));
    AGRO_TRY(const std::vector<NetlinkMessage> messages, parse_netlink(datagram));
    for (const NetlinkMessage& message : messages) {
      if (message.sequence != sequence_) continue;
      if (message.error == 0) return answer;
      if (message.error.has_value()) return fail(os_error(what, *message.error));
      answer = datagram;
    }
  }
}

Result<std::uint32_t> Netlink::connect(const DeviceRequest& wanted, const std::vector<int>& sockets) {
  NetlinkRequest request(family_.id, NBD_CMD_CONNECT, ++sequence_);
  if (wanted.index.has_value()) request.add(NBD_ATTR_INDEX, *wanted.index);
  request.add(NBD_ATTR_SIZE_BYTES, wanted.size_bytes);
  request.add(NBD_ATTR_BLOCK_SIZE_BYTES, std::uint64_t{wanted.block_size});
  request.add(NBD_ATTR_SERVER_FLAGS, std::uint64_t{wanted.transmission_flags});
  if (wanted.request_timeout > Duration(0))
    request.add(NBD_ATTR_TIMEOUT, in_seconds(wanted.request_timeout));
  request.add(NBD_ATTR_DEAD_CONN_TIMEOUT, in_seconds(wanted.dead_connection_timeout));
  request.add(NBD_ATTR_BACKEND_IDENTIFIER, std::string_view(wanted.backend));
  add_sockets(request, sockets);
  AGRO_TRY(const std::vector<std::byte> answer, exchange(request, "attaching the device"));
  if (wanted.index.has_value()) return *wanted.index;
  AGRO_TRY(const std::vector<NetlinkMessage> messages, parse_netlink(answer));
  if (messages.empty()) return fail(Errc::protocol_error, "netlink: the kernel did not name the device");
  return attribute_u32(messages.front().find(NBD_ATTR_INDEX));
}

Result<void> Netlink::reconfigure(std::uint32_t index, const std::string& backend,
                                  const std::vector<int>& sockets,
                                  std::optional<std::uint64_t> size_bytes) {
  NetlinkRequest request(family_.id, NBD_CMD_RECONFIGURE, ++sequence_);
  request.add(NBD_ATTR_INDEX, index);
  request.add(NBD_ATTR_BACKEND_IDENTIFIER, std::string_view(backend));
  if (size_bytes.has_value()) request.add(NBD_ATTR_SIZE_BYTES, *size_bytes);
  if (!sockets.empty()) add_sockets(request, sockets);
  const Result<std::vector<std::byte>> done = exchange(request, "reconnecting the device");
  return done.has_value() ? Result<void>() : fail(done.error());
}

Result<void> Netlink::disconnect(std::uint32_t index) {
  NetlinkRequest request(family_.id, NBD_CMD_DISCONNECT, ++sequence_);
  request.add(NBD_ATTR_INDEX, index);
  const Result<std::vector<std::byte>> done = exchange(request, "detaching the device");
  return done.has_value() ? Result<void>() : fail(done.error());
}

Result<void> Netlink::listen() {
  AGRO_TRY(Descriptor opened, open_socket());
  const std::uint32_t group = family_.events_group;
  if (::setsockopt(opened.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0)
    return fail(os_error("events of nbd", errno));
  events_ = std::move(opened);
  return {};
}

Result<std::optional<std::uint32_t>> Netlink::next_event(Duration patience) {
  pollfd polled{events_.get(), POLLIN, 0};
  const auto wait_ms = std::chrono::ceil<std::chrono::milliseconds>(patience).count();
  const int ready = ::poll(&polled, 1, static_cast<int>(wait_ms));
  if (ready < 0 && errno != EINTR) return fail(os_error("events of nbd", errno));
  if (ready <= 0) return std::nullopt;
  std::vector<std::byte> datagram(kAnswerSizeMax);
  const ssize_t size = ::recv(events_.get(), datagram.data(), datagram.size(), 0);
  if (size < 0 && errno == ENOBUFS) return kAnyDevice;
  if (size < 0) return fail(os_error("events of nbd", errno));
  datagram.resize(static_cast<std::size_t>(size));
  AGRO_TRY(const std::vector<NetlinkMessage> messages, parse_netlink(datagram));
  for (const NetlinkMessage& message : messages) {
    if (message.type != family_.id || message.command != NBD_CMD_LINK_DEAD) continue;
    AGRO_TRY(const std::uint32_t index, attribute_u32(message.find(NBD_ATTR_INDEX)));
    return index;
  }
  return std::nullopt;
}

}  // namespace agro::nbd_kernel
