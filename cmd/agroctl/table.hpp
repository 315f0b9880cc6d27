// Tables for people and programs: one set of rows as aligned text, JSON or CSV.
//
// Invariants: field names are the same in JSON and CSV and stay; JSON and CSV carry the exact
// values (sizes in bytes), only the aligned text rounds them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace agro {

/// In insertion order, so that a field is found where it was yesterday.
using Json = nlohmann::ordered_json;

enum class Format : std::uint8_t { text, json, csv };

/// What one field is called and how people see it.
struct Column {
  std::string field;  // in JSON and CSV
  std::string title;  // in text; empty: text leaves the column out
  bool right_aligned = false;
};

/// One value: exact for programs, `text` for people.
struct Cell {
  Cell(Json exact_value, std::string shown)
      : value(std::move(exact_value)), text(std::move(shown)) {}
  Cell(const std::string& both) : value(both), text(both) {}  // NOLINT: a cell is what it shows
  Json value;
  std::string text;
};

Cell number_cell(std::uint64_t number);
Cell size_cell(std::uint64_t size);
Cell flag_cell(bool flag);
/// "2026-01-31T12:00:00Z"; an empty text for 0.
Cell time_cell(std::int64_t unix_ms);
Cell list_cell(const std::vector<std::string>& items);

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  /// Shape: as many cells as columns.
  void add(std::vector<Cell> cells);
  std::size_t row_count() const { return rows_.size(); }

  /// A title line, then rows; no trailing blanks. Empty without rows.
  std::string to_text() const;
  /// An array of objects.
  Json to_json() const;
  /// A header line, then rows, quoted as in RFC 4180; lists are joined by blanks, null is empty.
  std::string to_csv() const;
  /// In `format`, ready to print. `when_empty`: what people see instead of no rows.
  std::string render(Format format, std::string_view when_empty) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

/// As it is printed: indented, with a final newline.
std::string render_json(const Json& json);

/// Writes to standard output. Errors: io_error (full disk, closed pipe).
Result<void> print(std::string_view text);

}  // namespace agro
