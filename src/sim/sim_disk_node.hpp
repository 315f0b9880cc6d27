// What a simulated file holds: now, on the platter, and before; and what a crash makes of it.
//
// Invariants: `durable` has what successful syncs covered, and what faults put there; a page that is
// all zero takes no memory. Threading: one loop. Part of sim_disk, which is its only user.
#pragma once

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/bytes.hpp"
#include "base/clock.hpp"
#include "base/random.hpp"
#include "sim/sim_disk.hpp"

namespace agro::sim {

/// What was written before so long is at rest.
inline constexpr Duration kRecent = std::chrono::seconds(3);

using Page = std::array<std::byte, kPageSize>;
using PageHandle = std::shared_ptr<const Page>;  // null: all zero

const Page& page_of(const PageHandle& handle);
PageHandle make_page(ConstBytes bytes);

/// Sparse bytes of a file.
struct Content {
  std::unordered_map<std::uint64_t, PageHandle> pages;
  std::uint64_t size = 0;

  PageHandle page(std::uint64_t number) const;
  void set_page(std::uint64_t number, PageHandle page);
  void resize(std::uint64_t new_size);
  void read(std::uint64_t offset, MutableBytes out) const;

 private:
  void clear_tail(std::uint64_t new_size);
};

/// One change that a sync has not covered yet.
struct Change {
  enum class Kind { write, resize, allocate, discard };
  Kind kind = Kind::write;
  std::uint64_t id = 0;
  std::uint64_t first_page = 0;
  std::vector<PageHandle> pages;
  std::uint64_t size = 0;  // resize: the new one; allocate: at least this one

  bool sets_size() const { return kind == Kind::resize || kind == Kind::allocate; }
  void apply(Content& content) const;
  std::uint64_t end() const { return (first_page + pages.size()) * kPageSize; }
  bool touches(std::uint64_t first, std::uint64_t end_page) const {
    return kind != Kind::write || (first_page < end_page && first < first_page + pages.size());
  }
  /// Some of its pieces reach `content`, each by the toss of a coin: pieces of 512 bytes, or, so that
  /// whole pages often survive beside lost ones, of a page.
  void apply_torn(Content& content, Random& random) const;
};

struct Node {
  /// Pages that a write put there, not long ago.
  struct RecentWrite {
    TimePoint at;
    std::uint64_t first_page;
    std::uint64_t end_page;
  };
  Content current;
  Content durable;
  Content cached;  // pages that the cache holds otherwise than the disk
  std::unordered_map<std::uint64_t, PageHandle> previous;  // pages before their last write
  std::vector<Change> unsynced;                            // completed, in order of completion
  std::map<std::uint64_t, Change> flying;                  // by id
  std::uint64_t next_id = 0;
  std::uint64_t crash_count = 0;  // a handle of an older count is closed
  bool locked = false;
  SimFault fault;
  std::set<SimMishap> armed;      // each waits for the next call that can have it
  std::deque<RecentWrite> recent_writes;
  std::vector<bool> written;      // pages that a write ever reached; others are space at most

  /// Whether a write of these pages has space to convert, or to find, before it can be durable.
  bool is_raw(std::uint64_t first_page, std::uint64_t end_page) const;
  void land(const Change& change);
  void note_written(const Change& change, TimePoint at);
  /// Of a write that failed. What reads see of it a sync makes durable, as of any other.
  void land_torn(Change change, Random& random);
  void read(std::uint64_t offset, MutableBytes out) const;
  /// As if the last write of each page had not been made. False: none of them was written twice.
  bool read_stale(std::uint64_t offset, MutableBytes out) const;
  /// Another place in the file for `size` bytes of `offset`; nothing, when the file is too small.
  std::optional<std::uint64_t> elsewhere(std::uint64_t offset, std::uint64_t size,
                                         Random& random) const;
  void settle();
  void crash(Random& random);
};

}  // namespace agro::sim
