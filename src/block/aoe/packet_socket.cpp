#include "block/aoe/packet_socket.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/descriptor.hpp"
#include "base/log.hpp"
#include "block/aoe/protocol.hpp"

namespace agro::aoe {
namespace {

using Watched = asio::posix::basic_stream_descriptor<Executor>;
constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kTuple = asio::as_tuple(use_task);

constexpr std::size_t kFramesAtOnce = 64;
constexpr std::size_t kFrameSizeMax = 9216 + kEthernetHeaderSize;
constexpr int kSocketBufferSize = 8 << 20;

Error os_error(const std::string& name, int number) {
  const char* hint = number == EPERM ? " (run it as root)" : "";
  const Errc code = number == ENODEV || number == ENXIO ? Errc::not_found : Errc::io_error;
  return {code, fmt::format("{}: {}{}", name, std::generic_category().message(number), hint)};
}

ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(request.ifr_name, sizeof request.ifr_name - 1);
  return request;
}

/// What the kernel drops before it costs us anything: answers of others, and what is for other shelves and slots.
Result<void> attach_filter(const Descriptor& socket, const std::string& name, std::uint16_t major, std::uint8_t minor) {
  std::array<sock_filter, 10> code = {{
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kFlagResponse, 6, 0),
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 16),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, major, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kMajorBroadcast, 0, 3),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 18),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, minor, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kMinorBroadcast, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, 0),           // dropped
      BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),  // taken whole
  }};
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
    return fail(os_error(name, errno));
  return {};
}

class PacketSocket final : public Ether {
 public:
  PacketSocket(Executor executor, int socket, std::string name, MacAddress address)
      : watched_(executor, socket), name_(std::move(name)), address_(address), buffers_(kFramesAtOnce * kFrameSizeMax) {}

  MacAddress address() const override { return address_; }

  std::size_t mtu() const override {
    ifreq request = request_for(name_);
    if (::ioctl(const_cast<Watched&>(watched_).native_handle(), SIOCGIFMTU, &request) != 0) return 0;
    return static_cast<std::size_t>(request.ifr_mtu);
  }

  Task<std::vector<ConstBytes>> receive() override {
    while (true) {
      if (!watched_.is_open()) co_return fail(Errc::closed, name_ + " is closed");
      std::vector<ConstBytes> frames;
      const int problem = receive_now(frames);
      if (!frames.empty()) co_return frames;
      // The interface may be set down for a while.
      if (problem != EAGAIN && problem != EINTR && problem != ENETDOWN) co_return fail(os_error(name_, problem));
      const auto [waited] = co_await watched_.async_wait(asio::posix::descriptor_base::wait_read, kTuple);
      if (waited) co_return fail(Errc::closed, name_ + " is closed");
    }
  }

  void send(std::vector<std::byte> frame) override { queue_.push_back(std::move(frame)); }

  void send_queued() override {
    std::size_t sent = 0;
    while (sent < queue_.size() && watched_.is_open()) {
      std::array<mmsghdr, kFramesAtOnce> messages{};
      std::array<iovec, kFramesAtOnce> parts{};
      const std::size_t count = std::min(queue_.size() - sent, kFramesAtOnce);
      for (std::size_t index = 0; index < count; ++index) {
        parts[index] = {queue_[sent + index].data(), queue_[sent + index].size()};
        messages[index].msg_hdr.msg_iov = &parts[index];
        messages[index].msg_hdr.msg_iovlen = 1;
      }
      const int done = ::sendmmsg(watched_.native_handle(), messages.data(), static_cast<unsigned>(count), MSG_DONTWAIT);
      // A frame that does not go out is lost, and asked for again, as on any Ethernet.
      sent += done > 0 ? static_cast<std::size_t>(done) : 1;
    }
    queue_.clear();
  }

  void close() override {
    boost::system::error_code ignored;  // it is gone either way
    watched_.close(ignored);
  }

 private:
  /// Returns an errno when there are none.
  int receive_now(std::vector<ConstBytes>& frames) {
    std::array<mmsghdr, kFramesAtOnce> messages{};
    std::array<iovec, kFramesAtOnce> parts{};
    for (std::size_t index = 0; index < kFramesAtOnce; ++index) {
      parts[index] = {buffers_.data() + index * kFrameSizeMax, kFrameSizeMax};
      messages[index].msg_hdr.msg_iov = &parts[index];
      messages[index].msg_hdr.msg_iovlen = 1;
    }
    const int count =
        ::recvmmsg(watched_.native_handle(), messages.data(), static_cast<unsigned>(kFramesAtOnce), MSG_DONTWAIT, nullptr);
    if (count < 0) return errno;
    for (std::size_t index = 0; index < static_cast<std::size_t>(count); ++index) {
      const bool is_whole = (messages[index].msg_hdr.msg_flags & MSG_TRUNC) == 0;
      if (is_whole) frames.push_back(ConstBytes(buffers_).subspan(index * kFrameSizeMax, messages[index].msg_len));
    }
    return EAGAIN;
  }

  Watched watched_;
  std::string name_;
  MacAddress address_;
  std::vector<std::byte> buffers_;
  std::vector<std::vector<std::byte>> queue_;
};

}  // namespace

Result<std::unique_ptr<Ether>> open_packet_socket(Executor executor, const std::string& interface_name,
                                                  std::uint16_t major, std::uint8_t minor) {
  // Of no protocol at first, so that nothing comes before the filter is there.
  Descriptor socket(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return fail(os_error("packet socket", errno));
  ifreq request = request_for(interface_name);
  if (::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0) return fail(os_error("interface " + interface_name, errno));
  const int index = request.ifr_ifindex;
  if (::ioctl(socket.get(), SIOCGIFHWADDR, &request) != 0) return fail(os_error("interface " + interface_name, errno));
  if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
    return fail(Errc::invalid_argument, fmt::format("interface {} is no Ethernet", interface_name));
  MacAddress address;
  std::memcpy(address.data(), request.ifr_hwaddr.sa_data, address.size());
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return fail(os_error("interface " + interface_name, errno));
  if ((request.ifr_flags & IFF_UP) == 0)
    return fail(Errc::invalid_argument,
                fmt::format("interface {} is down: run 'ip link set {} up'", interface_name, interface_name));
  AGRO_TRY_OK(attach_filter(socket, interface_name, major, minor));
  const int size = kSocketBufferSize;
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
  sockaddr_ll place{};
  place.sll_family = AF_PACKET;
  place.sll_protocol = htons(kEtherType);
  place.sll_ifindex = index;
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&place), sizeof place) != 0)
    return fail(os_error("interface " + interface_name, errno));
  const int number = ::dup(socket.get());
  if (number < 0) return fail(os_error(interface_name, errno));
  return std::make_unique<PacketSocket>(executor, number, interface_name, address);
}

}  // namespace agro::aoe
