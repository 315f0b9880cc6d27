// Database: SQLite's C interface with Results and without leaks.
//
// Threading: one thread at a time; every call blocks.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace agro {

class Database;

/// A prepared statement in use; reset when it goes. Parameters count from 1, columns from 0.
class Statement {
 public:
  Statement(Database& database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  Statement(Statement&& other) noexcept
      : database_(other.database_), statement_(std::exchange(other.statement_, nullptr)) {}
  Statement& operator=(Statement&&) = delete;
  ~Statement();

  Statement& bind(int parameter, std::int64_t value);
  Statement& bind(int parameter, std::uint64_t value);
  Statement& bind_text(int parameter, std::string_view text);
  Statement& bind_blob(int parameter, std::string_view bytes);

  /// Whether there is a row (another one).
  Result<bool> step();
  /// For statements without rows.
  Result<void> run();

  std::int64_t integer(int column) const;
  std::uint64_t unsigned_integer(int column) const;
  std::string text(int column) const;  // or blob

 private:
  Database& database_;
  sqlite3_stmt* statement_;
  bool bound_ = true;  // so far every bind worked
};

class Database {
 public:
  enum class Mode : std::uint8_t { existing, create };
  /// Errors: corrupt, unavailable (busy), io_error, out_of_space; all name the path.
  static Result<std::unique_ptr<Database>> open(const std::string& path, Mode mode);
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database();

  /// Runs statements that give no rows.
  Result<void> execute(const char* sql);
  /// Prepared once per text, then kept.
  Result<Statement> prepare(const char* sql);
  /// The first column of the first row. Errors: corrupt, without a row.
  Result<std::int64_t> query_integer(const char* sql);
  Result<std::string> query_text(const char* sql);
  bool in_transaction() const;

  /// SQLite's present error as one of ours.
  Error error() const;
  const std::string& path() const { return path_; }

 private:
  explicit Database(std::string path) : path_(std::move(path)) {}
  std::string path_;
  sqlite3* handle_ = nullptr;
  std::map<std::string, sqlite3_stmt*, std::less<>> statements_;
};

}  // namespace agro
