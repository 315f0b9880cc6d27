#include "internal/http/server.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "sim/sim_disk.hpp"
#include "sim/sim_loop.hpp"
#include "sim/sim_network.hpp"

namespace agro::http {
namespace {

using std::chrono::seconds;

class FakeSource final : public Source {
 public:
  Awaitable<void> add_metrics(MetricsSnapshot& snapshot) override {
    snapshot.gauge("agro_asked", "Asked", 1);
    co_return;
  }
  std::vector<ReadyCheck> readiness() override { return {{"the ring is known", problem}}; }
  std::vector<std::string> topics() const override { return {"peers"}; }
  Task<std::string> answer(std::string topic) override {
    if (!problem.empty()) co_return fail(Errc::unavailable, problem);
    co_return "[\"" + topic + "\"]\n";
  }
  std::string problem;
};

class HttpServerTest : public testing::Test {
 protected:
  HttpServerTest() { EXPECT_TRUE(sim_.run(server_.listen(kAddress)).has_value()); }
  ~HttpServerTest() override { EXPECT_TRUE(sim_.run_job(server_.stop())); }

  std::unique_ptr<Stream> connect() {
    auto stream = sim_.run(network_.host("a").connect(kAddress, sim_.clock().now() + seconds(1)));
    EXPECT_TRUE(stream.has_value());
    return std::move(*stream);
  }
  static Task<void> write(Stream& stream, std::string text) {
    std::vector<ConstBytes> parts{as_bytes(text)};
    co_return co_await stream.write(std::move(parts));
  }
  /// Everything until the server closes.
  static Task<std::string> read_all(Stream& stream) {
    std::string text;
    std::array<std::byte, 1000> buffer;
    while (true) {
      const Result<std::size_t> count = co_await stream.read_some(buffer);
      if (!count.has_value()) co_return text;
      text += as_text(ConstBytes(buffer).first(*count));
    }
  }
  std::string ask(const std::string& bytes) {
    const std::unique_ptr<Stream> stream = connect();
    EXPECT_TRUE(sim_.run(write(*stream, bytes)).has_value());
    return sim_.run(read_all(*stream), seconds(60)).value_or("(the connection stays open)");
  }
  std::string get(const std::string& path) {
    return ask("GET " + path + " HTTP/1.1\r\nHost: agro\r\nConnection: close\r\n\r\n");
  }

