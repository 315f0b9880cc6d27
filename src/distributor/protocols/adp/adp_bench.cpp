// What ADP costs per frame, without sockets.
#include <benchmark/benchmark.h>

#include "distributor/protocols/adp/adp_frame.hpp"

namespace agro {
namespace {

const BlockRef kRef{VolumeId{5}, Epoch{2}, 1, BlockType::data};

void bench_encode_write(benchmark::State& state) {
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(AdpOp::write);
  for (auto _ : state) {
    ++header.request_id;
    benchmark::DoNotOptimize(encode_adp_frame(header, encode_adp_write({kRef, 1}), 1 << 20));
  }
}
BENCHMARK(bench_encode_write);

void bench_decode_read(benchmark::State& state) {
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(AdpOp::read);
  const std::vector<std::byte> frame =
      encode_adp_frame(header, encode_adp_read({kRef, 0, 4096}), 0);
  for (auto _ : state) {
    const Result<AdpHeader> decoded = decode_adp_header(frame, 1 << 20);
    const ConstBytes body = ConstBytes(frame).subspan(kAdpHeaderSize, decoded->body_size);
    benchmark::DoNotOptimize(check_adp_body(*decoded, body));
    benchmark::DoNotOptimize(decode_adp_read(body, 1 << 20));
  }
}
BENCHMARK(bench_decode_read);

void bench_list_frame(benchmark::State& state) {
  const std::vector<BlockInfo> infos(kAdpItemsPerFrame, BlockInfo{kRef, 4096});
  for (auto _ : state) {
    std::vector<BlockInfo> back;
    benchmark::DoNotOptimize(decode_adp_entries(encode_adp_entries(infos), back));
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * kAdpItemsPerFrame));
}
BENCHMARK(bench_list_frame);

}  // namespace
}  // namespace agro
