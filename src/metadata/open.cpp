#include "metadata/open.hpp"

#include <fmt/format.h>

#include <cstdlib>

#include "metadata/etcd/etcd_kv.hpp"
#include "metadata/etcd/etcd_uri.hpp"
#include "metadata/sqlite/sqlite_kv.hpp"
#include "metadata/temp/temp_kv.hpp"

namespace agro {
namespace {

constexpr std::string_view kSqlite = "sqlite:";
constexpr const char* kPasswordVariable = "AGRO_ETCD_PASSWORD";
/// Where Debian and most others keep the authorities that the system trusts.
constexpr const char* kSystemAuthorities = "/etc/ssl/certs/ca-certificates.crt";

/// Empty for no file. Errors: those of reading, naming what the file is.
Task<std::string> read_named(Env& env, std::string path, std::string what) {
  if (path.empty()) co_return "";
  auto text = co_await env.disk.read_file(path);
  if (!text.has_value()) co_return fail(with_context(text.error(), "the " + what + " of etcd"));
  co_return std::move(*text);
}

Task<EtcdOptions> read_etcd_options(Env& env, std::string text) {
  AGRO_CO_TRY(EtcdUri uri, parse_etcd_uri(text));
  EtcdOptions options;
  options.endpoints = uri.endpoints;
  options.prefix = uri.prefix;
  options.tls = uri.tls;
  options.user = uri.user;
  if (uri.tls && uri.ca.empty()) uri.ca = kSystemAuthorities;
  AGRO_CO_TRY(options.ca, co_await read_named(env, uri.ca, "certificate authority"));
  AGRO_CO_TRY(options.certificate, co_await read_named(env, uri.certificate, "certificate"));
  AGRO_CO_TRY(options.key, co_await read_named(env, uri.key, "key"));
  AGRO_CO_TRY(options.password, co_await read_named(env, uri.password_file, "password"));
  while (options.password.ends_with('\n')) options.password.pop_back();
  const char* variable = std::getenv(kPasswordVariable);
  if (uri.password_file.empty() && variable != nullptr) options.password = variable;
  if (!options.user.empty() && options.password.empty()) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("etcd user '{}' needs a password: add password-file=FILE to the "
                               "URI, or set {}",
                               options.user, kPasswordVariable));
  }
  co_return options;
}

}  // namespace

Task<std::unique_ptr<Kv>> open_kv(Env& env, std::string uri, bool create) {
  if (uri == "temp:") {
    TempKvStore store(env.clock);
    co_return store.connect();
  }
  if (is_etcd_uri(uri)) {
    AGRO_CO_TRY(EtcdOptions options, co_await read_etcd_options(env, uri));
    co_return co_await open_etcd_kv(env, std::move(options));
  }
  if (!uri.starts_with(kSqlite) || uri.size() == kSqlite.size()) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("'{}' is no metadata URI; use etcd://HOST:PORT, sqlite:PATH or temp:",
                               uri));
  }
  const std::string path = uri.substr(kSqlite.size());
  const std::size_t slash = path.rfind('/');
  if (create && slash != std::string::npos && slash > 0) {
    AGRO_CO_TRY_OK(co_await env.disk.make_directories(path.substr(0, slash)));
  }
  SqliteKvOptions options;
  options.path = path;
  options.create = create;
  co_return co_await open_sqlite_kv(env, std::move(options));
}

}  // namespace agro
