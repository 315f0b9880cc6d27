#include "metadata/open.hpp"

#include <fmt/format.h>

#include "metadata/sqlite/sqlite_kv.hpp"
#include "metadata/temp/temp_kv.hpp"

namespace agro {
namespace {

constexpr std::string_view kSqlite = "sqlite:";

}  // namespace

Task<std::unique_ptr<Kv>> open_kv(Env& env, std::string uri, bool create) {
  if (uri == "temp:") {
    TempKvStore store(env.clock);
    co_return store.connect();
  }
  if (uri.starts_with("etcd:")) {
    co_return fail(Errc::not_supported,
                   "metadata in etcd comes with a later version; use sqlite:PATH");
  }
  if (!uri.starts_with(kSqlite) || uri.size() == kSqlite.size()) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("'{}' is no metadata URI; use sqlite:PATH or temp:", uri));
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
