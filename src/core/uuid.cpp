#include "core/uuid.hpp"

#include <fmt/format.h>

#include <cctype>
#include <charconv>

namespace agro {

std::string Uuid::to_string() const {
  std::string text;
  for (std::size_t index = 0; index < bytes.size(); ++index) {
    if (index == 4 || index == 6 || index == 8 || index == 10) text += '-';
    text += fmt::format("{:02x}", bytes[index]);
  }
  return text;
}

Uuid make_uuid(Random& random) {
  Uuid id;
  for (std::uint8_t& byte : id.bytes) byte = static_cast<std::uint8_t>(random.next());
  id.bytes[6] = static_cast<std::uint8_t>((id.bytes[6] & 0x0F) | 0x40);
  id.bytes[8] = static_cast<std::uint8_t>((id.bytes[8] & 0x3F) | 0x80);
  return id;
}

Result<Uuid> parse_uuid(std::string_view text) {
  Uuid id;
  const auto bad = [text] {
    return fail(Errc::invalid_argument, fmt::format("'{}' is not a UUID", text));
  };
  if (text.size() != 36) return bad();
  std::size_t position = 0;
  for (std::size_t index = 0; index < id.bytes.size(); ++index) {
    if (index == 4 || index == 6 || index == 8 || index == 10) {
      if (text[position] != '-') return bad();
      ++position;
    }
    if (std::isxdigit(static_cast<unsigned char>(text[position])) == 0) return bad();
    const char* begin = text.data() + position;
    const auto [end, problem] = std::from_chars(begin, begin + 2, id.bytes[index], 16);
    if (problem != std::errc() || end != begin + 2) return bad();
    position += 2;
  }
  return id;
}

}  // namespace agro
