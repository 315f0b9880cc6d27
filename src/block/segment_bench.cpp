// What it costs to make a block: sectors copied into a segment, its tables, and the checksums of the crc layer.
#include <benchmark/benchmark.h>

#include "block/segment.hpp"
#include "blockset/crc.hpp"
#include "core/block_ref.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kBlockSize = 1 << 20;
const BlockRef kRef{VolumeId{5}, Epoch{2}, 1, BlockType::data};

/// A full block of extents of so many sectors, or with one extent only (what a flush cuts short).
/// Arguments: sectors of an extent; extents, 0: as many as fit.
void bm_segment_build(benchmark::State& state) {
  const auto extent_sectors = static_cast<std::uint32_t>(state.range(0));
  const auto extent_count = static_cast<std::size_t>(state.range(1));
  const std::vector<std::byte> data(std::size_t{extent_sectors} * kSectorSize, std::byte{7});
  const auto buffer = std::make_shared<AlignedBuffer>(kBlockSize);
  std::int64_t bytes = 0;
  for (auto step : state) {
    SegmentBuilder segment(buffer, crc_payload_capacity(kBlockSize));
    std::uint64_t lba = 0;
    while (segment.room_sectors() >= extent_sectors &&
           (extent_count == 0 || segment.extents().size() < extent_count)) {
      segment.add_data(lba, data);
      lba += std::uint64_t{2} * extent_sectors;
    }
    bytes += std::int64_t{segment.sector_count()} * kSectorSize;
    benchmark::DoNotOptimize(crc_seal(kRef, buffer->bytes(), segment.finish(0)));
  }
  state.SetBytesProcessed(bytes);
}
BENCHMARK(bm_segment_build)->ArgNames({"sectors", "extents"})->Args({1, 1})->Args({1, 0})->Args({32, 0});

/// Reading its tables, as replay and the cleaner do.
void bm_segment_decode(benchmark::State& state) {
  const std::vector<std::byte> data(kSectorSize, std::byte{7});
  const auto buffer = std::make_shared<AlignedBuffer>(kBlockSize);
  SegmentBuilder segment(buffer, crc_payload_capacity(kBlockSize));
  for (std::uint64_t lba = 0; segment.has_room(); lba += 2) segment.add_data(lba, data);
  const ConstBytes payload = ConstBytes(buffer->bytes()).first(segment.finish(0));
  for (auto step : state) benchmark::DoNotOptimize(decode_segment(payload).has_value());
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(segment.extents().size()));
}
BENCHMARK(bm_segment_decode);

}  // namespace
}  // namespace agro
