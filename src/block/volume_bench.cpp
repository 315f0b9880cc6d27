// What the map of a volume costs: memory, insert and lookup, and with it a whole volume's opening,
// flush and checkpoint, by the volume's size and by what is mapped.
//
// The cluster is a map in this process and its delays are simulated: they take no real time, so that
// times are those of the client's processor. INodes are written by the code that volumes write them with.
#include <benchmark/benchmark.h>

#include "block/volume_fixture.hpp"

namespace agro {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30U;
constexpr std::uint32_t kSectorsPerBlock = 250;  // of a full block of 1 MiB
constexpr double kMiB = 1024 * 1024;

/// Extents at places that `random` draws, one after another in blocks as a log has them.
class RandomExtents {
 public:
  RandomExtents(std::uint64_t sector_count, std::uint32_t extent_sectors)
      : extent_sectors_(extent_sectors), place_count_(sector_count / extent_sectors) {}

  void add_to(ExtentMap& map) {
    replaced_.clear();
    map.assign(random_.below(place_count_) * extent_sectors_, extent_sectors_, block_, sector_, replaced_);
    sector_ += extent_sectors_;
    if (sector_ + extent_sectors_ <= kSectorsPerBlock) return;
    sector_ = 0;
    ++block_;
  }

 private:
  Random random_{1};
  std::uint32_t extent_sectors_;
  std::uint64_t place_count_;
  BlockId block_ = 0;
  std::uint32_t sector_ = 0;
  std::vector<MapRun> replaced_;
};

constexpr std::uint64_t kSectorsOfTiB = 1024 * kGiB / kSectorSize;
constexpr std::uint64_t kExtents = 10'000'000;

/// Ten million extents of so many sectors each, into a map of 1 TiB.
void bm_extent_map_insert(benchmark::State& state) {
  const auto extent_sectors = static_cast<std::uint32_t>(state.range(0));
  for (auto step : state) {
    ExtentMap map(kSectorsOfTiB);
    RandomExtents extents(kSectorsOfTiB, extent_sectors);
    for (std::uint64_t index = 0; index < kExtents; ++index) extents.add_to(map);
    state.counters["map_mib"] = static_cast<double>(map.memory_bytes()) / kMiB;
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(kExtents) * state.iterations());
}
BENCHMARK(bm_extent_map_insert)->Arg(1)->Arg(8)->Iterations(1)->Unit(benchmark::kSecond);

/// One lookup, and one overwrite of 4 KiB, at random in a map of that many extents.
ExtentMap& map_of_ten_million(std::uint32_t extent_sectors) {
  static std::map<std::uint32_t, ExtentMap> maps;
  const auto found = maps.find(extent_sectors);
  if (found != maps.end()) return found->second;
  ExtentMap& map = maps.emplace(extent_sectors, ExtentMap(kSectorsOfTiB)).first->second;
  RandomExtents extents(kSectorsOfTiB, extent_sectors);
  for (std::uint64_t index = 0; index < kExtents; ++index) extents.add_to(map);
  return map;
}

void bm_extent_map_lookup(benchmark::State& state) {
  const ExtentMap& map = map_of_ten_million(static_cast<std::uint32_t>(state.range(0)));
  Random random(2);
  for (auto step : state) benchmark::DoNotOptimize(map.lookup(random.below(kSectorsOfTiB), 1));
}
BENCHMARK(bm_extent_map_lookup)->Arg(1)->Arg(8);

void bm_extent_map_overwrite(benchmark::State& state) {
  ExtentMap& map = map_of_ten_million(static_cast<std::uint32_t>(state.range(0)));
  Random random(3);
  std::vector<MapRun> replaced;
  for (auto step : state) {
    replaced.clear();
    map.assign(random.below(kSectorsOfTiB), 1, 7, 9, replaced);
  }
}
BENCHMARK(bm_extent_map_overwrite)->Arg(1)->Arg(8);

/// `per_mille` of a volume's sectors, each at random in any block: no two make one run.
void map_at_random(VolumeMap& map, std::uint64_t per_mille) {
  const std::uint64_t sector_count = map.map().sector_count();
  Random random(1);
  for (std::uint64_t index = 0; map.live_sector_count() < sector_count / 1000 * per_mille; ++index) {
    const BlockId id = map.add_open_block({1});
    for (std::uint32_t sector = 0; sector < kSectorsPerBlock; ++sector) {
      std::uint64_t lba = random.below(sector_count);
      // Where little is left, the next one that is free.
      while (map.lookup(lba, 1).block != kHoleBlock) lba = (lba + 1) % sector_count;
      map.assign(lba, 1, id, sector);
      if (map.live_sector_count() == sector_count) break;
    }
    map.seal_block(id, index + 1, kSectorsPerBlock, kBlockSizeDefault);
    map.set_durable(id);
  }
}

/// Bytes of memory per mapped 4 KiB: of the map's pages, and with the block table. Argument: mapped sectors
/// in a thousand.
void bm_map_memory(benchmark::State& state) {
  for (auto step : state) {
    VolumeMap map(64 * kGiB / kSectorSize);
    map_at_random(map, static_cast<std::uint64_t>(state.range(0)));
    const auto mapped = static_cast<double>(map.live_sector_count());
    const std::size_t table_bytes = std::size_t{map.table().id_limit()} * sizeof(BlockEntry);
    const std::size_t fixed_bytes = std::size_t{map.map().page_count()} * sizeof(MapPage);
    state.counters["map"] = static_cast<double>(map.map().memory_bytes()) / mapped;
    state.counters["all"] =
        static_cast<double>(map.map().memory_bytes() + fixed_bytes + table_bytes) / mapped;
  }
}
BENCHMARK(bm_map_memory)->Arg(1)->Arg(10)->Arg(50)->Arg(80)->Arg(98)->Arg(125)->Arg(200)->Arg(400)->Arg(700)->Arg(1000)
    ->Iterations(1)->Unit(benchmark::kSecond);

/// Writes the INode of a map.
Task<BlockRef> write_inode(VolumeMap& map, Inode& inode, std::uint64_t size_bytes, std::uint64_t covered) {
  map.begin_checkpoint();
  PageKey key;
  std::vector<std::byte> bytes;
  std::vector<PageKey> taken;
  while (map.take_page(key, bytes)) {
    taken.push_back(key);
    AGRO_CO_TRY_OK(co_await inode.put_page(key, std::move(bytes), {1}));
    bytes = {};
  }
  InodeMeta meta{VolumeFixture::kVolume, size_bytes, covered, {1}};
  AGRO_CO_TRY(const BlockRef root, co_await inode.finish(std::move(meta)));
  map.end_checkpoint(taken);
  co_return root;
}

Task<void> put_block(MemoryBlocks& blocks, BlockRef ref, SharedBytes block) {
  blocks.blocks[ref] = copy_shared(block.bytes);
  co_return Result<void>();
}

/// A volume of so many GiB of which `mapped_gib` are mapped at random; it can be opened.
class MappedVolume : public VolumeFixture {
 public:
  MappedVolume(std::uint64_t size_gib, std::uint64_t mapped_gib) : VolumeFixture(1, size_gib * kGiB) {
    options = VolumeOptions();
    options.cleaner = false;  // the data blocks themselves are not there
    block_size = kBlockSizeDefault;
    epoch = 1;
    VolumeMap map(size_bytes / kSectorSize);
    map_at_random(map, mapped_gib * 1000 / size_gib);
    backend = std::make_unique<MemoryBackend>(blocks, loop.clock(), 1, block_size);
    const std::unique_ptr<Blockset> blockset = make_blockset(*parse_blockset_spec(spec), *backend);
    BufferPool buffers(block_size, 1);
    Inode inode(kVolume, *blockset, buffers, [this](BlockRef ref, SharedBytes block) {
      return put_block(blocks, ref, std::move(block));
    });
    const std::uint64_t covered = map.block_count();
    const Result<BlockRef> root = loop.run(write_inode(map, inode, size_bytes, covered));
    AGRO_ASSERT(root.has_value());
    head = {{1}, {1}, root->index, covered};
    inode_bytes = inode.bytes_written();
  }
  std::uint64_t inode_bytes = 0;
};

MappedVolume& mapped_volume(std::uint64_t size_gib, std::uint64_t mapped_gib) {
  static std::map<std::pair<std::uint64_t, std::uint64_t>, std::unique_ptr<MappedVolume>> volumes;
  std::unique_ptr<MappedVolume>& volume = volumes[{size_gib, mapped_gib}];
  if (volume == nullptr) volume = std::make_unique<MappedVolume>(size_gib, mapped_gib);
  return *volume;
}

/// Opening a volume of so many GiB with so many of them mapped, until it serves: fence, INode, log,
/// checkpoint. Client's processor time; `simulated_ms` with reads and writes that take 1 us to 2 ms each.
void bm_open(benchmark::State& state) {
  MappedVolume& volume = mapped_volume(static_cast<std::uint64_t>(state.range(0)),
                                       static_cast<std::uint64_t>(state.range(1)));
  Duration simulated{};
  for (auto step : state) {
    const TimePoint begin = volume.loop.clock().now();
    AGRO_ASSERT(volume.open().has_value());
    simulated += volume.loop.clock().now() - begin;
    state.PauseTiming();
    state.counters["map_mib_after"] =
        static_cast<double>(volume.volume->info().map_memory_bytes) / kMiB;
    AGRO_ASSERT(volume.close().has_value());
    state.ResumeTiming();
  }
  state.counters["inode_mib"] = static_cast<double>(volume.inode_bytes) / kMiB;
  state.counters["simulated_ms"] = std::chrono::duration<double, std::milli>(simulated).count() /
                                   static_cast<double>(state.iterations());
}
BENCHMARK(bm_open)->Args({1, 0})->Args({100, 10})->Args({1024, 100})->Iterations(5)->Unit(benchmark::kMillisecond);

/// A write of 4 KiB at random and its flush, by the volume's size and what of it is mapped. Client's
/// processor time; the map's pages are in memory after the first round.
void bm_flush(benchmark::State& state) {
  MappedVolume& volume = mapped_volume(static_cast<std::uint64_t>(state.range(0)),
                                       static_cast<std::uint64_t>(state.range(1)));
  volume.options.checkpoint_after_blocks = UINT64_MAX;  // the log's cost only
  AGRO_ASSERT(volume.open().has_value());
  constexpr std::uint64_t kPlaces = 64 * 1024;  // within 256 MiB
  const std::vector<std::byte> data(kSectorSize);
  Random random(5);
  for (std::uint64_t lba = 0; lba < kPlaces; lba += ExtentMap::kSectorsPerPage) {
    AGRO_ASSERT(volume.loop.run(volume.volume->write(lba * kSectorSize, data)).has_value());
  }
  for (auto step : state) {
    AGRO_ASSERT(volume.loop.run(volume.volume->write(random.below(kPlaces) * kSectorSize, data)).has_value());
    AGRO_ASSERT(volume.loop.run(volume.volume->flush()).has_value());
  }
  AGRO_ASSERT(volume.close().has_value());
}
BENCHMARK(bm_flush)->Args({1, 0})->Args({1024, 0})->Args({1024, 100})->Iterations(3000)->Unit(benchmark::kMicrosecond);

/// A checkpoint of 1 TiB with 100 GiB mapped, after so many random sectors were written.
void bm_checkpoint(benchmark::State& state) {
  MappedVolume& volume = mapped_volume(1024, 100);
  volume.options.map_memory = std::make_shared<MapMemory>(kGiB);
  AGRO_ASSERT(volume.open().has_value());
  const std::vector<std::byte> data(kSectorSize);
  Random random(6);
  std::uint64_t bytes = 0;
  for (auto step : state) {
    state.PauseTiming();
    for (std::int64_t index = 0; index < state.range(0); ++index) {
      const std::uint64_t lba = random.below(volume.size_bytes / kSectorSize);
      AGRO_ASSERT(volume.loop.run(volume.volume->write(lba * kSectorSize, data)).has_value());
    }
    AGRO_ASSERT(volume.loop.run(volume.volume->flush()).has_value());
    const std::uint64_t before = volume.metrics.value("agro_volume_checkpoint_bytes_total");
    state.ResumeTiming();
    AGRO_ASSERT(volume.loop.run(volume.volume->checkpoint()).has_value());
    bytes += volume.metrics.value("agro_volume_checkpoint_bytes_total") - before;
  }
  AGRO_ASSERT(volume.close().has_value());
  state.counters["kib"] = static_cast<double>(bytes) / 1024 / static_cast<double>(state.iterations());
}
BENCHMARK(bm_checkpoint)->Arg(1)->Arg(10)->Arg(100)->Arg(1000)->Arg(10000)->Iterations(3)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace agro
