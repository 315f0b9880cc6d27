// Goal: who gets which slot: the log those that were written, others the lowest of the rest.
#include "storage/slot_table.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

TEST(SlotTableTest, TheLogGetsWhatWasWritten) {
  SlotTable slots(200, 4);
  EXPECT_FALSE(slots.wants_log_slots());  // there is nothing to write
  slots.grow_to(100);
  EXPECT_EQ(slots.free_count(), 200U);
  EXPECT_TRUE(slots.wants_log_slots());
  EXPECT_EQ(slots.take(SlotUse::log), 0U);  // none was written: any will do
  std::uint32_t prepared_count = 0;
  while (const auto slot = slots.begin_preparing()) {
    EXPECT_EQ(slot, 1U);
    EXPECT_EQ(slots.free_count(), 199U);  // it is on its way, not gone
    EXPECT_EQ(slots.free_grown_count(), 98U);
    EXPECT_EQ(slots.take(SlotUse::block), 2U);
    slots.set_use(2, SlotUse::free);
    slots.end_preparing(*slot);
    if (++prepared_count == 1) break;
  }
  for (std::uint32_t slot = 2; slot <= 4; ++slot) {
    EXPECT_EQ(slots.begin_preparing(), slot);
    slots.end_preparing(slot);
  }
  EXPECT_EQ(slots.begin_preparing(), std::nullopt);
  EXPECT_FALSE(slots.wants_log_slots());
  EXPECT_EQ(slots.take(SlotUse::block), 5U);
  EXPECT_EQ(slots.take(SlotUse::checkpoint), 6U);
  EXPECT_EQ(slots.take(SlotUse::log), 1U);
  EXPECT_EQ(slots.take(SlotUse::log), 2U);
  EXPECT_TRUE(slots.wants_log_slots());  // half is left
}

// Goal: written slots beyond the log's share are for all, lowest first, and so are the last ones.
TEST(SlotTableTest, TheLogsShareIsBounded) {
  SlotTable slots(64, 4);
  slots.grow_to(64);
  for (std::uint32_t slot = 0; slot < 64; ++slot) EXPECT_EQ(slots.take(SlotUse::block), slot);
  for (const std::uint32_t slot : {7, 3, 9, 20, 30}) {
    slots.set_written(slot);
    slots.set_use(slot, SlotUse::free);
  }
  slots.set_use(50, SlotUse::free);
  EXPECT_EQ(slots.take(SlotUse::block), 3U);   // five were written: one more than the share
  EXPECT_EQ(slots.take(SlotUse::block), 50U);  // the other four stay
  EXPECT_EQ(slots.take(SlotUse::block), 7U);   // until there is nothing else
  EXPECT_EQ(slots.take(SlotUse::log), 9U);
  EXPECT_EQ(slots.free_grown_count(), 2U);
  slots.set_written(30);  // again: no change
  EXPECT_EQ(slots.free_grown_count(), 2U);
  EXPECT_EQ(slots.take(SlotUse::log), 20U);
  EXPECT_EQ(slots.take(SlotUse::log), 30U);
  EXPECT_EQ(slots.take(SlotUse::log), std::nullopt);
}

// Goal: what was written for the log when the store was made stays the log's, and no more is written ahead for it.
TEST(SlotTableTest, TheLogKeepsItsFirstSpace) {
  SlotTable slots(64, 4, 16);
  slots.grow_to(32);
  for (std::uint32_t slot = 0; slot < 17; ++slot) slots.set_written(slot);
  EXPECT_EQ(slots.free_grown_count(), 32U);
  EXPECT_EQ(slots.free_beyond_log_count(), 16U);
  EXPECT_EQ(slots.take(SlotUse::block), 0U);   // one more than it keeps
  EXPECT_EQ(slots.take(SlotUse::block), 17U);
  EXPECT_EQ(slots.take(SlotUse::log), 1U);
  EXPECT_EQ(slots.free_beyond_log_count(), 14U);
  EXPECT_FALSE(slots.wants_log_slots());
  EXPECT_EQ(slots.begin_preparing(), std::nullopt);
  for (std::uint32_t slot = 18; slot < 32; ++slot) EXPECT_EQ(slots.take(SlotUse::block), slot);
  EXPECT_EQ(slots.free_beyond_log_count(), 0U);
  EXPECT_EQ(slots.take(SlotUse::block), 2U);  // the last that there are
}

// Goal: a slot that becomes known as written while it is free changes sides.
TEST(SlotTableTest, AFreeSlotBecomesWritten) {
  SlotTable slots(32, 2);
  slots.grow_to(32);
  slots.set_written(5);
  EXPECT_EQ(slots.free_grown_count(), 32U);
  EXPECT_EQ(slots.take(SlotUse::log), 5U);
  slots.pin(5);
  slots.set_use(5, SlotUse::free);
  EXPECT_EQ(slots.take(SlotUse::log), 0U);  // it is read still
  slots.unpin(5);
  EXPECT_EQ(slots.take(SlotUse::log), 5U);
}

}  // namespace
}  // namespace agro
