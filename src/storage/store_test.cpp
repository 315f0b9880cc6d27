// One suite over every engine: what BlockStore promises.
#include <gtest/gtest.h>

#include <algorithm>

#include "storage/store_testing.hpp"

namespace agro {
namespace {

class StoreTest : public ::testing::TestWithParam<Engine> {
 protected:
  void SetUp() override { open(4 * kMiB); }
  void TearDown() override { close(); }

  void open(std::uint64_t size) {
    if (GetParam() == Engine::temp) {
      store_ = make_temp_store({.size = size, .block_size = kBlockSizeMin});
      return;
    }
    Env env = node_.env();
    if (GetParam() == Engine::device && !node_.disk.exists(kDevice)) make_device(node_, size);
    auto opened = node_.sim.run(open_store(env, GetParam(), store_options(size)));
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    store_ = std::move(*opened);
  }
  void close() {
    if (store_ == nullptr) return;
    EXPECT_TRUE(node_.sim.run(store_->close()));
    store_.reset();
  }

  Result<void> put(const BlockRef& ref, std::size_t size, PutOptions options = {}) {
    return node_.sim.run(store_->put(ref, block_bytes(ref, size), options));
  }
  Result<std::string> read(const BlockRef& ref) { return node_.sim.run(read_block(*store_, ref)); }

  StoreNode node_{1};
  std::unique_ptr<BlockStore> store_;
};

// Goal: what was put is read back, whole and in parts. Method: sizes around every boundary.
TEST_P(StoreTest, ReadsWhatWasPut) {
  const std::vector<std::size_t> sizes = {1,     511,   4095,  4096,      4097,  8192,
                                          28672, 28673, 32768, 32769, 65535, kBlockSizeMin};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    SCOPED_TRACE(sizes[i]);
    const BlockRef ref = block_ref(1, 1, i);
    ASSERT_TRUE(put(ref, sizes[i]));
    EXPECT_EQ(store_->find(ref), sizes[i]);
    EXPECT_EQ(read(ref).value(), text_of(block_bytes(ref, sizes[i])));
    std::vector<std::byte> part(sizes[i] / 2);
    const auto offset = static_cast<std::uint32_t>(sizes[i] - part.size());
    ASSERT_TRUE(node_.sim.run(store_->read(ref, offset, part)));
    EXPECT_EQ(as_text(part), text_of(block_bytes(ref, sizes[i])).substr(offset));
    std::fill(part.begin(), part.end(), std::byte{});
    const auto at_once = store_->try_read(ref, offset, part);
    const bool has_cache = GetParam() == Engine::temp || GetParam() == Engine::mmap;
    ASSERT_EQ(at_once.has_value(), has_cache || part.empty());  // the simulated disk has no latency here
    if (!has_cache) continue;
    ASSERT_TRUE(at_once->has_value());
    EXPECT_EQ(as_text(part), text_of(block_bytes(ref, sizes[i])).substr(offset));
  }
  EXPECT_EQ(store_->stats().block_count, sizes.size());
  EXPECT_GT(store_->stats().used, 0U);
  EXPECT_LT(store_->stats().available, store_->stats().size);
}

TEST_P(StoreTest, RefusesWhatMakesNoSense) {
  const BlockRef ref = block_ref(1, 1, 1);
  EXPECT_EQ(put(ref, 0).code(), Errc::invalid_argument);
  EXPECT_EQ(put(ref, kBlockSizeMin + 1).code(), Errc::too_large);
  EXPECT_EQ(read(ref).code(), Errc::not_found);
  ASSERT_TRUE(put(ref, 5000));
  std::vector<std::byte> out(100);
  EXPECT_EQ(node_.sim.run(store_->read(ref, 4901, out)).code(), Errc::invalid_argument);
  EXPECT_EQ(node_.sim.run(store_->read(ref, 5001, {})).code(), Errc::invalid_argument);
  EXPECT_EQ(store_->try_read(ref, 0xFFFFFFFF, out)->code(), Errc::invalid_argument);
  EXPECT_TRUE(node_.sim.run(store_->read(ref, 4900, out)));
  EXPECT_EQ(store_->try_read(block_ref(1, 1, 2), 0, out)->code(), Errc::not_found);
  EXPECT_EQ(store_->block_size(), kBlockSizeMin);
}

TEST_P(StoreTest, ASecondPutIsASuccessIfTheSizeIsTheSame) {
  const BlockRef ref = block_ref(1, 1, 1);
  ASSERT_TRUE(put(ref, 5000));
  EXPECT_TRUE(put(ref, 5000));
  EXPECT_EQ(put(ref, 5001).code(), Errc::already_exists);
  EXPECT_EQ(read(ref).value(), text_of(block_bytes(ref, 5000)));
  EXPECT_EQ(store_->stats().block_count, 1U);
}

TEST_P(StoreTest, RepairReplacesOrStores) {
  const BlockRef ref = block_ref(1, 1, 1);
  for (const std::size_t size : {5000, 5000, 60000, 100}) {
    const SharedBytes bytes = block_bytes(ref, size, size);
    ASSERT_TRUE(node_.sim.run(store_->repair(ref, bytes, {})));
    EXPECT_EQ(read(ref).value(), text_of(bytes));
  }
  EXPECT_EQ(store_->stats().block_count, 1U);
}

TEST_P(StoreTest, RemoveCountsWhatWasThere) {
  for (std::uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(put(block_ref(1, 1, i), 4096 + i * 5000));
  const std::vector<BlockRef> refs = {block_ref(1, 1, 3), block_ref(1, 1, 3), block_ref(1, 1, 99),
                                      block_ref(1, 1, 9)};
  EXPECT_EQ(node_.sim.run(store_->remove(refs)).value(), 2U);
  EXPECT_EQ(node_.sim.run(store_->remove(refs)).value(), 0U);
  EXPECT_EQ(store_->find(block_ref(1, 1, 3)), std::nullopt);
  EXPECT_EQ(read(block_ref(1, 1, 9)).code(), Errc::not_found);
  EXPECT_EQ(store_->stats().block_count, 8U);
  ASSERT_TRUE(put(block_ref(1, 1, 3), 777));  // a store does not remember
  EXPECT_EQ(store_->find(block_ref(1, 1, 3)), 777U);
}

TEST_P(StoreTest, ListFiltersAndSorts) {
  for (const std::uint64_t volume : {2, 1}) {
    for (const std::uint64_t epoch : {3, 2}) {
      for (const std::uint64_t index : {9, 8, 7}) ASSERT_TRUE(put(block_ref(volume, epoch, index), 1));
    }
  }
  BlockRef inode = block_ref(1, 2, 8);
  inode.type = BlockType::inode;
  ASSERT_TRUE(put(inode, 2));
  EXPECT_EQ(store_->list({}).size(), 13U);
  const auto all = store_->list({});
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  BlockFilter filter;
  filter.volume = VolumeId{1};
  EXPECT_EQ(store_->list(filter).size(), 7U);
  filter.epoch = Epoch{2};
  filter.index_from = 8;
  EXPECT_EQ(store_->list(filter).size(), 3U);
  filter.type = BlockType::data;
  const auto found = store_->list(filter);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].ref, block_ref(1, 2, 8));
  EXPECT_EQ(found[1].ref, block_ref(1, 2, 9));
}