  static inline const Address kAddress{Address::Kind::unix_socket, "/http", {}, 0};
  SimLoop sim_;
  SimNetwork network_{sim_.executor(), sim_.clock(), Random(1)};
  Random random_{2};
  SimDisk disk_{sim_.clock(), Random(3)};
  InlineOffload offload_{sim_.executor()};
  Metrics metrics_;
  Env env_{sim_.executor(), sim_.clock(), random_, disk_, network_.host("a"), offload_, metrics_};
  FakeSource source_;
  Server server_{env_, source_};
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(HttpServerTest, AnswersItsPaths) {
  metrics_.get("agro_things_total", "Things").add(3);
  const std::string metrics = get("/metrics");
  EXPECT_TRUE(metrics.starts_with("HTTP/1.1 200 ")) << metrics;
  EXPECT_TRUE(has(metrics, "Content-Type: text/plain; version=0.0.4")) << metrics;
  EXPECT_TRUE(has(metrics, "\nagro_things_total 3\n") && has(metrics, "\nagro_asked 1\n")) << metrics;
  EXPECT_TRUE(has(get("/healthz"), "\r\n\r\nok\n"));
  EXPECT_TRUE(has(get("/api/v1/peers?x=1"), "\r\n\r\n[\"peers\"]\n"));
  EXPECT_TRUE(has(get("/"), "/api/v1/peers\n"));
  for (const char* path : {"/nowhere", "/api/v1/nowhere", "/api/v1/", "/metrics/", "nonsense"}) {
    SCOPED_TRACE(path);
    EXPECT_TRUE(get(path).starts_with("HTTP/1.1 404 ")) << get(path);
  }
}

TEST_F(HttpServerTest, SaysWhyItIsNotReady) {
  const std::string ready = get("/readyz");
  EXPECT_TRUE(ready.starts_with("HTTP/1.1 200 ") && has(ready, "\"ready\": true")) << ready;
  source_.problem = "it has no members";
  const std::string not_ready = get("/readyz");
  EXPECT_TRUE(not_ready.starts_with("HTTP/1.1 503 ")) << not_ready;
  EXPECT_TRUE(has(not_ready, "\"problem\": \"it has no members\"")) << not_ready;
  const std::string peers = get("/api/v1/peers");
  EXPECT_TRUE(peers.starts_with("HTTP/1.1 503 ") && has(peers, "it has no members")) << peers;
}

// Goal: whatever is wrong with a request, the answer says so and the server goes on.
TEST_F(HttpServerTest, RefusesBadRequests) {
  struct Case {
    std::string bytes;
    std::string answer;
  };
  const std::string long_header =
      "GET / HTTP/1.1\r\nX: " + std::string(9000, 'x') + "\r\n\r\n";
  for (const Case& one :
       {Case{"POST /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab",
             "HTTP/1.1 405 "},
        Case{"garbage\r\n\r\n", "HTTP/1.1 400 "}, Case{std::string(70000, '\0'), "HTTP/1.1 400 "},
        Case{"GET / HTTP/9.9\r\n\r\n", "HTTP/1.1 505 "}, Case{long_header, "HTTP/1.1 431 "},
        Case{"GET / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", "HTTP/1.1 413 "},
        Case{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", "HTTP/1.1 411 "},
        Case{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n;;\r\n", "HTTP/1.1 411 "},
        Case{"GET /healthz HT", "HTTP/1.1 408 "}, Case{"", ""}}) {
    SCOPED_TRACE(one.bytes.substr(0, 40));
    const std::string answer = ask(one.bytes);
    EXPECT_TRUE(answer.starts_with(one.answer)) << answer;
    EXPECT_EQ(answer.empty(), one.answer.empty());
    EXPECT_TRUE(has(get("/healthz"), "ok"));
  }
}

TEST_F(HttpServerTest, KeepsConnectionsAlive) {
  const std::string two = ask(
      "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
      "HEAD /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(has(two, "ok\nHTTP/1.1 200 OK\r\n")) << two;
  EXPECT_TRUE(two.ends_with("\r\n\r\n")) << two;
  EXPECT_FALSE(has(two, "agro_asked 1")) << two;
}

// Goal: silent connections cost others nothing, and there are only so many of them.
TEST_F(HttpServerTest, LimitsConnections) {
  std::vector<std::unique_ptr<Stream>> silent;
  for (int count = 0; count < 64; ++count) silent.push_back(connect());
  EXPECT_TRUE(get("/healthz").starts_with("HTTP/1.1 503 "));
  sim_.run_for(seconds(11));  // now they are gone
  EXPECT_TRUE(get("/healthz").starts_with("HTTP/1.1 200 "));
}

TEST(HttpAddressTest, IsLoopbackUnlessTold) {
  for (const auto& [text, wanted] :
       {std::pair<const char*, const char*>{"9100", "tcp:127.0.0.1:9100"}, {":9100", "tcp:127.0.0.1:9100"},
        {"0.0.0.0:9100", "tcp:0.0.0.0:9100"}, {"[::1]:9100", "tcp:[::1]:9100"},
        {"tcp:h:1", "tcp:h:1"}, {"unix:/a", "unix:/a"}}) {
    const Result<Address> address = parse_http_address(text);
    ASSERT_TRUE(address.has_value()) << text;
    EXPECT_EQ(address->to_string(), wanted);
  }
  for (const char* text : {"", "host", "99999", "host:", "unix:", "http://a:1"}) {
    EXPECT_EQ(parse_http_address(text).code(), Errc::invalid_argument) << text;
  }
}

}  // namespace
}  // namespace agro::http
