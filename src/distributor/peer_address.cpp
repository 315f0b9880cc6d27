#include "distributor/peer_address.hpp"

#include <fmt/format.h>

namespace agro {
namespace {

constexpr std::string_view kGrpc = "grpc";
constexpr std::string_view kAdp = "adp";

}  // namespace

Result<PeerAddress> parse_peer_address(std::string_view text) {
  const bool is_grpc = text.starts_with(kGrpc);
  const PeerProtocol protocol = is_grpc ? PeerProtocol::grpc : PeerProtocol::adp;
  std::string_view rest = text;
  if (is_grpc || text.starts_with(kAdp)) rest.remove_prefix(is_grpc ? kGrpc.size() : kAdp.size());
  Result<Address> address = fail(Errc::invalid_argument, "");
  if (rest.size() < text.size() && rest.starts_with("://")) {
    rest.remove_prefix(3);
    if (rest.ends_with('/')) rest.remove_suffix(1);
    address = parse_address("tcp:" + std::string(rest));
  } else if (rest.size() < text.size() && rest.starts_with("+unix:")) {
    rest.remove_prefix(6);
    while (rest.starts_with("//")) rest.remove_prefix(1);  // adp+unix:///path is the same
    address = parse_address("unix:" + std::string(rest));
  }
  if (address.has_value()) return PeerAddress(std::move(*address), protocol);
  if (address.error().message.find("longer than") != std::string::npos) {
    return fail(address.error());
  }
  return fail(Errc::invalid_argument,
              fmt::format("'{}' is not a peer address; write adp://HOST:PORT or adp+unix:PATH, or "
                          "the same with grpc",
                          text));
}

std::string format_peer_address(const PeerAddress& peer) {
  const std::string_view scheme = peer.protocol == PeerProtocol::grpc ? kGrpc : kAdp;
  const Address& address = peer.address;
  if (address.kind == Address::Kind::unix_socket) return fmt::format("{}+unix:{}", scheme, address.path);
  return fmt::format("{}://{}", scheme, address.to_string().substr(4));  // without "tcp:"
}

std::optional<Address> near_address(const Network& network, const PeerId& peer) {
  return network.machine_address("peer-" + peer.to_string());
}

}  // namespace agro
