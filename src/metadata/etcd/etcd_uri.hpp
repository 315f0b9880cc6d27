// Where an etcd is and how to get in: etcd://HOST:PORT,HOST:PORT[/PREFIX][?OPTION=VALUE&...].
//
// Format: docs/formats/metadata_keys.md, "etcd".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace agro {

struct EtcdUri {
  std::vector<std::string> endpoints;  // HOST:PORT each
  std::string prefix;                  // "" or "/..." without a slash at the end
  bool tls = false;
  // Files; empty: none.
  std::string ca;
  std::string certificate;
  std::string key;
  std::string password_file;
  std::string user;

  bool operator==(const EtcdUri&) const = default;
};

bool is_etcd_uri(std::string_view uri);

/// Schemes etcd:// and, with TLS, etcds://; a file of a certificate also means TLS. Options: ca,
/// cert, key, user, password-file. Errors: invalid_argument, saying what is wrong.
Result<EtcdUri> parse_etcd_uri(std::string_view uri);

/// "a:1, b:2"
std::string endpoints_text(const std::vector<std::string>& endpoints);

}  // namespace agro
