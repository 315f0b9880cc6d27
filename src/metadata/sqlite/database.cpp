#include "metadata/sqlite/database.hpp"

#include <fmt/format.h>
#include <sqlite3.h>

#include "base/assert.hpp"

namespace agro {
namespace {

constexpr int kBusyTimeoutMs = 5000;

Errc errc_of(int sqlite_code) {
  switch (sqlite_code & 0xFF) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Errc::unavailable;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Errc::corrupt;
    case SQLITE_FULL:
      return Errc::out_of_space;
    case SQLITE_TOOBIG:
      return Errc::too_large;
    default:
      return Errc::io_error;
  }
}

}  // namespace

Statement::~Statement() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

Statement& Statement::bind(int parameter, std::int64_t value) {
  bound_ = bound_ && sqlite3_bind_int64(statement_, parameter, value) == SQLITE_OK;
  return *this;
}

Statement& Statement::bind(int parameter, std::uint64_t value) {
  return bind(parameter, static_cast<std::int64_t>(value));
}

Statement& Statement::bind_text(int parameter, std::string_view text) {
  bound_ = bound_ && sqlite3_bind_text64(statement_, parameter, text.data(), text.size(),
                                         SQLITE_TRANSIENT, SQLITE_UTF8) == SQLITE_OK;
  return *this;
}

Statement& Statement::bind_blob(int parameter, std::string_view bytes) {
  const char* data = bytes.empty() ? "" : bytes.data();  // a null pointer would be NULL, not empty
  bound_ = bound_ && sqlite3_bind_blob64(statement_, parameter, data, bytes.size(),
                                         SQLITE_TRANSIENT) == SQLITE_OK;
  return *this;
}

Result<bool> Statement::step() {
  if (!bound_) return fail(database_.error());
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return fail(database_.error());
}

Result<void> Statement::run() {
  AGRO_TRY(const bool row, step());
  AGRO_ASSERT(!row);
  return {};
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::uint64_t Statement::unsigned_integer(int column) const {
  return static_cast<std::uint64_t>(integer(column));
}

std::string Statement::text(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  if (data == nullptr) return {};
  return {static_cast<const char*>(data), static_cast<std::size_t>(size)};
}

Result<std::unique_ptr<Database>> Database::open(const std::string& path, Mode mode) {
  std::unique_ptr<Database> database(new Database(path));
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
  if (mode == Mode::create) flags |= SQLITE_OPEN_CREATE;
  if (sqlite3_open_v2(path.c_str(), &database->handle_, flags, nullptr) != SQLITE_OK) {
    return fail(database->error());
  }
  sqlite3_extended_result_codes(database->handle_, 1);
  sqlite3_busy_timeout(database->handle_, kBusyTimeoutMs);
  return database;
}

Database::~Database() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

Result<void> Database::execute(const char* sql) {
  if (sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return fail(error());
  return {};
}

Result<Statement> Database::prepare(const char* sql) {
  const auto kept = statements_.find(sql);
  if (kept != statements_.end()) return Statement(*this, kept->second);
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v3(handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) !=
      SQLITE_OK) {
    return fail(error());
  }
  statements_.emplace(sql, statement);
  return Statement(*this, statement);
}

Result<std::int64_t> Database::query_integer(const char* sql) {
  AGRO_TRY(Statement statement, prepare(sql));
  AGRO_TRY(const bool row, statement.step());
  if (!row) return fail(Errc::corrupt, path_ + ": a record is missing");
  return statement.integer(0);
}

Result<std::string> Database::query_text(const char* sql) {
  AGRO_TRY(Statement statement, prepare(sql));
  AGRO_TRY(const bool row, statement.step());
  if (!row) return fail(Errc::corrupt, path_ + ": a record is missing");
  return statement.text(0);
}

bool Database::in_transaction() const { return sqlite3_get_autocommit(handle_) == 0; }

Error Database::error() const {
  if (handle_ == nullptr) return {Errc::io_error, path_ + ": out of memory"};
  const int code = sqlite3_extended_errcode(handle_);
  std::string text = fmt::format("metadata store {}: {}", path_, sqlite3_errmsg(handle_));
  if (errc_of(code) == Errc::unavailable) text += " (held by another process for too long)";
  return {errc_of(code), std::move(text)};
}

}  // namespace agro
