// Fuzzes a server connection: whatever a client sends, the server answers, closes it, or waits, and
// its store holds nothing but what was written. Header checksums are put right first, or no input
// would get beyond them.
#include <algorithm>
#include <cstdint>

#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/protocols/adp/adp_frame.hpp"
#include "distributor/protocols/adp/adp_server.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kBlockSize = 64 * 1024;
const Uuid kCluster{{0xCC}};

/// Gives the input in pieces, then ends; throws away what is written.
class InputStream final : public Stream {
 public:
  explicit InputStream(ConstBytes input) : input_(input) {}
  Task<std::size_t> read_some(MutableBytes out) override {
    if (input_.empty()) co_return fail(Errc::closed, "end of input");
    co_await yield_to_loop();
    const std::size_t count = std::min({out.size(), input_.size(), std::size_t{777}});
    std::memcpy(out.data(), input_.data(), count);
    input_ = input_.subspan(count);
    co_return count;
  }
  Task<void> write(std::vector<ConstBytes>) override { co_return Result<void>(); }
  void close() override { input_ = {}; }
  std::string peer_name() const override { return "fuzzer"; }

 private:
  ConstBytes input_;
};

/// Makes frames out of the input as far as its own sizes allow.
void repair_checksums(MutableBytes bytes) {
  while (bytes.size() >= kAdpHeaderSize) {
    auto header = load<AdpHeader>(bytes);
    const std::size_t rest = bytes.size() - kAdpHeaderSize;
    const std::size_t body_size = std::min<std::size_t>(header.body_size % 4096, rest);
    header.magic = kAdpMagic;
    header.version = kAdpVersion;
    header.body_size = static_cast<std::uint32_t>(body_size);
    const ConstBytes body = ConstBytes(bytes).subspan(kAdpHeaderSize, body_size);
    header.body_crc32c = body.empty() ? 0 : crc32c(body);
    header.header_crc32c = crc32c(std::as_bytes(std::span(&header, 1)).first(28));
    store(bytes, header);
    const std::size_t payload_size = std::min<std::size_t>(header.payload_size, rest - body_size);
    bytes = bytes.subspan(kAdpHeaderSize + body_size + payload_size);
  }
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;  // NOLINT: a program of its own
  if (size == 0) return 0;
  set_log_sink({});
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(AdpOp::hello);
  std::vector<std::byte> input =
      encode_adp_frame(header, encode_adp_hello({kCluster, {}, kBlockSize}), 0);
  const std::size_t hello_size = input.size();
  const ConstBytes rest = std::as_bytes(std::span(data, size)).subspan(1);
  input.insert(input.end(), rest.begin(), rest.end());
  // The first byte says whether checksums are put right, and whether hello is sent at all.
  if ((data[0] & 1) == 0) repair_checksums(MutableBytes(input).subspan(hello_size));
  ConstBytes sent = input;
  if ((data[0] & 6) == 6) sent = sent.subspan(hello_size);

  SimLoop sim;
  SimNetwork network(sim.executor(), sim.clock(), Random(1));
  FakeNode node(sim, network, "server");
  FakeStore blocks(sim.clock(), kBlockSize);
  blocks.cold = (data[0] & 8) != 0;
  AdpServer server(node.env(), kCluster,
                   std::make_shared<PeerService>(PeerId{{2}}, blocks, node.metrics()));
  server.serve(std::make_unique<InputStream>(sent));
  sim.run_for(std::chrono::seconds(20));
  AGRO_ASSERT(server.connection_count() == 0);
  AGRO_ASSERT(sim.run_job(server.stop()));
  sim.poll();
  for (const auto& [ref, bytes] : blocks.blocks) AGRO_ASSERT(!bytes.empty());
  return 0;
}