TEST_P(StoreTest, FencesHold) {
  ASSERT_TRUE(put(block_ref(1, 1, 1), 100));
  EXPECT_EQ(store_->fence_of({1}), Epoch{0});
  ASSERT_TRUE(node_.sim.run(store_->fence({1}, {3})));
  ASSERT_TRUE(node_.sim.run(store_->fence({1}, {2})));  // lower: no change
  EXPECT_EQ(store_->fence_of({1}), Epoch{3});
  EXPECT_EQ(put(block_ref(1, 2, 2), 100).code(), Errc::fenced);
  EXPECT_EQ(put(block_ref(1, 2, 2), 60000).code(), Errc::fenced);
  EXPECT_TRUE(put(block_ref(1, 3, 2), 100));
  EXPECT_TRUE(put(block_ref(2, 1, 2), 100));
  EXPECT_TRUE(read(block_ref(1, 1, 1)).has_value());
  // A copy of an old block is welcome, unless the volume is gone.
  EXPECT_TRUE(node_.sim.run(store_->repair(block_ref(1, 2, 5), block_bytes({}, 10), {})));
  ASSERT_TRUE(node_.sim.run(store_->fence({1}, {UINT64_MAX})));
  EXPECT_EQ(node_.sim.run(store_->repair(block_ref(1, 2, 6), block_bytes({}, 10), {})).code(),
            Errc::fenced);
}

