#include "distributor/peer_address.hpp"

#include <fmt/format.h>

namespace agro {

Result<Address> parse_peer_address(std::string_view text) {
  constexpr std::string_view kTcp = "adp://";
  constexpr std::string_view kUnix = "adp+unix:";
  Result<Address> address = fail(Errc::invalid_argument, "");
  if (text.starts_with(kTcp)) {
    std::string_view rest = text.substr(kTcp.size());
    if (rest.ends_with('/')) rest.remove_suffix(1);
    address = parse_address("tcp:" + std::string(rest));
  } else if (text.starts_with(kUnix)) {
    std::string_view path = text.substr(kUnix.size());
    if (path.starts_with("//")) path.remove_prefix(2);  // adp+unix:///path is the same
    address = parse_address("unix:" + std::string(path));
  }
  if (address.has_value()) return address;
  if (address.error().message.find("longer than") != std::string::npos) return address;
  return fail(
      Errc::invalid_argument,
      fmt::format("'{}' is not a peer address; write adp://HOST:PORT or adp+unix:PATH", text));
}

std::string format_peer_address(const Address& address) {
  if (address.kind == Address::Kind::unix_socket) return "adp+unix:" + address.path;
  return "adp://" + address.to_string().substr(4);  // without "tcp:"
}

}  // namespace agro
