// Goal: an AdpPeer and an AdpServer keep the contract of Peer through good and bad networks.
// Method: one server and one client host on the simulated network, a store with faults behind.
#include <gtest/gtest.h>

#include "base/log.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/protocols/adp/adp_peer.hpp"
#include "distributor/protocols/adp/adp_server.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kBlockSize = 1 << 20;
const Address kAddress{Address::Kind::tcp, "", "server", 7000};

BlockRef ref_of(std::uint64_t index, std::uint64_t epoch = 1) {
  return {VolumeId{1}, Epoch{epoch}, index, BlockType::data};
}

Uuid uuid_of(std::uint8_t byte) {
  Uuid id;
  id.bytes.fill(byte);
  return id;
}

template <class T>
Job keep(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
  *out = co_await std::move(task);
}

/// A listener that fails to accept for a while, as one does without descriptors, and then is a real one.
class HaltingListener final : public Listener {
 public:
  HaltingListener(std::unique_ptr<Listener> real, int& failures) : real_(std::move(real)), failures_(failures) {}
  Task<std::unique_ptr<Stream>> accept() override {
    if (failures_ > 0) {
      --failures_;
      return refuse();
    }
    return real_->accept();
  }
  void close() override { real_->close(); }
  Address address() const override { return real_->address(); }

 private:
  static Task<std::unique_ptr<Stream>> refuse() { co_return fail(Errc::io_error, "too many open files"); }
  std::unique_ptr<Listener> real_;
  int& failures_;
};

class HaltingNetwork final : public Network {
 public:
  explicit HaltingNetwork(Network& real) : real_(real) {}
  Task<std::unique_ptr<Stream>> connect(Address address, TimePoint deadline) override {
    return real_.connect(std::move(address), deadline);
  }
  Task<std::unique_ptr<Listener>> listen(Address address) override {
    AGRO_CO_TRY(std::unique_ptr<Listener> real, co_await real_.listen(std::move(address)));
    co_return std::make_unique<HaltingListener>(std::move(real), failures);
  }
  int failures = 0;

 private:
  Network& real_;
};

/// A network whose machine has a socket for each peer, as a real one has.
class NearNetwork final : public Network {
 public:
  explicit NearNetwork(Network& real) : real_(real) {}
  Task<std::unique_ptr<Stream>> connect(Address address, TimePoint deadline) override {
    return real_.connect(std::move(address), deadline);
  }
  Task<std::unique_ptr<Listener>> listen(Address address) override { return real_.listen(std::move(address)); }
  std::optional<Address> machine_address(std::string_view /*name*/) const override {
    return Address{Address::Kind::unix_socket, "/near", {}, 0};
  }

 private:
  Network& real_;
};

class AdpTest : public testing::Test {
 protected:
  AdpTest() {
    set_log_sink({});
    start_server();
    peer_ = make_peer(uuid_of(0xCC));
  }
  ~AdpTest() override {
    if (peer_ != nullptr) EXPECT_TRUE(sim_.run_job(peer_->stop()));
    if (server_ != nullptr) EXPECT_TRUE(sim_.run_job(server_->stop()));
    sim_.run_for(seconds(20));
  }

  void start_server() {
    service_ = std::make_shared<PeerService>(uuid_of(2), store_, server_node_.metrics());
    server_ = std::make_unique<AdpServer>(server_node_.env(), uuid_of(0xCC), service_);
    ASSERT_TRUE(sim_.run(server_->listen(kAddress)).has_value());
  }
  /// As kill -9 of the server's process.
  void kill_server() {
    network_.drop_host("server", SimDeath::process);
    ASSERT_TRUE(sim_.run_job(server_->stop()));
    server_.reset();
  }
  std::unique_ptr<AdpPeer> make_peer(Uuid cluster, std::uint32_t block_size = kBlockSize,
                                     std::uint8_t peer = 2) {
    return std::make_unique<AdpPeer>(
        client_node_.env(), AdpPeerOptions{cluster, PeerId{}, uuid_of(peer), kAddress, block_size});
  }
  bool connect() { return connect(*peer_); }
  bool connect(AdpPeer& peer) {
    (void)sim_.run_until([&] { return peer.connected(); }, seconds(10));
    return peer.connected();
  }
  TimePoint in(Duration duration) { return sim_.clock().now() + duration; }
  template <class T>
  std::shared_ptr<std::optional<Result<T>>> start(Task<T> task) {
    auto out = std::make_shared<std::optional<Result<T>>>();
    spawn(sim_.executor(), keep(std::move(task), out));
    return out;
  }
  Result<void> write(std::uint64_t index, std::uint32_t size = 5000) {
    PeerWrite request{ref_of(index), make_block(ref_of(index), size), true};
    return sim_.run(peer_->write(request, in(seconds(2))));
  }

