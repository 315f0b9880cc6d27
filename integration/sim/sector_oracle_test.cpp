// The oracle itself: it must say no to what volumes must never do, and yes to what they may.
#include "sector_oracle.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

constexpr std::uint64_t kUnit = SectorOracle::kUnitSize;

class SectorOracleTest : public testing::Test {
 protected:
  SectorOracle::Op write(std::uint64_t unit, std::uint64_t count, bool acknowledged = true) {
    const SectorOracle::Op op = oracle_.begin_write(unit, count, false);
    if (acknowledged) oracle_.acknowledge(op);
    return op;
  }
  void flush() { oracle_.flushed(oracle_.mark()); }
  /// The volume with each unit showing that operation.
  std::vector<std::byte> showing(const std::vector<SectorOracle::Op>& ops) {
    std::vector<std::byte> bytes(ops.size() * kUnit);
    for (std::size_t unit = 0; unit < ops.size(); ++unit) {
      if (ops[unit] == 0) continue;
      oracle_.fill(ops[unit], unit, MutableBytes(bytes).subspan(unit * kUnit, kUnit));
    }
    return bytes;
  }
  bool recovers(const std::vector<SectorOracle::Op>& ops) {
    return oracle_.check_recovered(showing(ops)).empty();
  }
  bool reads(const std::vector<SectorOracle::Op>& ops) {
    const std::uint64_t begun = oracle_.begin_read();
    const std::string problem = oracle_.check_read(0, showing(ops), begun);
    oracle_.end_read(begun);
    return problem.empty();
  }

  SectorOracle oracle_{1, 4};
};

// Goal: what was flushed must be there after a crash, what was not may, and nothing in between.
TEST_F(SectorOracleTest, FlushedWritesSurvive) {
  const auto first = write(0, 2);
  flush();
  const auto second = write(1, 1);
  EXPECT_FALSE(recovers({0, 0, 0, 0}));
  EXPECT_FALSE(recovers({first, 0, 0, 0}));
  EXPECT_FALSE(recovers({second, first, 0, 0})) << "a write in a place it was not made to";
  SectorOracle copy = oracle_;
  EXPECT_TRUE(recovers({first, first, 0, 0}));
  EXPECT_FALSE(recovers({first, second, 0, 0})) << "what was lost once must not come back";
  oracle_ = copy;
  EXPECT_TRUE(recovers({first, second, 0, 0}));
  EXPECT_FALSE(recovers({first, first, 0, 0})) << "what survived once must not go";
}

// Goal: what survives is a prefix. Method: three writes, one after the other, to three places.
TEST_F(SectorOracleTest, SurvivorsAreAPrefix) {
  const auto a = write(0, 1);
  const auto b = write(1, 1);
  const auto c = write(2, 1);
  for (const auto& [found, legal] :
       {std::pair{std::vector<SectorOracle::Op>{0, 0, 0, 0}, true}, {{a, 0, 0, 0}, true},
        {{a, b, 0, 0}, true}, {{a, b, c, 0}, true}, {{0, b, 0, 0}, false}, {{a, 0, c, 0}, false},
        {{0, 0, c, 0}, false}}) {
    const SectorOracle copy = oracle_;
    EXPECT_EQ(recovers(found), legal);
    oracle_ = copy;
  }
}

// Goal: of writes under way at once either may survive alone, and each may be seen.
TEST_F(SectorOracleTest, OverlappingWritesEndInEitherOrder) {
  const auto a = oracle_.begin_write(0, 1, false);
  const auto b = oracle_.begin_write(0, 2, false);
  EXPECT_TRUE(reads({a, 0, 0, 0}));
  EXPECT_TRUE(reads({b, 0, 0, 0}));
  oracle_.acknowledge(a);
  oracle_.acknowledge(b);
  EXPECT_FALSE(reads({0, b, 0, 0})) << "acknowledged and not there";
  EXPECT_TRUE(reads({a, b, 0, 0}));
  flush();
  EXPECT_TRUE(recovers({a, b, 0, 0}));
}

// Goal: a read may return what was replaced only while it was under way.
TEST_F(SectorOracleTest, ReadsReturnWhatIsThere) {
  const auto a = write(0, 1);
  flush();
  const std::uint64_t begun = oracle_.begin_read();
  const auto b = write(0, 1);
  flush();
  write(1, 1);
  EXPECT_EQ(oracle_.check_read(0, showing({a}), begun), "");
  oracle_.end_read(begun);
  EXPECT_FALSE(reads({a}));
  EXPECT_TRUE(reads({b}));
}

// Goal: trims are operations as others: a flushed one must be there, and reads as zeros.
TEST_F(SectorOracleTest, TrimsSurvive) {
  const auto a = write(0, 4);
  flush();
  const auto trim = oracle_.begin_write(0, 2, true);
  oracle_.acknowledge(trim);
  EXPECT_FALSE(reads({a, a, a, a}));
  EXPECT_TRUE(reads({0, 0, a, a}));
  flush();
  EXPECT_FALSE(recovers({a, a, a, a}));
  EXPECT_FALSE(recovers({0, a, a, a}));
  EXPECT_TRUE(recovers({0, 0, a, a}));
}

// Goal: bytes that nobody wrote are never legal: a bit flipped, another volume's, another place's.
TEST_F(SectorOracleTest, GarbageIsNeverLegal) {
  const auto a = write(0, 2);
  std::vector<std::byte> bytes = showing({a, a});
  bytes[700] ^= std::byte{1};
  std::uint64_t begun = oracle_.begin_read();
  EXPECT_NE(oracle_.check_read(0, bytes, begun), "");
  std::vector<std::byte> swapped = showing({a, a});
  std::swap_ranges(swapped.begin(), swapped.begin() + kUnit, swapped.begin() + kUnit);
  EXPECT_NE(oracle_.check_read(0, swapped, begun), "");
  SectorOracle other(2, 4);
  other.fill(other.begin_write(0, 2, false), 0, bytes);
  EXPECT_NE(oracle_.check_read(0, bytes, begun), "");
  oracle_.end_read(begun);
}

}  // namespace
}  // namespace agro
