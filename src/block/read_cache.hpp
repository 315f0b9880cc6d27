// Read cache: sectors of blocks, kept by the client. Blocks are immutable, so nothing is ever stale.
//
// Replacement is CLOCK: a sector that was hit since the hand last passed gets a second chance.
// Invariants: memory is bounded by the size given, allocated as it fills.
// Threading: one loop.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <vector>

#include "base/bytes.hpp"

namespace agro {

class ReadCache {
 public:
  /// Shape: `size` in bytes; below one sector: caches nothing.
  explicit ReadCache(std::size_t size) : slot_limit_(static_cast<std::uint32_t>(size / kPageSize)) {}

  /// Copies the sector into `out` when it is here.
  bool get(std::uint64_t sequence, std::uint32_t sector, MutableBytes out);
  void put(std::uint64_t sequence, std::uint32_t sector, ConstBytes bytes);

  std::uint64_t hit_count() const { return hit_count_; }
  std::uint64_t miss_count() const { return miss_count_; }
  std::size_t memory_bytes() const { return slots_.size() * kPageSize; }

 private:
  static constexpr std::uint32_t kSlotsPerChunk = 256;
  struct Slot {
    std::uint64_t key;
    bool used_since;
  };
  /// Sequence numbers stay far below 2^48, sectors below 2^16.
  static std::uint64_t key_of(std::uint64_t sequence, std::uint32_t sector) {
    return (sequence << 16) | sector;
  }
  std::uint32_t take_slot();
  MutableBytes bytes_of(std::uint32_t slot) {
    return chunks_[slot / kSlotsPerChunk].bytes().subspan(
        std::size_t{slot % kSlotsPerChunk} * kPageSize, kPageSize);
  }

  std::uint32_t slot_limit_;
  boost::unordered_flat_map<std::uint64_t, std::uint32_t> index_;
  std::vector<Slot> slots_;
  std::vector<AlignedBuffer> chunks_;
  std::uint32_t hand_ = 0;
  std::uint64_t hit_count_ = 0;
  std::uint64_t miss_count_ = 0;
};

}  // namespace agro
