// Goal: the simulated network keeps the contract of base/network.hpp and does what its faults say.
// Method: two or three hosts on simulated time.
#include "sim/sim_network.hpp"

#include <gtest/gtest.h>

#include "sim/sim_loop.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const Address kServer{Address::Kind::tcp, "", "b", 7000};

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t index = 0; index < size; ++index)
    bytes[index] = std::byte(index * 7 + index / 251);
  return bytes;
}

class SimNetworkTest : public testing::Test {
 protected:
  TimePoint in(Duration duration) { return sim_.clock().now() + duration; }

  template <class T>
  std::shared_ptr<std::optional<Result<T>>> start(Task<T> task) {
    auto out = std::make_shared<std::optional<Result<T>>>();
    spawn(sim_.executor(), keep(std::move(task), out));
    return out;
  }
  template <class T>
  static Job keep(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
    *out = co_await std::move(task);
  }

  /// a's stream to b in client_, b's end in server_.
  void connect() {
    if (listener_ == nullptr) listener_ = sim_.run(network_.host("b").listen(kServer)).value();
    const auto accepted = start(listener_->accept());
    client_ = sim_.run(network_.host("a").connect(kServer, in(seconds(1)))).value();
    ASSERT_TRUE(sim_.run_until([&] { return accepted->has_value(); }));
    server_ = std::move(accepted->value()).value();
  }

  SimLoop sim_;
  SimNetwork network_{sim_.executor(), sim_.clock(), Random(7)};
  Network& a_ = network_.host("a");
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Stream> client_;
  std::unique_ptr<Stream> server_;
};

TEST_F(SimNetworkTest, KeepsOrderThroughASmallWindow) {
  connect();
  EXPECT_EQ(network_.connection_count(), 1U);
  const std::vector<std::byte> sent = pattern(5'000'000);
  const auto written = start(client_->write(
      {ConstBytes(sent).first(1'000), ConstBytes(), ConstBytes(sent).subspan(1'000)}));
  sim_.run_for(seconds(1));
  EXPECT_FALSE(written->has_value());  // the window is full
  std::vector<std::byte> received(sent.size());
  ASSERT_TRUE(sim_.run(read_exactly(*server_, received)).has_value());
  EXPECT_EQ(received, sent);
  sim_.poll();
  ASSERT_TRUE(written->has_value());
  EXPECT_TRUE(written->value().has_value());
}

