#include "base/system_network.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <cerrno>

#include "base/log.hpp"

namespace agro {
namespace {

using boost::system::error_code;
using Protocol = asio::generic::stream_protocol;
using Socket = asio::basic_stream_socket<Protocol, Executor>;
using Endpoint = Protocol::endpoint;
using Resolver = asio::ip::basic_resolver<asio::ip::tcp, Executor>;
using WaitDescriptor = asio::posix::basic_stream_descriptor<Executor>;

constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kTuple = asio::as_tuple(use_task);
/// Parts of one sendmsg; the kernel takes up to 1,024.
constexpr std::size_t kPartCountMax = 256;
/// So many reads may succeed without waiting before others on the loop get their turn.
constexpr unsigned kReadsInARowMax = 16;
constexpr int kBacklog = 511;
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);

Error socket_error(std::string_view name, std::string_view verb, int errno_value) {
  switch (errno_value) {
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
    case ENOTCONN:
    case ESHUTDOWN:
    case EBADF:
    case ECANCELED:
      return Error{Errc::closed, fmt::format("{}: connection closed", name)};
    default:
      return errno_error(fmt::format("{}: {}", name, verb), errno_value);
  }
}

class SystemStream final : public Stream {
 public:
  SystemStream(std::shared_ptr<Socket> socket, std::string name)
      : socket_(std::move(socket)), name_(std::make_shared<const std::string>(std::move(name))) {}
  ~SystemStream() override { close(); }
  SystemStream(const SystemStream&) = delete;
  SystemStream& operator=(const SystemStream&) = delete;

  Task<std::size_t> read_some(MutableBytes out) override;
  Task<void> write(std::vector<ConstBytes> parts) override;
  void close() override {
    error_code ignored;  // a socket that cannot be closed is closed
    socket_->close(ignored);
  }
  std::string peer_name() const override { return *name_; }
  Result<DetachedStream> detach() override;

