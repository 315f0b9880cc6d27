#include "storage/block_layout.hpp"

#include <gtest/gtest.h>

#include "storage/store_testing.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kSlot = 2;
constexpr std::uint32_t kPage = 4;  // of the block; the frame's header is the one before

/// A block of whole pages whose last page has `head` and `end` bytes beside its zeros.
SharedBytes block_with_ends(std::size_t page_count, std::size_t head, std::size_t end) {
  const SharedBytes block = block_bytes(block_ref(1, 1, 1), page_count * kPageSize);
  auto buffer = std::make_shared<AlignedBuffer>(block.size());
  std::memcpy(buffer->data(), block.bytes.data(), block.size());
  std::memset(buffer->data() + block.size() - kPageSize + head, 0, kPageSize - head - end);
  const ConstBytes view(buffer->data(), block.size());
  return {std::move(buffer), view};
}

// Goal: a tail is what is left beside the longest run of zeros, in words, and none where that does not fit.
TEST(BlockLayoutTest, TailsAreFound) {
  const auto tail_of = [](std::size_t pages, std::size_t head, std::size_t end, std::size_t size_max = kPageSize) {
    return find_tail(block_with_ends(pages, head, end).bytes, size_max);
  };
  EXPECT_EQ(tail_of(2, 32, 40), (PackedTail{4, 5}));
  EXPECT_EQ(tail_of(2, 33, 41), (PackedTail{5, 6}));
  EXPECT_EQ(tail_of(3, 0, 8), (PackedTail{0, 1}));
  EXPECT_EQ(tail_of(2, 8, 0), (PackedTail{1, 1}));
  EXPECT_EQ(tail_of(2, 0, 0), (PackedTail{0, 1}));
  EXPECT_EQ(tail_of(2, 2040, 1960), (PackedTail{255, 245}));
  EXPECT_FALSE(tail_of(2, 2040, 1968).is_some());  // no room for a record
  EXPECT_FALSE(tail_of(2, 2048, 8).is_some());     // does not fit the code
  EXPECT_FALSE(tail_of(2, 8, 2048).is_some());
  EXPECT_FALSE(tail_of(2, 4096, 0).is_some());
  EXPECT_FALSE(tail_of(1, 32, 40).is_some());
  EXPECT_TRUE(tail_of(2, 32, 40, 72).is_some());
  EXPECT_FALSE(tail_of(2, 32, 40, 71).is_some());
  EXPECT_FALSE(find_tail(block_bytes(block_ref(1, 1, 1), 5000).bytes, kPageSize).is_some());
}

// Goal: every range of a packed block reads what was written. Method: lay the frame out by hand, compare all ranges
// that begin or end near where pieces meet.
TEST(BlockLayoutTest, EveryRangeOfAPackedBlockIsRead) {
  for (const auto& [pages, head, end] : {std::tuple{2, 32, 40}, {3, 0, 8}, {2, 2040, 1960}, {2, 0, 0}, {4, 400, 0}}) {
    SCOPED_TRACE(testing::Message() << pages << " " << head << " " << end);
    const SharedBytes block = block_with_ends(static_cast<std::size_t>(pages), static_cast<std::size_t>(head),
                                              static_cast<std::size_t>(end));
    BlockLocation location{.slot = kSlot, .size = static_cast<std::uint32_t>(block.size()), .page = kPage};
    location.tail = find_tail(block.bytes, kPageSize);
    ASSERT_TRUE(location.tail.is_some());
    const FileExtent extent = extent_of(location, kBlockSizeMin);
    EXPECT_EQ(extent.begin, slot_offset(kSlot, kBlockSizeMin) + (kPage - 1) * kPageSize);
    EXPECT_EQ(extent.end - extent.begin, block.size());  // the header takes the last page's place
    std::vector<std::byte> file(extent.end, std::byte{0xEE});
    FrameHeader header;
    header.tail_code = location.tail.code();
    StoreRecord record;
    encode_frame(header, {&record, 1}, MutableBytes(file).subspan(extent.begin, kPageSize), block.bytes);
    std::memcpy(file.data() + extent.begin + kPageSize, block.bytes.data(), block.size() - kPageSize);

    const std::size_t body = block.size() - kPageSize;
    std::vector<std::size_t> edges;
    for (const std::size_t edge : {std::size_t{0}, body, body + location.tail.head_size(),
                                   block.size() - location.tail.end_size(), block.size()}) {
      for (const int by : {-1, 0, 1}) edges.push_back(edge + static_cast<std::size_t>(by));
    }
    for (const std::size_t from : edges) {
      for (const std::size_t to : edges) {
        if (from >= to || to > block.size()) continue;
        std::vector<std::byte> out(to - from, std::byte{0xDD});
        for (const auto& piece : BlockPieces(location, kBlockSizeMin, from, out)) {
          ASSERT_GE(piece.offset, extent.begin);
          ASSERT_LE(piece.offset + piece.out.size(), extent.end);
          std::memcpy(piece.out.data(), file.data() + piece.offset, piece.out.size());
        }
        ASSERT_EQ(std::memcmp(out.data(), block.bytes.data() + from, out.size()), 0) << from << " to " << to;
      }
    }
    AlignedBuffer last(kPageSize);
    unpack_tail(location.tail, ConstBytes(file).subspan(extent.begin, kPageSize), last.bytes());
    EXPECT_EQ(std::memcmp(last.data(), block.bytes.data() + body, kPageSize), 0);
  }
}

// Goal: what a checkpoint says of a block is what the index knew, packed or not.
TEST(BlockLayoutTest, RecordsKeepLocations) {
  BlockLocation location{.slot = 3, .size = 8192, .page = 7, .tail = {4, 5}};
  StoreRecord record = durable_record(block_ref(1, 2, 3), location);
  EXPECT_EQ(record.data_crc, 0x0504U);
  EXPECT_EQ(location_of(record, {}), location);
  location.tail = {};
  record = durable_record(block_ref(1, 2, 3), location);
  EXPECT_FALSE(record.is_packed());
  EXPECT_EQ(location_of(record, {4, 5}), location);
}

}  // namespace
}  // namespace agro
