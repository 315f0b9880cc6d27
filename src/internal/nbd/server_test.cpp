#include "internal/nbd/server.hpp"

#include <gtest/gtest.h>

#include "internal/nbd/test_client.hpp"

namespace agro::nbd {
namespace {

constexpr std::uint64_t kSize = 1U << 20;

// Goal: connections share the device: what one wrote the other reads and flushes.
TEST(NbdServerTest, TwoConnectionsOneDevice) {
  ServerFixture fixture;
  const std::shared_ptr<MemoryDevice> device = fixture.provider.add("volume", kSize);
  TestClient one(fixture);
  TestClient two(fixture);
  one.attach("volume");
  two.attach("volume", true);
  EXPECT_EQ(fixture.server->connection_count(), 2U);
  EXPECT_EQ(one.ask({.command = Command::write, .cookie = 1, .offset = 9, .size = 3}, "abc").error,
            WireError::none);
  EXPECT_EQ(two.ask({.command = Command::read, .cookie = 1, .offset = 8, .size = 5}).data,
            std::string("\0abc\0", 5));
  EXPECT_EQ(two.ask({.command = Command::flush, .cookie = 1}).error, WireError::none);
  EXPECT_EQ(device->flushed_write_count(), 1U);
}

// Goal: stop() ends idle connections and handshakes at once and refuses new ones.
TEST(NbdServerTest, StopWhenIdle) {
  ServerFixture fixture;
  fixture.provider.add("volume", kSize);
  TestClient attached(fixture);
  TestClient haggling(fixture);
  attached.attach("volume");
  haggling.greet();
  fixture.start_stop();
  EXPECT_TRUE(attached.closed());
  EXPECT_TRUE(haggling.closed());
  EXPECT_TRUE(fixture.is_stopped());
  TestClient late(fixture);
  EXPECT_TRUE(late.closed());
}

// Goal: stop() answers what is under way, says ESHUTDOWN to what comes meanwhile, then closes.
TEST(NbdServerTest, StopDrains) {
  ServerFixture fixture;
  const std::shared_ptr<MemoryDevice> device = fixture.provider.add("volume", kSize);
  TestClient client(fixture);
  client.attach("volume");
  device->hold(0, 1);
  client.send_request({.command = Command::write, .cookie = 1, .offset = 0, .size = 1}, "x");
  fixture.run();
  fixture.start_stop();
  EXPECT_FALSE(client.closed());
  for (const Command command : {Command::read, Command::flush}) {
    const Answer refused = client.ask(
        {.command = command, .cookie = 2, .offset = 0, .size = command == Command::read});
    EXPECT_EQ(refused.cookie, 2U);
    EXPECT_EQ(refused.error, WireError::eshutdown);
  }
  device->release();
  const Answer answer = client.receive_answer();
  EXPECT_EQ(answer.cookie, 1U);
  EXPECT_EQ(answer.error, WireError::none);
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(fixture.is_stopped());
}

// Goal: a client that does not take its replies holds stop() up no longer than the deadline.
TEST(NbdServerTest, StopDoesNotWaitForTheDeaf) {
  ServerFixture fixture({.drain_timeout = std::chrono::seconds(5)});
  fixture.provider.add("volume", kSize);
  TestClient client(fixture, 100);
  client.attach("volume");
  client.send_request({.command = Command::read, .cookie = 1, .offset = 0, .size = 5000});
  fixture.run();
  fixture.start_stop();
  EXPECT_FALSE(client.closed());
  EXPECT_FALSE(fixture.is_stopped());
  fixture.clock.advance(std::chrono::seconds(5));
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(fixture.is_stopped());
}

TEST(NbdServerTest, ConnectionsAreLimited) {
  ServerFixture fixture({.connection_count_max = 2});
  TestClient one(fixture);
  TestClient two(fixture);
  TestClient three(fixture);
  EXPECT_TRUE(three.closed());
  EXPECT_FALSE(one.closed());
  two.close();
  fixture.run();
  TestClient four(fixture);
  EXPECT_FALSE(four.closed());
  EXPECT_EQ(fixture.metrics.value("agro_nbd_connections"), 2U);
  EXPECT_EQ(fixture.metrics.value("agro_nbd_connections_total"), 3U);
}

}  // namespace
}  // namespace agro::nbd
