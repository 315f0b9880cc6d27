// A million blocks: how long a restart takes, from a checkpoint and from the log alone.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/log.hpp"
#include "storage/mmap_store_impl.hpp"
#include "storage/store_testing.hpp"

namespace agro {
namespace {

/// Processor time of this process; no clock is read.
double used_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

constexpr std::uint64_t kWriterCount = 500;
constexpr std::uint64_t kBlocksEach = 2000;

/// Puts blocks of zeros, which the simulated disk does not store.
Job put_zeros(BlockStore& store, std::uint64_t writer, SharedBytes zeros, std::uint64_t& left) {
  for (std::uint64_t i = 0; i < kBlocksEach; ++i) {
    const BlockRef ref = block_ref(1, 1, writer * kBlocksEach + i);
    const Result<void> stored = co_await store.put(ref, zeros, {});
    EXPECT_TRUE(stored.has_value());
  }
  --left;
}

class StoreRestartTest : public ::testing::TestWithParam<Engine> {};

// Goal: a restart of a store with a million blocks reads an index, not the data. Method: print the
// time that it takes; assert that all is there.
TEST_P(StoreRestartTest, AMillionBlocks) {
  StoreNode node(1);
  StoreOptions options = store_options(8 * kGiB, kBlockSizeDefault);
  options.grow_step_max = 128 * kMiB;
  options.checkpoint_log_size = 100 * kGiB;  // the log keeps it all until the close
  Env env = node.env();
  if (GetParam() == Engine::device) make_device(node, options.size);
  std::unique_ptr<BlockStore> store = std::move(node.sim.run(open_store(env, GetParam(), options)).value());
  AlignedBuffer buffer(kPageSize);
  std::memset(buffer.data(), 0, buffer.size());
  const SharedBytes zeros = copy_shared(buffer.bytes());
  std::uint64_t left = kWriterCount;
  double start = used_seconds();
  for (std::uint64_t writer = 0; writer < kWriterCount; ++writer) {
    spawn(node.sim.executor(), put_zeros(*store, writer, zeros, left));
  }
  ASSERT_TRUE(node.sim.run_until([&] { return left == 0; }));
  fmt::print("a million puts: {:.2f} s, index {} bytes a block\n", used_seconds() - start,
             store->stats().index_bytes / store->stats().block_count);
  EXPECT_LE(store->stats().index_bytes, 100 * store->stats().block_count);

  for (const char* from : {"the log (killed)", "a checkpoint (closed)"}) {
    if (from == std::string_view("the log (killed)")) {
      set_log_sink([](LogLevel, std::string_view) {});
      node.disk.kill();
    }
    const Result<void> closed = node.sim.run(store->close());
    EXPECT_TRUE(closed.has_value() || closed.code() == Errc::closed);
    store.reset();
    start = used_seconds();
    store = std::move(node.sim.run(open_store(env, GetParam(), options)).value());
    fmt::print("restart from {}: {:.2f} s\n", from, used_seconds() - start);
    EXPECT_EQ(store->stats().block_count, kWriterCount * kBlocksEach);
    for (std::uint64_t i = 0; i < kWriterCount * kBlocksEach; i += 1777) {
      EXPECT_EQ(store->find(block_ref(1, 1, i)), kPageSize);
    }
  }
  EXPECT_TRUE(node.sim.run(store->close()));
}

INSTANTIATE_TEST_SUITE_P(Engines, StoreRestartTest, ::testing::Values(Engine::mmap, Engine::device),
                         [](const auto& param) { return name_of(param.param); });

}  // namespace
}  // namespace agro
