// Goal: between two answers of a peer, what we put there is never counted as free.
#include "distributor/last_stat.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

constexpr std::uint32_t kBlockSize = 1U << 20;

PeerStat stat_of(std::uint64_t available) {
  PeerStat stat;
  stat.store.size = 100 * std::uint64_t{kBlockSize};
  stat.store.available = available;
  return stat;
}

TEST(LastStatTest, PutsTakeUntilThePeerSaysSo) {
  LastStat last(kBlockSize);
  last.begin_put(kBlockSize);  // before anything is known
  EXPECT_FALSE(last.get().has_value());
  last.told(stat_of(10 * kBlockSize));
  EXPECT_EQ(last.get()->store.available, 9 * kBlockSize) << "what is on its way counts, whatever the peer said";
  last.end_put(kBlockSize, Errc::ok);
  EXPECT_EQ(last.get()->store.available, 9 * kBlockSize);
  last.begin_put(kPageSize);
  EXPECT_EQ(last.get()->store.available, 9 * kBlockSize - 2 * kPageSize);
  last.end_put(kPageSize, Errc::closed);  // it never got there
  EXPECT_EQ(last.get()->store.available, 9 * kBlockSize);
  EXPECT_FALSE(last.is_old());
  last.told(stat_of(9 * kBlockSize));
  EXPECT_EQ(last.get()->store.available, 9 * kBlockSize);
}

TEST(LastStatTest, IsAskedAnewWhenItIsFarOff) {
  LastStat last(kBlockSize);
  last.told(stat_of(8 * kBlockSize));
  for (int count = 0; count < 2; ++count) {
    last.begin_put(kBlockSize);
    last.end_put(kBlockSize, Errc::timed_out);  // it may be there
  }
  EXPECT_FALSE(last.is_old());
  last.begin_put(kBlockSize);
  last.end_put(kBlockSize, Errc::ok);
  EXPECT_TRUE(last.is_old());
  EXPECT_EQ(last.get()->store.available, 5 * kBlockSize);
  last.told(stat_of(5 * kBlockSize));
  EXPECT_FALSE(last.is_old());
  last.note_removal();
  EXPECT_TRUE(last.is_old());
}

TEST(LastStatTest, AFullPeerHasNothing) {
  LastStat last(kBlockSize);
  last.told(stat_of(8 * kBlockSize));
  last.begin_put(kBlockSize);
  last.end_put(kBlockSize, Errc::out_of_space);
  EXPECT_EQ(last.get()->store.available, 0U);
  EXPECT_TRUE(last.is_old());
  last.told(stat_of(kBlockSize));
  EXPECT_EQ(last.get()->store.available, kBlockSize);
}

}  // namespace
}  // namespace agro
