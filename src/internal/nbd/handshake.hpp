// The handshake: from a fresh connection to an open export, by fixed newstyle option haggling.
//
// Invariants: malformed options are answered where the protocol has an answer, and end the
// connection where it has none; option data held in memory is bounded.
// Threading: one loop. Format: docs/formats/nbd.md. Source: doc/proto.md of NetworkBlockDevice/nbd.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/block_device.hpp"
#include "internal/nbd/buffers.hpp"
#include "internal/nbd/protocol.hpp"
#include "internal/nbd/tls.hpp"

namespace agro::nbd {

/// The only metadata context that we have; its number on the wire is ours to choose.
inline constexpr std::uint32_t kBaseAllocationId = 1;

/// What a handshake agreed on.
struct Session {
  std::string export_name;
  std::shared_ptr<BlockDevice> device;
  bool structured_replies = false;
  bool base_allocation = false;
};

class Server;

/// The servers of one process, each on a loop of its own with the devices that live there.
class Siblings {
 public:
  virtual ~Siblings() = default;
  /// The server of another loop that has the export; nullptr: none, and names that nobody knows.
  virtual Awaitable<Server*> server_of(std::string export_name) = 0;
};

/// What a server offers. Lifetime: provider and siblings outlive it.
struct Offer {
  DeviceProvider& provider;
  /// Clients must begin TLS with these certificates; none: there is no TLS.
  std::shared_ptr<const TlsContext> tls;
  Siblings* siblings = nullptr;  // none: there is one loop
};

/// What a handshake agreed on so far: it goes along when the connection goes to another server.
struct Haggling {
  struct Request {
    Option option{};
    std::string data;
  };
  bool greeted = false;
  bool fixed = false;
  bool no_zeroes = false;
  bool structured_replies = false;
  bool is_secure = false;
  std::optional<std::string> meta_export;  // for which base:allocation was selected
  std::optional<Request> request;          // what the other server is to serve first
};

/// How a handshake ended: with a session, or at another server, or by ABORT, as clients that only look do.
struct Agreement {
  std::optional<Session> session;
  Server* elsewhere = nullptr;
};

/// What we say that `device` can do.
std::uint16_t transmission_flags(bool read_only, bool structured_replies);

/// Haggles with the client on `stream` until it has chosen an export, or one of another server; goes on where `haggling` is.
/// Bytes that follow stay in `input`.
/// With certificates nothing but STARTTLS and ABORT is served before TLS, and `stream` becomes a TlsStream over what it was.
/// Lifetime: all arguments outlive the await; who closes `stream` meanwhile looks it up each time.
/// Errors: closed; protocol_error; not_found and others of open() after EXPORT_NAME, which knows no
/// error reply.
Task<Agreement> negotiate(std::unique_ptr<Stream>& stream, InputBuffer& input, const Offer& offer, Haggling& haggling);

}  // namespace agro::nbd
