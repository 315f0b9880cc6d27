// What a remote peer said last of itself, and what we know to have changed since.
//
// A peer is asked once a second, and a second's writes may be more than it has left. So what is on its way to
// it, and what it took since it was asked, is taken off what it said; and it is asked anew as soon as that is a
// good part, or when it has more or less than we think. What others put there meanwhile is not known here.
// Invariant: of what we put ourselves, get() never counts a byte as free that is taken or will be.
// Threading: one loop.
#pragma once

#include <algorithm>
#include <optional>

#include "base/bytes.hpp"
#include "distributor/peer.hpp"

namespace agro {

class LastStat {
 public:
  explicit LastStat(std::uint32_t block_size) : block_size_(block_size) {}

  /// An answer to stat(). Answers come in the order in which the peer did things, so that a put which ended
  /// before is in it.
  void told(const PeerStat& stat) {
    stat_ = stat;
    taken_ = 0;
    is_old_ = false;
  }

  void begin_put(std::size_t size) { on_its_way_ += space_of(size); }
  /// Shape: after begin_put() with the same size.
  void end_put(std::size_t size, Errc code) {
    on_its_way_ -= space_of(size);
    if (code == Errc::out_of_space) {
      taken_ = UINT64_MAX / 2;  // it has nothing, whatever it said
      is_old_ = true;
    } else if (code == Errc::ok || code == Errc::timed_out) {  // too late for us is not never
      taken_ += space_of(size);
      is_old_ = is_old_ || (stat_.has_value() && taken_ > stat_->store.available / kAskedAfterShare);
    }
  }
  /// A remove was answered: there may be more than it said.
  void note_removal() { is_old_ = true; }

  /// Whether to ask now, and not when a second is over.
  bool is_old() const { return is_old_; }
  std::optional<PeerStat> get() const {
    std::optional<PeerStat> stat = stat_;
    if (stat.has_value()) stat->store.available -= std::min(stat->store.available, taken_ + on_its_way_);
    return stat;
  }

 private:
  static constexpr std::uint64_t kAskedAfterShare = 4;  // of what was available

  /// As stores take it: a large block a whole slot, a small one its pages and some of a frame.
  std::uint64_t space_of(std::size_t size) const {
    return size > block_size_ / 2 ? block_size_ : round_up(size, kPageSize) + kPageSize;
  }

  std::uint32_t block_size_;
  std::optional<PeerStat> stat_;
  std::uint64_t taken_ = 0;       // by puts that ended since
  std::uint64_t on_its_way_ = 0;  // by puts that have not
  bool is_old_ = false;
};

}  // namespace agro
