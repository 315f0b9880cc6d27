// Read cache: sectors of blocks, kept by the client. Blocks are immutable, so nothing is ever stale.
//
// Two queues, so that a scan does not push out what is read again and again. A sector comes into the
// first one, a FIFO of an eighth of the cache. At its end one that was read again goes to the second
// queue, others leave, and their names are remembered for a while: one that comes back soon goes to
// the second queue at once. That one is a CLOCK: whoever was read since gets a second chance. What
// was fetched ahead of its reader is not "read again" by the first read.
// Invariants: memory is bounded by the size given, allocated as it fills.
// Threading: one loop.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <deque>
#include <vector>

#include "base/bytes.hpp"

namespace agro {

class ReadCache {
 public:
  enum class Origin : std::uint8_t { read, ahead };

  /// Shape: `size` in bytes; below one sector: caches nothing.
  explicit ReadCache(std::size_t size) : slot_limit_(static_cast<std::uint32_t>(size / kPageSize)) {}

  /// Copies the sector into `out` when it is here.
  bool get(std::uint64_t sequence, std::uint32_t sector, MutableBytes out);
  bool contains(std::uint64_t sequence, std::uint32_t sector) const {
    return index_.contains(key_of(sequence, sector));
  }
  void put(std::uint64_t sequence, std::uint32_t sector, ConstBytes bytes,
           Origin origin = Origin::read);

  std::uint64_t hit_count() const { return hit_count_; }
  std::uint64_t miss_count() const { return miss_count_; }
  std::size_t memory_bytes() const { return slots_.size() * kPageSize; }

 private:
  static constexpr std::uint32_t kSlotsPerChunk = 256;
  static constexpr std::uint64_t kNoKey = ~std::uint64_t{0};
  static constexpr std::uint32_t kFirstShare = 8;  // of the slots, one in so many
  struct Slot {
    std::uint64_t key;
    bool used_since;
    bool ahead;  // nobody has read it yet
  };
  /// Sequence numbers stay far below 2^48, sectors below 2^16.
  static std::uint64_t key_of(std::uint64_t sequence, std::uint32_t sector) {
    return (sequence << 16) | sector;
  }
  std::uint32_t take_slot();
  std::uint64_t& gone_place(std::uint64_t key);
  bool is_back(std::uint64_t key);
  MutableBytes bytes_of(std::uint32_t slot) {
    return chunks_[slot / kSlotsPerChunk].bytes().subspan(
        std::size_t{slot % kSlotsPerChunk} * kPageSize, kPageSize);
  }

  std::uint32_t slot_limit_;
  boost::unordered_flat_map<std::uint64_t, std::uint32_t> index_;
  std::vector<Slot> slots_;
  std::vector<AlignedBuffer> chunks_;
  std::deque<std::uint32_t> first_;   // slots, oldest in front
  std::deque<std::uint32_t> second_;
  std::vector<std::uint64_t> gone_;   // keys that left the first queue, by hash; the last one counts
  std::uint64_t last_key_ = kNoKey;
  std::uint64_t hit_count_ = 0;
  std::uint64_t miss_count_ = 0;
};

}  // namespace agro
