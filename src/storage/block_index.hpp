// Index of a store in memory: where each block lies.
//
// Invariants: an entry is there only when its block is durable. 64 shards, so that walking the index
// or growing it never takes long at once: 1,000,000 blocks are about 16,000 a shard.
// Memory: 36 bytes an entry and 1/15 of 16 for the table, at a load of 0.44 to 0.875: 42 to 85 bytes
// a block, and never more than 100 once there are some thousands.
// Threading: one loop.
#pragma once

#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <optional>
#include <vector>

#include "core/block_ref.hpp"
#include "storage/block_store.hpp"
#include "storage/store_format.hpp"

namespace agro {

struct BlockLocation {
  std::uint32_t slot = 0;
  std::uint32_t size = 0;     // bytes
  std::uint16_t page = 0;     // within the slot; 0: the slot is the block's own
  PackedTail tail{};          // of a packed block
  bool operator==(const BlockLocation&) const = default;
  bool is_inline() const { return page != 0; }
};

class BlockIndex {
 public:
  static constexpr std::size_t kShardCount = 64;

  std::optional<BlockLocation> find(const BlockRef& ref) const;
  /// Sets the location and returns the one before.
  std::optional<BlockLocation> put(const BlockRef& ref, const BlockLocation& location);
  std::optional<BlockLocation> remove(const BlockRef& ref);

  std::uint64_t size() const { return size_; }
  /// Bytes of memory, counted from the tables' capacities.
  std::uint64_t memory() const;
  /// Matching blocks, sorted.
  std::vector<BlockInfo> list(const BlockFilter& filter) const;

  /// Calls visit(ref, location) for each entry of a shard; no changes meanwhile.
  template <class Visit>
  void visit_shard(std::size_t shard, Visit visit) const {
    for (const auto& [key, location] : shards_[shard]) visit(key.ref(), location);
  }

 private:
  /// A BlockRef in 24 bytes with 4-byte alignment, so that an entry takes 36 and not 40.
  struct Key {
    std::array<std::uint32_t, 6> words;
    explicit Key(const BlockRef& ref) {
      encode_block_ref(ref, std::as_writable_bytes(std::span(words)));
    }
    BlockRef ref() const { return decode_block_ref(std::as_bytes(std::span(words))); }
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    using is_avalanching = void;
    std::size_t operator()(const Key& key) const { return hash_block_ref(key.ref()); }
  };
  using Shard = boost::unordered_flat_map<Key, BlockLocation, KeyHash>;
  static_assert(sizeof(Key) == 24 && sizeof(std::pair<const Key, BlockLocation>) == 36);

  /// The table places by the highest bits and tells apart by the lowest: take others.
  static std::size_t shard_of(const BlockRef& ref) {
    return (hash_block_ref(ref) >> 20) % kShardCount;
  }

  std::array<Shard, kShardCount> shards_;
  std::uint64_t size_ = 0;
};

/// Whether `ref` is one that `filter` asks for.
bool matches(const BlockFilter& filter, const BlockRef& ref);

}  // namespace agro
