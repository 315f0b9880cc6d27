// Goal: servers on several loops of one process are one server to their clients: whoever connects at one gets every export, with all
// that was agreed on before and all bytes sent ahead, in the clear and through TLS.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/loop_thread.hpp"
#include "base/run_on.hpp"
#include "base/system_env.hpp"
#include "internal/nbd/memory_device.hpp"
#include "internal/nbd/server.hpp"
#include "internal/nbd/test_certificates.hpp"

namespace agro::nbd {
namespace {

constexpr std::uint64_t kSize = 1U << 20;

/// One loop with a server and a device of its own.
struct Shard {
  Shard(unsigned number, Siblings& siblings, std::shared_ptr<const TlsContext> tls, ServerOptions options)
      : loop(number, Duration(0)),
        name("volume-" + std::to_string(number)),
        server(loop.env().executor, loop.env().clock, loop.env().metrics, provider, std::move(options)) {
    provider.add(name, kSize);
    server.use_tls(std::move(tls));
    server.use_siblings(siblings, loop.env().network);
  }
  LoopThread loop;
  std::string name;
  MemoryProvider provider;
  Server server;
};

/// Knows all shards. Its answer is what each loop may compute: names do not change here.
class Finder final : public Siblings {
 public:
  Awaitable<Server*> server_of(std::string export_name) override {
    const Executor here = co_await asio::this_coro::executor;
    for (const std::unique_ptr<Shard>& shard : shards) {
      if (shard->name == export_name) co_return shard->loop.env().executor == here ? nullptr : &shard->server;
    }
    co_return nullptr;
  }
  std::vector<std::unique_ptr<Shard>> shards;
};

Task<void> stop_server(Server& server) {
  co_await server.stop();
  co_return Result<void>();
}

Task<std::uint64_t> metric(Shard& shard, std::string name) { co_return shard.loop.env().metrics.value(name); }

class SpreadTest : public testing::Test {
 protected:
  void SetUp() override {
    socket_ = {Address::Kind::unix_socket, testing::TempDir() + "spread." + std::to_string(getpid()), {}, 0};
  }
  void TearDown() override {
    for (const std::unique_ptr<Shard>& shard : finder_.shards) {
      EXPECT_TRUE(run(run_on(shard->loop.env().executor, stop_server(shard->server))).has_value());
    }
  }
  void start(std::shared_ptr<const TlsContext> tls = nullptr, ServerOptions options = {}) {
    for (unsigned number = 0; number < 3; ++number) {
      finder_.shards.push_back(std::make_unique<Shard>(number, finder_, tls, options));
    }
    Shard& first = *finder_.shards.front();
    Env& env = first.loop.env();
    const Result<Address> bound = run(run_on(env.executor, first.server.listen(env.network, socket_)));
    AGRO_ASSERT(bound.has_value());
  }
  template <class T>
  Result<T> run(Task<T> task) {
    Result<T> answer = fail(Errc::closed, "not run");
    Task<void> main = keep(std::move(task), answer);
    EXPECT_TRUE(system_.run(std::move(main)).has_value());
    return answer;
  }
  template <class T>
  static Task<void> keep(Task<T> task, Result<T>& answer) {
    answer = co_await std::move(task);
    co_return Result<void>();
  }
  std::uint64_t count(std::size_t shard, const std::string& name) {
    return *run(run_on(finder_.shards[shard]->loop.env().executor, metric(*finder_.shards[shard], name)));
  }
  Task<std::unique_ptr<Stream>> connect() {
    Env& env = system_.env();
    return env.network.connect(socket_, env.clock.now() + std::chrono::seconds(30));
  }