// Goal: full means out_of_space, the reserve is for those who free, and freeing helps.
TEST_P(StoreTest, FullAndFreedAgain) {
  std::uint64_t count = 0;
  while (true) {
    const Result<void> stored = put(block_ref(1, 1, count), count % 3 == 0 ? 60000 : 9000);
    if (!stored.has_value()) {
      EXPECT_EQ(stored.code(), Errc::out_of_space) << stored.error().to_string();
      break;
    }
    ++count;
    ASSERT_LT(count, 1000U);
  }
  EXPECT_GT(count, 60U);
  EXPECT_LT(store_->stats().available, 2 * std::uint64_t{kBlockSizeMin});
  EXPECT_TRUE(put(block_ref(2, 1, 0), 60000, {.reserve = true}));
  const std::uint64_t bytes_written = store_->stats().bytes_written;
  EXPECT_EQ(put(block_ref(2, 1, 1), 60000).code(), Errc::out_of_space);
  EXPECT_EQ(store_->stats().bytes_written, bytes_written);
  for (std::uint64_t i = 0; i < count; ++i) {
    EXPECT_TRUE(read(block_ref(1, 1, i)).has_value());
  }
  // Every second one goes: of the small ones that leaves sparse slots, which compaction empties.
  std::vector<BlockRef> refs;
  for (std::uint64_t i = 0; i < count; i += 2) refs.push_back(block_ref(1, 1, i));
  EXPECT_EQ(node_.sim.run(store_->remove(refs)).value(), refs.size());
  std::uint64_t again = 0;
  while (put(block_ref(3, 1, again), 9000).has_value()) ++again;
  EXPECT_GT(again, count / 3);
  for (std::uint64_t i = 1; i < count; i += 2) {
    ASSERT_EQ(read(block_ref(1, 1, i)).value(),
              text_of(block_bytes(block_ref(1, 1, i), i % 3 == 0 ? 60000 : 9000)));
  }
}

// Goal: a full store goes on taking as much as is removed: the log, which grows by a frame each time, is cut short again.
// Method: large blocks only, so that nothing dies in the log's own slots.
TEST_P(StoreTest, AFullStoreTakesWhatWasRemoved) {
  std::uint64_t count = 0;
  while (put(block_ref(1, 1, count), 60000).has_value()) ++count;
  for (std::uint64_t index = 0; index < 300; ++index) {
    ASSERT_EQ(node_.sim.run(store_->remove({block_ref(1, 1, index)})).value(), 1U);
    const Result<void> stored = put(block_ref(1, 1, count + index), 60000);
    ASSERT_TRUE(stored.has_value()) << index << ": " << stored.error().to_string();
  }
}

Job put_into(BlockStore& store, BlockRef ref, std::size_t size, std::size_t& done_count) {
  const Result<void> stored = co_await store.put(ref, block_bytes(ref, size), {});
  EXPECT_TRUE(stored.has_value());
  ++done_count;
}

