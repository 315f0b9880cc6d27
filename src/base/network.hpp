// The network seam: byte streams over TCP and Unix sockets.
//
// Implementations: SystemNetwork (base/system_network), SimNetwork (sim/sim_network, with faults).
// Threading: one loop. At most one read and one write are under way on a stream at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"
#include "base/clock.hpp"
#include "base/descriptor.hpp"

namespace agro {

/// Where to listen or connect: "unix:/path" or "tcp:host:port" ("tcp:[::1]:10809"). A path that begins
/// with @ is a name in the kernel and no file.
struct Address {
  enum class Kind : std::uint8_t { unix_socket, tcp };
  Kind kind = Kind::unix_socket;
  std::string path;        // unix_socket
  std::string host;        // tcp; a name or a number, without brackets
  std::uint16_t port = 0;  // tcp; 0 when listening: any free one

  auto operator<=>(const Address&) const = default;
  std::string to_string() const;
};

/// Parses "unix:PATH" and "tcp:HOST:PORT". Errors: invalid_argument.
Result<Address> parse_address(std::string_view text);

class Stream;

/// What a stream does over another one (TLS), while neither belongs to a loop.
class DetachedLayer {
 public:
  virtual ~DetachedLayer() = default;
  /// Goes on over `below`.
  virtual std::unique_ptr<Stream> over(std::unique_ptr<Stream> below) = 0;
};

/// A connection on its way from one loop to another; it belongs to none.
struct DetachedStream {
  Descriptor descriptor;
  std::string peer_name;
  std::unique_ptr<DetachedLayer> layer = nullptr;
};

/// A connected stream. Errors: closed (by either side, also reset), io_error.
class Stream {
 public:
  virtual ~Stream() = default;
  /// Reads at least one byte into `out` and returns how many; `closed` at the end of the stream.
  virtual Task<std::size_t> read_some(MutableBytes out) = 0;
  /// Writes all parts in order. Shape: the parts outlive the await.
  virtual Task<void> write(std::vector<ConstBytes> parts) = 0;
  /// Ends reads and writes under way with `closed`. Idempotent; callable at any time on the loop.
  virtual void close() = 0;
  /// For messages: "unix:/path" or "tcp:10.0.0.1:4711".
  virtual std::string peer_name() const = 0;
  /// Takes the connection off its loop, for Network::adopt() of another; this stream is closed then.
  /// Shape: no read or write is under way. Errors: closed; not_supported (nothing but real sockets can).
  virtual Result<DetachedStream> detach();
};

/// Fills all of `out`.
Task<void> read_exactly(Stream& stream, MutableBytes out);

class Listener {
 public:
  virtual ~Listener() = default;
  /// The next connection; `closed` after close().
  virtual Task<std::unique_ptr<Stream>> accept() = 0;
  /// Stops listening and removes the Unix socket's file. Idempotent.
  virtual void close() = 0;
  /// With the real port where 0 was asked for.
  virtual Address address() const = 0;
};

class Network {
 public:
  virtual ~Network() = default;
  /// Errors: unavailable (nobody listens, no route), timed_out, invalid_argument (no such host).
  virtual Task<std::unique_ptr<Stream>> connect(Address address, TimePoint deadline) = 0;
  /// Replaces a Unix socket's file that nobody listens on. Errors: already_exists when somebody
  /// does or the port is taken; io_error.
  virtual Task<std::unique_ptr<Listener>> listen(Address address) = 0;

  /// Goes on with a connection that another loop detached. Errors: not_supported; io_error.
  virtual Result<std::unique_ptr<Stream>> adopt(DetachedStream detached);

  /// Where the processes of this machine (of its network namespace) reach who listens by that name:
  /// a Unix socket without a file. Nothing where there is no such thing.
  virtual std::optional<Address> machine_address(std::string_view /*name*/) const { return std::nullopt; }
};

}  // namespace agro
