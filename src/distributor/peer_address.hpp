// Where a peer listens, as it is written in flags and in the MDS: "adp://HOST:PORT",
// "adp+unix:PATH".
#pragma once

#include <string>
#include <string_view>

#include "base/network.hpp"

namespace agro {

/// Errors: invalid_argument, saying how to write one.
Result<Address> parse_peer_address(std::string_view text);
/// The inverse.
std::string format_peer_address(const Address& address);

}  // namespace agro
