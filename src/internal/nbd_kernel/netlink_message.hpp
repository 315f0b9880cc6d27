// Messages of the kernel's generic netlink family "nbd": built and parsed, nothing sent.
//
// Invariants: attributes are padded to four bytes; what does not add up is protocol_error.
// Format: integers in the byte order of the machine. Source: linux/genetlink.h, linux/nbd-netlink.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"

namespace agro::nbd_kernel {

/// One request, attribute by attribute.
class NetlinkRequest {
 public:
  /// `family` is the kernel's number for the family, `command` one of the family's.
  NetlinkRequest(std::uint16_t family, std::uint8_t command, std::uint32_t sequence);

  void add(std::uint16_t type, std::uint32_t value);
  void add(std::uint16_t type, std::uint64_t value);
  void add(std::uint16_t type, std::string_view text);  // with a zero at its end
  /// Attributes up to end() are inside of this one; returns what end() takes.
  std::size_t begin(std::uint16_t type);
  void end(std::size_t begun);

  /// Complete, its length filled in.
  ConstBytes bytes();

 private:
  void add_bytes(std::uint16_t type, ConstBytes value, std::size_t zeroes);

  std::vector<std::byte> bytes_;
};

/// One attribute of an answer; `value` is a view of the answer.
struct NetlinkAttribute {
  std::uint16_t type = 0;
  ConstBytes value;
};

/// One message of the kernel: an answer, an acknowledgment or an event.
struct NetlinkMessage {
  std::uint16_t type = 0;      // the family, or NLMSG_ERROR
  std::uint32_t sequence = 0;  // of the request, 0 in events
  std::uint8_t command = 0;    // unless it is an error
  std::optional<int> error;    // NLMSG_ERROR: 0 is the acknowledgment, else an errno
  std::vector<NetlinkAttribute> attributes;

  const NetlinkAttribute* find(std::uint16_t attribute_type) const;
};

/// All messages of one datagram. Shape: `bytes` outlives them. Errors: protocol_error.
Result<std::vector<NetlinkMessage>> parse_netlink(ConstBytes bytes);
Result<std::vector<NetlinkAttribute>> parse_attributes(ConstBytes bytes);
/// Errors: protocol_error (too short).
Result<std::uint32_t> attribute_u32(const NetlinkAttribute* attribute);
Result<std::uint16_t> attribute_u16(const NetlinkAttribute* attribute);

/// The family "nbd" as the kernel's controller tells it.
struct NbdFamily {
  std::uint16_t id = 0;
  std::uint32_t events_group = 0;  // the multicast group of NBD_CMD_LINK_DEAD
};

/// Errors: protocol_error, when something is missing.
Result<NbdFamily> parse_family(const NetlinkMessage& message);

}  // namespace agro::nbd_kernel
