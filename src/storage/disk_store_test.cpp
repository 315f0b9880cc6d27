// The disk engine: what it makes of a device that is handed to it, and what writing costs.
// The promises of every store: store_test.cpp; crashes: store_crash_test.cpp.
#include <gtest/gtest.h>

#include "base/log.hpp"
#include "storage/mmap_store_impl.hpp"
#include "storage/store_testing.hpp"

namespace agro {
namespace {

using std::chrono::microseconds;

constexpr std::uint64_t kDeviceSize = 32 * kMiB;

class DiskStoreTest : public ::testing::Test {
 protected:
  DiskStoreTest() {
    set_log_sink([](LogLevel, std::string_view) {});
    make_device(node_, kDeviceSize);
  }
  ~DiskStoreTest() override { close(); }

  static StoreOptions options() {
    StoreOptions options = store_options(0);
    options.device = kDevice;
    return options;
  }
  Result<void> open(StoreOptions options = DiskStoreTest::options()) {
    Env env = node_.env();
    auto opened = node_.sim.run(open_disk_store(env, std::move(options)));
    if (!opened.has_value()) return fail(std::move(opened).error());
    store_ = std::move(*opened);
    return {};
  }
  void close() {
    if (store_ == nullptr) return;
    EXPECT_TRUE(node_.sim.run(store_->close()));
    store_.reset();
  }
  Result<void> put(std::uint64_t index, std::size_t size = 60000) {
    const BlockRef ref = block_ref(1, 1, index);
    return node_.sim.run(store_->put(ref, block_bytes(ref, size), {}));
  }
  bool is_right(std::uint64_t index, std::size_t size = 60000) {
    const BlockRef ref = block_ref(1, 1, index);
    const Result<std::string> text = node_.sim.run(read_block(*store_, ref));
    return text.has_value() && *text == text_of(block_bytes(ref, size));
  }
  /// Shape: whole pages.
  void fill(std::uint64_t offset, std::size_t size, int value) {
    const auto file = std::move(node_.sim.run(node_.disk.open(kDevice, {})).value());
    AlignedBuffer bytes(size);
    std::memset(bytes.data(), value, size);
    std::vector<ConstBytes> parts = {bytes.bytes()};
    ASSERT_TRUE(node_.sim.run(file->write(offset, std::move(parts))));
    ASSERT_TRUE(node_.sim.run(file->sync()));
  }
  static bool says(const Result<void>& result, std::string_view text) {
    return !result.has_value() && result.error().message.find(text) != std::string::npos;
  }

