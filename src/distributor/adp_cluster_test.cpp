// Goal: the distributor over real ADP peers survives what networks and processes do. Method: three
// servers and a client on the simulated network; the same over real Unix sockets, once.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/log.hpp"
#include "base/system_network.hpp"
#include "distributor/distributor.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/protocols/adp/adp_peer.hpp"
#include "distributor/protocols/adp/adp_server.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kBlockSize = 1 << 20;
constexpr std::size_t kPeerCount = 3;
const Uuid kCluster{{0xCC}};

BlockRef ref_of(std::uint64_t index) { return {VolumeId{1}, Epoch{1}, index, BlockType::data}; }

PeerId id_of(std::size_t number) {
  Uuid id;
  id.bytes[0] = static_cast<std::uint8_t>(number + 1);
  return id;
}

std::string host_of(std::size_t number) { return "peer" + std::to_string(number); }

std::shared_ptr<const Ring> three_peer_ring() {
  RingSpec spec;
  spec.kind = RingKind::mod;
  spec.version = 1;
  spec.replication = 2;
  for (std::size_t index = 0; index < kPeerCount; ++index)
    spec.members.push_back({id_of(index), 1});
  return make_ring(spec).value();
}

/// One peer's process.
struct Server {
  Server(SimLoop& sim, SimNetwork& network, std::size_t its_number)
      : node(sim, network, host_of(its_number)),
        store(sim.clock(), kBlockSize),
        number(its_number) {}
  Address address() const { return {Address::Kind::tcp, "", host_of(number), 7000}; }
  void start(SimLoop& sim) {
    service = std::make_shared<PeerService>(id_of(number), store, node.metrics());
    server = std::make_unique<AdpServer>(node.env(), kCluster, service);
    ASSERT_TRUE(sim.run(server->listen(address())).has_value());
  }
  void kill(SimLoop& sim, SimNetwork& network) {
    network.drop_host(host_of(number), SimDeath::process);
    ASSERT_TRUE(sim.run_job(server->stop()));
    server.reset();
  }
  FakeNode node;
  FakeStore store;
  std::size_t number;
  std::shared_ptr<PeerService> service;
  std::unique_ptr<AdpServer> server;
};

class AdpClusterTest : public testing::Test {
 protected:
  AdpClusterTest() {
    set_log_sink({});
    std::map<PeerId, std::shared_ptr<Peer>> peers;
    for (std::size_t index = 0; index < kPeerCount; ++index) {
      servers_.push_back(std::make_unique<Server>(sim_, network_, index));
      servers_.back()->start(sim_);
      const AdpPeerOptions options{kCluster, PeerId{}, id_of(index), servers_.back()->address(),
                                   kBlockSize};
      peers_.push_back(std::make_shared<AdpPeer>(node_.env(), options));
      peers[id_of(index)] = peers_.back();
    }
    distributor_.set_peers(peers);
    distributor_.set_ring(ring_);
    EXPECT_TRUE(all_connected());
  }
  ~AdpClusterTest() override {
    EXPECT_TRUE(sim_.run_job(distributor_.stop()));
    for (const auto& peer : peers_) EXPECT_TRUE(sim_.run_job(peer->stop()));
    for (const auto& server : servers_) {
      if (server->server != nullptr) EXPECT_TRUE(sim_.run_job(server->server->stop()));
    }
    sim_.run_for(seconds(20));
  }

