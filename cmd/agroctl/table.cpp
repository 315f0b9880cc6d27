#include "agroctl/table.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/assert.hpp"
#include "base/units.hpp"

namespace agro {
namespace {

std::string csv_field(const Json& value) {
  std::string plain;
  if (value.is_string()) {
    plain = value.get<std::string>();
  } else if (value.is_array()) {
    for (const Json& item : value) plain += (plain.empty() ? "" : " ") + csv_field(item);
    return plain;
  } else if (!value.is_null()) {
    plain = value.dump();
  }
  if (plain.find_first_of(",\"\r\n") == std::string::npos) return plain;
  std::string quoted = "\"";
  for (const char letter : plain) {
    if (letter == '"') quoted += '"';
    quoted += letter;
  }
  return quoted + '"';
}

/// Characters, not bytes: UTF-8 continuation bytes take no room.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
  }));
}

std::string padded(std::string_view text, std::size_t width, bool right_aligned) {
  const std::string blanks(width - std::min(width, width_of(text)), ' ');
  return right_aligned ? blanks + std::string(text) : std::string(text) + blanks;
}

void end_line(std::string& out) {
  while (!out.empty() && out.back() == ' ') out.pop_back();
  out += '\n';
}

}  // namespace

Cell number_cell(std::uint64_t number) { return {number, std::to_string(number)}; }
Cell size_cell(std::uint64_t size) { return {size, format_size(size)}; }
Cell flag_cell(bool flag) { return {flag, flag ? "yes" : "no"}; }

Cell time_cell(std::int64_t unix_ms) {
  if (unix_ms == 0) return {nullptr, ""};
  const std::string text =
      fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(unix_ms / 1000)));
  return Cell(text);
}

Cell list_cell(const std::vector<std::string>& items) {
  return {items, fmt::format("{}", fmt::join(items, " "))};
}

void Table::add(std::vector<Cell> cells) {
  AGRO_ASSERT(cells.size() == columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::to_text() const {
  if (rows_.empty()) return "";
  std::vector<std::size_t> widths;
  for (std::size_t index = 0; index < columns_.size(); ++index) {
    std::size_t width = width_of(columns_[index].title);
    for (const auto& row : rows_) width = std::max(width, width_of(row[index].text));
    widths.push_back(width);
  }
  std::string out;
  const auto add_line = [&](const auto& text_of) {
    for (std::size_t index = 0; index < columns_.size(); ++index) {
      if (columns_[index].title.empty()) continue;
      if (!out.empty() && out.back() != '\n') out += "  ";
      out += padded(text_of(index), widths[index], columns_[index].right_aligned);
    }
    end_line(out);
  };
  add_line([&](std::size_t index) { return columns_[index].title; });
  for (const auto& row : rows_) add_line([&](std::size_t index) { return row[index].text; });
  return out;
}

Json Table::to_json() const {
  Json all = Json::array();
  for (const auto& row : rows_) {
    Json object = Json::object();
    for (std::size_t index = 0; index < columns_.size(); ++index) {
      object[columns_[index].field] = row[index].value;
    }
    all.push_back(std::move(object));
  }
  return all;
}

std::string Table::to_csv() const {
  std::string out;
  for (const Column& column : columns_) out += (out.empty() ? "" : ",") + csv_field(column.field);
  out += "\n";
  for (const auto& row : rows_) {
    for (std::size_t index = 0; index < row.size(); ++index) {
      out += (index == 0 ? "" : ",") + csv_field(row[index].value);
    }
    out += "\n";
  }
  return out;
}

std::string Table::render(Format format, std::string_view when_empty) const {
  if (format == Format::json) return render_json(to_json());
  if (format == Format::csv) return to_csv();
  return rows_.empty() ? std::string(when_empty) + "\n" : to_text();
}

std::string render_json(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<void> print(std::string_view text) {
  const std::size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
  if (written == text.size() && std::fflush(stdout) == 0) return {};
  return fail(errno_error("writing to standard output", errno));
}

}  // namespace agro
