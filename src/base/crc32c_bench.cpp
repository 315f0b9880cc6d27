// What CRC32C costs: of a record, a sector and a block; in the processor's cache, and from memory.
#include <benchmark/benchmark.h>

#include "base/crc32c.hpp"

namespace agro {
namespace {

/// The same bytes again and again.
void bm_crc32c(benchmark::State& state) {
  const AlignedBuffer bytes(static_cast<std::size_t>(state.range(0)));
  for (auto step : state) benchmark::DoNotOptimize(crc32c(bytes.bytes()));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(bm_crc32c)->Arg(40)->Arg(4096)->Arg(1 << 20);

/// Sectors of 256 MiB one after the other: what no cache holds.
void bm_crc32c_from_memory(benchmark::State& state) {
  constexpr std::size_t kSize = std::size_t{256} << 20U;
  AlignedBuffer bytes(kSize);
  std::memset(bytes.data(), 1, kSize);
  std::size_t at = 0;
  for (auto step : state) {
    benchmark::DoNotOptimize(crc32c(ConstBytes(bytes.bytes()).subspan(at, kPageSize)));
    at = (at + kPageSize) % kSize;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
BENCHMARK(bm_crc32c_from_memory);

}  // namespace
}  // namespace agro
