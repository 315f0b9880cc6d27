// The memory of one connection: what came in, what goes out, and pooled buffers for large payloads.
//
// Invariants: nothing here allocates per small request once the buffers are warm (first touches of
// memory cost more than a request, shared/FACTS.md).
// Threading: one loop.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "base/bytes.hpp"
#include "base/network.hpp"

namespace agro::nbd {

/// Bytes received and not consumed yet.
class InputBuffer {
 public:
  explicit InputBuffer(std::size_t capacity) : memory_(capacity) {}

  ConstBytes bytes() const { return memory_.bytes().subspan(begin_, end_ - begin_); }
  std::size_t size() const { return end_ - begin_; }
  std::size_t capacity() const { return memory_.size(); }
  void consume(std::size_t size);

  /// Receives until size() >= `size_min`, each time as much as the socket gives, but not so much
  /// that size() would exceed `size_max`. Shape: size_min <= capacity(), size_min <= size_max.
  /// Errors: of the stream.
  Task<void> fill(Stream& stream, std::size_t size_min, std::size_t size_max);

 private:
  AlignedBuffer memory_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

/// Replies in the order in which they will be sent: small ones in one arena, large ones by handle.
class ReplyQueue {
 public:
  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  std::size_t part_count() const { return parts_.size(); }

  /// Room for `size` bytes at the end of the arena; valid until the next call.
  MutableBytes reserve(std::size_t size);
  /// The first `size` bytes of the reserved room become part of the queue.
  void commit(std::size_t size);
  /// Appends bytes that `owner` keeps alive.
  void append(std::shared_ptr<const void> owner, ConstBytes bytes);

  /// Views of everything, in order; valid until the next change.
  std::vector<ConstBytes> views() const;
  /// Forgets everything, and gives back an arena that had grown.
  void clear();

 private:
  struct Part {
    std::shared_ptr<const void> owner;  // none: in the arena, which may still move
    const std::byte* data = nullptr;
    std::size_t arena_offset = 0;
    std::size_t size = 0;
  };
  AlignedBuffer arena_;
  std::size_t arena_used_ = 0;
  std::vector<Part> parts_;
  std::size_t size_ = 0;
};

/// Buffers of a few sizes, shared by all connections of a server.
class PayloadPools {
 public:
  /// A buffer of at least `size` bytes, unspecified contents. Shape: size <= kPayloadSizeMax.
  std::shared_ptr<AlignedBuffer> take(std::size_t size);

 private:
  // At most 4 + 16 + 16 + 32 MiB stay idle.
  std::array<BufferPool, 4> pools_{BufferPool(128U << 10, 32), BufferPool(1U << 20, 16),
                                   BufferPool(4U << 20, 4), BufferPool(32U << 20, 1)};
};

}  // namespace agro::nbd
