// What IDENTIFY DEVICE says: 256 words of ATA/ATAPI-7, little-endian, of which a target without a real disk needs few.
#include <algorithm>

#include "block/aoe/protocol.hpp"

namespace agro::aoe {
namespace {

using Words = std::array<std::uint16_t, 256>;

/// ATA's strings have the first of two characters in the high half of a word, and blanks at their end.
void put_text(Words& words, std::size_t first, std::size_t count, std::string text) {
  text.resize(2 * count, ' ');
  for (std::size_t index = 0; index < count; ++index) {
    words[first + index] = static_cast<std::uint16_t>(static_cast<unsigned char>(text[2 * index]) << 8 |
                                                      static_cast<unsigned char>(text[2 * index + 1]));
  }
}

void put_number(Words& words, std::size_t first, std::size_t count, std::uint64_t number) {
  for (std::size_t index = 0; index < count; ++index) words[first + index] = static_cast<std::uint16_t>(number >> (16 * index));
}

}  // namespace

std::array<std::byte, 512> encode_identify(const DeviceIdentity& identity) {
  constexpr std::uint64_t kLba28Max = 0x0FFFFFFF;
  constexpr std::uint16_t kValid = 1 << 14;  // of words 83, 84, 87, 106
  constexpr std::uint16_t kWriteCache = 1 << 5;
  constexpr std::uint16_t kLba48AndFlush = 1 << 10 | 1 << 12 | 1 << 13;
  Words words{};
  words[0] = 1 << 6;  // a fixed disk
  put_text(words, 10, 10, identity.serial);
  put_text(words, 23, 4, identity.firmware);
  put_text(words, 27, 20, identity.model);
  words[47] = 0x8000;
  words[49] = 1 << 9 | 1 << 8;  // LBA, DMA
  words[53] = 1 << 1;
  put_number(words, 60, 2, std::min(identity.sector_count, kLba28Max));
  words[80] = 1 << 7 | 1 << 6;  // ATA/ATAPI-6 and 7
  words[82] = kWriteCache;
  words[83] = kValid | kLba48AndFlush;
  words[84] = kValid;
  words[85] = identity.has_write_cache ? kWriteCache : 0;
  words[86] = kLba48AndFlush;
  words[87] = kValid;
  put_number(words, 100, 4, identity.sector_count);
  words[106] = kValid | 1 << 13 | 3;  // 2^3 of its sectors lie in one of ours
  words[217] = 1;                     // does not rotate
  std::array<std::byte, 512> bytes;
  for (std::size_t index = 0; index < words.size(); ++index) {
    bytes[2 * index] = static_cast<std::byte>(words[index]);
    bytes[2 * index + 1] = static_cast<std::byte>(words[index] >> 8);
  }
  return bytes;
}

}  // namespace agro::aoe
