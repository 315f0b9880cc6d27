// Goal: peers keep the contract of Peer over either protocol, over real sockets, through good and bad
// days; and gRPC's own input is checked. Method: the same tests for ADP and gRPC, stores in memory.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "base/log.hpp"
#include "base/system_network.hpp"
#include "distributor/distributor.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/peer_address.hpp"
#include "distributor/protocols/adp/adp_peer.hpp"
#include "distributor/protocols/adp/adp_server.hpp"
#include "distributor/protocols/grpc/grpc_codec.hpp"
#include "distributor/protocols/grpc/grpc_peer.hpp"
#include "distributor/protocols/grpc/grpc_server.hpp"
#include "distributor/protocols/grpc/peer.grpc.pb.h"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kBlockSize = 1 << 20;
const Uuid kCluster{{0xCC}};

BlockRef ref_of(std::uint64_t index, std::uint64_t epoch = 1) {
  return {VolumeId{1}, Epoch{epoch}, index, BlockType::data};
}

PeerId id_of(std::size_t number) {
  Uuid id;
  id.bytes[0] = static_cast<std::uint8_t>(number + 1);
  return id;
}

class ProtocolTest : public testing::TestWithParam<PeerProtocol> {
 protected:
  ProtocolTest() { set_log_sink({}); }
  ~ProtocolTest() override {
    for (const auto& peer : peers_) EXPECT_TRUE(run(stop(*peer)).has_value());
    for (auto& server : servers_) {
      if (server.server != nullptr) EXPECT_TRUE(run(stop(*server.server)).has_value());
    }
  }

  struct Server {
    std::unique_ptr<FakeStore> store;
    std::shared_ptr<PeerService> service;
    std::unique_ptr<PeerServer> server;
    Address address{Address::Kind::tcp, "", "127.0.0.1", 0};
  };

  template <class T>
  static Job keep(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
    *out = co_await std::move(task);
  }
  template <class T>
  std::shared_ptr<std::optional<Result<T>>> begin(Task<T> task) {
    auto out = std::make_shared<std::optional<Result<T>>>();
    spawn(loop_.get_executor(), keep(std::move(task), out));
    return out;
  }
  template <class Done>
  bool run_until(Done done, Duration limit = seconds(20)) {
    const TimePoint end = clock_.now() + limit;
    while (!done() && clock_.now() < end) loop_.run_one_for(milliseconds(50));
    return done();
  }
  template <class T>
  Result<T> run(Task<T> task) {
    const auto out = begin(std::move(task));
    if (!run_until([&] { return out->has_value(); })) {
      return fail(Errc::timed_out, "the test's own limit");
    }
    return std::move(**out);
  }
  template <class Stoppable>
  static Task<void> stop(Stoppable& one) {
    co_await one.stop();
    co_return Result<void>();
  }

  Server& start_server(std::size_t number) {
    if (servers_.size() <= number) servers_.resize(number + 1);
    Server& one = servers_[number];
    if (one.store == nullptr) one.store = std::make_unique<FakeStore>(clock_, kBlockSize);
    one.service = std::make_shared<PeerService>(id_of(number), *one.store, metrics_);
    if (GetParam() == PeerProtocol::grpc) {
      one.server = std::make_unique<GrpcServer>(env_, kCluster, one.service);
    } else {
      one.server = std::make_unique<AdpServer>(env_, kCluster, one.service);
    }
    const Result<Address> bound = run(one.server->listen(one.address));
    EXPECT_TRUE(bound.has_value()) << bound.error().message;
    one.address = bound.value();
    return one;
  }
  void stop_server(Server& one) {
    ASSERT_TRUE(run(stop(*one.server)).has_value());
    one.server.reset();
  }
  std::shared_ptr<RemotePeer> make_peer(std::size_t number, Uuid cluster = kCluster,
                                        std::uint32_t block_size = kBlockSize,
                                        std::optional<std::size_t> at = std::nullopt) {
    RemotePeerOptions options{cluster, PeerId{}, id_of(number),
                              servers_[at.value_or(number)].address, block_size};
    std::shared_ptr<RemotePeer> peer;
    if (GetParam() == PeerProtocol::grpc) peer = std::make_shared<GrpcPeer>(env_, options);
    else peer = std::make_shared<AdpPeer>(env_, options);
    peers_.push_back(peer);
    return peer;
  }
  bool connect(RemotePeer& peer) {
    return run_until([&] { return peer.connected(); }, seconds(10));
  }
  TimePoint in(Duration duration) { return clock_.now() + duration; }
  Result<void> write(Peer& peer, std::uint64_t index, std::uint32_t size = 5000) {
    PeerWrite request{ref_of(index), make_block(ref_of(index), size), true};
    return run(peer.write(std::move(request), in(seconds(2))));
  }

