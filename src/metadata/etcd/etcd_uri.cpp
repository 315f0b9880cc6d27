#include "metadata/etcd/etcd_uri.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <utility>

namespace agro {
namespace {

constexpr std::string_view kPlain = "etcd://";
constexpr std::string_view kTls = "etcds://";
constexpr std::string_view kPortDefault = "2379";

tl::unexpected<Error> bad(std::string_view uri, std::string_view why) {
  return fail(Errc::invalid_argument,
              fmt::format("'{}' is no etcd URI: {}; use etcd://HOST:PORT,HOST:PORT[/PREFIX]", uri,
                          why));
}

/// Takes what stands before `separator`, and the separator, off `text`.
std::string_view take(std::string_view& text, char separator) {
  const std::size_t at = text.find(separator);
  const std::string_view head = text.substr(0, at);
  text = at == std::string_view::npos ? std::string_view() : text.substr(at + 1);
  return head;
}

/// HOST:PORT of HOST, HOST:PORT, [IPV6] or [IPV6]:PORT.
Result<std::string> parse_endpoint(std::string_view uri, std::string_view text) {
  const std::size_t host_end = text.starts_with('[') ? text.find(']') : 0;
  if (host_end == std::string_view::npos) return bad(uri, "a ']' is missing");
  const std::size_t colon = text.find(':', host_end);
  const std::string_view host = text.substr(0, colon);
  const std::string_view port =
      colon == std::string_view::npos ? kPortDefault : text.substr(colon + 1);
  if (host.empty()) return bad(uri, "a host is missing");
  std::uint16_t number = 0;
  const auto [stopped, problem] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (problem != std::errc() || stopped != port.data() + port.size() || number == 0) {
    return bad(uri, fmt::format("'{}' is no port", port));
  }
  return fmt::format("{}:{}", host, port);
}

Result<void> parse_option(std::string_view uri, std::string_view option, EtcdUri& parsed) {
  const std::string_view name = take(option, '=');
  const std::pair<std::string_view, std::string*> known[] = {{"ca", &parsed.ca},
                                                             {"cert", &parsed.certificate},
                                                             {"key", &parsed.key},
                                                             {"user", &parsed.user},
                                                             {"password-file",
                                                              &parsed.password_file}};
  for (const auto& [known_name, value] : known) {
    if (name != known_name) continue;
    if (option.empty()) return bad(uri, fmt::format("option '{}' has no value", name));
    *value = option;
    return {};
  }
  if (name == "password") {  // it must not get into an error text either
    return fail(Errc::invalid_argument,
                "a password in an etcd URI shows in process lists; use password-file=FILE or "
                "AGRO_ETCD_PASSWORD");
  }
  return bad(uri, fmt::format("there is no option '{}', only ca, cert, key, user, password-file",
                              name));
}

}  // namespace

bool is_etcd_uri(std::string_view uri) { return uri.starts_with(kPlain) || uri.starts_with(kTls); }

Result<EtcdUri> parse_etcd_uri(std::string_view uri) {
  if (!is_etcd_uri(uri)) return bad(uri, "it does not start with etcd://");
  EtcdUri parsed;
  parsed.tls = uri.starts_with(kTls);
  std::string_view rest = uri.substr(parsed.tls ? kTls.size() : kPlain.size());
  std::string_view options = rest;
  rest = take(options, '?');
  std::string_view prefix = rest;
  std::string_view endpoints = take(prefix, '/');
  do {
    AGRO_TRY(std::string endpoint, parse_endpoint(uri, take(endpoints, ',')));
    parsed.endpoints.push_back(std::move(endpoint));
  } while (!endpoints.empty());
  while (prefix.ends_with('/')) prefix.remove_suffix(1);
  if (!prefix.empty()) parsed.prefix = fmt::format("/{}", prefix);
  while (!options.empty()) AGRO_TRY_OK(parse_option(uri, take(options, '&'), parsed));
  if (parsed.certificate.empty() != parsed.key.empty()) {
    return bad(uri, "a client certificate needs both cert=FILE and key=FILE");
  }
  if (!parsed.password_file.empty() && parsed.user.empty()) {
    return bad(uri, "a password needs user=NAME");
  }
  if (!parsed.ca.empty() || !parsed.certificate.empty()) parsed.tls = true;
  return parsed;
}

std::string endpoints_text(const std::vector<std::string>& endpoints) {
  return fmt::format("{}", fmt::join(endpoints, ", "));
}

}  // namespace agro
