// Notes of snapshots: golden bytes, and what is wrong with others.
#include "block/snapshot_note.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

SnapshotNote example() {
  SnapshotNote note{{7}, {5}, {4}, 12, 40, 44, 64 << 20, 1'000'000, std::nullopt, "monday"};
  note.origin = StateId{Uuid{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}, {9}, {3}, 1042};
  return note;
}

std::string hex(ConstBytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += kDigits[std::to_integer<unsigned>(byte) / 16];
    text += kDigits[std::to_integer<unsigned>(byte) % 16];
  }
  return text;
}

// Goal: docs/formats/inode.md, "Snapshot notes".
TEST(SnapshotNoteTest, GoldenBytes) {
  EXPECT_EQ(hex(encode_snapshot_note(example())),
            "534e503101000600070000000000000005000000000000000400000000000000"
            "0c0000000000000028000000000000002c000000000000000000000400000000"
            "40420f00000000000102030405060708090a0b0c0d0e0f100900000000000000"
            "030000000000000012040000000000006d6f6e646179");
}

TEST(SnapshotNoteTest, RoundTrips) {
  SnapshotNote plain = example();
  plain.origin.reset();
  for (const SnapshotNote& note : {example(), plain}) {
    const std::vector<std::byte> bytes = encode_snapshot_note(note);
    EXPECT_TRUE(is_snapshot_note(bytes));
    const Result<SnapshotNote> again = decode_snapshot_note(bytes);
    ASSERT_TRUE(again.has_value()) << again.error().to_string();
    EXPECT_EQ(*again, note);
  }
}

TEST(SnapshotNoteTest, RefusesNonsense) {
  const std::vector<std::byte> sound = encode_snapshot_note(example());
  for (std::size_t size = 0; size < sound.size(); ++size) {
    EXPECT_EQ(decode_snapshot_note(ConstBytes(sound).first(size)).code(), Errc::corrupt) << size;
  }
  const auto changed = [&sound](std::size_t offset, std::uint64_t value) {
    std::vector<std::byte> bytes = sound;
    store(MutableBytes(bytes).subspan(offset), value);
    return decode_snapshot_note(bytes).code();
  };
  EXPECT_EQ(changed(0, 0x31444E49), Errc::corrupt);                              // a root's magic
  EXPECT_EQ(changed(0, 0x31504E53 | std::uint64_t{2} << 32), Errc::not_supported);  // version
  EXPECT_EQ(changed(24, 0), Errc::corrupt);                                      // no checkpoint
  EXPECT_EQ(changed(48, 40), Errc::corrupt);                                     // a log that ends in the checkpoint
  EXPECT_EQ(changed(56, 100), Errc::corrupt);                                    // size
}

}  // namespace
}  // namespace agro
