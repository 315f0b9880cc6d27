#include "base/bytes.hpp"

#include <gtest/gtest.h>

#include "base/crc32c.hpp"

namespace agro {
namespace {

// Goal: the check value of the CRC catalogue, and that a seed continues a CRC.
TEST(BytesTest, Crc32cIsCastagnoli) {
  EXPECT_EQ(crc32c(as_bytes("123456789")), 0xE3069283U);
  EXPECT_EQ(crc32c(as_bytes("456789"), crc32c(as_bytes("123"))), 0xE3069283U);
  EXPECT_EQ(crc32c({}), 0U);
}

TEST(BytesTest, BigEndianIsTheNetworks) {
  std::byte raw[8];
  store_be<std::uint32_t>(raw, 0x01020304);
  EXPECT_EQ(raw[0], std::byte{1});
  EXPECT_EQ(load_be<std::uint32_t>(raw), 0x01020304U);
  EXPECT_EQ(load<std::uint32_t>(raw), 0x04030201U);
}

// Goal: buffers are aligned and come back; the pool may die first.
TEST(BytesTest, PoolReusesBuffers) {
  std::shared_ptr<AlignedBuffer> survivor;
  {
    BufferPool pool(10000, 1);
    auto first = pool.take();
    EXPECT_EQ(first->size(), 12288U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first->data()) % kPageSize, 0U);
    const std::byte* address = first->data();
    first.reset();
    survivor = pool.take();
    EXPECT_EQ(survivor->data(), address);
    pool.take().reset();
    EXPECT_EQ(pool.idle_count(), 1U);
    pool.drop_idle();
    EXPECT_EQ(pool.idle_count(), 0U);
    EXPECT_EQ(pool.take()->size(), 12288U);
  }
  survivor->data()[0] = std::byte{1};
}

}  // namespace
}  // namespace agro
