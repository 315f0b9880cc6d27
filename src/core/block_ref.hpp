// BlockRef: the 192-bit name of a block, written once and never reused.
//
// Format: 24 bytes, docs/formats/block_ref.md. Source: DESIGN.md section 2.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

#include "base/bytes.hpp"
#include "base/strong_id.hpp"

namespace agro {

/// A volume's number, 40 bits, never reused within a cluster. 0 is none.
using VolumeId = StrongId<struct VolumeTag>;
/// Grows by one at every opening of a volume for writing. 0 is before the first.
using Epoch = StrongId<struct EpochTag>;

inline constexpr std::uint64_t kVolumeIdMax = (std::uint64_t{1} << 40) - 1;

enum class BlockType : std::uint8_t {
  data = 1,   // a segment of a volume's log; index = sequence number
  inode = 2,  // part of a checkpoint; index counts within the epoch
  ecc = 3,    // parity, with erasure coding
};

struct BlockRef {
  VolumeId volume;                  // 40 bits
  Epoch epoch;                      // the writer's
  std::uint64_t index = 0;          // sequence number
  BlockType type = BlockType::data; // 24 bits on the wire

  /// Order: volume, epoch, index, type.
  auto operator<=>(const BlockRef&) const = default;
  /// "data:7:3:1042" (type:volume:epoch:index).
  std::string to_string() const;
};

/// Bytes 0-7: (type << 40) | volume; 8-15: epoch; 16-23: index. Little-endian.
inline constexpr std::size_t kBlockRefSize = 24;
void encode_block_ref(const BlockRef& ref, MutableBytes out);
/// Never fails: unknown types are kept, for their reader to refuse.
BlockRef decode_block_ref(ConstBytes bytes);

/// A good hash over all fields; the same on every machine and for ever (rings depend on it).
std::uint64_t hash_block_ref(const BlockRef& ref);

}  // namespace agro

template <>
struct std::hash<agro::BlockRef> {
  std::size_t operator()(const agro::BlockRef& ref) const noexcept {
    return agro::hash_block_ref(ref);
  }
};
