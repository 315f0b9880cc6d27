// 128-bit random identities of peers and clusters.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/random.hpp"
#include "base/result.hpp"

namespace agro {

/// RFC 4122 version 4. All zero: none.
struct Uuid {
  std::array<std::uint8_t, 16> bytes{};
  auto operator<=>(const Uuid&) const = default;
  bool is_nil() const { return *this == Uuid{}; }
  /// "0b5fd1e4-7a3c-4c39-9d37-8f0a6c2f9a55"
  std::string to_string() const;
};

Uuid make_uuid(Random& random);
/// Errors: invalid_argument.
Result<Uuid> parse_uuid(std::string_view text);

/// A peer's identity, kept in its data directory.
using PeerId = Uuid;

}  // namespace agro

template <>
struct std::hash<agro::Uuid> {
  std::size_t operator()(const agro::Uuid& id) const noexcept {
    std::size_t mixed = 0xCBF29CE484222325;  // FNV-1a
    for (const std::uint8_t byte : id.bytes) mixed = (mixed ^ byte) * 0x100000001B3;
    return mixed;
  }
};
