// Disks that fail, files that were damaged, directories of others: the error must be the right one.
#include <gtest/gtest.h>

#include <optional>
#include <tuple>

#include "base/log.hpp"
#include "storage/mmap_store_impl.hpp"
#include "storage/store_testing.hpp"

namespace agro {
namespace {

using std::chrono::microseconds;
using std::chrono::seconds;

Job read_into(BlockStore& store, BlockRef ref,
              std::shared_ptr<std::optional<Result<std::string>>> out) {
  Result<std::string> text = co_await read_block(store, ref);
  out->emplace(std::move(text));
}

class StoreFaultTest : public ::testing::Test {
 protected:
  StoreFaultTest() {
    set_log_sink([](LogLevel, std::string_view) {});
  }
  ~StoreFaultTest() override { close(); }

  Result<void> open(const StoreOptions& options = store_options(8 * kMiB)) {
    Env env = node_.env();
    auto opened = node_.sim.run(open_mmap_store(env, options));
    if (!opened.has_value()) return fail(std::move(opened).error());
    store_ = std::move(*opened);
    return {};
  }
  /// Ends the store as it is; a failed one says so.
  void close() {
    if (store_ == nullptr) return;
    const Result<void> closed = node_.sim.run(store_->close());
    EXPECT_TRUE(closed.has_value() || failed_) << closed.error().to_string();
    store_.reset();
    failed_ = false;
  }
  /// kill -9: what the log says is all there is.
  void kill() {
    node_.disk.kill();
    failed_ = true;
    close();
  }
  Result<void> put(std::uint64_t index, std::size_t size = 5000) {
    const BlockRef ref = block_ref(1, 1, index);
    return node_.sim.run(store_->put(ref, block_bytes(ref, size), {}));
  }
  bool is_right(std::uint64_t index, std::size_t size = 5000) {
    const BlockRef ref = block_ref(1, 1, index);
    const Result<std::string> text = node_.sim.run(read_block(*store_, ref));
    return text.has_value() && *text == text_of(block_bytes(ref, size));
  }
  MmapStore& impl() { return static_cast<MmapStore&>(*store_); }