  SimLoop sim_;
  SimNetwork network_{sim_.executor(), sim_.clock(), Random(3)};
  FakeNode server_node_{sim_, network_, "server"};
  FakeNode client_node_{sim_, network_, "client"};
  FakeStore store_{sim_.clock(), kBlockSize};
  std::shared_ptr<PeerService> service_;
  std::unique_ptr<AdpServer> server_;
  std::unique_ptr<AdpPeer> peer_;
};

TEST_F(AdpTest, EveryOperation) {
  ASSERT_TRUE(connect());
  ASSERT_TRUE(write(1).has_value());
  ASSERT_TRUE(write(2, 900'000).has_value());
  const SharedBytes large = make_block(ref_of(2), 900'000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(store_.last_put_data) % kPageSize, 0U);
  const std::vector<std::uint32_t> sizes =
      sim_.run(peer_->has({ref_of(3), ref_of(2)}, 0, in(seconds(1)))).value();
  EXPECT_EQ(sizes, (std::vector<std::uint32_t>{0, static_cast<std::uint32_t>(large.size())}));
  EXPECT_EQ(sim_.run(peer_->has({ref_of(3)}, 1, in(seconds(1)))).code(), Errc::unavailable);

  const CrcCheck check;
  for (const bool cold : {false, true}) {
    store_.cold = cold;
    std::vector<std::byte> out(40 * kPageSize);
    std::vector<std::uint32_t> crcs;
    ASSERT_TRUE(
        sim_.run(peer_->read(ref_of(2), 8 * kPageSize, out, &crcs, in(seconds(1)))).has_value());
    EXPECT_EQ(std::memcmp(out.data(), large.bytes.data() + 8 * kPageSize, out.size()), 0);
    EXPECT_TRUE(check.verify(ref_of(2), 8 * kPageSize, out, crcs));
    std::vector<std::byte> odd(77);
    ASSERT_TRUE(sim_.run(peer_->read(ref_of(1), 3, odd, nullptr, in(seconds(1)))).has_value());
    EXPECT_EQ(sim_.run(peer_->read(ref_of(9), 0, odd, nullptr, in(seconds(1)))).code(),
              Errc::not_found);
    EXPECT_EQ(sim_.run(peer_->read(ref_of(9), 0, out, &crcs, in(seconds(1)))).code(),
              Errc::not_found);
    EXPECT_EQ(sim_.run(peer_->read(ref_of(1), 1 << 19, odd, &crcs, in(seconds(1)))).code(),
              Errc::invalid_argument);
  }
  const std::vector<BlockInfo> listed = sim_.run(peer_->list({}, in(seconds(1)))).value();
  ASSERT_EQ(listed.size(), 2U);
  EXPECT_EQ(listed[1], (BlockInfo{ref_of(2), static_cast<std::uint32_t>(large.size())}));
  const PeerStat stat = sim_.run(peer_->stat(in(seconds(1)))).value();
  EXPECT_EQ(stat.id, uuid_of(2));
  EXPECT_EQ(stat.store.block_count, 2U);
  EXPECT_EQ(peer_->last_stat()->store.block_count, 2U);
  ASSERT_TRUE(sim_.run(peer_->remove({ref_of(1), ref_of(7)}, in(seconds(1)))).has_value());
  EXPECT_FALSE(store_.find(ref_of(1)).has_value());
}

TEST_F(AdpTest, LongListsAndRemovalsTakeSeveralFrames) {
  ASSERT_TRUE(connect());
  std::vector<BlockRef> refs;
  for (std::uint64_t index = 0; index < 10'001; ++index) {
    refs.push_back(ref_of(index));
    store_.blocks[ref_of(index)].resize(index + 1);
  }
  BlockFilter filter;
  filter.volume = VolumeId{1};
  filter.index_from = 1;
  const std::vector<BlockInfo> listed = sim_.run(peer_->list(filter, in(seconds(5)))).value();
  ASSERT_EQ(listed.size(), 10'000U);
  EXPECT_TRUE(std::is_sorted(listed.begin(), listed.end()));
  EXPECT_EQ(listed.back(), (BlockInfo{ref_of(10'000), 10'001}));
  filter.volume = VolumeId{2};
  EXPECT_TRUE(sim_.run(peer_->list(filter, in(seconds(5)))).value().empty());
  ASSERT_TRUE(sim_.run(peer_->remove(refs, in(seconds(5)))).has_value());
  EXPECT_TRUE(store_.blocks.empty());
}

TEST_F(AdpTest, DamagedBlocksAndFencesAreRefused) {
  ASSERT_TRUE(connect());
  SharedBytes block = make_block(ref_of(1), 5000);
  PeerWrite wrong{ref_of(2), block, true};  // another name: the salt does not fit
  EXPECT_EQ(sim_.run(peer_->write(wrong, in(seconds(1)))).code(), Errc::corrupt);
  EXPECT_EQ(server_node_.metrics().value("agro_peer_corrupt_writes_total"), 1U);
  wrong.checksummed = false;
  EXPECT_TRUE(sim_.run(peer_->write(wrong, in(seconds(1)))).has_value());
  PeerWrite again{ref_of(2), make_block(ref_of(2), 5000), true, false, true};
  EXPECT_TRUE(sim_.run(peer_->write(again, in(seconds(1)))).has_value());
  EXPECT_EQ(store_.repair_count, 1);

  ASSERT_TRUE(sim_.run(peer_->fence(VolumeId{1}, Epoch{5}, in(seconds(1)))).has_value());
  ASSERT_TRUE(sim_.run(peer_->fence(VolumeId{1}, Epoch{5}, in(seconds(1)))).has_value());
  EXPECT_EQ(sim_.run(peer_->fence(VolumeId{1}, Epoch{4}, in(seconds(1)))).code(), Errc::fenced);
  EXPECT_EQ(write(3).code(), Errc::fenced);
  PeerWrite empty{ref_of(4, 9), {}, false};
  EXPECT_EQ(sim_.run(peer_->write(empty, in(seconds(1)))).code(), Errc::invalid_argument);
  EXPECT_EQ(server_->connection_count(), 1U);
}

// Goal: many requests under way share the connection and end out of order.
TEST_F(AdpTest, RepliesComeOutOfOrder) {
  ASSERT_TRUE(connect());
  ASSERT_TRUE(write(1, 900'000).has_value());
  store_.put_delay = milliseconds(500);
  std::vector<std::shared_ptr<std::optional<Result<void>>>> writes;
  for (std::uint64_t index = 10; index < 40; ++index) {
    PeerWrite request{ref_of(index), make_block(ref_of(index), 100'000), true};
    writes.push_back(start(peer_->write(request, in(seconds(3)))));
  }
  std::vector<std::byte> out(kPageSize);
  const TimePoint before = sim_.clock().now();
  ASSERT_TRUE(sim_.run(peer_->read(ref_of(1), 0, out, nullptr, in(seconds(3)))).has_value());
  EXPECT_LT(sim_.clock().now() - before, milliseconds(100));
  sim_.run_for(seconds(2));
  for (const auto& written : writes) {
    ASSERT_TRUE(written->has_value());
    EXPECT_TRUE(written->value().has_value());
  }
  EXPECT_EQ(store_.blocks.size(), 31U);
}

// Goal: what differs at hello is said, and the peer never counts as connected.
TEST_F(AdpTest, HelloRefusesStrangers) {
  const auto problem_of = [this](std::unique_ptr<AdpPeer> peer) {
    sim_.run_for(seconds(1));
    EXPECT_FALSE(peer->connected());
    std::string text = peer->problem();
    std::vector<std::byte> out(1);
    const Result<void> read = sim_.run(peer->read(ref_of(1), 0, out, nullptr, in(seconds(1))));
    EXPECT_EQ(read.code(), Errc::unavailable);
    EXPECT_TRUE(sim_.run_job(peer->stop()));
    return text;
  };
  EXPECT_NE(problem_of(make_peer(uuid_of(0xDD))).find("belongs to cluster"), std::string::npos);
  EXPECT_NE(problem_of(make_peer(uuid_of(0xCC), 65536)).find("blocks are of"), std::string::npos);
  EXPECT_NE(problem_of(make_peer(uuid_of(0xCC), kBlockSize, 3)).find("another peer"),
            std::string::npos);
  EXPECT_TRUE(connect());
}

// Goal: a peer of this machine is reached by its socket here; without one, or when a stranger answers
// there, by its address.
TEST_F(AdpTest, FallsBackFromTheSocketToTheAddress) {
  NearNetwork near(network_.host("client"));
  Env env{sim_.executor(), sim_.clock(), client_node_.env().random, client_node_.env().disk, near,
          client_node_.env().offload, client_node_.metrics()};
  const auto is_near = [&] {
    AdpPeer peer(env, AdpPeerOptions{uuid_of(0xCC), PeerId{}, uuid_of(2), kAddress, kBlockSize});
    EXPECT_TRUE(connect(peer)) << peer.problem();
    const bool local = peer.local();
    EXPECT_TRUE(sim_.run_job(peer.stop()));
    return local;
  };
  EXPECT_FALSE(is_near());  // nobody listens
  for (const std::uint8_t byte : {std::uint8_t{9}, std::uint8_t{2}}) {
    const auto service = std::make_shared<PeerService>(uuid_of(byte), store_, client_node_.metrics());
    AdpServer server(client_node_.env(), uuid_of(0xCC), service);
    ASSERT_TRUE(sim_.run(server.listen({Address::Kind::unix_socket, "/near", {}, 0})).has_value());
    EXPECT_EQ(is_near(), byte == 2) << int{byte};  // 9: a stranger
    EXPECT_TRUE(sim_.run_job(server.stop()));
  }
}

// Goal: a lost connection fails what is in flight at once, and comes back by itself.
TEST_F(AdpTest, KilledAndBack) {
  ASSERT_TRUE(connect());
  store_.put_delay = seconds(1);
  PeerWrite request{ref_of(1), make_block(ref_of(1), 5000), true};
  const auto written = start(peer_->write(request, in(seconds(60))));
  sim_.run_for(milliseconds(100));
  const TimePoint before = sim_.clock().now();
  network_.drop_host("server", SimDeath::process);
  ASSERT_TRUE(sim_.run_until([&] { return written->has_value(); }));
  EXPECT_EQ(written->value().code(), Errc::unavailable);
  EXPECT_LT(sim_.clock().now() - before, milliseconds(10));
  EXPECT_FALSE(peer_->connected());
  kill_server();
  sim_.run_for(seconds(30));
  EXPECT_FALSE(peer_->connected());
  EXPECT_EQ(write(2).code(), Errc::unavailable);
  store_.put_delay = Duration(0);
  start_server();
  const TimePoint back = sim_.clock().now();
  ASSERT_TRUE(connect());
  EXPECT_LT(sim_.clock().now() - back, seconds(3));
  EXPECT_TRUE(write(2).has_value());
}

// Goal: a server that cannot accept for a while serves those who come later.
TEST_F(AdpTest, AcceptsAgainAfterErrors) {
  kill_server();
  HaltingNetwork network(server_node_.env().network);
  network.failures = 3;
  const Env env = server_node_.env();
  server_ = std::make_unique<AdpServer>(
      Env{env.executor, env.clock, env.random, env.disk, network, env.offload, env.metrics}, uuid_of(0xCC), service_);
  ASSERT_TRUE(sim_.run(server_->listen(kAddress)).has_value());
  ASSERT_TRUE(connect());
  EXPECT_TRUE(write(1).has_value());
  EXPECT_EQ(network.failures, 0);
  kill_server();
}

// Goal: a connection cut at any byte of a frame loses that request only, with an error.
TEST_F(AdpTest, ResetsMidFrame) {
  ASSERT_TRUE(connect());
  ASSERT_TRUE(write(1, 200'000).has_value());
  for (const std::uint64_t cut : {0, 1, 31, 32, 60, 4096, 30'000, 90'000}) {
    SCOPED_TRACE(cut);
    ASSERT_TRUE(connect());
    network_.reset_after("server", "client", cut);
    std::vector<std::byte> out(100'000);
    EXPECT_EQ(sim_.run(peer_->read(ref_of(1), 0, out, nullptr, in(seconds(5)))).code(),
              Errc::unavailable);
    ASSERT_TRUE(connect());
    network_.reset_after("client", "server", cut);
    EXPECT_EQ(write(100 + cut, 150'000).code(), Errc::unavailable);
    EXPECT_FALSE(store_.find(ref_of(100 + cut)).has_value());
  }
  ASSERT_TRUE(connect());
  EXPECT_TRUE(write(2).has_value());
  sim_.run_for(seconds(1));
  EXPECT_EQ(server_->connection_count(), 1U);
}

// Goal: a silent peer times requests out, is noticed within some seconds, and is used again after.
TEST_F(AdpTest, SilentPeer) {
  ASSERT_TRUE(connect());
  ASSERT_TRUE(write(1).has_value());
  network_.partition("client", "server");
  const TimePoint before = sim_.clock().now();
  std::vector<std::byte> out(100);
  EXPECT_EQ(sim_.run(peer_->read(ref_of(1), 0, out, nullptr, in(milliseconds(200)))).code(),
            Errc::timed_out);
  EXPECT_EQ(sim_.clock().now() - before, milliseconds(200));
  const auto read = start(peer_->read(ref_of(1), 0, out, nullptr, in(seconds(600))));
  ASSERT_TRUE(sim_.run_until([&] { return !peer_->connected(); }, seconds(30)));
  EXPECT_LT(sim_.clock().now() - before, seconds(6));
  sim_.poll();
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ(read->value().code(), Errc::unavailable);
  network_.heal_all();
  ASSERT_TRUE(connect());
  EXPECT_TRUE(write(2).has_value());
}

// Goal: after a read has timed out nothing writes to its buffer. Method: a payload that stalls half
// way; the rest arrives after the heal.
TEST_F(AdpTest, TimedOutReadLeavesItsBufferAlone) {
  ASSERT_TRUE(connect());
  ASSERT_TRUE(write(1, 900'000).has_value());
  network_.set_link("client", "server", {milliseconds(1), milliseconds(1), 1'000'000});
  std::vector<std::byte> out(800'000);
  EXPECT_EQ(sim_.run(peer_->read(ref_of(1), 0, out, nullptr, in(milliseconds(300)))).code(),
            Errc::timed_out);
  std::fill(out.begin(), out.end(), std::byte{0x55});
  sim_.run_for(seconds(5));
  EXPECT_EQ(std::count(out.begin(), out.end(), std::byte{0x55}), 800'000);
  network_.set_link("client", "server", {});
  ASSERT_TRUE(connect());
  EXPECT_TRUE(sim_.run(peer_->read(ref_of(1), 0, out, nullptr, in(seconds(1)))).has_value());
}

// Goal: a read that is stopped ends at once, leaves its buffer alone and costs no connection; one
// whose payload is arriving is let in. Method: stop at either time, then read on.
TEST_F(AdpTest, StoppedReads) {
  ASSERT_TRUE(connect());
  ASSERT_TRUE(write(1, 900'000).has_value());
  std::vector<std::byte> out(800'000, std::byte{0x55});
  const auto stop_after = [this, &out](Duration delay) {
    ReadStop stop;
    sim_.clock().call_at(in(delay), [&stop] { stop.stop(); });
    return sim_.run(peer_->read_stoppable(ref_of(1), 0, out, nullptr, in(seconds(10)), stop)).code();
  };
  store_.read_delay = milliseconds(500);
  const TimePoint before = sim_.clock().now();
  EXPECT_EQ(stop_after(milliseconds(100)), Errc::timed_out);
  EXPECT_EQ(sim_.clock().now() - before, milliseconds(100));
  sim_.run_for(seconds(2));
  EXPECT_EQ(std::count(out.begin(), out.end(), std::byte{0x55}), 800'000);
  store_.read_delay = Duration(0);
  network_.set_link("client", "server", {milliseconds(1), milliseconds(1), 1'000'000});
  EXPECT_EQ(stop_after(milliseconds(300)), Errc::ok);
  EXPECT_EQ(std::memcmp(out.data(), store_.blocks.at(ref_of(1)).data(), out.size()), 0);
  EXPECT_TRUE(peer_->connected());
  EXPECT_EQ(server_->connection_count(), 1U);
}

// Goal: a write the client gave up on is harmless, whenever the store ends it.
TEST_F(AdpTest, LateRepliesAreDropped) {
  ASSERT_TRUE(connect());
  store_.put_delay = milliseconds(800);
  PeerWrite request{ref_of(1), make_block(ref_of(1), 5000), true};
  EXPECT_EQ(sim_.run(peer_->write(request, in(milliseconds(100)))).code(), Errc::timed_out);
  sim_.run_for(seconds(2));
  EXPECT_TRUE(peer_->connected());
  EXPECT_TRUE(store_.find(ref_of(1)).has_value());
  EXPECT_EQ(server_->connection_count(), 1U);
}

TEST_F(AdpTest, StopEndsCallsUnderWay) {
  ASSERT_TRUE(connect());
  store_.put_delay = milliseconds(100);
  PeerWrite request{ref_of(1), make_block(ref_of(1), 5000), true};
  const auto written = start(peer_->write(request, in(seconds(60))));
  sim_.run_for(milliseconds(10));
  ASSERT_TRUE(sim_.run_job(peer_->stop()));
  ASSERT_TRUE(written->has_value());
  EXPECT_EQ(written->value().code(), Errc::unavailable);
  EXPECT_EQ(write(2).code(), Errc::unavailable);
}

// Goal: bytes that are no ADP close that connection, are counted, and hurt nobody else.
TEST_F(AdpTest, GarbageClosesItsConnectionOnly) {
  ASSERT_TRUE(connect());
  AdpHeader read_header;
  read_header.op = static_cast<std::uint8_t>(AdpOp::read);
  const std::vector<std::byte> no_hello =
      encode_adp_frame(read_header, encode_adp_read({ref_of(1), 0, 1}), 0);
  AdpHeader hello_header;
  hello_header.op = static_cast<std::uint8_t>(AdpOp::hello);
  const std::vector<std::byte> hello =
      encode_adp_frame(hello_header, encode_adp_hello({uuid_of(0xCC), {}, kBlockSize}), 0);
  std::vector<std::byte> twice = hello;
  twice.insert(twice.end(), hello.begin(), hello.end());
  const std::vector<std::byte> noise(100, std::byte{7});
  std::uint64_t bad_count = 0;
  for (const std::vector<std::byte>& bytes : {noise, no_hello, twice}) {
    std::unique_ptr<Stream> stream =
        sim_.run(network_.host("client").connect(kAddress, in(seconds(1)))).value();
    ASSERT_TRUE(sim_.run(stream->write({bytes})).has_value());
    std::vector<std::byte> answer(1000);
    EXPECT_EQ(sim_.run(read_exactly(*stream, answer)).code(), Errc::closed);
    EXPECT_EQ(server_node_.metrics().value("agro_adp_bad_connections_total"), ++bad_count);
  }
  // One that says nothing is closed after a while.
  std::unique_ptr<Stream> silent =
      sim_.run(network_.host("client").connect(kAddress, in(seconds(1)))).value();
  std::vector<std::byte> answer(1);
  EXPECT_EQ(sim_.run(silent->read_some(answer), seconds(15)).code(), Errc::closed);
  EXPECT_TRUE(write(1).has_value());
  EXPECT_EQ(server_->connection_count(), 1U);
}

// Goal: a client that sends without reading replies is stopped, not stored.
TEST_F(AdpTest, BackpressureBoundsMemory) {
  ASSERT_TRUE(connect());
  store_.put_delay = seconds(2);
  std::vector<std::shared_ptr<std::optional<Result<void>>>> writes;
  const SharedBytes block = make_block(ref_of(0), 1'000'000);
  for (std::uint64_t index = 0; index < 100; ++index) {
    PeerWrite request{ref_of(index), block, false};
    writes.push_back(start(peer_->write(request, in(seconds(60)))));
  }
  sim_.run_for(seconds(1));
  EXPECT_LE(store_.put_count, 34);  // 32 MiB under way
  EXPECT_GE(store_.put_count, 30);
  sim_.run_for(seconds(20));
  for (const auto& written : writes) {
    ASSERT_TRUE(written->has_value());
    EXPECT_TRUE(written->value().has_value());
  }
}

}  // namespace
}  // namespace agro
