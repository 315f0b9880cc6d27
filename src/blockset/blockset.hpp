// Blockset: the stack of layers between a volume and the cluster's blocks.
//
// Written as a spec, top first: "crc,base", "crc,replication=3,base"; stored with the volume.
//   base           one block, one ref; the bottom of every stack
//   crc            a checksum per page; verified by peers before storing, by the reader after
//   replication=R  R copies instead of the ring's default
// Invariants: what read() and read_payload() return through crc is what was sealed, or an error.
// Threading: one loop. Source: DESIGN.md sections 2 and 3.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blockset/backend.hpp"

namespace agro {

enum class LayerKind : std::uint8_t { base, crc, replication };

struct LayerSpec {
  LayerKind kind = LayerKind::base;
  std::uint32_t argument = 0;  // replication: copies
  bool operator==(const LayerSpec&) const = default;
};

/// A parsed spec; top layer first.
struct BlocksetSpec {
  std::vector<LayerSpec> layers;
  bool operator==(const BlocksetSpec&) const = default;
  /// The canonical text; parses back to the same.
  std::string to_string() const;
};

inline constexpr std::string_view kBlocksetSpecDefault = "crc,base";

/// Errors: invalid_argument (unknown layer, doubled layer, base not last, copies not 1 to 16);
/// not_supported (ec).
Result<BlocksetSpec> parse_blockset_spec(std::string_view text);

/// One layer with all that is below it. The backend outlives it.
class Blockset {
 public:
  virtual ~Blockset() = default;

  /// The most payload a block takes.
  virtual std::uint32_t payload_capacity() const = 0;
  /// Bytes of the block that a payload of this size makes.
  virtual std::uint32_t block_size_for(std::uint32_t payload_size) const = 0;
  /// Completes a block in place; returns its size. Shape: `buffer` is the block size, payload first.
  virtual std::uint32_t seal(const BlockRef& ref, MutableBytes buffer,
                             std::uint32_t payload_size) const = 0;
  /// The payload of a whole block. Errors: corrupt.
  virtual Result<SharedBytes> payload(const BlockRef& ref, SharedBytes block) const = 0;

  /// Writes a sealed block; returns its copies. Errors: those of BlockBackend::write.
  virtual Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) = 0;
  /// Fills `out` with whole pages of the payload. Errors: those of BlockBackend::read.
  virtual Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                          ReadOptions options) = 0;
  virtual std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset,
                                               MutableBytes out, ReadOptions options) = 0;
  /// The whole block, verified. Errors: those of BlockBackend::read.
  virtual Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) = 0;

  /// Copies that a write makes.
  virtual std::uint32_t copy_count() const = 0;
};

/// Builds the stack of `spec` over `backend`. Shape: the spec came from parse_blockset_spec.
std::unique_ptr<Blockset> make_blockset(const BlocksetSpec& spec, BlockBackend& backend);

}  // namespace agro
