// Goal: the real network keeps the contract of base/network.hpp. Method: loopback TCP on free ports
// and Unix sockets in a temporary directory.
#include "base/system_network.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "base/log.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class SystemNetworkTest : public testing::Test {
 protected:
  SystemNetworkTest() {
    std::string name = (std::filesystem::temp_directory_path() / "agro-net-XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~SystemNetworkTest() override { std::filesystem::remove_all(directory_); }

  Address unix_address() const { return {Address::Kind::unix_socket, directory_ + "/s", "", 0}; }
  static Address tcp_address() { return {Address::Kind::tcp, "", "127.0.0.1", 0}; }
  TimePoint soon() const { return clock_.now() + seconds(5); }

  template <class T>
  static Job keep(Task<T> task, std::optional<Result<T>>& out) {
    out = co_await std::move(task);
  }
  template <class T>
  Result<T> run(Task<T> task) {
    std::optional<Result<T>> out;
    spawn(loop_.get_executor(), keep(std::move(task), out));
    const TimePoint end = clock_.now() + seconds(20);
    while (!out.has_value() && clock_.now() < end) {
      loop_.restart();
      loop_.run_one_for(milliseconds(50));
    }
    if (!out.has_value()) return fail(Errc::timed_out, "the test's own limit");
    return std::move(*out);
  }
  /// What is started here runs beside the next run().
  template <class T>
  std::shared_ptr<std::optional<Result<T>>> start(Task<T> task) {
    auto out = std::make_shared<std::optional<Result<T>>>();
    spawn(loop_.get_executor(), keep_shared(std::move(task), out));
    loop_.restart();
    loop_.poll();
    return out;
  }
  template <class T>
  static Job keep_shared(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
    *out = co_await std::move(task);
  }
  void poll() {
    loop_.restart();
    loop_.poll();
  }

  struct Pair {
    std::unique_ptr<Listener> listener;
    std::unique_ptr<Stream> client;
    std::unique_ptr<Stream> server;
  };
  Pair connected(const Address& address) {
    Pair pair;
    pair.listener = run(network_.listen(address)).value();
    const auto accepted = start(pair.listener->accept());
    pair.client = run(network_.connect(pair.listener->address(), soon())).value();
    while (!accepted->has_value()) poll();
    pair.server = std::move(accepted->value()).value();
    return pair;
  }

  std::string directory_;
  asio::io_context loop_{1};
  SystemClock clock_{loop_};
  SystemNetwork network_{loop_, clock_};
};

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t index = 0; index < size; ++index)
    bytes[index] = std::byte(index * 7 + index / 251);
  return bytes;
}

// Goal: bytes arrive in order over both kinds, however they were cut, also when the socket's buffer
// is too small for them.
TEST_F(SystemNetworkTest, CarriesManyPartsInOrder) {
  for (const Address& address : {unix_address(), tcp_address()}) {
    SCOPED_TRACE(address.to_string());
    Pair pair = connected(address);
    const std::vector<std::byte> sent = pattern(3'000'001);
    std::vector<ConstBytes> parts;
    std::size_t at = 0;
    for (std::size_t size = 0; at < sent.size(); size = (size * 3 + 1) % 9000) {
      const std::size_t taken = std::min(size, sent.size() - at);
      parts.push_back(ConstBytes(sent).subspan(at, taken));
      at += taken;
    }
    ASSERT_GT(parts.size(), 600U);
    const auto written = start(pair.client->write(parts));
    std::vector<std::byte> received(sent.size());
    ASSERT_TRUE(run(read_exactly(*pair.server, received)).has_value());
    EXPECT_EQ(received, sent);
    while (!written->has_value()) poll();
    EXPECT_TRUE(written->value().has_value());
    EXPECT_FALSE(pair.server->peer_name().empty());
  }
}

// Goal: close() ends reads and writes under way with `closed`, on both sides; a stream may be
// destroyed at once.
TEST_F(SystemNetworkTest, CloseEndsWhatIsUnderWay) {
  for (const Address& address : {unix_address(), tcp_address()}) {
    SCOPED_TRACE(address.to_string());
    Pair pair = connected(address);
    const std::vector<std::byte> sent = pattern(30'000'000);  // more than any socket buffer takes
    std::vector<std::byte> client_in(1);
    const auto written = start(pair.client->write({sent}));
    const auto client_read = start(pair.client->read_some(client_in));
    EXPECT_FALSE(written->has_value());
    pair.client->close();
    pair.client.reset();
    while (!written->has_value() || !client_read->has_value()) poll();
    EXPECT_EQ(written->value().code(), Errc::closed);
    EXPECT_EQ(client_read->value().code(), Errc::closed);
    std::vector<std::byte> server_in(30'000'001);
    EXPECT_EQ(run(read_exactly(*pair.server, server_in)).code(), Errc::closed);
    const auto after = run(pair.server->write({sent}));
    EXPECT_EQ(after.code(), Errc::closed);
  }
}

