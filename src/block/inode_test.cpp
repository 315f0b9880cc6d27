// Tests of INode roots: their bytes, and that those of version 1 still load.
#include "block/inode.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "block/memory_backend.hpp"
#include "sim/sim_loop.hpp"

namespace agro {
namespace {

constexpr VolumeId kVolume{7};
constexpr BlockRef kRoot{kVolume, {3}, 1, BlockType::inode};

/// An INode over a cluster in a map.
class InodeTest : public ::testing::Test {
 protected:
  Inode::Writer writer() {
    return [this](BlockRef ref, SharedBytes block) { return put(ref, std::move(block)); };
  }
  Task<void> put(BlockRef ref, SharedBytes block) {
    blocks_.blocks[ref] = block;
    co_return Result<void>();
  }
  /// Puts a payload in place of the root.
  void store_root(const std::vector<std::byte>& payload) {
    auto buffer = std::make_shared<AlignedBuffer>(kBlockSizeMin);
    std::memcpy(buffer->data(), payload.data(), payload.size());
    const std::uint32_t size = blockset_->seal(kRoot, buffer->bytes(),
                                               static_cast<std::uint32_t>(payload.size()));
    blocks_.blocks[kRoot] = {buffer, buffer->bytes().first(size)};
  }
  std::vector<std::byte> root_payload() {
    const Result<SharedBytes> payload = blockset_->payload(kRoot, blocks_.blocks.at(kRoot));
    EXPECT_TRUE(payload.has_value());
    return {payload->bytes.begin(), payload->bytes.end()};
  }
  Result<InodeMeta> load() {
    Inode inode(kVolume, *blockset_, buffers_);
    return loop_.run(inode.load_root(kRoot));
  }
  void write_root() {
    Inode inode(kVolume, *blockset_, buffers_, writer());
    const Result<BlockRef> root = loop_.run(inode.finish(meta_));
    ASSERT_TRUE(root.has_value());
    ASSERT_EQ(*root, kRoot);
  }

  SimLoop loop_;
  MemoryBlocks blocks_;
  MemoryBackend backend_{blocks_, loop_.clock(), 1, kBlockSizeMin};
  std::unique_ptr<Blockset> blockset_ = make_blockset(*parse_blockset_spec("crc,base"), backend_);
  BufferPool buffers_{kBlockSizeMin, 1};
  InodeMeta meta_{kVolume, 64 * 1024 * 1024, 5, {3}, {"demo", "crc,base", 3}};
};

std::string to_hex(const std::vector<std::byte>& bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

TEST_F(InodeTest, RootIsWrittenAsDescribed) {
  write_root();
  EXPECT_EQ(to_hex(root_payload()),
            "494e4431" "0200" "0300" "0700000000000000" "0000000400000000" "0500000000000000"
            "0300000000000000" "0200000000000000" "00000000" "00000000" "00000000" "00000000"
            "00000000" "0400" "0800" "64656d6f" "6372632c62617365");
  EXPECT_TRUE(Inode::is_root(root_payload()));
  const Result<InodeMeta> loaded = load();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->size_bytes, meta_.size_bytes);
  EXPECT_EQ(loaded->covered_sequence, 5U);
  EXPECT_EQ(loaded->epoch, Epoch{3});
  EXPECT_EQ(loaded->description, meta_.description);
}

TEST_F(InodeTest, RootOfVersion1HasNoDescription) {
  write_root();
  std::vector<std::byte> payload = root_payload();
  payload.resize(72);  // without name and spec
  payload[4] = std::byte{1};
  for (const std::size_t zero : {6, 68, 70}) payload[zero] = std::byte{0};
  store_root(payload);
  const Result<InodeMeta> loaded = load();
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message;
  EXPECT_EQ(loaded->size_bytes, meta_.size_bytes);
  EXPECT_EQ(loaded->description, VolumeDescription{});
}

// Goal: a clone's root says its ancestors, in the bytes of docs/formats/inode.md, and whose its blocks are.
TEST_F(InodeTest, RootOfACloneNamesItsAncestors) {
  meta_.description.ancestors = {{{3}, {1}}, {{5}, {2}}};
  write_root();
  const std::string text = to_hex(root_payload());
  EXPECT_TRUE(text.starts_with("494e4431" "0300" "0300")) << text;
  EXPECT_TRUE(text.ends_with("6372632c62617365" "0300000000000000" "0100000000000000"
                             "0500000000000000" "0200000000000000")) << text;
  const Result<InodeMeta> loaded = load();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->description, meta_.description);
  const Lineage lineage(kVolume, meta_.description.ancestors);
  EXPECT_EQ(lineage.owner_of({1}), VolumeId{3});
  EXPECT_EQ(lineage.owner_of({2}), VolumeId{5});
  EXPECT_EQ(lineage.owner_of({3}), kVolume);
  std::vector<std::byte> payload = root_payload();
  payload[payload.size() - 8] = std::byte{1};  // no later than the one before
  store_root(payload);
  EXPECT_EQ(load().code(), Errc::corrupt);
}

TEST_F(InodeTest, RefusesWhatIsNoRoot) {
  write_root();
  const std::vector<std::byte> good = root_payload();
  struct Damage {
    std::size_t offset;
    std::byte value;
  };
  // Magic, version, volume, name_size, spec_size.
  for (const Damage& damage : {Damage{0, std::byte{0}}, Damage{4, std::byte{1}}, Damage{4, std::byte{3}},
                               Damage{8, std::byte{8}}, Damage{68, std::byte{5}},
                               Damage{71, std::byte{255}}}) {
    std::vector<std::byte> payload = good;
    payload[damage.offset] = damage.value;
    store_root(payload);
    EXPECT_EQ(load().code(), Errc::corrupt) << damage.offset;
  }
}

}  // namespace
}  // namespace agro
