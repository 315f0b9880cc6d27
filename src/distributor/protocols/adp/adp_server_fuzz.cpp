// Fuzzes a server connection: whatever a client sends, the server answers, closes it, or waits, and
// its store holds nothing but what was written.
#include <cstdint>

#include "base/log.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/protocols/adp/adp_fuzz_testing.hpp"
#include "distributor/protocols/adp/adp_server.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kBlockSize = 64 * 1024;
const Uuid kCluster{{0xCC}};

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;  // NOLINT: a program of its own
  if (size == 0) return 0;
  set_log_sink({});
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(AdpOp::hello);
  // The first byte says whether checksums are put right, and whether hello is sent at all.
  AdpFuzzInput input(header, encode_adp_hello({kCluster, {}, kBlockSize}), {data, size},
                     (data[0] & 6) != 6);
  if ((data[0] & 1) == 0) repair_adp_checksums(input.after_hello(), [](AdpHeader&) {});
  const ConstBytes sent = input.bytes();

  SimLoop sim;
  SimNetwork network(sim.executor(), sim.clock(), Random(1));
  FakeNode node(sim, network, "server");
  FakeStore blocks(sim.clock(), kBlockSize);
  blocks.cold = (data[0] & 8) != 0;
  AdpServer server(node.env(), kCluster,
                   std::make_shared<PeerService>(PeerId{{2}}, blocks, node.metrics()));
  server.serve(std::make_unique<AdpInputStream>(sim.clock(), sent, sent.size()));
  sim.run_for(std::chrono::seconds(20));
  AGRO_ASSERT(server.connection_count() == 0);
  AGRO_ASSERT(sim.run_job(server.stop()));
  sim.poll();
  for (const auto& [ref, bytes] : blocks.blocks) AGRO_ASSERT(!bytes.empty());
  return 0;
}
