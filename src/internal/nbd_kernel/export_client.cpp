#include "internal/nbd_kernel/export_client.hpp"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

#include "internal/nbd/protocol.hpp"

namespace agro::nbd_kernel {
namespace {

constexpr std::uint32_t kReplySizeMax = 64U << 10;

Error os_error(const Address& server, int number) {
  const bool timed_out = number == EAGAIN || number == EINPROGRESS || number == ETIMEDOUT;
  const bool nobody = number == ECONNREFUSED || number == ENOENT || number == EHOSTUNREACH || number == ENETUNREACH;
  const Errc code = timed_out ? Errc::timed_out : nobody ? Errc::unavailable : Errc::io_error;
  return {code, fmt::format("NBD server {}: {}", server.to_string(),
                            timed_out ? "no answer" : std::generic_category().message(number))};
}

/// One connection during its handshake.
class Client {
 public:
  explicit Client(const Address& server) : server_(server) {}

  Result<void> connect(Duration timeout);
  Result<void> greet();
  Result<ExportConnection> choose(const std::string& name);

 private:
  Result<void> connect_to(int family, const sockaddr* address, socklen_t size, Duration timeout);
  Result<void> read(MutableBytes out);
  Result<void> write(ConstBytes bytes);
  Result<void> bad(std::string_view what) const {
    return fail(Errc::protocol_error, fmt::format("NBD server {}: {}", server_.to_string(), what));
  }

  const Address& server_;
  Descriptor socket_;
};

Result<void> Client::connect_to(int family, const sockaddr* address, socklen_t size, Duration timeout) {
  socket_ = Descriptor(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket_.is_open()) return fail(os_error(server_, errno));
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(timeout);
  const timeval limit{seconds.count(), 0};
  // A connect() is bound by the limit of sending.
  (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (::connect(socket_.get(), address, size) != 0) return fail(os_error(server_, errno));
  return {};
}

Result<void> Client::connect(Duration timeout) {
  if (server_.kind == Address::Kind::unix_socket) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (server_.path.size() >= sizeof address.sun_path)
      return fail(Errc::invalid_argument, "the path of a socket is too long: " + server_.path);
    std::memcpy(address.sun_path, server_.path.data(), server_.path.size());
    if (server_.path.front() == '@') address.sun_path[0] = 0;
    const std::size_t size = offsetof(sockaddr_un, sun_path) + server_.path.size();
    return connect_to(AF_UNIX, reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(size), timeout);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int problem = ::getaddrinfo(server_.host.c_str(), std::to_string(server_.port).c_str(), &hints, &found);
  if (problem != 0)
    return fail(Errc::unavailable, fmt::format("NBD server {}: {}", server_.to_string(), ::gai_strerror(problem)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  Result<void> connected = fail(Errc::unavailable, "no address");
  for (const addrinfo* one = found; one != nullptr && !connected.has_value(); one = one->ai_next)
    connected = connect_to(one->ai_family, one->ai_addr, one->ai_addrlen, timeout);
  if (!connected.has_value()) return connected;
  const int on = 1;
  (void)::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return {};
}

Result<void> Client::read(MutableBytes out) {
  while (!out.empty()) {
    const ssize_t count = ::recv(socket_.get(), out.data(), out.size(), 0);
    if (count == 0) return fail(Errc::unavailable, fmt::format("NBD server {} hung up", server_.to_string()));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(os_error(server_, errno));
    out = out.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Result<void> Client::write(ConstBytes bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(os_error(server_, errno));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Result<void> Client::greet() {
  std::array<std::byte, nbd::kGreetingSize> greeting;
  AGRO_TRY_OK(read(greeting));
  const ConstBytes bytes(greeting);
  if (load_be<std::uint64_t>(bytes) != nbd::kInitMagic || load_be<std::uint64_t>(bytes.subspan(8)) != nbd::kOptionMagic)
    return bad("this is no NBD server");
  const auto flags = load_be<std::uint16_t>(bytes.subspan(16));
  if ((flags & nbd::kFixedNewstyle) == 0) return bad("it speaks an NBD that is too old");
  std::array<std::byte, nbd::kClientFlagsSize> answer;
  store_be<std::uint32_t>(answer, flags & (nbd::kFixedNewstyle | nbd::kNoZeroes));
  return write(answer);
}

Result<ExportConnection> Client::choose(const std::string& name) {
  const std::string data = nbd::encode_info_request({.name = name, .types = {}});
  std::array<std::byte, nbd::kOptionHeaderSize> head;
  nbd::encode_option_header(head, {.option = nbd::Option::go, .size = static_cast<std::uint32_t>(data.size())});
  AGRO_TRY_OK(write(head));
  AGRO_TRY_OK(write(as_bytes(data)));
  std::optional<ExportConnection> chosen;
  while (true) {
    std::array<std::byte, nbd::kOptionReplyHeaderSize> reply_head;
    AGRO_TRY_OK(read(reply_head));
    AGRO_TRY(const nbd::OptionReplyHeader reply, nbd::decode_option_reply_header(reply_head));
    if (reply.option != nbd::Option::go || reply.size > kReplySizeMax) return fail(bad("a strange reply").error());
    std::vector<std::byte> body(reply.size);
    AGRO_TRY_OK(read(body));
    const ConstBytes bytes(body);
    const bool is_failure = (static_cast<std::uint32_t>(reply.type) >> 31) != 0;
    if (is_failure) {
      const bool unknown = reply.type == nbd::OptionReplyType::error_unknown_export;
      const std::string reason = body.empty() ? "refused" : std::string(as_text(bytes));
      return fail(unknown ? Errc::not_found : Errc::unavailable,
                  fmt::format("NBD server {}: export '{}': {}", server_.to_string(), name, reason));
    }
    const bool is_export = reply.type == nbd::OptionReplyType::info && body.size() >= 12 &&
                           load_be<std::uint16_t>(bytes) == static_cast<std::uint16_t>(nbd::InfoType::export_);
    if (is_export) {
      chosen.emplace();
      chosen->size_bytes = load_be<std::uint64_t>(bytes.subspan(2));
      chosen->transmission_flags = load_be<std::uint16_t>(bytes.subspan(10));
    }
    if (reply.type != nbd::OptionReplyType::ack) continue;
    if (!chosen.has_value()) return fail(bad("it says no size").error());
    break;
  }
  // The kernel waits for as long as it must.
  const timeval never{0, 0};
  (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &never, sizeof never);
  (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &never, sizeof never);
  chosen->socket = std::move(socket_);
  return std::move(*chosen);
}

}  // namespace

Result<ExportConnection> connect_export(const Address& server, const std::string& name, Duration timeout) {
  Client client(server);
  AGRO_TRY_OK(client.connect(timeout));
  AGRO_TRY_OK(client.greet());
  return client.choose(name);
}

}  // namespace agro::nbd_kernel