// Goal: many at once all get there, and share syncs.
TEST_P(StoreTest, ManyAtOnce) {
  node_.disk.set_options({.latency_min = Duration(1000), .latency_max = Duration(100'000)});
  std::size_t done_count = 0;
  constexpr std::size_t kCount = 150;
  for (std::size_t i = 0; i < kCount; ++i) {
    // Each is put twice: the second waits for the first.
    const std::size_t size = i % 8 == 0 ? 40000 : 1000 + i;
    for (int twice = 0; twice < 2; ++twice) {
      spawn(node_.sim.executor(), put_into(*store_, block_ref(1, 1, i), size, done_count));
    }
  }
  ASSERT_TRUE(node_.sim.run_until([&] { return done_count == 2 * kCount; }));
  EXPECT_EQ(store_->stats().block_count, kCount);
  EXPECT_LT(store_->stats().sync_count, kCount / 2);
  for (std::size_t i = 0; i < kCount; ++i) {
    const std::size_t size = i % 8 == 0 ? 40000 : 1000 + i;
    ASSERT_EQ(read(block_ref(1, 1, i)).value(), text_of(block_bytes(block_ref(1, 1, i), size)));
  }
}

class StoreGrowthTest : public ::testing::TestWithParam<Engine> {
 protected:
  void open() {
    Env env = node_.env();
    auto opened = node_.sim.run(open_store(env, GetParam(), store_options(256 * kMiB)));
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    store_ = std::move(*opened);
  }
  void put(std::uint64_t index, std::size_t size) {
    const BlockRef ref = block_ref(1, 1, index);
    ASSERT_TRUE(node_.sim.run(store_->put(ref, block_bytes(ref, size), {})));
  }
  void close() {
    EXPECT_TRUE(node_.sim.run(store_->close()));
    store_.reset();
  }

  StoreNode node_{3};
  std::unique_ptr<BlockStore> store_;
};

// Goal: a store that grows writes what it is given, and not its space too. Method: bytes that it counts,
// for blocks that fill their slots and a bit of log.
TEST_P(StoreGrowthTest, LargeBlocksAreWrittenOnce) {
  open();
  constexpr std::uint64_t kCount = 1000;
  for (std::uint64_t index = 0; index < kCount; ++index) put(index, kBlockSizeMin);
  // Of the log: a page of records and a page of its slot that was zeroed for each block here.
  EXPECT_LT(store_->stats().bytes_written, kCount * (kBlockSizeMin + 2 * kPageSize) + 4 * kMiB);
  close();
}

// Goal: what is synced often goes where it was written before, from the first block on, after a restart and
// when large blocks take all the space that there was. Method: the disk counts syncs that went elsewhere.
TEST_P(StoreGrowthTest, TheLogGoesWhereItWasWritten) {
  open();
  std::uint64_t index = 0;
  for (int round = 0; round < 3; ++round) {
    for (int each = 0; each < 600; ++each) put(index++, each % 20 == 0 ? kBlockSizeMin : 9000);
    EXPECT_LE(node_.disk.raw_sync_count(), 2U * static_cast<unsigned>(round)) << round;
    close();
    open();
  }
  close();
}

// Goal: the log of a new store has space that was written when it was made, also after a restart and when large blocks
// took all else: small blocks cost their frames, and no zeros. Method: bytes that the store counts.
TEST_P(StoreGrowthTest, ANewStoreHasSpaceForItsLog) {
  open();
  std::uint64_t index = 0;
  std::uint64_t written = 0;
  std::uint64_t needed = 0;
  for (int round = 0; round < 3; ++round) {
    const std::uint64_t before = store_->stats().bytes_written;
    for (int each = 0; each < 200; ++each) {
      const std::size_t size = each % 4 == 0 ? kBlockSizeMin : 9000;
      put(index++, size);
      needed += round_up(size, kPageSize) + kPageSize;  // and its frame's header
    }
    written += store_->stats().bytes_written - before;
    close();
    open();
  }
  // Slots that are used to their last page but one, and checkpoints.
  EXPECT_LT(written, needed + 10 * kBlockSizeMin);
  EXPECT_GE(written, index * 9000);
  close();
}

INSTANTIATE_TEST_SUITE_P(Engines, StoreGrowthTest, ::testing::Values(Engine::mmap, Engine::disk),
                         [](const auto& param) { return name_of(param.param); });

// Goal: what a scrub reads is the whole block; a block that is not here, and a store that is closed, say
// so.
TEST_P(StoreTest, ReadsWhatIsStored) {
  for (const std::size_t size : {std::size_t{100}, std::size_t{9000}, std::size_t{kBlockSizeMin}, std::size_t{8192},
                                 std::size_t{12288}}) {
    SCOPED_TRACE(size);
    const BlockRef ref = size % kPageSize == 0 ? packable_ref(size) : block_ref(1, 1, size);
    ASSERT_TRUE(put(ref, size));
    AlignedBuffer out(round_up(size, kPageSize));
    ASSERT_TRUE(node_.sim.run(store_->read_stored(ref, out.bytes())));
    EXPECT_EQ(as_text(out.bytes().first(size)), text_of(block_bytes(ref, size)));
  }
  AlignedBuffer out(kPageSize);
  EXPECT_EQ(node_.sim.run(store_->read_stored(block_ref(1, 1, 1), out.bytes())).code(),
            Errc::not_found);
  EXPECT_EQ(store_->problem(), "");
  ASSERT_TRUE(node_.sim.run(store_->renew_records()));
  EXPECT_EQ(read(block_ref(1, 1, 9000)).value(), text_of(block_bytes(block_ref(1, 1, 9000), 9000)));
  ASSERT_TRUE(node_.sim.run(store_->close()));
  EXPECT_NE(node_.sim.run(store_->read_stored(block_ref(1, 1, 100), out.bytes())).code(), Errc::ok);
}

TEST_P(StoreTest, ClosedIsClosed) {
  ASSERT_TRUE(put(block_ref(1, 1, 1), 100));
  EXPECT_TRUE(node_.sim.run(store_->close()));
  EXPECT_TRUE(node_.sim.run(store_->close()));
  std::byte out{};
  EXPECT_EQ(put(block_ref(1, 1, 2), 100).code(), Errc::closed);
  EXPECT_EQ(node_.sim.run(store_->remove({block_ref(1, 1, 1)})).code(), Errc::closed);
  EXPECT_EQ(node_.sim.run(store_->fence({1}, {5})).code(), Errc::closed);
  EXPECT_EQ(node_.sim.run(store_->read(block_ref(1, 1, 1), 0, {&out, 1})).code(), Errc::closed);
}

INSTANTIATE_TEST_SUITE_P(Engines, StoreTest,
                         ::testing::Values(Engine::temp, Engine::mmap, Engine::disk, Engine::device),
                         [](const auto& param) { return name_of(param.param); });

}  // namespace
}  // namespace agro
