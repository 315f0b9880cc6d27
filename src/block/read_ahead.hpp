// Read-ahead: sees that a volume is read in order, and says what to fetch before it is asked for.
//
// A stream begins with the third read in a row that goes on where another ended. What is fetched ahead of it
// doubles from 64 KiB up to a 64th of the read cache, and is asked for in pieces when half of it has been read.
// Invariants: nothing is fetched for reads that are large (they need no help) or follow no stream; at most
// kStreams are followed, the one that was idle longest makes room.
// Threading: one loop; nothing here waits.
#pragma once

#include <array>
#include <cstdint>

namespace agro {

class ReadAhead {
 public:
  struct Range {
    std::uint64_t lba = 0;
    std::uint32_t count = 0;  // sectors; 0: nothing
  };

  static constexpr std::uint32_t kReadMax = 32;     // sectors; longer reads are no part of a stream
  static constexpr std::uint32_t kWindowMin = 16;   // sectors
  static constexpr std::uint32_t kPieceMax = 64;    // sectors of one fetch
  static constexpr std::size_t kStreams = 4;

  /// Shape: `cache_sectors` of the cache that takes what is fetched. A small one gets nothing ahead.
  explicit ReadAhead(std::uint64_t cache_sectors)
      : window_max_(static_cast<std::uint32_t>(cache_sectors / 64 < 4 ? 0 : cache_sectors / 64)) {}

  /// A read of [lba, lba + count) has begun; what to fetch now, below `end`.
  Range note(std::uint64_t lba, std::uint32_t count, std::uint64_t end) {
    if (window_max_ == 0 || count > kReadMax) return {};
    ++clock_;
    for (Stream& stream : streams_) {
      if (stream.next == lba && stream.run > 0) return follow(stream, count, end);
    }
    Stream* oldest = &streams_[0];
    for (Stream& stream : streams_) {
      if (stream.used_at < oldest->used_at) oldest = &stream;
    }
    *oldest = {.next = lba + count, .run = 1, .fetched_to = 0, .window = 0, .used_at = clock_};
    return {};
  }

 private:
  struct Stream {
    std::uint64_t next = 0;        // where the next read of it begins
    std::uint32_t run = 0;         // reads in a row; 0: no stream
    std::uint64_t fetched_to = 0;
    std::uint32_t window = 0;      // sectors to be ahead
    std::uint64_t used_at = 0;
  };
  static constexpr std::uint32_t kRunBegins = 3;

  Range follow(Stream& stream, std::uint32_t count, std::uint64_t end) {
    stream.next += count;
    stream.used_at = clock_;
    if (++stream.run < kRunBegins) return {};
    if (stream.fetched_to < stream.next) stream.fetched_to = stream.next;
    if (stream.fetched_to - stream.next > stream.window / 2) return {};
    const std::uint32_t wanted = stream.window == 0 ? kWindowMin : 2 * stream.window;
    stream.window = wanted < window_max_ ? wanted : window_max_;
    std::uint64_t to = stream.next + stream.window;
    if (to > end) to = end;
    if (to > stream.fetched_to + kPieceMax) to = stream.fetched_to + kPieceMax;
    if (to <= stream.fetched_to) return {};
    const Range piece{stream.fetched_to, static_cast<std::uint32_t>(to - stream.fetched_to)};
    stream.fetched_to = to;
    return piece;
  }

  std::uint32_t window_max_;
  std::uint64_t clock_ = 0;
  std::array<Stream, kStreams> streams_{};
};

}  // namespace agro
