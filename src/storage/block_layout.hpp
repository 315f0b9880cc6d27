// Where the bytes of a stored block lie in the file.
//
// Invariants: a block that is not packed is one stretch. Of a packed one all pages but the last are one stretch, the
// last page is zeros but for its two ends, which lie in the page before that stretch (PackedTail).
// Format: docs/formats/store.md, "Log".
#pragma once

#include <array>
#include <span>

#include "base/disk.hpp"
#include "storage/block_index.hpp"

namespace agro {

inline std::uint64_t slot_offset(std::uint32_t slot, std::uint32_t block_size) {
  return kSlotsOffset + std::uint64_t{slot} * block_size;
}

/// The bytes of the file that hold a block, its tail included; of a packed block the frame's header is among them.
struct FileExtent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};
FileExtent extent_of(const BlockLocation& location, std::uint32_t block_size);

/// Parts of the file that make a range of a block. Shape: they are not empty, and point into the range's memory.
class BlockPieces {
 public:
  struct Piece {
    std::uint64_t offset = 0;  // in the file
    MutableBytes out;
  };

  /// What `out` wants of the block from `offset` on; fills what is zeros with them. Shape: within the block.
  BlockPieces(const BlockLocation& location, std::uint32_t block_size, std::uint64_t offset, MutableBytes out);

  const Piece* begin() const { return pieces_.data(); }
  const Piece* end() const { return pieces_.data() + count_; }
  std::size_t count() const { return count_; }

 private:
  void add(std::uint64_t file_offset, MutableBytes out);

  std::array<Piece, 3> pieces_;
  std::size_t count_ = 0;
};

/// Fills `out` with the block's bytes from `offset` on. Shape: within the block. Errors: those of File::read().
Task<void> read_pieces(File& file, BlockLocation location, std::uint32_t block_size, std::uint64_t offset,
                       MutableBytes out);

/// The location that a record of a put names. `tail` is that of the record's frame, for the block it carries.
BlockLocation location_of(const StoreRecord& record, PackedTail tail);
/// The record that says where a durable block is.
StoreRecord durable_record(const BlockRef& ref, const BlockLocation& location);

}  // namespace agro
