#include "core/block_ref.hpp"

#include <fmt/format.h>

namespace agro {
namespace {

/// The finaliser of MurmurHash3 (public domain): every input bit moves every output bit.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCD;
  value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53;
  return value ^ (value >> 33);
}

std::uint64_t first_word(const BlockRef& ref) {
  return (static_cast<std::uint64_t>(ref.type) << 40) | ref.volume.value;
}

}  // namespace

std::string BlockRef::to_string() const {
  std::string name = fmt::format("type{}", static_cast<unsigned>(type));
  if (type == BlockType::data) name = "data";
  if (type == BlockType::inode) name = "inode";
  if (type == BlockType::ecc) name = "ecc";
  return fmt::format("{}:{}:{}:{}", name, volume.value, epoch.value, index);
}

void encode_block_ref(const BlockRef& ref, MutableBytes out) {
  AGRO_ASSERT(ref.volume.value <= kVolumeIdMax);
  store(out, first_word(ref));
  store(out.subspan(8), ref.epoch.value);
  store(out.subspan(16), ref.index);
}

BlockRef decode_block_ref(ConstBytes bytes) {
  const auto first = load<std::uint64_t>(bytes);
  return {.volume = {first & kVolumeIdMax},
          .epoch = {load<std::uint64_t>(bytes.subspan(8))},
          .index = load<std::uint64_t>(bytes.subspan(16)),
          .type = static_cast<BlockType>(first >> 40)};
}

std::uint64_t hash_block_ref(const BlockRef& ref) {
  return mix(mix(mix(first_word(ref)) + ref.epoch.value) + ref.index);
}

}  // namespace agro
