// A blocking NBD client as far as the handshake: what makes connections that the kernel then takes over.
//
// Threading: blocks; on a worker thread only. Format: docs/formats/nbd.md.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.hpp"
#include "base/descriptor.hpp"
#include "base/network.hpp"

namespace agro::nbd_kernel {

/// A connection in its transmission phase.
struct ExportConnection {
  Descriptor socket{};
  std::uint64_t size_bytes = 0;
  std::uint16_t transmission_flags = 0;
};

/// Connects and chooses the export (NBD_OPT_GO, no structured replies: the kernel knows none). `timeout` is of each
/// step of the way. Errors: unavailable, timed_out, not_found (no such export), protocol_error, io_error.
Result<ExportConnection> connect_export(const Address& server, const std::string& name, Duration timeout);

}  // namespace agro::nbd_kernel
