// Sizes and durations as people write them: "10GiB", "5G", "512", "1.5MiB".
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace agro {

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;
inline constexpr std::uint64_t kTiB = 1024 * kGiB;

/// Parses a size in bytes. K, M, G, T, P mean powers of 1024, with or without "iB" ("5G" is 5 GiB);
/// "kB", "MB", "GB", "TB" mean powers of 1000. A fraction is allowed when the result is whole.
/// Errors: invalid_argument, naming the text.
Result<std::uint64_t> parse_size(std::string_view text);

/// "10.0 GiB", "512 B": for people; at most one decimal.
std::string format_size(std::uint64_t size);

/// Parses "250ms", "10s", "5m", "2h", "7d"; at most "10000d". Errors: invalid_argument.
Result<std::chrono::milliseconds> parse_duration(std::string_view text);

}  // namespace agro