  asio::io_context loop_{1};
  asio::executor_work_guard<Executor> work_{loop_.get_executor()};
  SystemClock clock_{loop_};
  SystemNetwork network_{loop_, clock_};
  Random random_{1};
  SimDisk disk_{clock_, Random(1)};
  ThreadOffload offload_{loop_, 2};
  Metrics metrics_;
  Env env_{loop_.get_executor(), clock_, random_, disk_, network_, offload_, metrics_};
  std::vector<Server> servers_;
  std::vector<std::shared_ptr<RemotePeer>> peers_;
};

INSTANTIATE_TEST_SUITE_P(All, ProtocolTest, testing::Values(PeerProtocol::adp, PeerProtocol::grpc),
                         [](const auto& one) {
                           return one.param == PeerProtocol::grpc ? "grpc" : "adp";
                         });

TEST_P(ProtocolTest, EveryOperation) {
  FakeStore& store = *start_server(0).store;
  const std::shared_ptr<RemotePeer> peer = make_peer(0);
  ASSERT_TRUE(connect(*peer));
  EXPECT_TRUE(peer->local());
  ASSERT_TRUE(write(*peer, 1).has_value());
  ASSERT_TRUE(write(*peer, 2, 900'000).has_value());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(store.last_put_data) % kPageSize, 0U);
  const SharedBytes large = make_block(ref_of(2), 900'000);
  const std::vector<std::uint32_t> sizes =
      run(peer->has({ref_of(3), ref_of(2)}, 0, in(seconds(1)))).value();
  EXPECT_EQ(sizes, (std::vector<std::uint32_t>{0, static_cast<std::uint32_t>(large.size())}));
  const CrcCheck check;
  std::vector<std::byte> out(40 * kPageSize);
  std::vector<std::uint32_t> crcs;
  ASSERT_TRUE(run(peer->read(ref_of(2), 8 * kPageSize, out, &crcs, in(seconds(1)))).has_value());
  EXPECT_EQ(std::memcmp(out.data(), large.bytes.data() + 8 * kPageSize, out.size()), 0);
  EXPECT_TRUE(check.verify(ref_of(2), 8 * kPageSize, out, crcs));
  std::vector<std::byte> odd(77);
  EXPECT_TRUE(run(peer->read(ref_of(1), 3, odd, nullptr, in(seconds(1)))).has_value());
  EXPECT_EQ(run(peer->read(ref_of(9), 0, odd, nullptr, in(seconds(1)))).code(), Errc::not_found);
  EXPECT_EQ(run(peer->read(ref_of(1), 1 << 19, odd, &crcs, in(seconds(1)))).code(),
            Errc::invalid_argument);
  EXPECT_EQ(run(peer->list({}, in(seconds(1)))).value().size(), 2U);
  const PeerStat stat = run(peer->stat(in(seconds(1)))).value();
  EXPECT_EQ(stat.id, id_of(0));
  EXPECT_EQ(stat.store.block_count, 2U);
  EXPECT_EQ(peer->last_stat()->store.block_count, 2U);
  EXPECT_EQ(run(peer->report(in(seconds(1)))).value().id, id_of(0));
  EXPECT_EQ(run(peer->start(WorkKind::scrub, in(seconds(1)))).code(), Errc::not_supported);
  ASSERT_TRUE(run(peer->remove({ref_of(1), ref_of(7)}, in(seconds(1)))).has_value());
  EXPECT_FALSE(store.find(ref_of(1)).has_value());
}

// Goal: errors arrive as what they were. Method: each kind that a write can meet.
TEST_P(ProtocolTest, ErrorsSurviveTheWay) {
  Server& server = start_server(0);
  const std::shared_ptr<RemotePeer> peer = make_peer(0);
  ASSERT_TRUE(connect(*peer));
  for (const Errc code : {Errc::out_of_space, Errc::io_error, Errc::already_exists}) {
    server.store->put_error = Error{code, "because"};
    const Result<void> failed = write(*peer, 1);
    EXPECT_EQ(failed.code(), code);
    EXPECT_NE(failed.error().message.find("because"), std::string::npos);
  }
  server.store->put_error.reset();
  PeerWrite damaged{ref_of(2), make_block(ref_of(1), 5000), true};  // checksums of another ref
  EXPECT_EQ(run(peer->write(std::move(damaged), in(seconds(1)))).code(), Errc::corrupt);
  ASSERT_TRUE(run(peer->fence(VolumeId{1}, Epoch{2}, in(seconds(1)))).has_value());
  EXPECT_EQ(run(peer->fence(VolumeId{1}, Epoch{1}, in(seconds(1)))).code(), Errc::fenced);
  EXPECT_EQ(write(*peer, 3).code(), Errc::fenced);
  spawn(loop_.get_executor(), server.service->require_ring(5));
  PeerWrite stale{ref_of(4, 2), make_block(ref_of(4, 2), 5000), true};
  stale.ring_version = 4;
  EXPECT_EQ(run(peer->write(std::move(stale), in(seconds(1)))).code(), Errc::stale_ring);
  EXPECT_TRUE(peer->connected());
}

TEST_P(ProtocolTest, LongListsAndRemovals) {
  FakeStore& store = *start_server(0).store;
  const std::shared_ptr<RemotePeer> peer = make_peer(0);
  ASSERT_TRUE(connect(*peer));
  std::vector<BlockRef> refs;
  for (std::uint64_t index = 0; index < 10'001; ++index) {
    refs.push_back(ref_of(index));
    store.blocks[ref_of(index)].resize(index + 1);
  }
  BlockFilter filter;
  filter.volume = VolumeId{1};
  filter.type = BlockType::data;
  filter.epoch = Epoch{1};
  filter.index_from = 1;
  const std::vector<BlockInfo> listed = run(peer->list(filter, in(seconds(20)))).value();
  ASSERT_EQ(listed.size(), 10'000U);
  for (std::uint64_t index = 1; index < 10'001; ++index) {
    ASSERT_EQ(listed[index - 1], (BlockInfo{ref_of(index), static_cast<std::uint32_t>(index + 1)}));
  }
  EXPECT_EQ(run(peer->has(refs, 0, in(seconds(20)))).value().back(), 10'001U);
  ASSERT_TRUE(run(peer->remove(refs, in(seconds(20)))).has_value());
  EXPECT_TRUE(store.blocks.empty());
}

// Goal: nobody talks to the wrong peer. Method: clients of another cluster, peer, block size.
TEST_P(ProtocolTest, RefusesTheWrongOnes) {
  start_server(0);
  const std::vector<std::shared_ptr<RemotePeer>> wrong = {
      make_peer(0, Uuid{{0xDD}}), make_peer(7, kCluster, kBlockSize, 0),
      make_peer(0, kCluster, kBlockSize / 2)};
  const std::vector<std::string> reasons = {"cluster", "another peer", "blocks are of"};
  for (std::size_t index = 0; index < wrong.size(); ++index) {
    const auto says = [&] { return wrong[index]->problem().find(reasons[index]) != std::string::npos; };
    EXPECT_TRUE(run_until(says, seconds(5))) << wrong[index]->problem();
    EXPECT_FALSE(wrong[index]->connected());
  }
}

// Goal: a slow store costs its callers their deadline and no more, and no buffer after it.
TEST_P(ProtocolTest, DeadlinesHold) {
  FakeStore& store = *start_server(0).store;
  const std::shared_ptr<RemotePeer> peer = make_peer(0);
  ASSERT_TRUE(connect(*peer));
  ASSERT_TRUE(write(*peer, 1).has_value());
  store.read_delay = milliseconds(600);
  std::vector<std::byte> out(kPageSize, std::byte{0x55});
  const TimePoint before = clock_.now();
  EXPECT_EQ(run(peer->read(ref_of(1), 0, out, nullptr, in(milliseconds(100)))).code(),
            Errc::timed_out);
  EXPECT_LT(clock_.now() - before, milliseconds(500));
  (void)run_until([] { return false; }, milliseconds(800));
  EXPECT_EQ(out, std::vector<std::byte>(kPageSize, std::byte{0x55}));
  store.read_delay = Duration(0);
  ASSERT_TRUE(connect(*peer));
  EXPECT_TRUE(run(peer->read(ref_of(1), 0, out, nullptr, in(seconds(1)))).has_value());
}

TEST_P(ProtocolTest, ServerGoesAndComesBack) {
  Server& server = start_server(0);
  const std::shared_ptr<RemotePeer> peer = make_peer(0);
  ASSERT_TRUE(connect(*peer));
  stop_server(server);
  const TimePoint before = clock_.now();
  const Errc code = write(*peer, 1).code();
  EXPECT_TRUE(code == Errc::unavailable || code == Errc::closed) << errc_name(code);
  EXPECT_LT(clock_.now() - before, seconds(1));
  EXPECT_TRUE(run_until([&] { return !peer->connected(); }, seconds(5)));
  start_server(0);  // at the same address
  ASSERT_TRUE(connect(*peer));
  EXPECT_TRUE(write(*peer, 1).has_value());
  EXPECT_EQ(peer->problem(), "");
}

// Goal: many large calls at once, more than a connection may have under way, all end well.
TEST_P(ProtocolTest, ManyAtOnce) {
  FakeStore& store = *start_server(0).store;
  store.put_delay = milliseconds(5);
  const std::shared_ptr<RemotePeer> peer = make_peer(0);
  ASSERT_TRUE(connect(*peer));
  std::vector<std::shared_ptr<std::optional<Result<void>>>> results;
  for (std::uint64_t index = 0; index < 200; ++index) {
    PeerWrite request{ref_of(index), make_block(ref_of(index), 100'000), true};
    results.push_back(begin(peer->write(std::move(request), in(seconds(20)))));
  }
  ASSERT_TRUE(run_until([&] {
    return std::all_of(results.begin(), results.end(), [](const auto& one) { return one->has_value(); });
  }));
  for (const auto& one : results) EXPECT_TRUE((*one)->has_value()) << (*one)->error().message;
  EXPECT_EQ(store.blocks.size(), 200U);
}

TEST_P(ProtocolTest, ClosingEndsCalls) {
  FakeStore& store = *start_server(0).store;
  store.put_delay = milliseconds(300);
  const std::shared_ptr<RemotePeer> peer = make_peer(0);
  ASSERT_TRUE(connect(*peer));
  PeerWrite request{ref_of(1), make_block(ref_of(1), 5000), true};
  const auto written = begin(peer->write(std::move(request), in(seconds(20))));
  (void)run_until([] { return false; }, milliseconds(50));
  peer->close();
  EXPECT_TRUE(run_until([&] { return written->has_value(); }, milliseconds(200)));
  EXPECT_FALSE(written->value_or(Result<void>()).has_value());
  EXPECT_EQ(write(*peer, 2).code() == Errc::ok, false);
}

// Goal: the distributor over real servers loses one of three while writing, without an error.
TEST_P(ProtocolTest, ClusterLosesOnePeer) {
  RingSpec spec;
  spec.kind = RingKind::mod;
  spec.version = 1;
  spec.replication = 2;
  std::map<PeerId, std::shared_ptr<Peer>> peers;
  for (std::size_t number = 0; number < 3; ++number) {
    start_server(number);
    spec.members.push_back({id_of(number), 1});
  }
  for (std::size_t number = 0; number < 3; ++number) {
    const std::shared_ptr<RemotePeer> peer = make_peer(number);
    ASSERT_TRUE(connect(*peer));
    peers[id_of(number)] = peer;
  }
  Distributor distributor(env_, kBlockSize);
  distributor.set_peers(peers);
  distributor.set_ring(make_ring(spec).value());
  const CrcCheck check;
  const WriteOptions options{.checksummed = true};
  for (std::uint64_t index = 0; index < 60; ++index) {
    if (index == 30) stop_server(servers_[1]);
    const SharedBytes block = make_block(ref_of(index), 60'000);
    const auto written = run(distributor.write(ref_of(index), block, options));
    ASSERT_TRUE(written.has_value()) << index << " " << written.error().message;
  }
  for (std::uint64_t index = 0; index < 60; ++index) {
    const Result<SharedBytes> read = run(distributor.read_block(ref_of(index), {&check}));
    ASSERT_TRUE(read.has_value()) << index << " " << read.error().message;
    const SharedBytes block = make_block(ref_of(index), 60'000);
    EXPECT_EQ(std::memcmp(read->bytes.data(), block.bytes.data(), block.size()), 0);
  }
  EXPECT_TRUE(run(stop(distributor)).has_value());
}

TEST_P(ProtocolTest, AnAddressIsTakenOnce) {
  const Address address = start_server(0).address;
  servers_.resize(2);
  FakeStore store(clock_, kBlockSize);
  const auto service = std::make_shared<PeerService>(id_of(1), store, metrics_);
  std::unique_ptr<PeerServer> second;
  if (GetParam() == PeerProtocol::grpc) second = std::make_unique<GrpcServer>(env_, kCluster, service);
  else second = std::make_unique<AdpServer>(env_, kCluster, service);
  EXPECT_EQ(run(second->listen(address)).code(), Errc::already_exists);
  EXPECT_TRUE(run(stop(*second)).has_value());
}

// --- gRPC's own -------------------------------------------------------------------------------

using GrpcOnlyTest = ProtocolTest;
INSTANTIATE_TEST_SUITE_P(Grpc, GrpcOnlyTest, testing::Values(PeerProtocol::grpc));

/// A client by hand, on a thread of its own, for requests that GrpcPeer never makes.
struct RawClient {
  explicit RawClient(const Address& address)
      : stub(wire::Peer::NewStub(
            grpc::CreateChannel(grpc_target(address), grpc::InsecureChannelCredentials()))) {}
  template <class Request, class Reply, class Method>
  grpc::Status call(Method method, const Request& request, Reply& reply, std::string cluster) {
    grpc::ClientContext context;
    if (!cluster.empty()) context.AddMetadata(kGrpcCluster, cluster);
    context.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(5, GPR_TIMESPAN)));
    return ((*stub).*method)(&context, request, &reply);
  }
  std::unique_ptr<wire::Peer::Stub> stub;
};

TEST_P(GrpcOnlyTest, MalformedRequestsAreRefusedAndHarmNobody) {
  const Address address = start_server(0).address;
  const std::string cluster = kCluster.to_string();
  const auto refused = [&](auto method, auto request, auto reply, const std::string& of) {
    return run_blocking(offload_, [address, method, request, reply, of]() mutable -> Result<int> {
      RawClient client(address);
      return static_cast<int>(client.call(method, request, reply, of).error_code());
    });
  };
  const auto code_of = [&](auto method, auto request, auto reply, const std::string& of) {
    return static_cast<grpc::StatusCode>(run(refused(method, request, reply, of)).value());
  };
  wire::WriteRequest write;
  write.set_block("x");
  EXPECT_EQ(code_of(&wire::Peer::Stub::Write, write, wire::Done(), cluster),
            grpc::StatusCode::INVALID_ARGUMENT);  // no ref
  to_wire(ref_of(1), *write.mutable_ref());
  EXPECT_EQ(code_of(&wire::Peer::Stub::Write, write, wire::Done(), ""),
            grpc::StatusCode::INVALID_ARGUMENT);  // no cluster
  EXPECT_EQ(code_of(&wire::Peer::Stub::Write, write, wire::Done(), id_of(3).to_string()),
            grpc::StatusCode::FAILED_PRECONDITION);
  write.set_block(std::string(kBlockSize + 1, 'x'));
  EXPECT_EQ(code_of(&wire::Peer::Stub::Write, write, wire::Done(), cluster),
            grpc::StatusCode::INVALID_ARGUMENT);
  write.set_block(std::string(kBlockSize + 2 * kGrpcSlack, 'x'));
  EXPECT_EQ(code_of(&wire::Peer::Stub::Write, write, wire::Done(), cluster),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  wire::ReadRequest read;
  to_wire(ref_of(1), *read.mutable_ref());
  read.set_offset(UINT32_MAX);
  read.set_size(UINT32_MAX);
  EXPECT_EQ(code_of(&wire::Peer::Stub::Read, read, wire::ReadReply(), cluster),
            grpc::StatusCode::INVALID_ARGUMENT);
  wire::HasRequest has;
  for (int count = 0; count <= kGrpcItemsMax; ++count) to_wire(ref_of(1), *has.add_refs());
  EXPECT_EQ(code_of(&wire::Peer::Stub::Has, has, wire::HasReply(), cluster),
            grpc::StatusCode::INVALID_ARGUMENT);
  wire::StartRequest start;
  start.set_kind(99);
  EXPECT_EQ(code_of(&wire::Peer::Stub::Start, start, wire::Done(), cluster),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code_of(&wire::Peer::Stub::Hello, wire::HelloRequest(), wire::HelloReply(), cluster),
            grpc::StatusCode::OK);
  EXPECT_TRUE(servers_[0].store->blocks.empty());
  EXPECT_GE(metrics_.value("agro_grpc_refused_requests_total"), 7U);
}

TEST(GrpcCodecTest, EveryErrcSurvives) {
  for (unsigned number = 1; number < 64; ++number) {
    const Errc code = static_cast<Errc>(number);
    if (errc_name(code) == "unknown") continue;
    const grpc::Status status = to_status({code, "why"});
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(to_error(status, std::to_string(number)).code, code);
  }
  EXPECT_EQ(to_error({grpc::StatusCode::UNAVAILABLE, ""}, "").code, Errc::unavailable);
  EXPECT_EQ(to_error({grpc::StatusCode::DEADLINE_EXCEEDED, ""}, "").code, Errc::timed_out);
  EXPECT_EQ(to_error({grpc::StatusCode::INVALID_ARGUMENT, ""}, "").code, Errc::invalid_argument);
  EXPECT_EQ(to_error({grpc::StatusCode::DATA_LOSS, ""}, "nonsense").code, Errc::corrupt);
  EXPECT_EQ(to_error({grpc::StatusCode::OUT_OF_RANGE, ""}, "200").code, Errc::protocol_error);
}

}  // namespace
}  // namespace agro
