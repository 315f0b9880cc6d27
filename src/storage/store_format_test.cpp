#include "storage/store_format.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "storage/block_index.hpp"
#include "storage/log_group.hpp"
#include "storage/store_testing.hpp"

namespace agro {
namespace {

std::string hex(ConstBytes bytes) {
  std::string text;
  for (const std::byte each : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(each));
  return text;
}

Superblock golden_superblock() {
  Superblock superblock;
  superblock.block_size = 1024 * 1024;
  superblock.generation = 7;
  superblock.cluster_id = test_uuid(0xC1);
  superblock.peer_id = test_uuid(0x9E);
  superblock.set_log_start(
      {.sequence = 0x1234, .slot = 5, .page = 17, .next_slot = 6, .previous_crc = 0xDEADBEEF});
  superblock.checkpoint_records = 300;
  superblock.checkpoint_slot = 9;
  superblock.written_slots = 128;
  return superblock;
}

// Goal: the bytes on disk never change unnoticed; docs/formats/store.md shows the same.
TEST(StoreFormatTest, GoldenSuperblock) {
  AlignedBuffer page(kPageSize);
  encode_superblock(golden_superblock(), page.bytes());
  EXPECT_EQ(hex(page.bytes().first(104)),
            "41474f424c4b3031" "02000000" "00001000" "0700000000000000"
            "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1" "9e9e9e9e9e9e9e9e9e9e9e9e9e9e9e9e"
            "3412000000000000" "05000000" "11000000" "06000000" "efbeadde"
            "2c01000000000000" "09000000" "3c533b09" "80000000" "00000000");
  const Superblock back = decode_superblock(page.bytes()).value();
  EXPECT_EQ(back.log_start(), golden_superblock().log_start());
  EXPECT_EQ(back.peer_id, test_uuid(0x9E));
  EXPECT_EQ(back.written_slots, 128U);
}

TEST(StoreFormatTest, SuperblockErrors) {
  AlignedBuffer page(kPageSize);
  const auto code_with = [&](auto change) {
    Superblock superblock = golden_superblock();
    change(superblock);
    encode_superblock(superblock, page.bytes());
    return decode_superblock(page.bytes()).code();
  };
  EXPECT_EQ(code_with([](Superblock&) {}), Errc::ok);
  EXPECT_EQ(code_with([](Superblock& each) { each.version = 1; }), Errc::ok);
  EXPECT_EQ(code_with([](Superblock& each) { each.version = 3; }), Errc::not_supported);
  EXPECT_EQ(code_with([](Superblock& each) { each.version = 0; }), Errc::not_supported);
  EXPECT_EQ(code_with([](Superblock& each) { each.magic ^= 1; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Superblock& each) { each.block_size = 100'000; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Superblock& each) { each.log_page = 257; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Superblock& each) { each.log_sequence = 0; }), Errc::corrupt);
  encode_superblock(golden_superblock(), page.bytes());
  page.data()[50] ^= std::byte{1};
  EXPECT_EQ(decode_superblock(page.bytes()).code(), Errc::corrupt);
}

StoreRecord golden_record() {
  StoreRecord record;
  record.set_ref(block_ref(7, 3, 1042));
  record.slot = 5;
  record.size = 8192;
  record.data_crc = 0x01020304;
  record.page = 18;
  record.kind = RecordKind::put_inline;
  return record;
}

TEST(StoreFormatTest, GoldenFrame) {
  FrameHeader header;
  header.sequence = 0x1234;
  header.group_sequence = 0x1233;
  header.session = 0x1122334455667788;
  header.previous_crc = 0xDEADBEEF;
  header.next_slot = 6;
  header.inline_page_count = 2;
  header.slot = 5;
  header.page = 17;
  AlignedBuffer page(kPageSize);
  const std::vector<StoreRecord> records = {golden_record()};
  encode_frame(header, records, page.bytes());
  EXPECT_EQ(hex(page.bytes().first(56)),
            "4146524d" "ed49b66e" "3412000000000000" "3312000000000000" "8877665544332211"
            "efbeadde" "06000000" "0100" "0200" "05000000" "11000000" "00000000");
  EXPECT_EQ(hex(page.bytes().subspan(56, 40)),
            "0700000000010000" "0300000000000000" "1204000000000000" "05000000" "00200000"
            "04030201" "1200" "02" "00");
  const StoreShape shape{.block_size = 1024 * 1024, .slot_count = 10};
  const Frame frame = decode_frame(page.bytes(), 5, 17, shape).value();
  EXPECT_EQ(frame.records, records);
  EXPECT_EQ(frame.records[0].ref(), block_ref(7, 3, 1042));
  EXPECT_EQ(decode_frame(page.bytes(), 4, 17, shape).code(), Errc::corrupt);
  EXPECT_EQ(decode_frame(page.bytes(), 5, 17, {1024 * 1024, 6}).code(), Errc::corrupt);
  const auto code_with = [&](auto change) {
    std::vector<StoreRecord> changed = records;
    change(changed[0]);
    encode_frame(header, changed, page.bytes());
    return decode_frame(page.bytes(), 5, 17, shape).code();
  };
  EXPECT_EQ(code_with([](StoreRecord&) {}), Errc::ok);
  EXPECT_EQ(code_with([](StoreRecord& each) { each.page = 17; }), Errc::corrupt);
  EXPECT_EQ(code_with([](StoreRecord& each) { each.size = 8193; }), Errc::corrupt);
  EXPECT_EQ(code_with([](StoreRecord& each) { each.slot = 4; }), Errc::corrupt);
  EXPECT_EQ(code_with([](StoreRecord& each) { each.kind = RecordKind{9}; }), Errc::corrupt);
}

/// Two pages: one of 0xAB, one of zeros but for its first and last 8 bytes.
std::vector<std::byte> golden_packed_block() {
  std::vector<std::byte> block(2 * std::size_t{kPageSize});
  std::fill_n(block.begin(), kPageSize, std::byte{0xAB});
  std::fill_n(block.begin() + kPageSize, 8, std::byte{0xA1});
  std::fill_n(block.end() - 8, 8, std::byte{0xE2});
  return block;
}

FrameHeader golden_packed_header() {
  FrameHeader header;
  header.sequence = 0x1234;
  header.group_sequence = 0x1233;
  header.session = 0x1122334455667788;
  header.previous_crc = 0xDEADBEEF;
  header.next_slot = 6;
  header.inline_page_count = 1;
  header.slot = 5;
  header.page = 17;
  return header;
}

TEST(StoreFormatTest, GoldenPackedFrame) {
  const std::vector<std::byte> block = golden_packed_block();
  const PackedTail tail = find_tail(block, kPageSize);
  EXPECT_EQ(tail, (PackedTail{1, 1}));
  FrameHeader header = golden_packed_header();
  header.tail_code = tail.code();
  AlignedBuffer page(kPageSize);
  std::vector<StoreRecord> records = {golden_record()};
  records[0].flags = kRecordPacked;
  encode_frame(header, records, page.bytes(), block);
  EXPECT_EQ(hex(page.bytes().first(56)),
            "4146524d" "4518e7a2" "3412000000000000" "3312000000000000" "8877665544332211"
            "efbeadde" "06000000" "0100" "0100" "05000000" "11000000" "0101" "0000");
  EXPECT_EQ(hex(page.bytes().subspan(56, 40)),
            "0700000000010000" "0300000000000000" "1204000000000000" "05000000" "00200000"
            "04030201" "1200" "02" "02");
  EXPECT_EQ(hex(page.bytes().last(24)), "0000000000000000" "a1a1a1a1a1a1a1a1" "e2e2e2e2e2e2e2e2");
  const StoreShape shape{.block_size = 1024 * 1024, .slot_count = 10};
  const Frame frame = decode_frame(page.bytes(), 5, 17, shape).value();
  EXPECT_EQ(frame.records, records);
  EXPECT_EQ(frame.header.tail(), tail);
  AlignedBuffer last(kPageSize);
  unpack_tail(tail, page.bytes(), last.bytes());
  EXPECT_EQ(std::memcmp(last.data(), block.data() + kPageSize, kPageSize), 0);
}

// Goal: a frame that verifies and yet says what no program writes of a packed block is refused.
TEST(StoreFormatTest, PackedFrameErrors) {
  const std::vector<std::byte> block = golden_packed_block();
  const StoreShape shape{.block_size = 1024 * 1024, .slot_count = 10};
  const auto code_with = [&](auto change) {
    FrameHeader header = golden_packed_header();
    header.tail_code = PackedTail{1, 1}.code();
    std::vector<StoreRecord> records = {golden_record()};
    records[0].flags = kRecordPacked;
    change(header, records);
    AlignedBuffer page(kPageSize);
    encode_frame(header, records, page.bytes(), header.tail_code == 0 ? ConstBytes{} : ConstBytes(block));
    return decode_frame(page.bytes(), 5, 17, shape).code();
  };
  using Header = FrameHeader;
  using Records = std::vector<StoreRecord>;
  EXPECT_EQ(code_with([](Header&, Records&) {}), Errc::ok);
  EXPECT_EQ(code_with([](Header& header, Records&) { header.tail_code = 0; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header&, Records& records) { records[0].flags = 0; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header&, Records& records) { records[0].size = 8191; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header&, Records& records) { records[0].size = 4096; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header&, Records& records) { records[0].size = 12288; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header& header, Records& records) {
              header.inline_page_count = 2;
              records[0].page = 19;
            }),
            Errc::corrupt);
  EXPECT_EQ(code_with([](Header&, Records& records) { records.push_back(records[0]); }), Errc::corrupt);
  // A durable one says its tail itself, and the frame has none.
  const auto durable = [](std::uint32_t tail) {
    return [tail](Header& header, Records& records) {
      header.tail_code = 0;
      records[0].flags = kRecordDurable | kRecordPacked;
      records[0].data_crc = tail;
    };
  };
  EXPECT_EQ(code_with(durable(0x0101)), Errc::ok);
  EXPECT_EQ(code_with(durable(0)), Errc::corrupt);
  EXPECT_EQ(code_with(durable(0x10101)), Errc::corrupt);
  EXPECT_EQ(code_with(durable(0xFFFF)), Errc::corrupt);
}

TEST(StoreFormatTest, GoldenCheckpoint) {
  const StoreShape shape{.block_size = kBlockSizeMin, .slot_count = 100};
  AlignedBuffer slot(shape.block_size);
  std::memset(slot.data(), 0, slot.size());
  StoreRecord record = golden_record();
  record.page = 1;
  record.flags = kRecordDurable;
  record.data_crc = 0;
  store(slot.bytes().subspan(kPageSize), record);
  CheckpointHeader header;
  header.generation = 8;
  header.next_slot = 10;
  header.chain_index = 3;
  encode_checkpoint(header, slot.bytes().subspan(kPageSize, sizeof record),
                    slot.bytes().first(kPageSize));
  EXPECT_EQ(hex(slot.bytes().first(48)),
            "41474350" "ebf1fd04" "0800000000000000" "0a000000" "01000000" "8555d385" "03000000"
            "00000000000000000000000000000000");
  const CheckpointPart part = decode_checkpoint(slot.bytes(), shape).value();
  EXPECT_EQ(part.records, std::vector<StoreRecord>{record});
  slot.data()[kPageSize + 5] ^= std::byte{1};
  EXPECT_EQ(decode_checkpoint(slot.bytes(), shape).code(), Errc::corrupt);
}

// Goal: a checkpoint that verifies and yet names what no store of this size has is refused.
TEST(StoreFormatTest, CheckpointErrors) {
  const StoreShape shape{.block_size = kBlockSizeMin, .slot_count = 100};
  const auto code_with = [&](auto change) {
    AlignedBuffer slot(shape.block_size);
    std::memset(slot.data(), 0, slot.size());
    CheckpointHeader header;
    StoreRecord record = golden_record();
    record.page = 1;
    record.flags = kRecordDurable;
    record.data_crc = 0;
    change(header, record);
    store(slot.bytes().subspan(kPageSize), record);
    encode_checkpoint(header, slot.bytes().subspan(kPageSize, sizeof record),
                      slot.bytes().first(kPageSize));
    return decode_checkpoint(slot.bytes(), shape).code();
  };
  using Header = CheckpointHeader;
  using Record = StoreRecord;
  EXPECT_EQ(code_with([](Header&, Record&) {}), Errc::ok);
  EXPECT_EQ(code_with([](Header& header, Record&) { header.next_slot = 99; }), Errc::ok);
  EXPECT_EQ(code_with([](Header& header, Record&) { header.next_slot = 100; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header& header, Record&) { header.magic ^= 1; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header&, Record& record) { record.slot = 100; }), Errc::corrupt);
  EXPECT_EQ(code_with([](Header&, Record& record) { record.kind = RecordKind::remove; }), Errc::corrupt);

  AlignedBuffer slot(shape.block_size);
  std::memset(slot.data(), 0, slot.size());
  const std::vector<std::byte> too_many(
      (checkpoint_records_max(shape.block_size) + 1) * sizeof(StoreRecord));
  encode_checkpoint({}, too_many, slot.bytes().first(kPageSize));
  EXPECT_EQ(decode_checkpoint(slot.bytes(), shape).code(), Errc::corrupt);
}

// Goal: frames chain, fill slots without crossing them, and put blocks where their records say.
TEST(StoreFormatTest, AGroupIsLaidOutInFrames) {
  constexpr std::uint32_t kPages = kBlockSizeMin / kPageSize;
  BufferPool pool(kPageSize, 16);
  LogGroup group({.sequence = 10, .slot = 3, .page = 12, .next_slot = 4, .previous_crc = 77},
                 kBlockSizeMin, 99, pool);
  std::vector<StoreRecord> records;
  for (std::uint64_t i = 0; i < 9; ++i) {
    StoreRecord record;
    record.set_ref(block_ref(1, 1, i));
    record.kind = RecordKind::put_inline;
    record.size = 5000;
    if (group.needs_slot(2)) group.open_slot(5);
    group.add(record, block_bytes(block_ref(1, 1, i), 5000));
    records.push_back(record);
  }
  // One block fits behind the header at page 12 of slot 3; the other eight need slot 4 and more.
  EXPECT_EQ(records[0].slot, 3U);
  EXPECT_EQ(records[0].page, 13U);
  EXPECT_EQ(records[1].slot, 4U);
  EXPECT_EQ(records[1].page, 1U);
  EXPECT_EQ(records[7].page, 13U);
  EXPECT_EQ(records[8].slot, 5U);
  const std::vector<FileWrite> writes = group.finish();
  ASSERT_EQ(writes.size(), 3U);
  EXPECT_EQ(writes[0].offset, slot_offset(3, kBlockSizeMin) + 12 * kPageSize);
  EXPECT_EQ(writes[1].offset, slot_offset(4, kBlockSizeMin));
  EXPECT_EQ(group.end().sequence, 13U);
  EXPECT_EQ(group.end().page, 3U);
  const FrameHeader first = decode_frame_header(writes[0].parts[0], 3, 12).value();
  const FrameHeader second = decode_frame_header(writes[1].parts[0], 4, 0).value();
  EXPECT_EQ(first.previous_crc, 77U);
  EXPECT_EQ(first.next_slot, 4U);
  EXPECT_EQ(second.previous_crc, first.self_crc);
  EXPECT_EQ(second.next_slot, 5U);
  EXPECT_EQ(second.group_sequence, 10U);
  EXPECT_EQ(second.inline_page_count, 14U);
  EXPECT_LE(1U + second.inline_page_count, kPages);
}

TEST(StoreFormatTest, IndexMemoryStaysUnderAHundredBytesABlock) {
  BlockIndex index;
  std::uint64_t worst = 0;
  for (std::uint64_t i = 0; i < 1'000'000; ++i) {
    index.put(block_ref(1 + i % 5, 1, i), {.slot = 1, .size = 1, .page = 0});
    if (index.size() >= 100'000 && i % 1000 == 0) {
      worst = std::max(worst, index.memory() * 100 / index.size());
    }
  }
  fmt::print("index: {} bytes a block at a million, {} at worst on the way\n",
             index.memory() / index.size(), worst / 100);
  EXPECT_LE(worst, 100U * 100);
  EXPECT_EQ(index.find(block_ref(1, 1, 5))->slot, 1U);
  EXPECT_TRUE(index.remove(block_ref(1, 1, 5)).has_value());
  EXPECT_EQ(index.size(), 999'999U);
}

}  // namespace
}  // namespace agro
