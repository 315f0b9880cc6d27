#include "blockset/crc.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

const BlockRef kRef{.volume = {1}, .epoch = {2}, .index = 3, .type = BlockType::data};

// Goal: layout is consistent for every block size. Method: all sizes in pages, to the largest.
TEST(CrcTest, LayoutCoversEverything) {
  for (std::uint32_t size = kPageSize; size <= kBlockSizeMax; size += kPageSize) {
    const CrcLayout layout = crc_layout(size);
    const std::uint32_t covered_count = (layout.table_offset + kPageSize - 1) / kPageSize;
    ASSERT_GE(layout.page_count, covered_count) << size;
    ASSERT_LE(layout.page_count, covered_count + 1) << size;
    ASSERT_EQ(layout.table_offset + 4 * layout.page_count + sizeof(CrcFooter), size);
  }
}

TEST(CrcTest, SmallestBlockThatFits) {
  for (const std::uint32_t payload : {0U, 1U, 4060U, 4061U, 4096U, 8000U, 8192U, 1040000U}) {
    const std::uint32_t size = crc_block_size(payload);
    EXPECT_GE(crc_payload_capacity(size), payload);
    if (size > kPageSize) {
      EXPECT_LT(crc_payload_capacity(size - kPageSize), payload);
    }
  }
}

// Goal: no flipped byte and no other name verifies. Method: flip each byte of a small block.
TEST(CrcTest, EveryByteCounts) {
  AlignedBuffer buffer(4 * kPageSize);
  const std::uint32_t payload = 5000;
  for (std::uint32_t index = 0; index < payload; ++index) {
    buffer.data()[index] = static_cast<std::byte>(index * 7);
  }
  const std::uint32_t size = crc_seal(kRef, buffer.bytes(), payload);
  const MutableBytes block = buffer.bytes().first(size);
  ASSERT_EQ(*crc_verify_block(kRef, block), payload);
  for (std::uint32_t index = 0; index < size; ++index) {
    block[index] ^= std::byte{0x10};
    ASSERT_EQ(crc_verify_block(kRef, block).code(), Errc::corrupt) << index;
    block[index] ^= std::byte{0x10};
  }
  BlockRef other = kRef;
  other.index = 4;
  EXPECT_EQ(crc_verify_block(other, block).code(), Errc::corrupt);
}

// Goal: a page read alone verifies with its table entry, and only at its place.
TEST(CrcTest, PagesVerifyAlone) {
  AlignedBuffer buffer(8 * kPageSize);
  std::memset(buffer.data(), 0x5A, 3 * kPageSize);
  const std::uint32_t size = crc_seal(kRef, buffer.bytes(), 3 * kPageSize);
  const Result<std::uint32_t> position = crc_table_position(size, 1, 2);
  ASSERT_TRUE(position.has_value());
  std::vector<std::uint32_t> crcs(2);
  std::memcpy(crcs.data(), buffer.data() + *position, 8);
  const CrcCheck check;
  EXPECT_TRUE(check.verify(kRef, kPageSize, buffer.bytes().subspan(kPageSize, 2 * kPageSize), crcs));
  EXPECT_FALSE(check.verify(kRef, 0, buffer.bytes().first(2 * kPageSize), crcs));
  EXPECT_EQ(crc_table_position(size, 3, 3).code(), Errc::invalid_argument);
}

}  // namespace
}  // namespace agro