TEST_F(SystemNetworkTest, CloseEndsAccept) {
  for (const Address& address : {unix_address(), tcp_address()}) {
    std::unique_ptr<Listener> listener = run(network_.listen(address)).value();
    const auto accepted = start(listener->accept());
    listener->close();
    while (!accepted->has_value()) poll();
    EXPECT_EQ(accepted->value().code(), Errc::closed);
    EXPECT_EQ(run(listener->accept()).code(), Errc::closed);
  }
  EXPECT_FALSE(std::filesystem::exists(unix_address().path));
}

TEST_F(SystemNetworkTest, ConnectTellsWhatIsWrong) {
  EXPECT_EQ(run(network_.connect(unix_address(), soon())).code(), Errc::unavailable);
  std::unique_ptr<Listener> listener = run(network_.listen(tcp_address())).value();
  const Address gone = listener->address();
  EXPECT_NE(gone.port, 0);
  listener->close();
  EXPECT_EQ(run(network_.connect(gone, soon())).code(), Errc::unavailable);
  const Result<std::unique_ptr<Stream>> late =
      run(network_.connect(gone, clock_.now() - seconds(1)));
  EXPECT_TRUE(late.code() == Errc::timed_out || late.code() == Errc::unavailable);
}

// Goal: a socket file left behind is replaced; one that is served, a taken port and a plain file
// are refused with a text that says so, and are left alone.
TEST_F(SystemNetworkTest, ListenReplacesOnlyWhatIsStale) {
  const Address address = unix_address();
  {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    std::unique_ptr<Listener> listener = run(network_.listen(address)).value();
    std::filesystem::rename(address.path, address.path + "2");
    listener->close();  // the file is not where it was, so it stays: stale
    std::filesystem::rename(address.path + "2", address.path);
    ::close(fd);
  }
  ASSERT_TRUE(std::filesystem::exists(address.path));
  std::unique_ptr<Listener> listener = run(network_.listen(address)).value();
  const auto second = run(network_.listen(address));
  ASSERT_EQ(second.code(), Errc::already_exists);
  EXPECT_NE(second.error().message.find("in use"), std::string::npos) << second.error().message;
  EXPECT_TRUE(run(network_.connect(address, soon())).has_value());

  std::unique_ptr<Listener> tcp = run(network_.listen(tcp_address())).value();
  const auto taken = run(network_.listen(tcp->address()));
  ASSERT_EQ(taken.code(), Errc::already_exists);
  EXPECT_NE(taken.error().message.find("in use"), std::string::npos) << taken.error().message;

  Address plain = address;
  plain.path += ".txt";
  std::ofstream(plain.path) << "precious";
  EXPECT_EQ(run(network_.listen(plain)).code(), Errc::already_exists);
  EXPECT_TRUE(std::filesystem::exists(plain.path));
  plain.path = directory_ + "/none/s";
  EXPECT_EQ(run(network_.listen(plain)).code(), Errc::not_found);
}

// Goal: without descriptors left, accept() waits and then goes on. Method: lower the limit.
TEST_F(SystemNetworkTest, AcceptSurvivesRunningOutOfDescriptors) {
#if defined(__has_feature)
#if __has_feature(undefined_behavior_sanitizer) || __has_feature(address_sanitizer)
  GTEST_SKIP() << "the sanitizer itself needs descriptors to look at memory";
#endif
#endif
  set_log_sink({});
  std::unique_ptr<Listener> listener = run(network_.listen(unix_address())).value();
  std::unique_ptr<Stream> client = run(network_.connect(unix_address(), soon())).value();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{3, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto accepted = start(listener->accept());
  const std::size_t handlers = loop_.poll();
  loop_.restart();
  const std::size_t ran = loop_.run_for(milliseconds(30));
  EXPECT_LT(handlers + ran, 20U);  // it waits, it does not spin
  EXPECT_FALSE(accepted->has_value());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  loop_.restart();
  while (!accepted->has_value()) loop_.run_one();
  EXPECT_TRUE(accepted->value().has_value());
}

TEST_F(SystemNetworkTest, ResolvesNames) {
  std::unique_ptr<Listener> listener = run(network_.listen(tcp_address())).value();
  Address named = listener->address();
  named.host = "localhost";
  EXPECT_TRUE(run(network_.connect(named, soon())).has_value());
}

}  // namespace
}  // namespace agro
