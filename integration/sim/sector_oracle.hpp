// The oracle of the simulator: what each 512-byte unit of a volume may hold, and must.
//
// It knows nothing of the volume but what a user knows: when each operation began and when it was
// acknowledged, in one order of all events. From that follows which values a read may return, and
// what must be there after a crash:
//  - a read returns a value that nothing acknowledged before the read began has replaced;
//  - what was acknowledged before an acknowledged flush began survives;
//  - what survives is closed: when an operation survived, so did all that was seen, or acknowledged,
//    before it began. That is a prefix of the log, as far as a user can tell.
// Source: DESIGN.md section 3. Threading: one loop.
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.hpp"

namespace agro {

class SectorOracle {
 public:
  static constexpr std::uint64_t kUnitSize = 512;
  using Op = std::uint32_t;  // 1 and up; 0: the zeros that were there at first

  SectorOracle(std::uint32_t volume, std::uint64_t unit_count);

  std::uint64_t unit_count() const { return units_.size(); }

  /// A write is about to be made; its data is fill(). `zero`: it reads as zeros.
  Op begin_write(std::uint64_t unit, std::uint64_t count, bool zero);
  void fill(Op op, std::uint64_t unit, MutableBytes out) const;
  void acknowledge(Op op);

  /// What is to be given to flushed(): now.
  std::uint64_t mark() { return ++now_; }
  /// A flush that began at `begun` was acknowledged.
  void flushed(std::uint64_t begun);

  /// A read begins. Shape: end_read() takes what it returns, however the read ends.
  std::uint64_t begin_read();
  void end_read(std::uint64_t begun);
  /// Empty: `bytes` may be what a read returned that began at `begun`; else what is wrong.
  /// Shape: before its end_read().
  std::string check_read(std::uint64_t unit, ConstBytes bytes, std::uint64_t begun);

  /// The whole volume, as a new writer finds it. Empty: legal, and from now on the truth.
  std::string check_recovered(ConstBytes bytes);

  /// What was acknowledged before is durable.
  std::uint64_t flushed_mark() const { return flushed_; }
  /// As it is now, but for what was flushed since `flushed`: for states of in between.
  SectorOracle as_of(std::uint64_t flushed) const {
    SectorOracle copy = *this;
    copy.flushed_ = flushed;
    return copy;
  }

  std::uint64_t op_count() const { return ops_.size() - 1; }

 private:
  static constexpr std::uint64_t kNever = UINT64_MAX;
  static constexpr Op kGarbage = UINT32_MAX;
  struct OpRecord {
    std::uint64_t begun = 0;
    std::uint64_t acknowledged = kNever;
    std::uint64_t unit = 0;
    std::uint64_t count = 0;
    bool zero = false;
  };
  /// An operation that a unit may show.
  struct Entry {
    Op op = 0;
    std::uint64_t begun = 0;
    std::uint64_t visible = kNever;  // acknowledged or seen at
  };

  Op value_of(std::uint64_t unit, ConstBytes bytes) const;
  bool is_zero(const Entry& entry) const { return entry.op == 0 || ops_[entry.op].zero; }
  bool shows(const Entry& entry, Op value) const;
  bool is_flushed(const Entry& entry) const;
  void prune(std::vector<Entry>& entries) const;
  std::string complaint(std::uint64_t unit, ConstBytes bytes, const std::string& what) const;
  std::string describe(Op op) const;

  std::uint32_t volume_;
  std::vector<std::vector<Entry>> units_;
  std::deque<OpRecord> ops_;
  std::multiset<std::uint64_t> reads_;  // under way, by when they began
  std::uint64_t now_ = 0;
  std::uint64_t flushed_ = 0;    // what was acknowledged before is durable
  std::uint64_t recovered_ = 0;  // when the present writer had read everything
};

}  // namespace agro
