#include "block/segment.hpp"

#include <gtest/gtest.h>

#include "block/extent_map.hpp"

namespace agro {
namespace {

std::string hex(ConstBytes bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

// Goal: a segment's bytes are as docs/formats/segment.md says. Method: golden bytes of the tables.
TEST(SegmentTest, GoldenBytes) {
  auto buffer = std::make_shared<AlignedBuffer>(65536);
  SegmentBuilder builder(buffer, 65000);
  const std::vector<std::byte> two(2 * kSectorSize, std::byte{0xAB});
  EXPECT_EQ(builder.add_data(0x0102, two), 0U);
  builder.add_marker(0x20, 0x30, ExtentKind::hole);
  EXPECT_EQ(builder.add_data(7, ConstBytes(two).first(kSectorSize)), 2U);
  const std::uint32_t size = builder.finish(kSegmentByCleaner);
  ASSERT_EQ(size, 3 * kSectorSize + 3 * 16 + 16);
  EXPECT_EQ(hex(ConstBytes(buffer->bytes()).subspan(3 * kSectorSize, 64)),
            "0201000000000000" "02000000" "0100" "0000"
            "2000000000000000" "30000000" "0200" "0000"
            "0700000000000000" "01000000" "0100" "0200"
            "53454731" "0100" "0100" "03000000" "03000000");
  const Result<SegmentView> view = decode_segment(ConstBytes(buffer->bytes()).first(size));
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->sector_count(), 3U);
  EXPECT_EQ(view->extents.size(), 3U);
  EXPECT_EQ(view->sector(2)[4095], std::byte{0xAB});
}

// Goal: damaged segments are refused. Method: cut, and set fields out of range.
TEST(SegmentTest, RefusesDamage) {
  auto buffer = std::make_shared<AlignedBuffer>(65536);
  SegmentBuilder builder(buffer, 65000);
  builder.add_data(1, std::vector<std::byte>(kSectorSize));
  const std::uint32_t size = builder.finish(0);
  const MutableBytes payload = buffer->bytes().first(size);
  ASSERT_TRUE(decode_segment(payload).has_value());
  EXPECT_EQ(decode_segment(payload.first(size - 1)).code(), Errc::corrupt);
  EXPECT_EQ(decode_segment(payload.first(3)).code(), Errc::corrupt);
  for (const std::size_t position : {kSectorSize + 8U, kSectorSize + 12U, kSectorSize + 14U,
                                     size - 16U, size - 12U, size - 8U, size - 4U}) {
    const std::byte before = payload[position];
    payload[position] = std::byte{0x77};
    EXPECT_EQ(decode_segment(payload).code(), Errc::corrupt) << position;
    payload[position] = before;
  }
}

// Goal: a map page's bytes are as docs/formats/inode.md says.
TEST(SegmentTest, MapPageGoldenBytes) {
  ExtentMap map(2048);
  std::vector<MapRun> replaced;
  map.assign(1026, 3, 5, 9, replaced);
  map.assign(1030, 1, kZeroBlock, 0, replaced);
  std::vector<std::byte> bytes;
  map.encode_page(1, bytes);
  EXPECT_EQ(hex(bytes), "0200000000000000"
                        "05000000" "0200" "0300" "0900" "0000"
                        "feffffff" "0600" "0100" "0000" "0000");
}

}  // namespace
}  // namespace agro
