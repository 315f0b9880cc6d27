#include "base/network.hpp"

#include <fmt/format.h>

#include <charconv>

namespace agro {

std::string Address::to_string() const {
  if (kind == Kind::unix_socket) return "unix:" + path;
  return host.find(':') == std::string::npos ? fmt::format("tcp:{}:{}", host, port)
                                             : fmt::format("tcp:[{}]:{}", host, port);
}

Result<Address> parse_address(std::string_view text) {
  const auto bad = [text] {
    return fail(Errc::invalid_argument,
                fmt::format("'{}' is not an address; write unix:PATH or tcp:HOST:PORT", text));
  };
  Address address;
  if (text.starts_with("unix:")) {
    address.path = text.substr(5);
    if (address.path.empty()) return bad();
    if (address.path.size() > 107) {  // sockaddr_un::sun_path
      return fail(Errc::invalid_argument,
                  fmt::format("socket path '{}' is longer than 107 bytes", address.path));
    }
    return address;
  }
  if (!text.starts_with("tcp:")) return bad();
  text.remove_prefix(4);
  address.kind = Address::Kind::tcp;
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return bad();
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  const auto [end, problem] =
      std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (problem != std::errc() || end != port.data() + port.size() || host.empty()) return bad();
  if (host.find_first_of("[]") != std::string_view::npos) return bad();
  address.host = host;
  return address;
}

Result<DetachedStream> Stream::detach() {
  return fail(Errc::not_supported, peer_name() + ": this stream cannot change its loop");
}

Result<std::unique_ptr<Stream>> Network::adopt(DetachedStream detached) {
  return fail(Errc::not_supported, detached.peer_name + ": this network takes no streams over");
}

Task<void> read_exactly(Stream& stream, MutableBytes out) {
  while (!out.empty()) {
    AGRO_CO_TRY(const std::size_t count, co_await stream.read_some(out));
    out = out.subspan(count);
  }
  co_return Result<void>();
}

}  // namespace agro
