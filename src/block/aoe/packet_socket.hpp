// Ethernet on Linux: a packet socket that sees only the AoE requests for one shelf and slot.
//
// Many frames go through one system call in both directions. Needs CAP_NET_RAW.
// Threading: one loop.
#pragma once

#include <memory>
#include <string>

#include "block/aoe/ether.hpp"

namespace agro::aoe {

/// Errors: not_found (no such interface), invalid_argument (no Ethernet, or down), io_error (no right to).
Result<std::unique_ptr<Ether>> open_packet_socket(Executor executor, const std::string& interface_name,
                                                  std::uint16_t major, std::uint8_t minor);

}  // namespace agro::aoe
