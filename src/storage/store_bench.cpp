// The mmap and the disk engine on a real disk, in a directory of their own under AGRO_BENCH_DIR (or
// /var/tmp): what one writer, several writers and a reader get. First argument: 0 mmap, 1 disk.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>

#include "base/log.hpp"
#include "base/system_disk.hpp"
#include "storage/mmap_store_impl.hpp"
#include "storage/store_testing.hpp"

namespace agro {
namespace {

enum class Engine { mmap, disk };
Engine engine_of(const benchmark::State& state) { return static_cast<Engine>(state.range(0)); }

/// A store on the real disk and the loop it runs on.
class BenchStore {
 public:
  BenchStore(Engine engine, std::uint64_t size) {
    const char* base = std::getenv("AGRO_BENCH_DIR");
    directory_ = std::string(base == nullptr ? "/var/tmp" : base) + "/agro_store_bench";
    std::filesystem::remove_all(directory_);
    StoreOptions options;
    options.directory = directory_;
    options.size = size;
    options.cluster_id = test_uuid(1);
    options.peer_id = test_uuid(2);
    Env env{loop_.get_executor(), clock_, random_, disk_, network_, offload_, metrics_};
    Task<std::unique_ptr<BlockStore>> opening = engine == Engine::disk ? open_disk_store(env, std::move(options))
                                                                       : open_mmap_store(env, std::move(options));
    store_ = std::move(run(std::move(opening)).value());
  }
  ~BenchStore() {
    AGRO_ASSERT(run(store_->close()).has_value());
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  BlockStore& store() { return *store_; }
  Executor executor() { return loop_.get_executor(); }
  void run_until(const bool& done) {
    loop_.restart();
    while (!done) loop_.run_one();
  }
  template <class T>
  Result<T> run(Task<T> task) {
    std::optional<Result<T>> result;
    bool done = false;
    spawn(executor(), store_result<T>(std::move(task), result, done));
    run_until(done);
    return std::move(*result);
  }

 private:
  template <class T>
  static Job store_result(Task<T> task, std::optional<Result<T>>& out, bool& done) {
    Result<T> result = co_await std::move(task);
    out.emplace(std::move(result));
    done = true;
  }

  asio::io_context loop_{1};
  SystemClock clock_{loop_};
  Random random_{1};
  SystemDisk disk_{loop_};
  NoNetwork network_;
  InlineOffload offload_{loop_.get_executor()};
  Metrics metrics_;
  std::string directory_;
  std::unique_ptr<BlockStore> store_;
};

struct PutLoop {
  BlockStore& store;
  SharedBytes bytes;
  std::uint64_t count;
  std::uint64_t next = 0;
  std::uint64_t running = 0;
  bool done = false;
};

/// One of several writers; removes what lies far behind, so that slots wrap.
Job put_many(PutLoop& loop, std::uint64_t& next_index, std::uint64_t kept_count) {
  while (loop.next < loop.count) {
    ++loop.next;
    const std::uint64_t index = next_index++;
    const Result<void> stored = co_await loop.store.put(block_ref(1, 1, index), loop.bytes, {});
    AGRO_ASSERT(stored.has_value());
    if (index % 64 == 0 && index > kept_count) {
      std::vector<BlockRef> old;
      for (std::uint64_t i = 0; i < 64; ++i) old.push_back(block_ref(1, 1, index - kept_count - i));
      const Result<std::size_t> removed = co_await loop.store.remove(std::move(old));
      AGRO_ASSERT(removed.has_value());
    }
  }
  if (--loop.running == 0) loop.done = true;
}

void put_blocks(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(1));
  const auto writer_count = static_cast<std::uint64_t>(state.range(2));
  BenchStore bench(engine_of(state), 2 * kGiB);
  const SharedBytes bytes = block_bytes({}, size);
  const std::uint64_t kept_count = 512 * kMiB / size;
  std::uint64_t next_index = 1;
  for (auto _ : state) {
    PutLoop loop{bench.store(), bytes, size >= kMiB ? 256U : 4096U};
    loop.running = writer_count;
    for (std::uint64_t i = 0; i < writer_count; ++i) {
      spawn(bench.executor(), put_many(loop, next_index, kept_count));
    }
    bench.run_until(loop.done);
  }
  const StoreStats stats = bench.store().stats();
  state.SetItemsProcessed(static_cast<std::int64_t>(next_index - 1));
  state.SetBytesProcessed(static_cast<std::int64_t>((next_index - 1) * size));
  state.counters["puts_per_sync"] =
      static_cast<double>(next_index - 1) / static_cast<double>(stats.sync_count);
  state.counters["written_per_byte"] = static_cast<double>(stats.bytes_written) /
                                       static_cast<double>((next_index - 1) * size);
}
BENCHMARK(put_blocks)
    ->ArgNames({"engine", "size", "writers"})
    ->ArgsProduct({{0, 1}, {8192}, {1, 4, 32}})
    ->ArgsProduct({{0, 1}, {kMiB}, {1, 8}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void try_read_4k(benchmark::State& state) {
  BenchStore bench(engine_of(state), 2 * kGiB);
  constexpr std::uint64_t kCount = 256;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const BlockRef ref = block_ref(1, 1, i);
    AGRO_ASSERT(bench.run(bench.store().put(ref, block_bytes(ref, kMiB), {})).has_value());
    std::vector<std::byte> out(kMiB);  // into the page cache
    AGRO_ASSERT(bench.run(bench.store().read(ref, 0, out)).has_value());
  }
  Random random(1);
  AlignedBuffer out(kPageSize);
  std::uint64_t miss_count = 0;
  for (auto _ : state) {
    const auto offset = static_cast<std::uint32_t>(random.below(256) * kPageSize);
    const auto read =
        bench.store().try_read(block_ref(1, 1, random.below(kCount)), offset, out.bytes());
    if (!read.has_value()) ++miss_count;
  }
  state.SetItemsProcessed(state.iterations());
  state.counters["misses"] = static_cast<double>(miss_count);
}
BENCHMARK(try_read_4k)->ArgName("engine")->Arg(0);  // disk has no page cache to ask

void read_cold_4k(benchmark::State& state) {
  BenchStore bench(engine_of(state), 2 * kGiB);
  constexpr std::uint64_t kCount = 512;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const BlockRef ref = block_ref(1, 1, i);
    AGRO_ASSERT(bench.run(bench.store().put(ref, block_bytes(ref, kMiB), {})).has_value());
  }
  Random random(1);
  AlignedBuffer out(kPageSize);
  for (auto _ : state) {
    const auto offset = static_cast<std::uint32_t>(random.below(256) * kPageSize);
    const BlockRef ref = block_ref(1, 1, random.below(kCount));
    AGRO_ASSERT(bench.run(bench.store().read(ref, offset, out.bytes())).has_value());
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(read_cold_4k)->ArgName("engine")->Arg(0)->Arg(1)->UseRealTime()->Iterations(5000);

}  // namespace
}  // namespace agro