TEST_F(SimNetworkTest, EndArrivesAfterTheBytes) {
  connect();
  const std::vector<std::byte> sent = pattern(100'000);
  ASSERT_TRUE(sim_.run(client_->write({sent})).has_value());
  client_->close();
  EXPECT_EQ(sim_.run(client_->write({sent})).code(), Errc::closed);
  std::vector<std::byte> received(sent.size());
  ASSERT_TRUE(sim_.run(read_exactly(*server_, received)).has_value());
  EXPECT_EQ(received, sent);
  EXPECT_EQ(sim_.run(server_->read_some(received)).code(), Errc::closed);
  EXPECT_EQ(sim_.run(server_->write({sent})).code(), Errc::closed);
}

TEST_F(SimNetworkTest, CloseEndsWhatIsUnderWayHere) {
  connect();
  const std::vector<std::byte> sent = pattern(3'000'000);
  std::vector<std::byte> in_bytes(1);
  const auto written = start(client_->write({sent}));
  const auto read = start(client_->read_some(in_bytes));
  const auto accepted = start(listener_->accept());
  sim_.poll();
  client_.reset();
  listener_->close();
  sim_.poll();
  ASSERT_TRUE(written->has_value() && read->has_value() && accepted->has_value());
  EXPECT_EQ(written->value().code(), Errc::closed);
  EXPECT_EQ(read->value().code(), Errc::closed);
  EXPECT_EQ(accepted->value().code(), Errc::closed);
}

TEST_F(SimNetworkTest, RefusesAndTimesOut) {
  EXPECT_EQ(sim_.run(a_.connect(kServer, in(seconds(1)))).code(), Errc::invalid_argument);
  network_.host("b");
  EXPECT_EQ(sim_.run(a_.connect(kServer, in(seconds(1)))).code(), Errc::unavailable);
  listener_ = sim_.run(network_.host("b").listen(kServer)).value();
  EXPECT_EQ(sim_.run(network_.host("b").listen(kServer)).code(), Errc::already_exists);
  network_.partition_one_way("b", "a");
  const TimePoint deadline = in(seconds(1));
  EXPECT_EQ(sim_.run(a_.connect(kServer, deadline)).code(), Errc::timed_out);
  EXPECT_EQ(sim_.clock().now(), deadline);
  network_.heal("a", "b");
  EXPECT_TRUE(sim_.run(a_.connect(kServer, in(seconds(1)))).has_value());
}

TEST_F(SimNetworkTest, PartitionHoldsBackUntilItHeals) {
  for (const bool one_way : {true, false}) {
    SCOPED_TRACE(one_way);
    connect();
    const std::vector<std::byte> sent = pattern(10);
    if (one_way) {
      network_.partition_one_way("a", "b");
    } else {
      network_.isolate("b");
    }
    ASSERT_TRUE(sim_.run(client_->write({sent})).has_value());
    ASSERT_TRUE(sim_.run(server_->write({sent})).has_value());
    std::vector<std::byte> at_server(10);
    std::vector<std::byte> at_client(10);
    const auto server_read = start(read_exactly(*server_, at_server));
    const auto client_read = start(read_exactly(*client_, at_client));
    sim_.run_for(seconds(30));
    EXPECT_FALSE(server_read->has_value());
    EXPECT_EQ(client_read->has_value(), one_way);
    network_.heal_all();
    sim_.run_for(seconds(1));
    EXPECT_TRUE(server_read->has_value());
    EXPECT_EQ(at_server, sent);
    EXPECT_EQ(at_client, sent);
  }
}

TEST_F(SimNetworkTest, ResetEndsBothEnds) {
  connect();
  std::vector<std::byte> bytes(1);
  const auto at_client = start(client_->read_some(bytes));
  const auto at_server = start(server_->read_some(bytes));
  sim_.poll();
  network_.reset("b", "a");
  sim_.poll();
  ASSERT_TRUE(at_client->has_value() && at_server->has_value());
  EXPECT_EQ(at_client->value().code(), Errc::closed);
  EXPECT_EQ(at_server->value().code(), Errc::closed);
  EXPECT_EQ(network_.connection_count(), 0U);
}

TEST_F(SimNetworkTest, ResetAfterCutsMidway) {
  connect();
  const std::vector<std::byte> sent = pattern(1'000);
  network_.reset_after("a", "b", 100);
  ASSERT_TRUE(sim_.run(client_->write({sent})).has_value());
  std::vector<std::byte> received(100);
  ASSERT_TRUE(sim_.run(read_exactly(*server_, received)).has_value());
  EXPECT_EQ(sim_.run(server_->read_some(received)).code(), Errc::closed);
  EXPECT_EQ(sim_.run(client_->write({sent})).code(), Errc::closed);
  EXPECT_EQ(sim_.run(client_->read_some(received)).code(), Errc::closed);
}

// Goal: after a process dies its connections are reset; after a machine dies there is silence until
// it is back.
TEST_F(SimNetworkTest, HostsDieInTwoWays) {
  for (const SimDeath death : {SimDeath::process, SimDeath::machine}) {
    const bool is_machine = death == SimDeath::machine;
    SCOPED_TRACE(is_machine);
    connect();
    std::vector<std::byte> bytes(1);
    const auto at_client = start(client_->read_some(bytes));
    const auto at_server = start(server_->read_some(bytes));
    network_.drop_host("b", death);
    sim_.run_for(seconds(5));
    ASSERT_TRUE(at_server->has_value());
    EXPECT_EQ(at_server->value().code(), Errc::closed);
    EXPECT_EQ(at_client->has_value(), !is_machine);
    EXPECT_EQ(sim_.run(a_.connect(kServer, in(seconds(1)))).code(),
              is_machine ? Errc::timed_out : Errc::unavailable);
    network_.revive_host("b");
    sim_.run_for(seconds(1));
    ASSERT_TRUE(at_client->has_value());
    EXPECT_EQ(at_client->value().code(), Errc::closed);
    listener_.reset();
    connect();
    EXPECT_EQ(network_.connection_count(), 1U);
    listener_.reset();
  }
}

// Goal: what is left of a killed process reaches nobody until it is revived.
TEST_F(SimNetworkTest, KilledProcessesConnectNoMore) {
  const auto listener = sim_.run(network_.host("b").listen(kServer)).value();
  network_.drop_host("a", SimDeath::killed);
  EXPECT_EQ(sim_.run(a_.connect(kServer, in(seconds(1)))).code(), Errc::closed);
  EXPECT_EQ(sim_.run(a_.listen(Address{Address::Kind::tcp, {}, "a", 7001})).code(), Errc::closed);
  network_.revive_host("a");
  EXPECT_TRUE(sim_.run(a_.connect(kServer, in(seconds(1)))).has_value());
}

TEST_F(SimNetworkTest, SlowLinksAreSlow) {
  connect();
  network_.set_link("a", "b", {milliseconds(10), milliseconds(10), 1'000'000});
  const std::vector<std::byte> sent = pattern(500'000);
  const TimePoint before = sim_.clock().now();
  ASSERT_TRUE(sim_.run(client_->write({sent})).has_value());
  std::vector<std::byte> received(sent.size());
  ASSERT_TRUE(sim_.run(read_exactly(*server_, received)).has_value());
  const Duration taken = sim_.clock().now() - before;
  EXPECT_GE(taken, milliseconds(509));
  EXPECT_LE(taken, milliseconds(520));
}

// Goal: one seed, one run. Method: the times at which the same transfer ends.
TEST(SimNetworkSeedTest, SameSeedSameTimes) {
  const auto end_of_run = [](std::uint64_t seed) {
    SimLoop sim;
    SimNetwork network(sim.executor(), sim.clock(), Random(seed));
    std::unique_ptr<Listener> listener = sim.run(network.host("b").listen(kServer)).value();
    std::unique_ptr<Stream> client =
        sim.run(network.host("a").connect(kServer, sim.clock().now() + seconds(1))).value();
    std::unique_ptr<Stream> server = sim.run(listener->accept()).value();
    const std::vector<std::byte> sent = pattern(900'000);
    EXPECT_TRUE(sim.run(client->write({sent})).has_value());
    std::vector<std::byte> received(sent.size());
    EXPECT_TRUE(sim.run(read_exactly(*server, received)).has_value());
    return sim.clock().now().time_since_epoch().count();
  };
  EXPECT_EQ(end_of_run(1), end_of_run(1));
  EXPECT_NE(end_of_run(1), end_of_run(2));
}

}  // namespace
}  // namespace agro
