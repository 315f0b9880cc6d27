// CRC32C (Castagnoli), by ISA-L.
#pragma once

#include <cstdint>

#include "base/bytes.hpp"

namespace agro {

/// CRC32C of `bytes`; `seed` is the CRC of what came before, or a salt. crc32c("123456789") = 0xE3069283.
std::uint32_t crc32c(ConstBytes bytes, std::uint32_t seed = 0);

}  // namespace agro
