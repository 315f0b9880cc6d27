// Fuzzes a client: whatever a server answers, every call ends by its deadline, no reply writes
// beyond its buffer or after its call, and the client stops when told.
//
// The first byte: bit 0, checksums stay as they are; bit 1, hello is the input's own; bit 2, request
// ids stay as they are.
#include <cstdint>

#include "base/log.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/protocols/adp/adp_fuzz_testing.hpp"
#include "distributor/protocols/adp/adp_peer.hpp"

namespace agro {
namespace {

using std::chrono::seconds;

constexpr std::uint32_t kBlockSize = 64 * 1024;
const Uuid kCluster{{0xCC}};
const PeerId kServer{{2}};

/// The first connection plays the input; there is no second one.
class OneInputNetwork final : public Network {
 public:
  OneInputNetwork(Clock& clock, ConstBytes input, std::size_t hello_size)
      : clock_(clock), input_(input), hello_size_(hello_size) {}
  Task<std::unique_ptr<Stream>> connect(Address, TimePoint) override {
    if (std::exchange(used_, true)) co_return fail(Errc::unavailable, "no more input");
    co_return std::make_unique<AdpInputStream>(clock_, input_, hello_size_);
  }
  Task<std::unique_ptr<Listener>> listen(Address) override {
    co_return fail(Errc::unavailable, "a client only");
  }

 private:
  Clock& clock_;
  ConstBytes input_;
  std::size_t hello_size_;
  bool used_ = false;
};

/// The buffer is gone when its read has returned, so that a late reply would be seen.
Job read_once(AdpPeer& peer, std::uint32_t size, bool with_crcs, TimePoint deadline, int& left) {
  {
    std::vector<std::byte> out(size);
    std::vector<std::uint32_t> crcs;
    (void)co_await peer.read({VolumeId{1}, Epoch{1}, 1, BlockType::data}, 4096, out,
                             with_crcs ? &crcs : nullptr, deadline);
  }
  --left;
}

template <class T>
Job note_end(Task<T> call, int& left) {
  (void)co_await std::move(call);
  --left;
}

/// Every operation at once. Their request ids are 1 to 10, with the heartbeat's somewhere among them.
void start_calls(SimLoop& sim, AdpPeer& peer, int& left) {
  const TimePoint deadline = sim.clock().now() + seconds(2);
  const BlockRef ref{VolumeId{1}, Epoch{1}, 1, BlockType::data};
  left = 9;
  const auto start = [&](Job job) { spawn(sim.executor(), std::move(job)); };
  start(read_once(peer, 1000, true, deadline, left));
  start(read_once(peer, 100, false, deadline, left));
  start(note_end(peer.list({}, deadline), left));
  start(note_end(peer.has({ref, ref}, 1, deadline), left));
  start(note_end(peer.report(deadline), left));
  start(note_end(peer.stat(deadline), left));
  start(note_end(peer.write({.ref = ref, .block = make_block(ref, 100)}, deadline), left));
  start(note_end(peer.remove({ref}, deadline), left));
  start(note_end(peer.fence(VolumeId{1}, Epoch{2}, deadline), left));
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;  // NOLINT: a program of its own
  if (size == 0) return 0;
  set_log_sink({});
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(AdpOp::hello) | kAdpReplyBit;
  AdpFuzzInput input(header, encode_adp_hello({kCluster, kServer, kBlockSize}), {data, size},
                     (data[0] & 2) == 0);
  if ((data[0] & 1) == 0) {
    repair_adp_checksums(input.after_hello(), [&](AdpHeader& each) {
      each.op |= kAdpReplyBit;
      if ((data[0] & 4) == 0) each.request_id %= 12;
    });
  }

  SimLoop sim;
  SimNetwork no_network(sim.executor(), sim.clock(), Random(1));
  FakeNode node(sim, no_network, "client");
  const std::size_t late_from = input.hello_size() == 0 ? input.bytes().size() : input.hello_size();
  OneInputNetwork network(sim.clock(), input.bytes(), late_from);
  Env base = node.env();
  Env env{base.executor, base.clock, base.random, base.disk, network, base.offload, base.metrics};
  {
    AdpPeer peer(env, {kCluster, PeerId{}, kServer, Address{Address::Kind::tcp, "", "h", 1}, kBlockSize});
    (void)sim.run_until([&] { return peer.connected(); }, seconds(3));
    int left = 0;
    start_calls(sim, peer, left);
    sim.run_for(seconds(5));
    AGRO_ASSERT(left == 0);
    AGRO_ASSERT(sim.run_job(peer.stop()));
  }
  sim.run_for(seconds(5));
  return 0;
}