  bool all_connected() {
    return sim_.run_until(
        [&] {
          return std::all_of(peers_.begin(), peers_.end(),
                             [](const auto& peer) { return peer->connected(); });
        },
        seconds(10));
  }
  Server& ranked(std::uint64_t index, std::size_t rank) {
    std::vector<std::uint32_t> permutation;
    ring_->permutation(ref_of(index), permutation);
    return *servers_[permutation[rank]];
  }
  Result<std::uint32_t> write(std::uint64_t index) {
    return sim_.run(distributor_.write(ref_of(index), make_block(ref_of(index), 60'000),
                                       {.checksummed = true}));
  }
  Result<void> read(std::uint64_t index) {
    std::vector<std::byte> out(4 * kPageSize);
    const Result<void> result =
        sim_.run(distributor_.read(ref_of(index), kPageSize, out, ReadOptions{&check_}));
    if (result.has_value()) {
      const SharedBytes block = make_block(ref_of(index), 60'000);
      EXPECT_EQ(std::memcmp(out.data(), block.bytes.data() + kPageSize, out.size()), 0);
    }
    return result;
  }
  std::size_t copies(std::uint64_t index) const {
    std::size_t count = 0;
    for (const auto& server : servers_) count += server->store.blocks.count(ref_of(index));
    return count;
  }

  SimLoop sim_;
  SimNetwork network_{sim_.executor(), sim_.clock(), Random(11)};
  FakeNode node_{sim_, network_, "client"};
  std::vector<std::unique_ptr<Server>> servers_;
  std::vector<std::shared_ptr<AdpPeer>> peers_;
  std::shared_ptr<const Ring> ring_ = three_peer_ring();
  Distributor distributor_{node_.env(), kBlockSize};
  CrcCheck check_;
};

TEST_F(AdpClusterTest, WritesAndReads) {
  for (std::uint64_t index = 1; index <= 10; ++index) {
    ASSERT_TRUE(write(index).has_value());
    EXPECT_EQ(copies(index), 2U);
    ASSERT_TRUE(read(index).has_value());
  }
  EXPECT_EQ(sim_.run(distributor_.list({})).value().entries.size(), 10U);
  sim_.run_for(seconds(2));
  EXPECT_EQ(distributor_.space().size, 3ULL << 30);
  const Reached told = sim_.run(distributor_.fence(VolumeId{1}, Epoch{2})).value();
  EXPECT_EQ(told.answered, told.members);
  EXPECT_EQ(write(11).code(), Errc::fenced);
}

// Goal: a peer killed while writing costs no error and no second; back again it is used again.
TEST_F(AdpClusterTest, OnePeerKilledAndBack) {
  std::uint64_t index = 1;
  Duration longest{0};
  const auto write_some = [&](int count) {
    for (int number = 0; number < count; ++number, ++index) {
      const TimePoint before = sim_.clock().now();
      ASSERT_TRUE(write(index).has_value());
      longest = std::max(longest, sim_.clock().now() - before);
      EXPECT_GE(copies(index), 2U);
    }
  };
  write_some(20);
  servers_[1]->store.put_delay = milliseconds(100);  // so that the kill meets a write under way
  const std::uint64_t at_kill = index++;
  auto under_way = std::make_shared<std::optional<Result<std::uint32_t>>>();
  std::uint64_t on_killed = at_kill;
  while (&ranked(on_killed, 0) != servers_[1].get()) ++on_killed;
  spawn(sim_.executor(),
        [](Distributor& d, std::uint64_t number,
           std::shared_ptr<std::optional<Result<std::uint32_t>>> out) -> Job {
          SharedBytes block = make_block(ref_of(number), 60'000);
          const WriteOptions options{.checksummed = true};
          *out = co_await d.write(ref_of(number), std::move(block), options);
        }(distributor_, on_killed, under_way));
  sim_.run_for(milliseconds(50));
  servers_[1]->kill(sim_, network_);
  ASSERT_TRUE(sim_.run_until([&] { return under_way->has_value(); }, seconds(1)));
  EXPECT_TRUE(under_way->value().has_value());
  servers_[1]->store.put_delay = Duration(0);
  write_some(50);
  for (std::uint64_t number = 1; number < 20; ++number) EXPECT_TRUE(read(number).has_value());
  EXPECT_LT(longest, seconds(1));
  const std::size_t before = servers_[1]->store.blocks.size();
  servers_[1]->start(sim_);
  ASSERT_TRUE(all_connected());
  write_some(20);
  EXPECT_GT(servers_[1]->store.blocks.size(), before);
}

// Goal: a machine that falls silent stalls one write by the slow limit, and nothing more.
TEST_F(AdpClusterTest, SilentMachine) {
  ASSERT_TRUE(write(1).has_value());
  network_.drop_host(host_of(2), SimDeath::machine);
  Duration longest{0};
  for (std::uint64_t index = 2; index < 200; ++index) {
    const TimePoint before = sim_.clock().now();
    ASSERT_TRUE(write(index).has_value());
    longest = std::max(longest, sim_.clock().now() - before);
    ASSERT_TRUE(read(index).has_value());
    sim_.run_for(milliseconds(50));
  }
  EXPECT_LT(longest, seconds(1));
  EXPECT_FALSE(peers_[2]->connected());
}

TEST_F(AdpClusterTest, PartitionOfTwoIsNoQuorumAndHeals) {
  network_.partition("client", host_of(0));
  network_.partition("client", host_of(1));
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  sim_.run_for(seconds(20));
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  network_.heal_all();
  ASSERT_TRUE(all_connected());
  sim_.run_for(seconds(10));
  EXPECT_TRUE(write(1).has_value());
  EXPECT_TRUE(read(1).has_value());
}

// Goal: resets in the middle of frames cost retries, never a wrong answer. Method: a reset before
// every call, at a growing number of bytes.
TEST_F(AdpClusterTest, ResetsMidFrame) {
  int retry_count = 0;
  for (std::uint64_t index = 1; index < 60; ++index) {
    SCOPED_TRACE(index);
    ASSERT_TRUE(all_connected());
    const std::string host = host_of(index % kPeerCount);
    network_.reset_after("client", host, 1000 * index);
    network_.reset_after(host, "client", 300 * index);
    Result<std::uint32_t> written = write(index);
    if (!written.has_value()) {  // resets of earlier rounds can come together: two of three gone
      EXPECT_EQ(written.code(), Errc::no_quorum);
      ++retry_count;
      ASSERT_TRUE(all_connected());
      written = write(index);
    }
    ASSERT_TRUE(written.has_value()) << written.error().to_string();
    ASSERT_GE(copies(index), 2U);
    ASSERT_TRUE(all_connected());
    ASSERT_TRUE(read(index).has_value());
  }
  EXPECT_LT(retry_count, 20);
}

TEST_F(AdpClusterTest, CorruptReplicaIsRepairedAndTwoNameTheBlock) {
  ASSERT_TRUE(write(1).has_value());
  const std::vector<std::byte> good = ranked(1, 0).store.blocks[ref_of(1)];
  ranked(1, 0).store.flip(ref_of(1), 5000);
  ASSERT_TRUE(read(1).has_value());
  sim_.run_for(seconds(1));
  EXPECT_EQ(ranked(1, 0).store.blocks[ref_of(1)], good);
  EXPECT_EQ(node_.metrics().value("agro_corrupt_replicas_total"), 1U);
  EXPECT_EQ(node_.metrics().value("agro_repaired_replicas_total"), 1U);
  ranked(1, 0).store.flip(ref_of(1), 5000);
  ranked(1, 1).store.flip(ref_of(1), 5001);
  const Result<void> failed = read(1);
  ASSERT_EQ(failed.code(), Errc::corrupt);
  EXPECT_NE(failed.error().message.find(ref_of(1).to_string()), std::string::npos);
  EXPECT_TRUE(write(2).has_value());
}

// Goal: the same code over real sockets. Method: one server, one peer, a Unix socket in a temporary
// directory; blocks in memory.
class RealSocketTest : public testing::Test {
 protected:
  template <class T>
  Result<T> run(Task<T> task) {
    auto out = std::make_shared<std::optional<Result<T>>>();
    spawn(loop_.get_executor(), keep(std::move(task), out));
    const TimePoint end = clock_.now() + seconds(20);
    loop_.restart();
    while (!out->has_value() && clock_.now() < end) loop_.run_one_for(milliseconds(100));
    if (!out->has_value()) return fail(Errc::timed_out, "the test's own limit");
    return std::move(**out);
  }
  template <class T>
  static Job keep(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
    *out = co_await std::move(task);
  }
  static Task<bool> wait_connected(AdpPeer& peer, TimePoint deadline) {
    co_return co_await peer.wait_connected(deadline);
  }
  static Task<void> stop_all(Distributor& distributor, AdpPeer& peer, AdpServer& server) {
    co_await distributor.stop();
    co_await peer.stop();
    co_await server.stop();
    co_return Result<void>();
  }

  asio::io_context loop_{1};
  SystemClock clock_{loop_};
};

TEST_F(RealSocketTest, UnixSocketAndLocalPeer) {
  set_log_sink({});
  std::string directory = (std::filesystem::temp_directory_path() / "agro-adp-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  SystemNetwork network(loop_, clock_);
  Random random(1);
  SimDisk disk(clock_, Random(1));
  InlineOffload offload(loop_.get_executor());
  Metrics metrics;
  const Env env{loop_.get_executor(), clock_, random, disk, network, offload, metrics};
  FakeStore remote_store(clock_, kBlockSize);
  FakeStore local_store(clock_, kBlockSize);
  AdpServer server(env, kCluster, std::make_shared<PeerService>(id_of(0), remote_store, metrics));
  const Address address{Address::Kind::unix_socket, directory + "/adp.sock", "", 0};
  ASSERT_TRUE(run(server.listen(address)).has_value());
  auto peer = std::make_shared<AdpPeer>(
      env, AdpPeerOptions{kCluster, PeerId{}, id_of(0), address, kBlockSize});
  EXPECT_TRUE(peer->local());
  ASSERT_TRUE(run(wait_connected(*peer, clock_.now() + seconds(5))).value());
  auto local =
      std::make_shared<LocalPeer>(std::make_shared<PeerService>(id_of(1), local_store, metrics));

  Distributor distributor(env, kBlockSize);
  RingSpec spec;
  spec.kind = RingKind::mod;
  spec.replication = 2;
  spec.members = {{id_of(0), 1}, {id_of(1), 1}};
  distributor.set_ring(make_ring(spec).value());
  distributor.set_peers({{id_of(0), peer}, {id_of(1), local}});
  const CrcCheck check;
  for (std::uint64_t index = 0; index < 20; ++index) {
    const auto payload_size = static_cast<std::uint32_t>(1 + index * 50'000);
    const SharedBytes block = make_block(ref_of(index), payload_size);
    ASSERT_TRUE(run(distributor.write(ref_of(index), block, {.checksummed = true})).has_value());
    EXPECT_EQ(local_store.last_put_data, block.bytes.data());  // shared, not copied
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(remote_store.last_put_data) % kPageSize, 0U);
    if (index % 2 == 0) local_store.blocks.erase(ref_of(index));
    const Result<SharedBytes> read = run(distributor.read_block(ref_of(index), {&check}));
    ASSERT_TRUE(read.has_value());
    ASSERT_EQ(read->size(), block.size());
    EXPECT_EQ(std::memcmp(read->bytes.data(), block.bytes.data(), block.size()), 0);
  }
  // What was verified in this process is not verified again, as long as it does not leave it.
  PeerWrite wrong{ref_of(101), make_block(ref_of(100), 5000), true};
  const TimePoint deadline = clock_.now() + seconds(5);
  EXPECT_EQ(run(local->write(wrong, deadline)).code(), Errc::corrupt);
  wrong.verified = true;
  EXPECT_EQ(run(peer->write(wrong, deadline)).code(), Errc::corrupt);
  EXPECT_TRUE(run(local->write(wrong, deadline)).has_value());
  EXPECT_TRUE(run(stop_all(distributor, *peer, server)).has_value());
  EXPECT_FALSE(std::filesystem::exists(address.path));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace agro