 private:
  std::shared_ptr<Socket> socket_;
  std::shared_ptr<const std::string> name_;  // calls that outlive the stream still say whose they were
  bool drained_ = true;  // the last read left nothing: there is no point in trying at once
  unsigned reads_in_a_row_ = 0;
};

Task<std::size_t> SystemStream::read_some(MutableBytes out) {
  AGRO_ASSERT(!out.empty());
  const std::shared_ptr<Socket> socket = socket_;
  const std::shared_ptr<const std::string> name = name_;
  if (!socket->is_open()) co_return fail(socket_error(*name, "read", ECANCELED));
  if (!drained_ && ++reads_in_a_row_ < kReadsInARowMax) {
    const ssize_t count = ::recv(socket->native_handle(), out.data(), out.size(), MSG_DONTWAIT);
    if (count > 0) {
      drained_ = static_cast<std::size_t>(count) < out.size();
      co_return static_cast<std::size_t>(count);
    }
    if (count == 0) co_return fail(socket_error(*name, "read", EPIPE));
    if (errno != EAGAIN && errno != EINTR) co_return fail(socket_error(*name, "read", errno));
  }
  reads_in_a_row_ = 0;
  const auto [problem, count] =
      co_await socket->async_read_some(asio::buffer(out.data(), out.size()), kTuple);
  if (problem == asio::error::eof) co_return fail(socket_error(*name, "read", EPIPE));
  // After close() the stream itself may be gone: touch nothing of it.
  if (problem) co_return fail(socket_error(*name, "read", problem.value()));
  if (socket->is_open()) drained_ = count < out.size();
  co_return count;
}

Result<DetachedStream> SystemStream::detach() {
  if (!socket_->is_open()) return fail(socket_error(*name_, "detach", ECANCELED));
  error_code problem;
  Descriptor descriptor(socket_->release(problem));
  if (problem) return fail(socket_error(*name_, "detach", problem.value()));
  return DetachedStream{std::move(descriptor), *name_, nullptr};
}

/// Drops the first `count` bytes of what `parts` hold from `*first` on.
void drop_sent(std::vector<ConstBytes>& parts, std::size_t& first, std::size_t count) {
  while (first < parts.size() && count >= parts[first].size()) count -= parts[first++].size();
  if (count > 0) parts[first] = parts[first].subspan(count);
}

/// As sendmsg() without waiting. Not in the coroutine: its frame would be too large to be used again.
ssize_t send_parts(int fd, std::span<const ConstBytes> parts) {
  std::array<iovec, kPartCountMax> vectors;
  const std::size_t count = std::min(parts.size(), kPartCountMax);
  for (std::size_t index = 0; index < count; ++index) {
    vectors[index] = {const_cast<std::byte*>(parts[index].data()), parts[index].size()};
  }
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = count;
  return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

Task<void> SystemStream::write(std::vector<ConstBytes> parts) {
  const std::shared_ptr<Socket> socket = socket_;
  const std::shared_ptr<const std::string> name = name_;
  std::size_t first = 0;
  while (true) {
    drop_sent(parts, first, 0);
    if (first == parts.size()) co_return Result<void>();
    if (!socket->is_open()) co_return fail(socket_error(*name, "write", ECANCELED));
    const ssize_t count = send_parts(socket->native_handle(), std::span(parts).subspan(first));
    if (count >= 0) {
      drop_sent(parts, first, static_cast<std::size_t>(count));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) co_return fail(socket_error(*name, "write", errno));
    const auto [problem] = co_await socket->async_wait(Socket::wait_write, kTuple);
    if (problem) co_return fail(socket_error(*name, "write", problem.value()));
  }
}

void set_stream_options(int fd, int family) {
  if (family == AF_UNIX) return;
  const int on = 1;  // best effort: a stream without them is slower, not wrong
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  (void)::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

std::string name_of_endpoint(const sockaddr* address) {
  if (address->sa_family == AF_INET || address->sa_family == AF_INET6) {
    asio::ip::tcp::endpoint endpoint;
    endpoint.resize(address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    std::memcpy(endpoint.data(), address, endpoint.size());
    return Address{Address::Kind::tcp, "", endpoint.address().to_string(), endpoint.port()}
        .to_string();
  }
  return "unix:";
}

/// Names resolved, or the number parsed. `hint_passive`: to listen on.
Task<std::vector<Endpoint>> resolve(asio::io_context& loop, Address address) {
  std::vector<Endpoint> endpoints;
  if (address.kind == Address::Kind::unix_socket) {
    if (address.path.size() >= sizeof(sockaddr_un::sun_path)) {
      co_return fail(Errc::invalid_argument,
                     fmt::format("socket path '{}' is too long", address.path));
    }
    if (address.path.starts_with('@')) address.path.front() = '\0';
    endpoints.emplace_back(asio::local::stream_protocol::endpoint(address.path));
    co_return endpoints;
  }
  error_code not_a_number;
  const auto number = asio::ip::make_address(address.host, not_a_number);
  if (!not_a_number) {
    endpoints.emplace_back(asio::ip::tcp::endpoint(number, address.port));
    co_return endpoints;
  }
  Resolver resolver(loop.get_executor());
  const std::string port = std::to_string(address.port);
  auto [problem, found] =
      co_await resolver.async_resolve(address.host, port, Resolver::numeric_service, kTuple);
  if (problem == asio::error::host_not_found_try_again) {
    co_return fail(Errc::unavailable,
                   fmt::format("{}: {}", address.to_string(), problem.message()));
  }
  if (problem) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("{}: no such host: {}", address.to_string(), problem.message()));
  }
  for (const auto& entry : found) endpoints.emplace_back(entry.endpoint());
  co_return endpoints;
}

using Connected = Promise<std::shared_ptr<Socket>>;

/// Tries every address of the host in turn. Gives up once `promise` is set: the deadline came.
Job connect_job(asio::io_context& loop, Address address, std::shared_ptr<Socket> socket,
                std::shared_ptr<Connected> promise) {
  const Result<std::vector<Endpoint>> endpoints = co_await resolve(loop, address);
  if (!endpoints.has_value()) {
    promise->set(fail(endpoints.error()));
    co_return;
  }
  error_code problem = asio::error::host_not_found;
  for (const Endpoint& endpoint : *endpoints) {
    if (promise->is_set()) co_return;
    error_code ignored;
    socket->close(ignored);
    socket->open(endpoint.protocol(), problem);
    if (problem) continue;
    const auto [connect_problem] = co_await socket->async_connect(endpoint, kTuple);
    problem = connect_problem;
    if (problem) continue;
    set_stream_options(socket->native_handle(), endpoint.data()->sa_family);
    promise->set(socket);
    co_return;
  }
  promise->set(fail(Errc::unavailable, fmt::format("cannot connect to {}: {}", address.to_string(),
                                                   problem.message())));
}

class SystemListener final : public Listener {
 public:
  SystemListener(asio::io_context& loop, Clock& clock, Descriptor fd, Address address)
      : state_(std::make_shared<State>(loop, clock, std::move(address))) {
    state_->descriptor.assign(fd.release());
    if (state_->address.kind != Address::Kind::unix_socket) return;
    if (::stat(state_->address.path.c_str(), &state_->file) == 0) state_->has_file = true;
  }
  ~SystemListener() override { close(); }
  SystemListener(const SystemListener&) = delete;
  SystemListener& operator=(const SystemListener&) = delete;

  Task<std::unique_ptr<Stream>> accept() override { return accept_on(state_); }
  void close() override;
  Address address() const override { return state_->address; }

 private:
  struct State {
    State(asio::io_context& io, Clock& time, Address where)
        : loop(io), clock(time), address(std::move(where)), descriptor(io.get_executor()) {}
    asio::io_context& loop;
    Clock& clock;
    Address address;
    WaitDescriptor descriptor;
    Event closing;
    bool has_file = false;
    struct stat file {};  // so that only our own socket file is removed
  };
  static Task<std::unique_ptr<Stream>> accept_on(std::shared_ptr<State> state);
  static Result<std::unique_ptr<Stream>> wrap(State& state, Descriptor fd, const sockaddr* peer);

  std::shared_ptr<State> state_;
};

void SystemListener::close() {
  if (!state_->descriptor.is_open()) return;
  if (state_->has_file) {
    struct stat now {};
    const char* path = state_->address.path.c_str();
    if (::stat(path, &now) == 0 && now.st_ino == state_->file.st_ino &&
        now.st_dev == state_->file.st_dev) {
      ::unlink(path);
    }
  }
  error_code ignored;
  state_->descriptor.close(ignored);
  state_->closing.notify_all();
}

Result<std::unique_ptr<Stream>> SystemListener::wrap(State& state, Descriptor fd,
                                                     const sockaddr* peer) {
  const int family = peer->sa_family;
  set_stream_options(fd.get(), family);
  auto socket = std::make_shared<Socket>(state.loop.get_executor());
  error_code problem;
  socket->assign(Protocol(family, family == AF_UNIX ? 0 : IPPROTO_TCP), fd.get(), problem);
  if (problem) return fail(errno_error("accept", problem.value()));
  fd.release();
  const bool is_unix = state.address.kind == Address::Kind::unix_socket;
  return std::make_unique<SystemStream>(
      std::move(socket), is_unix ? state.address.to_string() : name_of_endpoint(peer));
}

Task<std::unique_ptr<Stream>> SystemListener::accept_on(std::shared_ptr<State> state) {
  bool told = false;
  while (state->descriptor.is_open()) {
    sockaddr_storage peer{};
    socklen_t peer_size = sizeof peer;
    auto* peer_address = reinterpret_cast<sockaddr*>(&peer);
    Descriptor fd(::accept4(state->descriptor.native_handle(), peer_address, &peer_size,
                         SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.get() >= 0) co_return wrap(*state, std::move(fd), peer_address);
    const int problem = errno;
    if (problem == EAGAIN) {
      // Whatever ended the wait, the next accept4() or the loop's condition sees it.
      (void)co_await state->descriptor.async_wait(WaitDescriptor::wait_read, kTuple);
      continue;
    }
    if (problem == EMFILE || problem == ENFILE || problem == ENOBUFS || problem == ENOMEM) {
      const Error error = errno_error(state->address.to_string() + ": accept", problem);
      if (!std::exchange(told, true)) {
        log_warning("{}; new connections wait until some are closed", error.message);
      }
      co_await wait_until(state->closing, state->clock, state->clock.now() + kAcceptPause);
      continue;
    }
    if (problem == EBADF || problem == EINVAL || problem == ENOTSOCK) {
      co_return fail(errno_error(state->address.to_string() + ": accept", problem));
    }
    co_await yield_to_loop();  // that one connection failed before it was ours; take the next
  }
  co_return fail(Errc::closed, state->address.to_string() + ": no longer listening");
}

/// Removes the file of a Unix socket that nobody listens on. Errors: already_exists.
Result<void> remove_stale_socket(const std::string& path, const Endpoint& endpoint) {
  struct stat file {};
  if (::lstat(path.c_str(), &file) != 0) return {};
  if (!S_ISSOCK(file.st_mode)) {
    return fail(Errc::already_exists,
                fmt::format("'{}' exists and is not a socket; choose another path", path));
  }
  const Descriptor probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (probe.get() < 0) return fail(errno_error("socket", errno));
  const auto size = static_cast<socklen_t>(endpoint.size());
  if (::connect(probe.get(), endpoint.data(), size) == 0 || errno != ECONNREFUSED) {
    return fail(Errc::already_exists,
                fmt::format("socket '{}' is in use by another process; stop it or choose another "
                            "path",
                            path));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail(errno_error(path, errno));
  return {};
}

Result<Descriptor> open_listening(const Address& address, const Endpoint& endpoint) {
  const int family = endpoint.data()->sa_family;
  Descriptor fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.get() < 0) return fail(errno_error("socket", errno));
  if (family == AF_UNIX) {
    AGRO_TRY_OK(remove_stale_socket(address.path, endpoint));
  } else {
    const int on = 1;  // take over a port whose old connections linger in TIME_WAIT
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  }
  const auto size = static_cast<socklen_t>(endpoint.size());
  if (::bind(fd.get(), endpoint.data(), size) != 0 || ::listen(fd.get(), kBacklog) != 0) {
    const int problem = errno;
    if (problem == EADDRINUSE) {
      return fail(Errc::already_exists,
                  fmt::format("cannot listen on {}: it is in use by another process; stop it or "
                              "choose another",
                              address.to_string()));
    }
    return fail(errno_error("cannot listen on " + address.to_string(), problem));
  }
  return fd;
}

}  // namespace

std::optional<Address> SystemNetwork::machine_address(std::string_view name) const {
  return Address{Address::Kind::unix_socket, fmt::format("@agro/{}", name), {}, 0};
}

Task<std::unique_ptr<Stream>> SystemNetwork::connect(Address address, TimePoint deadline) {
  auto promise = std::make_shared<Connected>();
  auto socket = std::make_shared<Socket>(loop_.get_executor());
  spawn(loop_.get_executor(), connect_job(loop_, address, socket, promise));
  const std::string what = "connecting to " + address.to_string();
  const Result<std::shared_ptr<Socket>> connected =
      co_await get_until(promise, clock_, deadline, what);
  if (!connected.has_value()) {
    error_code ignored;
    socket->close(ignored);
    co_return fail(connected.error());
  }
  co_return std::make_unique<SystemStream>(*connected, address.to_string());
}

Result<std::unique_ptr<Stream>> SystemNetwork::adopt(DetachedStream detached) {
  const Descriptor& fd = detached.descriptor;
  sockaddr_storage own{};
  socklen_t size = sizeof own;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&own), &size) != 0)
    return fail(socket_error(detached.peer_name, "adopt", errno));
  const int family = own.ss_family;
  auto socket = std::make_shared<Socket>(loop_.get_executor());
  error_code problem;
  socket->assign(Protocol(family, family == AF_UNIX ? 0 : IPPROTO_TCP), fd.get(), problem);
  if (problem) return fail(socket_error(detached.peer_name, "adopt", problem.value()));
  detached.descriptor.release();
  auto stream = std::make_unique<SystemStream>(std::move(socket), std::move(detached.peer_name));
  if (detached.layer != nullptr) return detached.layer->over(std::move(stream));
  return stream;
}

Task<std::unique_ptr<Listener>> SystemNetwork::listen(Address address) {
  AGRO_CO_TRY(const std::vector<Endpoint> endpoints, co_await resolve(loop_, address));
  AGRO_CO_TRY(Descriptor fd, open_listening(address, endpoints.front()));
  if (address.kind == Address::Kind::tcp) {
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size) == 0) {
      const auto* as_ipv4 = reinterpret_cast<const sockaddr_in*>(&bound);
      address.port = ntohs(as_ipv4->sin_port);  // at the same place in sockaddr_in6
    }
  }
  co_return std::make_unique<SystemListener>(loop_, clock_, std::move(fd), std::move(address));
}

}  // namespace agro
