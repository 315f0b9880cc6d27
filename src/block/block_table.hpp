// Block table: the blocks of a volume under dense local ids, with how much of each is still live.
//
// Invariants: a free id has sequence 0; ids are reused. live_count is the number of sectors that the
// extent map points at in that block.
// Threading: one loop. Format of a page: docs/formats/inode.md, "Table pages".
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "block/extent_map.hpp"
#include "core/block_ref.hpp"

namespace agro {

/// Where a block is in its life. Only `durable` blocks are in an INode.
enum class BlockState : std::uint8_t { free, open, in_flight, durable };

struct BlockEntry {
  Epoch epoch;
  std::uint64_t sequence = 0;
  std::uint32_t live_count = 0;    // sectors
  std::uint32_t sector_count = 0;  // sectors that it holds, live or not
  std::uint32_t size = 0;          // bytes of the sealed block
  BlockState state = BlockState::free;
};

class BlockTable {
 public:
  static constexpr std::uint32_t kEntriesPerPage = 512;

  /// A new entry in the given state.
  BlockId add(const BlockEntry& entry);
  void free(BlockId id);
  BlockEntry& operator[](BlockId id) { return entries_[id]; }
  const BlockEntry& operator[](BlockId id) const { return entries_[id]; }

  /// Ids are in [0, id_limit()).
  BlockId id_limit() const { return static_cast<BlockId>(entries_.size()); }
  std::uint32_t page_count() const {
    return static_cast<std::uint32_t>((entries_.size() + kEntriesPerPage - 1) / kEntriesPerPage);
  }
  static std::uint32_t page_of(BlockId id) { return id / kEntriesPerPage; }

  /// The bytes of a page for an INode, appended: its durable blocks.
  void encode_page(std::uint32_t page, std::vector<std::byte>& out) const;
  /// Sets a page's entries. Errors: corrupt.
  Result<void> decode_page(std::uint32_t page, ConstBytes bytes);
  /// After all pages were decoded: makes the free list.
  void finish_decode();

 private:
  std::vector<BlockEntry> entries_;
  std::vector<BlockId> free_ids_;
};

}  // namespace agro
