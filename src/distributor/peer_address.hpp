// Peer addresses as people write them and records keep them: adp://HOST:PORT, adp+unix:PATH,
// grpc://HOST:PORT, grpc+unix:PATH.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/network.hpp"
#include "core/uuid.hpp"

namespace agro {

enum class PeerProtocol : std::uint8_t { adp, grpc };

struct PeerAddress {
  PeerAddress() = default;
  /// NOLINTNEXTLINE(google-explicit-constructor): an address by itself is ADP's
  PeerAddress(Address its_address, PeerProtocol its_protocol = PeerProtocol::adp)
      : address(std::move(its_address)), protocol(its_protocol) {}

  Address address;
  PeerProtocol protocol = PeerProtocol::adp;
  auto operator<=>(const PeerAddress&) const = default;
};

/// Errors: invalid_argument, with the forms there are.
Result<PeerAddress> parse_peer_address(std::string_view text);
std::string format_peer_address(const PeerAddress& address);

/// Where a peer also listens for those who share its machine; nothing: nowhere.
std::optional<Address> near_address(const Network& network, const PeerId& peer);

}  // namespace agro