  SystemEnv system_;
  Finder finder_;
  Address socket_;
};

Task<std::string> receive(Stream& stream, std::size_t size) {
  std::string bytes(size, '\0');
  AGRO_CO_TRY_OK(co_await read_exactly(stream, {reinterpret_cast<std::byte*>(bytes.data()), size}));
  co_return bytes;
}

Task<void> send(Stream& stream, std::string bytes) {
  std::vector<ConstBytes> parts;
  parts.push_back(as_bytes(bytes));
  co_return co_await stream.write(std::move(parts));
}

std::string option_bytes(Option option, const std::string& data = {}) {
  std::array<std::byte, kOptionHeaderSize> header;
  encode_option_header(header, {.option = option, .size = static_cast<std::uint32_t>(data.size())});
  return std::string(as_text(header)) + data;
}

std::string choice_bytes(Option option, const std::string& name) {
  return option_bytes(option, encode_info_request({.name = name, .types = {}}));
}

std::string request_bytes(const Request& request, const std::string& payload = {}) {
  std::array<std::byte, kRequestSize> header;
  encode_request(header, request);
  return std::string(as_text(header)) + payload;
}

std::string flags_bytes() {
  std::array<std::byte, kClientFlagsSize> flags;
  store_be(MutableBytes(flags), std::uint32_t{kFixedNewstyle | kNoZeroes});
  return std::string(as_text(flags));
}

Task<void> greet(Stream& stream) {
  AGRO_CO_TRY([[maybe_unused]] const std::string greeting, co_await receive(stream, kGreetingSize));
  co_return co_await send(stream, flags_bytes());
}

/// The replies to one option, up to the last.
Task<std::vector<OptionReplyType>> replies(Stream& stream) {
  std::vector<OptionReplyType> types;
  while (types.empty() || types.back() == OptionReplyType::info || types.back() == OptionReplyType::meta_context) {
    AGRO_CO_TRY(const std::string bytes, co_await receive(stream, kOptionReplyHeaderSize));
    AGRO_CO_TRY(const OptionReplyHeader header, decode_option_reply_header(as_bytes(bytes)));
    AGRO_CO_TRY([[maybe_unused]] const std::string data, co_await receive(stream, header.size));
    types.push_back(header.type);
  }
  co_return types;
}

Task<std::vector<OptionReplyType>> choose(Stream& stream, Option option, std::string name) {
  AGRO_CO_TRY_OK(co_await send(stream, choice_bytes(option, name)));
  co_return co_await replies(stream);
}

/// Writes and reads back, after GO.
Task<std::string> use(Stream& stream, std::string text) {
  const auto size = static_cast<std::uint32_t>(text.size());
  AGRO_CO_TRY_OK(co_await send(stream, request_bytes({.command = Command::write, .cookie = 1, .offset = 7, .size = size}, text)));
  AGRO_CO_TRY(const std::string written, co_await receive(stream, kSimpleReplySize));
  AGRO_CO_TRY_OK(co_await send(stream, request_bytes({.command = Command::read, .cookie = 2, .offset = 7, .size = size})));
  AGRO_CO_TRY(const std::string head, co_await receive(stream, kSimpleReplySize));
  AGRO_CO_TRY(const SimpleReply reply, decode_simple_reply(as_bytes(head)));
  if (reply.error != WireError::none) co_return fail(Errc::io_error, "the read failed");
  co_return co_await receive(stream, size);
}

const std::vector<OptionReplyType> kChosen{OptionReplyType::info, OptionReplyType::ack};

// Goal: GO leads to the export wherever it lives, and the connection is counted there.
TEST_F(SpreadTest, EveryExportIsReached) {
  start();
  std::vector<std::unique_ptr<Stream>> streams;
  const auto go = [this](std::string name, std::unique_ptr<Stream>& stream) -> Task<std::string> {
    AGRO_CO_TRY(stream, co_await connect());
    AGRO_CO_TRY_OK(co_await greet(*stream));
    AGRO_CO_TRY(const std::vector<OptionReplyType> types, co_await choose(*stream, Option::go, name));
    EXPECT_EQ(types, kChosen);
    co_return co_await use(*stream, "in " + name);
  };
  for (const std::unique_ptr<Shard>& shard : finder_.shards) {
    const Result<std::string> read = run(go(shard->name, streams.emplace_back()));
    EXPECT_EQ(read.value_or("nothing"), "in " + shard->name);
  }
  for (std::size_t shard = 0; shard < 3; ++shard) EXPECT_EQ(count(shard, "agro_nbd_connections"), 1U);
  EXPECT_EQ(count(0, "agro_nbd_connections_total"), 3U);
}

// Goal: what was agreed on before, and what the client sent ahead of the answers, goes along.
TEST_F(SpreadTest, NothingIsLostOnTheWay) {
  start();
  const auto all_at_once = [this]() -> Task<void> {
    AGRO_CO_TRY(const std::unique_ptr<Stream> stream, co_await connect());
    std::string sent = flags_bytes() + option_bytes(Option::structured_reply);
    sent += choice_bytes(Option::info, "volume-1") + choice_bytes(Option::go, "volume-2");
    sent += request_bytes({.command = Command::write, .cookie = 1, .offset = 0, .size = 3}, "abc");
    sent += request_bytes({.command = Command::read, .cookie = 2, .offset = 0, .size = 3});
    AGRO_CO_TRY_OK(co_await send(*stream, std::move(sent)));
    AGRO_CO_TRY([[maybe_unused]] const std::string greeting, co_await receive(*stream, kGreetingSize));
    AGRO_CO_TRY(const std::vector<OptionReplyType> structured, co_await replies(*stream));
    EXPECT_EQ(structured, std::vector{OptionReplyType::ack});
    for (int choice = 0; choice < 2; ++choice) {
      AGRO_CO_TRY(const std::vector<OptionReplyType> types, co_await replies(*stream));
      EXPECT_EQ(types, kChosen);
    }
    // The first answer has no payload, so its chunk is a bare header; the second is data: replies are structured here.
    for (std::uint64_t cookie = 1; cookie <= 2; ++cookie) {
      AGRO_CO_TRY(const std::string bytes, co_await receive(*stream, cookie == 1 ? kSimpleReplySize : kChunkHeaderSize));
      if (cookie == 1) {
        AGRO_CO_TRY(const SimpleReply reply, decode_simple_reply(as_bytes(bytes)));
        EXPECT_EQ(reply.error, WireError::none);
        continue;
      }
      AGRO_CO_TRY(const ChunkHeader chunk, decode_chunk_header(as_bytes(bytes)));
      EXPECT_EQ(chunk.cookie, cookie);
      AGRO_CO_TRY(const std::string data, co_await receive(*stream, chunk.size));
      EXPECT_EQ(data.substr(8), "abc");
    }
    co_return Result<void>();
  };
  const Result<void> done = run(all_at_once());
  EXPECT_TRUE(done.has_value()) << done.error().to_string();
  EXPECT_EQ(count(1, "agro_nbd_connections"), 0U);
}

// Goal: a TLS session changes the loop as it is; names that nobody knows are answered where the client is.
TEST_F(SpreadTest, ThroughTls) {
  const TestCertificates certificates;
  start(*TlsContext::for_server(certificates.folder(), true));
  const std::shared_ptr<const TlsContext> ours = *TlsContext::for_client(certificates.folder());
  const auto secure = [this, ours]() -> Task<std::string> {
    AGRO_CO_TRY(std::unique_ptr<Stream> plain, co_await connect());
    AGRO_CO_TRY_OK(co_await greet(*plain));
    AGRO_CO_TRY_OK(co_await send(*plain, option_bytes(Option::start_tls)));
    AGRO_CO_TRY(const std::vector<OptionReplyType> started, co_await replies(*plain));
    EXPECT_EQ(started, std::vector{OptionReplyType::ack});
    TlsStream stream(std::move(plain), ours);
    AGRO_CO_TRY_OK(co_await stream.start());
    AGRO_CO_TRY(const std::vector<OptionReplyType> unknown, co_await choose(stream, Option::go, "nothing"));
    EXPECT_EQ(unknown, std::vector{OptionReplyType::error_unknown_export});
    AGRO_CO_TRY(const std::vector<OptionReplyType> types, co_await choose(stream, Option::go, "volume-2"));
    EXPECT_EQ(types, kChosen);
    co_return co_await use(stream, "secret");
  };
  const Result<std::string> read = run(secure());
  EXPECT_TRUE(read.has_value()) << read.error().to_string();
  EXPECT_EQ(read.value_or(""), "secret");
}

// Goal: the limit of connections holds on the loop that takes them over, and a server that has stopped takes none.
TEST_F(SpreadTest, WhoCannotTakeItClosesIt) {
  start(nullptr, {.connection_count_max = 1});
  const auto go = [this](std::string name, std::unique_ptr<Stream>& stream) -> Task<std::vector<OptionReplyType>> {
    AGRO_CO_TRY(stream, co_await connect());
    AGRO_CO_TRY_OK(co_await greet(*stream));
    co_return co_await choose(*stream, Option::go, name);
  };
  std::unique_ptr<Stream> one;
  std::unique_ptr<Stream> two;
  std::unique_ptr<Stream> three;
  EXPECT_TRUE(run(go("volume-1", one)) == kChosen);
  EXPECT_EQ(run(go("volume-1", two)).code(), Errc::closed);
  Shard& last = *finder_.shards[2];
  EXPECT_TRUE(run(run_on(last.loop.env().executor, stop_server(last.server))).has_value());
  EXPECT_EQ(run(go("volume-2", three)).code(), Errc::closed);
}

}  // namespace
}  // namespace agro::nbd