  StoreNode node_{7};
  std::unique_ptr<BlockStore> store_;
};

// Goal: what others left on a device stays there unless --format was given; then nothing of it is left where
// it would be recognised. Method: one byte where ext4, LVM, btrfs, the first blocks of a store that lost its
// superblocks, a backup partition table and a RAID member have theirs.
TEST_F(DiskStoreTest, ForeignContentsStay) {
  for (const std::uint64_t at : {std::uint64_t{1080}, std::uint64_t{536}, 64 * kKiB + 64, 12 * kMiB,
                                 kDeviceSize - 512, kDeviceSize - kMiB + 1}) {
    SCOPED_TRACE(at);
    fill(0, kDeviceSize, 0);
    node_.disk.flip(kDevice, at);
    const std::string before = node_.disk.contents(kDevice, 0, kDeviceSize);
    const Result<void> opened = open();
    EXPECT_EQ(opened.code(), Errc::already_exists);
    EXPECT_TRUE(says(opened, "--format"));
    EXPECT_TRUE(says(opened, "wipefs device"));
    EXPECT_EQ(node_.disk.contents(kDevice, 0, kDeviceSize), before);
    StoreOptions formatting = options();
    formatting.format = true;
    ASSERT_TRUE(open(formatting));
    ASSERT_TRUE(put(1));
    close();
    EXPECT_EQ(node_.disk.contents(kDevice, kDeviceSize - kMiB, kMiB), std::string(kMiB, '\0'));
    ASSERT_TRUE(open());  // --format is for the first time
    EXPECT_TRUE(is_right(1));
    close();
  }
}

// Goal: a store is never overwritten because of --format: not that of another cluster or peer, not one that
// is damaged, and of one's own it means nothing.
TEST_F(DiskStoreTest, AStoreIsNeverFormatted) {
  ASSERT_TRUE(open());
  ASSERT_TRUE(put(1));
  close();
  StoreOptions formatting = options();
  formatting.format = true;
  StoreOptions other = formatting;
  other.cluster_id = test_uuid(9);
  Result<void> opened = open(other);
  EXPECT_EQ(opened.code(), Errc::cluster_mismatch);
  EXPECT_TRUE(says(opened, "dd if=/dev/zero of=device bs=1M count=1"));
  other = formatting;
  other.peer_id = test_uuid(9);
  EXPECT_EQ(open(other).code(), Errc::invalid_argument);
  ASSERT_TRUE(open(formatting));
  EXPECT_TRUE(is_right(1));
  close();
  node_.disk.flip(kDevice, 20);
  node_.disk.flip(kDevice, kPageSize + 20);
  opened = open(formatting);
  EXPECT_EQ(opened.code(), Errc::corrupt);
  EXPECT_TRUE(says(opened, "dd if=/dev/zero of=device bs=1M count=1"));
}

// Goal: the way out that the errors name works: nothing of the store before comes back, though its blocks
// and its log still lie on the device.
TEST_F(DiskStoreTest, WhatWasThereBeforeDoesNotComeBack) {
  ASSERT_TRUE(open());
  for (std::uint64_t index = 0; index < 300; ++index) ASSERT_TRUE(put(index, 9000));
  node_.disk.kill();
  EXPECT_FALSE(node_.sim.run(store_->close()).has_value());
  store_.reset();
  node_.sim.run_for(std::chrono::seconds(1));
  fill(0, kMiB, 0);
  EXPECT_EQ(open().code(), Errc::already_exists);  // the blocks behind are seen
  StoreOptions formatting = options();
  formatting.format = true;
  ASSERT_TRUE(open(formatting));
  EXPECT_EQ(store_->stats().block_count, 0U);
  for (std::uint64_t index = 1000; index < 1400; ++index) {
    ASSERT_TRUE(put(index, 9000));
    if (index % 40 != 0) continue;
    node_.disk.crash(node_.random);
    EXPECT_FALSE(node_.sim.run(store_->close()).has_value());
    store_.reset();
    const Result<void> opened = open();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    EXPECT_EQ(store_->stats().block_count, index - 999);
    EXPECT_TRUE(is_right(index, 9000));
  }
}

// Goal: one format: what either engine wrote the other goes on with.
TEST_F(DiskStoreTest, TheFileOfMmapIsItsOwn) {
  Env env = node_.env();
  std::size_t written_count = 0;
  for (const Engine engine : {Engine::mmap, Engine::disk, Engine::mmap, Engine::disk}) {
    store_ = std::move(node_.sim.run(open_store(env, engine, store_options(kDeviceSize))).value());
    EXPECT_EQ(store_->stats().block_count, written_count);
    for (std::size_t index = 0; index < written_count; ++index) EXPECT_TRUE(is_right(index));
    ASSERT_TRUE(put(written_count++));
    close();
  }
  StoreOptions as_device = options();
  as_device.device = kStoreFile;
  ASSERT_TRUE(open(as_device));
  EXPECT_EQ(store_->stats().block_count, written_count);
}

TEST_F(DiskStoreTest, SizesAndNames) {
  StoreOptions other = options();
  other.device = "nowhere";
  EXPECT_EQ(open(other).code(), Errc::not_found);
  other.device = "small";
  make_device(node_, kMiB, "small");
  const Result<void> small = open(other);
  EXPECT_EQ(small.code(), Errc::invalid_argument);
  EXPECT_TRUE(says(small, "small with 1.0 MiB: a store with blocks of 64.0 KiB needs at least")) << small.error().message;
  other = options();
  other.size = 8 * kMiB;  // some of it
  ASSERT_TRUE(open(other));
  EXPECT_EQ(store_->stats().size, 8 * kMiB);
  Env env = node_.env();
  EXPECT_EQ(node_.sim.run(open_disk_store(env, options())).code(), Errc::locked);
  Result<void> stored;
  std::uint64_t count = 0;
  for (; stored.has_value(); ++count) stored = put(count);
  EXPECT_EQ(stored.code(), Errc::out_of_space);
  EXPECT_LT(count, 8 * kMiB / kBlockSizeMin);
  close();
  other.size = 4 * kMiB;
  EXPECT_TRUE(says(open(other), "give a size of at least"));
  EXPECT_EQ(node_.sim.run(read_store_identity(node_.disk, options())).value().peer_id, test_uuid(2));
  ASSERT_TRUE(open());  // all of it
  EXPECT_EQ(store_->stats().size, kDeviceSize);
  ASSERT_TRUE(put(count));
  EXPECT_EQ(node_.disk.size_of(kDevice), kDeviceSize);
}

Job put_one(BlockStore& store, BlockRef ref, std::size_t size, std::uint64_t& left) {
  const Result<void> stored = co_await store.put(ref, block_bytes(ref, size), {});
  EXPECT_TRUE(stored.has_value());
  --left;
}

// Goal: nothing is read in order to write, and a group has one sync and a small block one write. Method:
// count at the disk, with the device as full as to need checkpoints; the log of a block's size, so that
// space is not reclaimed by reading.
TEST_F(DiskStoreTest, WhatAWriteCosts) {
  ASSERT_TRUE(open());
  const std::uint64_t reads = node_.disk.read_count();
  std::uint64_t index = 0;
  for (const std::size_t size : {std::size_t{1}, std::size_t{4097}, std::size_t{28672}, std::size_t{60000},
                                 std::size_t{kBlockSizeMin}}) {
    SCOPED_TRACE(size);
    ASSERT_TRUE(put(index++, size));  // the log may begin a slot here
    const std::uint64_t writes = node_.disk.write_count();
    const std::uint64_t syncs = node_.disk.sync_count();
    ASSERT_TRUE(put(index++, size));
    EXPECT_EQ(node_.disk.sync_count() - syncs, 1U);
    EXPECT_EQ(node_.disk.write_count() - writes, size <= 28672 ? 1U : 2U);  // large: the block, its record
  }
  // Fifty at once, of all sizes: what comes while one group is synced shares the next sync.
  node_.disk.set_options({.latency_min = microseconds(100), .latency_max = microseconds(100)});
  const std::uint64_t syncs = node_.disk.sync_count();
  std::uint64_t left = 50;
  for (std::uint64_t each = 0; each < 50; ++each) {
    spawn(node_.sim.executor(), put_one(*store_, block_ref(1, 1, index++), 1 + each * 1300, left));
  }
  ASSERT_TRUE(node_.sim.run_until([&] { return left == 0; }));
  EXPECT_LE(node_.disk.sync_count() - syncs, 2U);
  node_.disk.set_options({});
  ASSERT_TRUE(node_.sim.run(static_cast<MmapStore&>(*store_).checkpoint_now()));
  ASSERT_TRUE(node_.sim.run(store_->remove({block_ref(1, 1, 0), block_ref(1, 1, 9)})));
  ASSERT_TRUE(node_.sim.run(store_->fence(VolumeId{1}, Epoch{1})));
  EXPECT_EQ(node_.disk.read_count(), reads);
}

}  // namespace
}  // namespace agro
