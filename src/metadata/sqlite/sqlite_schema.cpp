#include "metadata/sqlite/sqlite_schema.hpp"

#include <fmt/format.h>
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "metadata/sqlite/sqlite_store.hpp"

namespace agro {
namespace {

/// Files up to here are checked whole at opening; it takes some 10 ms.
constexpr std::int64_t kQuickCheckSizeMax = 64 * 1024 * 1024;

constexpr const char* kSchema = R"sql(
CREATE TABLE state(
  id INTEGER PRIMARY KEY CHECK (id = 1),
  revision INTEGER NOT NULL,
  trimmed_revision INTEGER NOT NULL,
  next_lease INTEGER NOT NULL);
INSERT INTO state VALUES (1, 0, 0, 1);
CREATE TABLE entries(
  key TEXT PRIMARY KEY,
  value BLOB NOT NULL,
  create_revision INTEGER NOT NULL,
  mod_revision INTEGER NOT NULL,
  lease INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX entries_lease ON entries(lease) WHERE lease <> 0;
CREATE TABLE changes(
  sequence INTEGER PRIMARY KEY,
  revision INTEGER NOT NULL,
  removed INTEGER NOT NULL,
  key TEXT NOT NULL,
  value BLOB NOT NULL,
  create_revision INTEGER NOT NULL,
  lease INTEGER NOT NULL);
CREATE INDEX changes_revision ON changes(revision);
CREATE TABLE leases(
  id INTEGER PRIMARY KEY,
  ttl_ms INTEGER NOT NULL,
  ends_ns INTEGER NOT NULL,
  pid INTEGER NOT NULL,
  start_time INTEGER NOT NULL,
  boot_id TEXT NOT NULL,
  pid_namespace TEXT NOT NULL);
PRAGMA application_id = 1095193167;
PRAGMA user_version = 1;
)sql";
static_assert(SqliteStore::kApplicationId == 1095193167 && SqliteStore::kSchemaVersion == 1);

tl::unexpected<Error> not_there(const std::string& path, std::string_view state) {
  return fail(
      Errc::not_found,
      fmt::format("the metadata store {} {}; 'agroctl -C sqlite:{} init' or 'agro standalone' "
                  "makes one",
                  path, state, path));
}

Result<bool> is_ours_now(Database& database) {
  AGRO_TRY(const auto application, database.query_integer("PRAGMA application_id"));
  AGRO_TRY(const auto version, database.query_integer("PRAGMA user_version"));
  AGRO_TRY(const auto tables, database.query_integer("SELECT count(*) FROM sqlite_master"));
  if (application == 0 && version == 0 && tables == 0) return false;
  if (application != SqliteStore::kApplicationId) {
    return fail(Errc::not_supported,
                fmt::format("{} is a database of another application, no metadata store of agro",
                            database.path()));
  }
  if (version != SqliteStore::kSchemaVersion) {
    return fail(
        Errc::not_supported,
        fmt::format("the metadata store {} has format {} and this agro knows format {}; use "
                    "the agro that wrote it",
                    database.path(), version, SqliteStore::kSchemaVersion));
  }
  return true;
}

/// Whether the file has our tables already; false for a blank one. It is looked at as of one instant:
/// another process may be making it.
Result<bool> is_ours(Database& database) {
  if (database.in_transaction()) return is_ours_now(database);
  AGRO_TRY_OK(database.execute("BEGIN"));
  const Result<bool> ours = is_ours_now(database);
  AGRO_TRY_OK(database.execute("COMMIT"));
  return ours;
}

Result<void> use_wal(Database& database) {
  for (int attempt = 0;; ++attempt) {
    const auto mode = database.query_text("PRAGMA journal_mode = WAL");
    if (mode.has_value() && *mode == "wal") break;
    const bool busy = mode.code() == Errc::unavailable;  // another process is making the same file
    if (!busy || attempt == 100) {
      if (!mode.has_value()) return fail(mode.error());
      return fail(Errc::io_error, fmt::format("the file system of {} cannot share memory between "
                                              "processes (SQLite WAL); use a local one",
                                              database.path()));
    }
    sqlite3_sleep(20);
  }
  return database.execute("PRAGMA synchronous = FULL");
}

/// Another process may have been faster; then its tables are as good.
Result<void> create_schema(Database& database) {
  AGRO_TRY_OK(database.execute("BEGIN IMMEDIATE"));
  const Result<bool> present = is_ours(database);
  Result<void> created;
  if (!present.has_value()) created = fail(present.error());
  if (present.has_value() && !*present) created = database.execute(kSchema);
  if (created.has_value()) created = database.execute("COMMIT");
  if (!created.has_value() && database.in_transaction()) {
    const Result<void> rolled_back = database.execute("ROLLBACK");
    if (!rolled_back.has_value()) return fail(rolled_back.error());
  }
  return created;
}

Result<void> check_contents(Database& database) {
  AGRO_TRY(const auto page_count, database.query_integer("PRAGMA page_count"));
  AGRO_TRY(const auto page_size, database.query_integer("PRAGMA page_size"));
  if (page_count * page_size <= kQuickCheckSizeMax) {
    AGRO_TRY(const std::string found, database.query_text("PRAGMA quick_check(1)"));
    if (found != "ok") {
      std::string line = found;
      std::replace(line.begin(), line.end(), '\n', ' ');
      return fail(Errc::corrupt,
                  fmt::format("the metadata store {} is damaged: {}; put back a copy",
                              database.path(), line));
    }
  }
  AGRO_TRY_OK(database.query_integer("SELECT revision FROM state"));
  return {};
}

Error explain(Error error, const std::string& path) {
  if (error.code != Errc::corrupt) return error;
  if (error.message.find("is damaged") != std::string::npos) return error;
  return {Errc::corrupt, fmt::format("the metadata store {} is damaged or no metadata store at all "
                                     "({}); put back a copy",
                                     path, error.message)};
}

}  // namespace

Result<std::unique_ptr<Database>> open_metadata_file(const std::string& path, bool create) {
  const bool exists = ::access(path.c_str(), F_OK) == 0;
  if (!exists && errno != ENOENT) return fail(errno_error("metadata store " + path, errno));
  if (!exists && !create) return not_there(path, "does not exist");
  const Database::Mode mode = create ? Database::Mode::create : Database::Mode::existing;
  AGRO_TRY(std::unique_ptr<Database> database, Database::open(path, mode));
  const Result<bool> ours = is_ours(*database);  // before anything in the file is touched
  if (!ours.has_value()) return fail(explain(ours.error(), path));
  if (!*ours && !create) return not_there(path, "is empty");
  AGRO_TRY_OK(use_wal(*database));
  if (!*ours) AGRO_TRY_OK(create_schema(*database));
  const Result<void> checked = check_contents(*database);
  if (!checked.has_value()) return fail(explain(checked.error(), path));
  return database;
}

}  // namespace agro
