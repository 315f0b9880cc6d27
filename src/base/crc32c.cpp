#include "base/crc32c.hpp"

#include <isa-l/crc.h>

namespace agro {

std::uint32_t crc32c(ConstBytes bytes, std::uint32_t seed) {
  // ISA-L takes and returns the register; CRC32C proper complements it at both ends.
  // It reads only, though its signature lacks the const, and takes an int length.
  auto* data = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
  std::uint32_t reg = ~seed;
  std::size_t left = bytes.size();
  constexpr std::size_t kStep = 1U << 30;
  while (left > kStep) {
    reg = crc32_iscsi(data, static_cast<int>(kStep), reg);
    data += kStep;
    left -= kStep;
  }
  return ~crc32_iscsi(data, static_cast<int>(left), reg);
}

}  // namespace agro
