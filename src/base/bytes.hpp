// Views, aligned buffers and the pool that reuses them.
//
// Invariants: a SharedBytes keeps its bytes alive and nobody writes to them any more.
// Memory touched for the first time costs 10 us per 4 KiB on virtual machines (shared/FACTS.md),
// so whatever carries data comes from a BufferPool and goes back to it.
// Threading: a BufferPool belongs to one loop; its buffers may be released from that loop only.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/assert.hpp"

namespace agro {

static_assert(std::endian::native == std::endian::little, "formats are little-endian in memory");

using ConstBytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

/// The unit of everything: sectors of volumes, pages of stores, alignment of direct I/O.
inline constexpr std::uint32_t kPageSize = 4096;

inline constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}
inline constexpr std::uint64_t round_down(std::uint64_t value, std::uint64_t unit) {
  return value / unit * unit;
}

inline ConstBytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(ConstBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
/// Shape: T is an integer or a packed record. Reads it little-endian from the front of `bytes`.
template <class T>
T load(ConstBytes bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  AGRO_ASSERT(bytes.size() >= sizeof(T));
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}
template <class T>
void store(MutableBytes bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  AGRO_ASSERT(bytes.size() >= sizeof(T));
  std::memcpy(bytes.data(), &value, sizeof value);
}
/// Same for network byte order (NBD, AoE).
template <class T>
T load_be(ConstBytes bytes) {
  T value = load<T>(bytes);
  if constexpr (sizeof(T) == 2) return static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) return static_cast<T>(__builtin_bswap32(value));
  if constexpr (sizeof(T) == 8) return static_cast<T>(__builtin_bswap64(value));
  return value;
}
template <class T>
void store_be(MutableBytes bytes, T value) {
  if constexpr (sizeof(T) == 2) value = static_cast<T>(__builtin_bswap16(value));
  if constexpr (sizeof(T) == 4) value = static_cast<T>(__builtin_bswap32(value));
  if constexpr (sizeof(T) == 8) value = static_cast<T>(__builtin_bswap64(value));
  store<T>(bytes, value);
}

/// Page-aligned memory, moved and never copied. Its contents start unspecified.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  /// Shape: `size` in bytes, rounded up to a page.
  explicit AlignedBuffer(std::size_t size);
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~AlignedBuffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  MutableBytes bytes() { return {data_, size_}; }
  ConstBytes bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Immutable bytes with shared ownership. Copying copies the handle.
struct SharedBytes {
  std::shared_ptr<const void> owner;
  ConstBytes bytes;

  std::size_t size() const { return bytes.size(); }
  /// The same owner, fewer bytes.
  SharedBytes sub(std::size_t offset, std::size_t size) const {
    return {owner, bytes.subspan(offset, size)};
  }
};

/// Copies `bytes` into page-aligned memory of its own.
SharedBytes copy_shared(ConstBytes bytes);

/// Page-aligned buffers of one size, kept for reuse. The pool may die before its buffers.
class BufferPool {
 public:
  /// Shape: `buffer_size` in bytes; at most `kept_count_max` idle buffers are kept.
  BufferPool(std::size_t buffer_size, std::size_t kept_count_max);

  /// A buffer of buffer_size() bytes with unspecified contents; it returns when the last handle goes.
  std::shared_ptr<AlignedBuffer> take();

  std::size_t buffer_size() const { return buffer_size_; }
  std::size_t idle_count() const { return shelf_->idle.size(); }
  /// Gives idle buffers back to the system.
  void drop_idle() { shelf_->idle.clear(); }

 private:
  struct Shelf {
    std::size_t kept_count_max;
    std::vector<std::unique_ptr<AlignedBuffer>> idle;
  };
  std::size_t buffer_size_;
  std::shared_ptr<Shelf> shelf_;
};

}  // namespace agro
