#include <gtest/gtest.h>

#include <array>

#include "core/block_ref.hpp"
#include "core/uuid.hpp"

namespace agro {
namespace {

// Goal: the 24 bytes are as docs/formats/block_ref.md says. Method: golden bytes, both ways.
TEST(BlockRefTest, GoldenBytes) {
  const BlockRef ref{.volume = {0x0102030405},
                     .epoch = {7},
                     .index = 0x1122334455667788,
                     .type = BlockType::inode};
  std::array<std::byte, kBlockRefSize> raw;
  encode_block_ref(ref, raw);
  const std::array<unsigned char, kBlockRefSize> golden = {
      0x05, 0x04, 0x03, 0x02, 0x01, 0x02, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
  EXPECT_EQ(std::memcmp(raw.data(), golden.data(), golden.size()), 0);
  EXPECT_EQ(decode_block_ref(raw), ref);
  EXPECT_EQ(ref.to_string(), "inode:4328719365:7:1234605616436508552");
}

// Goal: rings depend on the hash: it must never change.
TEST(BlockRefTest, HashIsStable) {
  EXPECT_EQ(hash_block_ref({}), 10701968893438928621ULL);
}

TEST(UuidTest, RoundTrip) {
  Random random(1);
  const Uuid id = make_uuid(random);
  EXPECT_EQ(*parse_uuid(id.to_string()), id);
  EXPECT_EQ(id.to_string()[14], '4');
  for (const char* text : {"", "x", "0b5fd1e4-7a3c-4c39-9d37-8f0a6c2f9a5", "0b5fd1e4+7a3c-4c39-9d37-8f0a6c2f9a55",
                           "0b5fd1e4-7a3c-4c39-9d37-8f0a6c2f9ag5", "-b5fd1e4-7a3c-4c39-9d37-8f0a6c2f9a55"}) {
    EXPECT_EQ(parse_uuid(text).code(), Errc::invalid_argument) << text;
  }
}

}  // namespace
}  // namespace agro
