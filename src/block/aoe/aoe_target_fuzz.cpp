// Frames from anybody: decoded and served, as many as the input has, each with two bytes of length before it.
#include <memory>

#include "base/assert.hpp"
#include "block/aoe/fake_ether.hpp"
#include "block/aoe/target.hpp"
#include "internal/nbd/memory_device.hpp"
#include "sim/sim_loop.hpp"

namespace agro::aoe {
namespace {

Job serve(Target& target, bool& ended) {
  const Result<void> done = co_await target.run();
  AGRO_ASSERT(done.has_value());
  ended = true;
}

Task<void> keep(std::string) { co_return Result<void>(); }

void serve_frames(ConstBytes input) {
  SimLoop loop;
  Metrics metrics;
  FakeEther ether;
  nbd::MemoryDevice device(1 << 16);
  TargetOptions options;
  options.major = 1;
  options.minor = 1;
  options.name = "fuzz";
  Target target(loop.executor(), ether, device, metrics, std::move(options), keep);
  bool ended = false;
  TaskGroup jobs(loop.executor());
  jobs.spawn(serve(target, ended));
  while (input.size() >= 2) {
    const std::size_t size = std::min<std::size_t>(load_be<std::uint16_t>(input), input.size() - 2);
    const ConstBytes frame = input.subspan(2, size);
    ether.put({frame.begin(), frame.end()});
    input = input.subspan(2 + size);
    loop.poll();
  }
  target.stop();
  AGRO_ASSERT(loop.run_until([&] { return ended; }, std::chrono::minutes(1)));
  for (const auto& frame : ether.sent) AGRO_ASSERT(decode_header(frame).has_value());
}

}  // namespace
}  // namespace agro::aoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  agro::aoe::serve_frames(agro::ConstBytes(reinterpret_cast<const std::byte*>(data), size));
  return 0;
}
