#include "base/units.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace agro {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr std::array<Unit, 23> kSizeUnits = {{
    {"", 1},         {"B", 1},         {"K", 0x1p10},   {"k", 0x1p10},   {"Ki", 0x1p10},
    {"KiB", 0x1p10}, {"kB", 1e3},      {"KB", 1e3},     {"M", 0x1p20},   {"Mi", 0x1p20},
    {"MiB", 0x1p20}, {"MB", 1e6},      {"G", 0x1p30},   {"Gi", 0x1p30},  {"GiB", 0x1p30},
    {"GB", 1e9},     {"T", 0x1p40},    {"Ti", 0x1p40},  {"TiB", 0x1p40}, {"TB", 1e12},
    {"P", 0x1p50},   {"Pi", 0x1p50},   {"PiB", 0x1p50},
}};

constexpr std::array<Unit, 5> kDurationUnits = {
    {{"ms", 1}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}, {"d", 86400e3}}};

/// The number in front and the factor of the unit behind it, multiplied.
template <std::size_t N>
Result<double> parse_quantity(std::string_view text, const std::array<Unit, N>& units,
                              std::string_view what) {
  double number = 0;
  const auto [end, problem] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (problem == std::errc() && std::isfinite(number) && number >= 0 && text.front() != '-') {
    for (const Unit& known : units) {
      if (known.name == unit) return number * known.factor;
    }
  }
  return fail(Errc::invalid_argument, fmt::format("'{}' is not {}", text, what));
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  constexpr std::string_view kWhat = "a size; write it as 10GiB, 512M or a number of bytes";
  // Plain integers are exact over the whole range, which a double is not.
  std::uint64_t plain = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), plain);
  if (problem == std::errc() && end == text.data() + text.size()) return plain;
  AGRO_TRY(const double size, parse_quantity(text, kSizeUnits, kWhat));
  if (size >= 0x1p63 || size != std::floor(size)) {
    return fail(Errc::invalid_argument, fmt::format("'{}' is not {}", text, kWhat));
  }
  return static_cast<std::uint64_t>(size);
}

std::string format_size(std::uint64_t size) {
  static constexpr std::array<std::string_view, 6> kNames = {"B",   "KiB", "MiB",
                                                             "GiB", "TiB", "PiB"};
  if (size < kKiB) return fmt::format("{} B", size);
  double scaled = static_cast<double>(size);
  std::size_t index = 0;
  while (scaled >= 1024 && index + 1 < kNames.size()) {
    scaled /= 1024;
    ++index;
  }
  return fmt::format("{:.1f} {}", scaled, kNames[index]);
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  constexpr std::string_view kWhat = "a duration; write it as 250ms, 10s, 5m, 2h or 7d";
  AGRO_TRY(const double length_ms, parse_quantity(text, kDurationUnits, kWhat));
  // In nanoseconds, and in small multiples of it, it must fit 63 bits.
  constexpr double kLengthMaxMs = 10'000 * 86400e3;
  if (length_ms > kLengthMaxMs) {
    return fail(Errc::invalid_argument,
                fmt::format("'{}' is too long a duration; at most 10000d", text));
  }
  return std::chrono::milliseconds(static_cast<std::int64_t>(length_ms));
}

}  // namespace agro
