// Goal: loops of one process ask each other and hand connections over, and nothing is lost on the way.
#include "base/loop_thread.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <thread>

#include "base/run_on.hpp"
#include "base/system_env.hpp"

namespace agro {
namespace {

/// A Unix socket pair; the second end is ours to read and write plainly.
struct Pair {
  Pair() {
    int ends[2];
    AGRO_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    stream = Descriptor(ends[0]);
    client = Descriptor(ends[1]);
  }
  Descriptor stream;
  Descriptor client;
};

Task<std::thread::id> this_thread() { co_return std::this_thread::get_id(); }

Task<void> fail_there() { co_return fail(Errc::locked, "there"); }

Task<std::string> read_text(Stream& stream, std::size_t size) {
  std::string text(size, '\0');
  AGRO_CO_TRY_OK(co_await read_exactly(stream, {reinterpret_cast<std::byte*>(text.data()), size}));
  co_return text;
}

Task<std::string> adopt_and_read(Network& network, DetachedStream detached, std::size_t size) {
  AGRO_CO_TRY(const std::unique_ptr<Stream> stream, network.adopt(std::move(detached)));
  co_return co_await read_text(*stream, size);
}

Task<void> ask(LoopThread& other) {
  AGRO_CO_TRY(const std::thread::id there, co_await run_on(other.env().executor, this_thread()));
  EXPECT_NE(there, std::this_thread::get_id());
  const Result<void> failed = co_await run_on(other.env().executor, fail_there());
  EXPECT_EQ(failed.code(), Errc::locked);
  co_return Result<void>();
}

// Goal: the task runs on the other thread, its answer and its error come back to ours.
TEST(LoopThreadTest, Asks) {
  SystemEnv system;
  LoopThread other(1, Duration(0));
  EXPECT_TRUE(system.run(ask(other)).has_value());
}

Task<void> hand_over(SystemEnv& system, LoopThread& other, Pair& pair) {
  Network& here = system.env().network;
  AGRO_CO_TRY(const std::unique_ptr<Stream> stream, here.adopt({std::move(pair.stream), "test", nullptr}));
  EXPECT_EQ(::send(pair.client.get(), "firstsecond", 11, 0), 11);
  AGRO_CO_TRY(const std::string first, co_await read_text(*stream, 5));
  EXPECT_EQ(first, "first");
  AGRO_CO_TRY(DetachedStream detached, stream->detach());
  EXPECT_EQ(detached.peer_name, "test");
  EXPECT_EQ(stream->detach().code(), Errc::closed);
  // Half of it waits in the socket since before, half comes while nobody has the connection.
  EXPECT_EQ(::send(pair.client.get(), "third", 5, 0), 5);
  Env& there = other.env();
  AGRO_CO_TRY(const std::string rest,
              co_await run_on(there.executor, adopt_and_read(there.network, std::move(detached), 11)));
  EXPECT_EQ(rest, "secondthird");
  co_return Result<void>();
}

// Goal: what the client sent before, and while, its connection changes the loop is read on the new one.
TEST(LoopThreadTest, HandsAConnectionOver) {
  SystemEnv system;
  LoopThread other(1, Duration(0));
  Pair pair;
  const Result<void> done = system.run(hand_over(system, other, pair));
  EXPECT_TRUE(done.has_value()) << done.error().to_string();
}

// Goal: a connection that nobody took over is closed, not leaked.
TEST(LoopThreadTest, ADroppedConnectionIsClosed) {
  Pair pair;
  { const DetachedStream dropped{std::move(pair.stream), "test", nullptr}; }
  char byte = 0;
  EXPECT_EQ(::recv(pair.client.get(), &byte, 1, 0), 0);
}

}  // namespace
}  // namespace agro
