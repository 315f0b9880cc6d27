#include "blockset/blockset.hpp"

#include <gtest/gtest.h>

#include "blockset/crc.hpp"
#include "sim/sim_loop.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kBlockSize = 64 * 1024;
const BlockRef kRef{VolumeId{7}, Epoch{3}, 42, BlockType::data};

/// One block, and what it was asked for last.
class OneBlockBackend final : public BlockBackend {
 public:
  Task<std::uint32_t> write(BlockRef, SharedBytes written, WriteOptions options) override {
    block = std::move(written);
    write_options = options;
    co_return 2U;
  }
  Task<void> read(BlockRef, std::uint32_t offset, MutableBytes out, ReadOptions options) override {
    check = options.check;
    std::memcpy(out.data(), block.bytes.data() + offset, out.size());
    co_return Result<void>();
  }
  std::optional<Result<void>> try_read(const BlockRef&, std::uint32_t offset, MutableBytes out,
                                       const ReadOptions& options) override {
    check = options.check;
    std::memcpy(out.data(), block.bytes.data() + offset, out.size());
    return Result<void>();
  }
  Task<SharedBytes> read_block(BlockRef, ReadOptions options) override {
    check = options.check;
    co_return block;
  }
  Task<void> remove(std::vector<BlockRef>) override { co_return Result<void>(); }
  Task<Listing> list(BlockFilter, std::uint32_t) override { co_return Listing{}; }
  Task<Reached> fence(VolumeId, Epoch, std::uint32_t) override { co_return Reached{}; }
  std::uint32_t copy_count() const override { return 2; }
  std::uint32_t sure_copies() const override { return 2; }
  std::uint32_t ready_count() const override { return 2; }
  Event& peers_changed() override { return changed_; }
  std::uint32_t block_size() const override { return kBlockSize; }
  Space space() const override { return {}; }

  SharedBytes block;
  WriteOptions write_options;
  const ReadCheck* check = nullptr;

 private:
  Event changed_;
};

// Goal: every stack of layers gives back what it sealed, whole and in parts, and asks the backend for the copies
// and the checks that its layers stand for. Method: payloads around every boundary.
TEST(BlocksetTest, EveryStackReadsWhatItSealed) {
  SimLoop loop;
  for (const char* text : {"base", "crc,base", "replication=3,base", "crc,replication=3,base", "replication=3,crc,base"}) {
    const bool has_crc = std::string_view(text).find("crc") != std::string_view::npos;
    const bool has_copies = std::string_view(text).find("replication") != std::string_view::npos;
    OneBlockBackend backend;
    const std::unique_ptr<Blockset> stack = make_blockset(*parse_blockset_spec(text), backend);
    EXPECT_EQ(stack->copy_count(), has_copies ? 3U : 2U);
    for (const std::uint32_t size : {1U, 4000U, 4088U, 4089U, 4096U, 8192U, stack->payload_capacity()}) {
      SCOPED_TRACE(std::string(text) + " " + std::to_string(size));
      auto buffer = std::make_shared<AlignedBuffer>(kBlockSize);
      std::memset(buffer->data(), 0x5A, buffer->size());  // also where only zeros belong
      const std::uint32_t sealed = stack->seal(kRef, buffer->bytes(), size);
      ASSERT_EQ(sealed, stack->block_size_for(size));
      ASSERT_EQ(sealed % kPageSize, 0U);
      const ConstBytes view = buffer->bytes().first(sealed);
      ASSERT_EQ(loop.run(stack->write(kRef, {std::move(buffer), view}, {})).value(), 2U);
      EXPECT_EQ(backend.write_options.checksummed, has_crc);
      EXPECT_EQ(backend.write_options.copy_count, has_copies ? 3U : 0U);
      const SharedBytes whole = loop.run(stack->read_block(kRef, {})).value();
      EXPECT_EQ(backend.check != nullptr, has_crc);
      const Result<SharedBytes> payload = stack->payload(kRef, whole);
      ASSERT_TRUE(payload.has_value()) << payload.error().to_string();
      ASSERT_EQ(payload->size(), size);
      EXPECT_EQ(payload->bytes.back(), std::byte{0x5A});
      std::byte part{};
      ASSERT_TRUE(loop.run(stack->read(kRef, size - 1, {&part, 1}, {})).has_value());
      EXPECT_EQ(part, std::byte{0x5A});
      part = {};
      ASSERT_TRUE(stack->try_read(kRef, size - 1, {&part, 1}, {}).has_value());
      EXPECT_EQ(part, std::byte{0x5A});
      EXPECT_EQ(backend.check != nullptr, has_crc);
    }
  }
}

// Goal: plain blocks are what docs/formats/block.md says, and what is none is refused.
TEST(BlocksetTest, PlainBlocksAreGolden) {
  OneBlockBackend backend;
  const std::unique_ptr<Blockset> stack = make_blockset(*parse_blockset_spec("base"), backend);
  AlignedBuffer buffer(2 * kPageSize);
  std::memset(buffer.data(), 0xEE, buffer.size());
  ASSERT_EQ(stack->seal(kRef, buffer.bytes(), 3), kPageSize);
  std::string expected(kPageSize, '\0');
  expected.replace(0, 3, "\xEE\xEE\xEE");
  expected.replace(kPageSize - 8, 8, std::string("\x03\0\0\0AGB1", 8));
  EXPECT_EQ(as_text(buffer.bytes().first(kPageSize)), expected);
  const auto refused = [&](std::size_t size) {
    return stack->payload(kRef, {nullptr, buffer.bytes().first(size)}).code() == Errc::corrupt;
  };
  EXPECT_FALSE(refused(kPageSize));
  EXPECT_TRUE(refused(2 * kPageSize));  // the footer is that of a smaller one
  EXPECT_TRUE(refused(100));
  buffer.data()[kPageSize - 1] ^= std::byte{1};
  EXPECT_TRUE(refused(kPageSize));
}

// Goal: specs parse to themselves or fail with a reason. Method: a table.
TEST(BlocksetTest, SpecsRoundTrip) {
  for (const char* text : {"base", "crc,base", "crc,replication=3,base", "replication=1,base"}) {
    const Result<BlocksetSpec> spec = parse_blockset_spec(text);
    ASSERT_TRUE(spec.has_value()) << text;
    EXPECT_EQ(spec->to_string(), text);
  }
  for (const char* text : {"", "crc", "base,crc", "crc,crc,base", "crc,,base", "base,", ",base",
                           "replication=0,base", "replication=17,base", "replication=,base",
                           "replication=2x,base", "CRC,base", "crc, base"}) {
    EXPECT_EQ(parse_blockset_spec(text).code(), Errc::invalid_argument) << text;
  }
  EXPECT_EQ(parse_blockset_spec("ec=4+2,base").code(), Errc::not_supported);
}

}  // namespace
}  // namespace agro
