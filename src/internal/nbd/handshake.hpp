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

/// What we say that `device` can do.
std::uint16_t transmission_flags(bool read_only, bool structured_replies);

/// Haggles with the client on `stream` until it has chosen an export; nullopt when it went away by
/// ABORT, as clients that only look do. Bytes that follow the handshake stay in `input`.
/// With `tls` nothing but STARTTLS and ABORT is served before TLS, and `stream` becomes a TlsStream over what it was; without it there is none.
/// Lifetime: all arguments outlive the await; who closes `stream` meanwhile looks it up each time.
/// Errors: closed; protocol_error; not_found and others of open() after EXPORT_NAME, which knows no
/// error reply.
Task<std::optional<Session>> negotiate(std::unique_ptr<Stream>& stream, InputBuffer& input,
                                       DeviceProvider& provider, std::shared_ptr<const TlsContext> tls);

}  // namespace agro::nbd
