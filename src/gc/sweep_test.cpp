#include "gc/sweep.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

BlockRef ref(std::uint64_t epoch, std::uint64_t index, BlockType type = BlockType::data) {
  return {{7}, {epoch}, index, type};
}

// Goal: only blocks of older epochs that the INode does not name go. Method: a table by hand.
TEST(SweepTest, DeletesOnlyWhatIsProvenDead) {
  Listing listing;
  for (const BlockRef& one : {ref(1, 1), ref(1, 2), ref(2, 3), ref(2, 3, BlockType::inode), ref(3, 4),
                              ref(4, 1)}) {
    listing.entries.push_back({one, 4096, 2});
  }
  const std::vector<BlockRef> live = {ref(1, 2), ref(2, 3, BlockType::inode)};
  EXPECT_EQ(plan_sweep(listing, live, {3}), (std::vector<BlockRef>{ref(1, 1), ref(2, 3)}));
  EXPECT_TRUE(plan_sweep({}, live, {3}).empty());
}

}  // namespace
}  // namespace agro