  StoreNode node_{7};
  std::unique_ptr<BlockStore> store_;
  bool failed_ = false;
};

// Goal: after one failed write or sync every change is refused and reads go on; opened again, what
// was acknowledged is there.
TEST_F(StoreFaultTest, AFailedWriteOrSyncStopsWrites) {
  for (const SimFault fault : {SimFault{.fail_writes = true}, SimFault{.fail_syncs = true}}) {
    for (const std::size_t size : {5000, 60000}) {
      ASSERT_TRUE(open());
      ASSERT_TRUE(put(1));
      node_.disk.set_fault(kStoreFile, fault);
      EXPECT_EQ(put(2, size).code(), Errc::io_error);
      node_.disk.set_fault(kStoreFile, {});
      const Result<void> refused = put(3);
      EXPECT_EQ(refused.code(), Errc::io_error);
      EXPECT_NE(refused.error().message.find("takes no writes since"), std::string::npos);
      EXPECT_NE(store_->problem(), "");
      EXPECT_EQ(node_.sim.run(store_->remove({block_ref(1, 1, 1)})).code(), Errc::io_error);
      EXPECT_EQ(node_.sim.run(store_->fence({1}, {2})).code(), Errc::io_error);
      EXPECT_TRUE(is_right(1));  // that removal was refused, and never written
      EXPECT_EQ(store_->find(block_ref(1, 1, 2)), std::nullopt);
      EXPECT_FALSE(node_.sim.run(store_->close()).has_value());
      store_.reset();
      ASSERT_TRUE(open());
      EXPECT_TRUE(is_right(1));
      EXPECT_TRUE(store_->find(block_ref(1, 1, 2)) == std::nullopt || is_right(2, size));
      EXPECT_TRUE(put(3));
      const std::vector<BlockRef> refs = {block_ref(1, 1, 2), block_ref(1, 1, 3)};
      EXPECT_TRUE(node_.sim.run(store_->remove(refs)));
      close();
    }
  }
}

// Goal: nobody takes a block for durable here whose removal failed: it may have happened, and then shows
// when the store is opened again. Found by the simulator, seed 400067.
TEST_F(StoreFaultTest, ABlockThatMayBeRemovedIsGone) {
  ASSERT_TRUE(open());
  ASSERT_TRUE(put(1));
  ASSERT_TRUE(put(2));
  node_.disk.set_fault(kStoreFile, {.fail_syncs = true});
  EXPECT_EQ(node_.sim.run(store_->remove({block_ref(1, 1, 1)})).code(), Errc::io_error);
  node_.disk.set_fault(kStoreFile, {});
  EXPECT_EQ(store_->find(block_ref(1, 1, 1)), std::nullopt);
  EXPECT_EQ(store_->list({}).size(), 1U);
  EXPECT_TRUE(is_right(2));
  EXPECT_FALSE(node_.sim.run(store_->close()).has_value());
  store_.reset();
  ASSERT_TRUE(open());
  EXPECT_TRUE(store_->find(block_ref(1, 1, 1)) == std::nullopt || is_right(1));
  EXPECT_TRUE(is_right(2));
  close();
}

TEST_F(StoreFaultTest, AFailedReadIsOneFailedRead) {
  ASSERT_TRUE(open());
  ASSERT_TRUE(put(1));
  node_.disk.set_fault(kStoreFile, {.fail_reads = true});
  EXPECT_EQ(node_.sim.run(read_block(*store_, block_ref(1, 1, 1))).code(), Errc::io_error);
  node_.disk.set_fault(kStoreFile, {});
  EXPECT_TRUE(is_right(1));
  EXPECT_TRUE(put(2));
}

// Goal: what the disk misreads while the store moves blocks does not replace what it holds. Method: every
// second small block goes and more come, so that sparse slots are emptied, while one read in three brings
// other bytes.
TEST_F(StoreFaultTest, AMisreadIsNotMadeToLast) {
  StoreOptions options = store_options(8 * kMiB);
  options.is_damaged = [](const BlockRef& ref, ConstBytes bytes) {
    return text_of(block_bytes(ref, bytes.size())) != std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  ASSERT_TRUE(open(options));
  std::uint64_t count = 0;
  while (put(count, 9000).has_value()) ++count;
  std::vector<BlockRef> refs;
  for (std::uint64_t i = 0; i < count; i += 2) refs.push_back(block_ref(1, 1, i));
  EXPECT_EQ(node_.sim.run(store_->remove(refs)).value(), refs.size());
  node_.disk.set_faults({.misdirected_read_ppm = 300'000});
  for (std::uint64_t i = count; put(i, 9000).has_value(); ++i) {
  }
  EXPECT_GT(node_.disk.counts().misdirected_reads, 3U);
  node_.disk.set_faults({});
  EXPECT_GT(impl().relocated_count(), 3U);
  for (std::uint64_t i = 1; i < count; i += 2) ASSERT_TRUE(is_right(i, 9000)) << i;
}

// Goal: a full file system is out_of_space and nothing worse, and it is tried again later.
TEST_F(StoreFaultTest, AFullFileSystemIsOutOfSpace) {
  node_.disk.set_options({.capacity = 60 * std::uint64_t{kBlockSizeMin}});
  ASSERT_TRUE(open());
  std::uint64_t count = 0;
  Result<void> stored;
  while ((stored = put(count, 60000)).has_value()) ++count;
  EXPECT_EQ(stored.code(), Errc::out_of_space) << stored.error().to_string();
  EXPECT_GT(count, 30U);
  for (std::uint64_t i = 0; i < count; ++i) ASSERT_TRUE(is_right(i, 60000));
  const std::vector<BlockRef> refs = {block_ref(1, 1, 0), block_ref(1, 1, 1), block_ref(1, 1, 2)};
  EXPECT_EQ(node_.sim.run(store_->remove(refs)).value(), refs.size());
  EXPECT_TRUE(put(500));
  node_.disk.set_options({});
  while ((stored = put(count, 60000)).has_value()) ++count;  // what the removal freed
  EXPECT_EQ(stored.code(), Errc::out_of_space);
  node_.sim.run_for(seconds(11));
  for (int more = 0; more < 8; ++more) EXPECT_TRUE(put(count++, 60000));
}

// Goal: a small file system is not filled with space for the log.
TEST_F(StoreFaultTest, TheFirstLogLeavesAFileSystemItsSpace) {
  node_.disk.set_options({.capacity = 1024 * std::uint64_t{kBlockSizeMin}});
  ASSERT_TRUE(open(store_options(1024 * kMiB)));  // a sixteenth of it is all that there is
  close();
  EXPECT_LE(node_.disk.size_of(kStoreFile), 64 * std::uint64_t{kBlockSizeMin});
}

// Goal: a file system that others fill while the log's first space is written: blocks get what is left.
TEST_F(StoreFaultTest, AFullFileSystemWhileAStoreIsMade) {
  node_.disk.set_options({.latency_min = microseconds(20), .latency_max = microseconds(60)});
  bool done = false;
  const auto open_it = [&]() -> Job {
    Env env = node_.env();
    auto made = co_await open_mmap_store(env, store_options(256 * kMiB));  // would write 255 slots
    if (made.has_value()) store_ = std::move(*made);
    done = true;
  };
  spawn(node_.sim.executor(), open_it());
  ASSERT_TRUE(node_.sim.run_until([&] {
    return node_.disk.exists(kStoreFile) && node_.disk.size_of(kStoreFile) > 20 * std::uint64_t{kBlockSizeMin};
  }));
  EXPECT_FALSE(done);
  node_.disk.set_options({.capacity = 60 * std::uint64_t{kBlockSizeMin}});
  ASSERT_TRUE(node_.sim.run_until([&] { return done; }));
  ASSERT_NE(store_, nullptr);
  std::uint64_t count = 0;
  while (put(count, 60000).has_value()) ++count;
  EXPECT_GT(count, 30U);
  for (std::uint64_t i = 0; i < count; ++i) ASSERT_TRUE(is_right(i, 60000));
}

// Goal: a crash while a store is made leaves nothing, or a store. Method: at every 50 us of it.
TEST_F(StoreFaultTest, ACrashWhileAStoreIsMade) {
  bool made = false;
  for (int step = 0; !made; ++step) {
    ASSERT_LT(step, 1000);
    StoreNode node(static_cast<std::uint64_t>(step));
    node.disk.set_options({.latency_min = microseconds(20), .latency_max = microseconds(60)});
    std::optional<Result<std::unique_ptr<BlockStore>>> opened;
    const auto open_it = [&]() -> Job {
      Env env = node.env();
      opened.emplace(co_await open_mmap_store(env, store_options(32 * kMiB)));
    };
    spawn(node.sim.executor(), open_it());
    node.sim.run_for(microseconds(50) * step);
    made = opened.has_value();
    Random random(static_cast<std::uint64_t>(step));
    node.disk.crash(random);
    ASSERT_TRUE(node.sim.run_until([&] { return opened.has_value(); }));
    if (opened->has_value()) std::ignore = node.sim.run((**opened)->close());
    opened.reset();
    Env env = node.env();
    auto again = node.sim.run(open_mmap_store(env, store_options(32 * kMiB)));
    ASSERT_TRUE(again.has_value()) << step << ": " << again.error().to_string();
    const BlockRef ref = block_ref(1, 1, 1);
    EXPECT_TRUE(node.sim.run((*again)->put(ref, block_bytes(ref, 9000), {})));
    EXPECT_TRUE(node.sim.run((*again)->close()));
  }
}

// Goal: those who wait until there is space need not ask for it. Method: no call but stats().
TEST_F(StoreFaultTest, RoomInAFullFileSystemIsNoticed) {
  node_.disk.set_options({.capacity = 60 * std::uint64_t{kBlockSizeMin}});
  ASSERT_TRUE(open());
  std::uint64_t count = 0;
  while (put(count, 60000).has_value()) ++count;
  EXPECT_EQ(store_->stats().available, 0U);
  node_.sim.run_for(seconds(60));
  EXPECT_EQ(store_->stats().available, 0U);
  node_.disk.set_options({});
  node_.sim.run_for(seconds(11));
  EXPECT_GT(store_->stats().available, 10 * std::uint64_t{kBlockSizeMin});
  for (int more = 0; more < 8; ++more) EXPECT_TRUE(put(count++, 60000));
  for (std::uint64_t i = 0; i < count; ++i) ASSERT_TRUE(is_right(i, 60000));
}

// Goal: a block that is being read keeps its bytes though it is removed and its slot wanted.
TEST_F(StoreFaultTest, AReadUnderWaySeesItsOwnBlock) {
  for (const std::size_t size : {60000, 5000}) {
    ASSERT_TRUE(open());
    ASSERT_TRUE(put(1, size));
    const BlockRef ref = block_ref(1, 1, 1);
    const std::string expected = text_of(block_bytes(ref, size));
    auto text = std::make_shared<std::optional<Result<std::string>>>();
    node_.disk.set_options({.latency_min = seconds(1), .latency_max = seconds(1)});
    spawn(node_.sim.executor(), read_into(*store_, ref, text));
    node_.sim.poll();
    node_.disk.set_options({});  // the read under way takes its second, the rest none
    ASSERT_TRUE(node_.sim.run(store_->remove({ref})));
    ASSERT_TRUE(node_.sim.run(impl().checkpoint_now()));
    for (std::uint64_t i = 2; i < 40; ++i) ASSERT_TRUE(put(i, 60000));
    ASSERT_FALSE(text->has_value());
    ASSERT_TRUE(node_.sim.run_until([&] { return text->has_value(); }));
    ASSERT_TRUE((*text)->has_value());
    EXPECT_TRUE(**text == expected);
    close();
    ASSERT_TRUE(node_.sim.run(node_.disk.remove(kStoreFile)));
  }
}

// Goal: each kind of damage is found at opening, and said. Method: cut and flip a good file.
TEST_F(StoreFaultTest, ForeignAndMismatched) {
  ASSERT_TRUE(open());
  for (std::uint64_t i = 0; i < 40; ++i) ASSERT_TRUE(put(i, 60000));
  Env env = node_.env();
  EXPECT_EQ(node_.sim.run(open_mmap_store(env, store_options(8 * kMiB))).code(), Errc::locked);
  close();
  StoreOptions options = store_options(8 * kMiB);
  options.cluster_id = test_uuid(9);
  EXPECT_EQ(open(options).code(), Errc::cluster_mismatch);
  options = store_options(8 * kMiB);
  options.peer_id = test_uuid(9);
  EXPECT_EQ(open(options).code(), Errc::invalid_argument);
  EXPECT_EQ(open(store_options(8 * kMiB, 2 * kBlockSizeMin)).code(), Errc::invalid_argument);
  const Result<void> small = open(store_options(2 * kMiB));
  EXPECT_EQ(small.code(), Errc::invalid_argument);
  EXPECT_NE(small.error().message.find("size of at least"), std::string::npos);
  EXPECT_EQ(open(store_options(kMiB)).code(), Errc::invalid_argument);
  EXPECT_EQ(open(store_options(8 * kMiB, 100'000)).code(), Errc::invalid_argument);
  StoreOptions nowhere;
  nowhere.directory = "nowhere";
  const StoreIdentity identity =
      node_.sim.run(read_store_identity(node_.disk, store_options(0))).value();
  EXPECT_EQ(identity.peer_id, test_uuid(2));
  EXPECT_EQ(identity.cluster_id, test_uuid(1));
  EXPECT_EQ(identity.block_size, kBlockSizeMin);
  EXPECT_EQ(node_.sim.run(read_store_identity(node_.disk, nowhere)).code(), Errc::not_found);
  options = store_options(8 * kMiB);
  options.peer_id = {};  // whoever it is
  ASSERT_TRUE(open(options));
  EXPECT_TRUE(is_right(39, 60000));
}

TEST_F(StoreFaultTest, OneSuperblockIsEnough) {
  for (const std::uint64_t offset : {std::uint64_t{20}, kPageSize + std::uint64_t{20}}) {
    ASSERT_TRUE(open());
    ASSERT_TRUE(put(offset));
    close();
    node_.disk.flip(kStoreFile, offset);
    ASSERT_TRUE(open());
    EXPECT_TRUE(is_right(offset));
    close();
  }
  // Each time it was restored; without one there is no store.
  node_.disk.flip(kStoreFile, 20);
  node_.disk.flip(kStoreFile, kPageSize + 20);
  EXPECT_EQ(open().code(), Errc::corrupt);
  EXPECT_EQ(node_.sim.run(read_store_identity(node_.disk, store_options(0))).code(), Errc::corrupt);
}

// Goal: a file that lost both superblocks to zeros is no new store: nothing is made over its blocks.
TEST_F(StoreFaultTest, ZeroedSuperblocksAreNoNewStore) {
  StoreOptions nobody = store_options(8 * kMiB);
  nobody.peer_id = {};
  EXPECT_EQ(open(nobody).code(), Errc::invalid_argument);
  ASSERT_TRUE(open());
  for (std::uint64_t i = 0; i < 40; ++i) ASSERT_TRUE(put(i, 60000));
  close();
  const std::uint64_t size = node_.disk.size_of(kStoreFile);
  const std::string head = node_.disk.contents(kStoreFile, 0, kSlotsOffset);
  for (std::uint64_t at = 0; at < head.size(); ++at) {
    if (head[at] != 0) node_.disk.flip(kStoreFile, at, static_cast<std::byte>(head[at]));
  }
  for (int attempt = 0; attempt < 2; ++attempt) {
    const Result<void> opened = open();
    ASSERT_EQ(opened.code(), Errc::corrupt);
    EXPECT_NE(opened.error().message.find("lost both superblocks"), std::string::npos);
    EXPECT_EQ(node_.disk.size_of(kStoreFile), size);
  }
}

TEST_F(StoreFaultTest, TruncatedFilesAreRefused) {
  ASSERT_TRUE(open());
  for (std::uint64_t i = 0; i < 40; ++i) ASSERT_TRUE(put(i, 60000));
  close();
  const std::uint64_t size = node_.disk.size_of(kStoreFile);
  // The first of the cuts takes only slots that nothing is in.
  bool refused = false;
  for (std::uint64_t cut = size - kBlockSizeMin; cut > 0 && cut < size; cut -= kBlockSizeMin) {
    node_.disk.truncate(kStoreFile, cut);
    const Result<void> opened = open();
    if (opened.has_value()) {
      EXPECT_FALSE(refused);
      for (std::uint64_t i = 0; i < 40; ++i) ASSERT_TRUE(is_right(i, 60000)) << cut;
      kill();
      node_.disk.truncate(kStoreFile, cut);
      continue;
    }
    refused = true;
    EXPECT_EQ(opened.code(), Errc::corrupt) << opened.error().to_string();
  }
  EXPECT_TRUE(refused);
}

// Goal: a flipped bit anywhere in the log or the checkpoint is never a lost or a wrong block: the
// open fails, or all is there; only the last group, which a crash may have cut, may go.
TEST_F(StoreFaultTest, RotInTheLogIsNotAnEndOfTheLog) {
  ASSERT_TRUE(open());
  // A group each, over several slots; half of those of two pages are packed.
  const auto size_of = [](std::uint64_t i) { return i % 2 == 0 ? 5000U : 8192U; };
  for (std::uint64_t i = 0; i < 30; ++i) ASSERT_TRUE(put(i, size_of(i)));
  kill();
  std::uint64_t refused_count = 0;
  for (std::uint64_t page = 2; page < 4 * 16; ++page) {
    node_.disk.flip(kStoreFile, page * kPageSize + 30);
    const Result<void> opened = open();
    if (opened.has_value()) {
      for (std::uint64_t i = 0; i < 29; ++i) {
        EXPECT_EQ(store_->find(block_ref(1, 1, i)), size_of(i)) << "page " << page << " block " << i;
      }
      kill();
    } else {
      EXPECT_EQ(opened.code(), Errc::corrupt);
      ++refused_count;
    }
    node_.disk.flip(kStoreFile, page * kPageSize + 30);
  }
  EXPECT_GT(refused_count, 15U);
}

// Goal: the tail of a packed block is as safe as the rest of its frame. Method: flip its last byte, before a seal and
// after one; then in a segment, where nothing but the reader's own check looks at it.
TEST_F(StoreFaultTest, RotInAPackedTail) {
  const BlockRef ref = packable_ref(1);
  ASSERT_TRUE(open());
  ASSERT_TRUE(put(ref.index, 8192));
  kill();
  const std::uint64_t last_byte = kSlotsOffset + kPageSize - 1;
  node_.disk.flip(kStoreFile, last_byte);  // of the frame's header: taken for a crash
  ASSERT_TRUE(open());
  EXPECT_FALSE(store_->find(ref).has_value());
  kill();
  node_.disk.flip(kStoreFile, last_byte);
  ASSERT_TRUE(open());
  node_.sim.run_for(std::chrono::seconds(3));
  ASSERT_TRUE(is_right(ref.index, 8192));
  kill();
  node_.disk.flip(kStoreFile, last_byte);
  EXPECT_EQ(open().code(), Errc::corrupt);
  node_.disk.flip(kStoreFile, last_byte);
  ASSERT_TRUE(open());
  close();  // a checkpoint: the log is not read again
  node_.disk.flip(kStoreFile, last_byte);
  ASSERT_TRUE(open());
  EXPECT_EQ(store_->find(ref), 8192U);
  EXPECT_FALSE(is_right(ref.index, 8192));
}

/// Writes a superblock page anew, with another version.
Task<void> set_version(Disk& disk, std::uint64_t offset, std::uint32_t version) {
  AGRO_CO_TRY(const std::unique_ptr<File> file, co_await disk.open(kStoreFile, {}));
  AlignedBuffer page(kPageSize);
  AGRO_CO_TRY_OK(co_await file->read(offset, page.bytes()));
  AGRO_CO_TRY(Superblock superblock, decode_superblock(page.bytes()));
  superblock.version = version;
  encode_superblock(superblock, page.bytes());
  std::vector<ConstBytes> parts = {page.bytes()};
  AGRO_CO_TRY_OK(co_await file->write(offset, std::move(parts)));
  AGRO_CO_TRY_OK(co_await file->sync());
  co_await file->close();
  co_return Result<void>();
}

// Goal: a store of version 1 opens, says version 2 in both superblocks before it packs anything, and keeps its blocks;
// so does one that a crash left with one of each. Method: a store without packed blocks is one of version 1.
TEST_F(StoreFaultTest, AnOldStoreBecomesANewOne) {
  for (const bool killed : {false, true}) {
    for (const std::uint32_t second : {1U, kStoreVersion}) {
      ASSERT_TRUE(open());
      for (std::uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(put(i));
      killed ? kill() : close();
      ASSERT_TRUE(node_.sim.run(set_version(node_.disk, 0, 1)));
      ASSERT_TRUE(node_.sim.run(set_version(node_.disk, kPageSize, second)));
      ASSERT_TRUE(open());
      for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{kPageSize}}) {
        const std::string page = node_.disk.contents(kStoreFile, offset, kPageSize);
        EXPECT_EQ(decode_superblock(std::as_bytes(std::span(page))).value().version, kStoreVersion);
      }
      const BlockRef packed = packable_ref(100);
      ASSERT_TRUE(put(packed.index, 8192));
      kill();
      ASSERT_TRUE(open());
      for (std::uint64_t i = 0; i < 20; ++i) EXPECT_TRUE(is_right(i));
      EXPECT_TRUE(is_right(packed.index, 8192));
      EXPECT_TRUE(node_.sim.run(store_->remove({packed})).has_value());
      close();
    }
  }
  ASSERT_TRUE(node_.sim.run(set_version(node_.disk, 0, kStoreVersion + 1)));
  EXPECT_EQ(open().code(), Errc::not_supported);
}

// Goal: the first block of a frame that can be packed costs a page less. Method: bytes that the store counts.
TEST_F(StoreFaultTest, APackedBlockTakesItsOwnPagesOnly) {
  ASSERT_TRUE(open());
  const auto cost_of = [&](std::uint64_t index, std::size_t size) {
    const std::uint64_t before = store_->stats().bytes_written;
    EXPECT_TRUE(put(index, size));
    return (store_->stats().bytes_written - before) / kPageSize;
  };
  const std::uint64_t first = packable_ref(1).index;
  EXPECT_EQ(cost_of(first, 8192), 2U);
  EXPECT_EQ(cost_of(packable_ref(first + 1).index, 12288), 3U);
  std::uint64_t full = 1;
  while (is_packable(block_ref(1, 1, full))) ++full;
  EXPECT_EQ(cost_of(full, 8192), 3U);
}

// Goal: an idle store proves its last group: what rots in it later is damage, and not forgotten.
TEST_F(StoreFaultTest, AnIdleStoreSealsItsLog) {
  ASSERT_TRUE(open());
  ASSERT_TRUE(put(1));
  const std::uint64_t bytes = store_->stats().bytes_written;
  node_.sim.run_for(std::chrono::seconds(3));
  EXPECT_EQ(store_->stats().bytes_written, bytes + kPageSize);
  kill();
  node_.disk.flip(kStoreFile, kSlotsOffset + kPageSize + 30);  // of the block behind the first header
  ASSERT_TRUE(open());
  EXPECT_EQ(store_->find(block_ref(1, 1, 1)), 5000U);
  EXPECT_FALSE(is_right(1));
  kill();
  node_.disk.flip(kStoreFile, kSlotsOffset + 30);  // of the header
  EXPECT_EQ(open().code(), Errc::corrupt);
}

// Goal: an index checkpoint that does not verify is refused, as half a one is.
TEST_F(StoreFaultTest, ADamagedCheckpointIsRefused) {
  ASSERT_TRUE(open());
  for (std::uint64_t i = 0; i < 30; ++i) ASSERT_TRUE(put(i));
  close();
  bool refused = false;
  for (std::uint64_t at = kSlotsOffset; at < node_.disk.size_of(kStoreFile); at += kBlockSizeMin) {
    if (node_.disk.contents(kStoreFile, at, 4) != "AGCP") continue;
    for (const std::uint64_t offset : {at + 9, at + kPageSize + 9}) {
      node_.disk.flip(kStoreFile, offset);
      EXPECT_EQ(open().code(), Errc::corrupt);
      node_.disk.flip(kStoreFile, offset);
      refused = true;
    }
  }
  EXPECT_TRUE(refused);
  EXPECT_TRUE(open());
}

}  // namespace
}  // namespace agro
