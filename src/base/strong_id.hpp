// Numbers that mean something: one type per kind of id, so that they cannot be mixed up.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace agro {

/// Shape: Tag is an empty struct that names the kind; Rep an unsigned integer.
template <class Tag, class Rep = std::uint64_t>
struct StrongId {
  Rep value{};
  constexpr auto operator<=>(const StrongId&) const = default;
};

}  // namespace agro

template <class Tag, class Rep>
struct std::hash<agro::StrongId<Tag, Rep>> {
  std::size_t operator()(agro::StrongId<Tag, Rep> id) const noexcept {
    return std::hash<Rep>{}(id.value);
  }
};
