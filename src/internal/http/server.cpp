#include "internal/http/server.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "internal/http/exposition.hpp"

namespace agro::http {
namespace {

constexpr Duration kPatience = std::chrono::seconds(10);
constexpr Duration kLastWord = std::chrono::seconds(1);  // to take the answer before being closed
constexpr std::size_t kConnectionCountMax = 64;
constexpr std::string_view kApi = "/api/v1/";
constexpr const char* kJson = "application/json";

using Json = nlohmann::ordered_json;

Response json_response(unsigned status, const Json& json) {
  // Bytes that are no UTF-8 (a holder's name, say) are replaced, not thrown about.
  return {status, kJson, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"};
}

Response no_such_topic(const std::vector<std::string>& topics) {
  return json_response(404, {{"error", "no such topic"}, {"topics", topics}});
}

Response no_answer(const Error& error) {
  return json_response(503, {{"error", error.message}});
}

Response text_response(unsigned status, std::string text) {
  Response response;
  response.status = status;
  response.body = std::move(text);
  return response;
}

}  // namespace

Result<Address> parse_http_address(std::string_view text) {
  const bool is_port =
      !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  std::string full(text);
  if (is_port) full = "tcp:127.0.0.1:" + full;
  else if (text.starts_with(':')) full = "tcp:127.0.0.1" + full;
  else if (!text.starts_with("unix:") && !text.starts_with("tcp:")) full = "tcp:" + full;
  Result<Address> address = parse_address(full);
  const bool is_url = address.has_value() && address->host.find('/') != std::string::npos;
  if (address.has_value() && !is_url) return address;
  return fail(Errc::invalid_argument,
              fmt::format("'{}' is no place to serve HTTP; write HOST:PORT, PORT (of 127.0.0.1) or "
                          "unix:PATH",
                          text));
}

struct Server::Connection {
  explicit Connection(std::unique_ptr<Stream> accepted) : stream(std::move(accepted)) {}
  std::unique_ptr<Stream> stream;
  RequestParser parser;
  bool turned_away = false;  // somebody else has the last word
};

Server::Server(Env& env, Source& source) : env_(env), source_(source), jobs_(env.executor) {}

Task<Address> Server::listen(Address address) {
  AGRO_CO_TRY(std::unique_ptr<Listener> made, co_await env_.network.listen(address));
  std::shared_ptr<Listener> listener = std::move(made);
  listeners_.push_back(listener);
  jobs_.spawn(accept_loop(listener));
  co_return listener->address();
}

Job Server::accept_loop(std::shared_ptr<Listener> listener) {
  while (true) {
    Result<std::unique_ptr<Stream>> accepted = co_await listener->accept();
    if (!accepted.has_value()) co_return;
    auto connection = std::make_shared<Connection>(std::move(*accepted));
    std::erase_if(connections_, [](const auto& one) { return one.expired(); });
    const bool too_many = connections_.size() >= kConnectionCountMax;
    connections_.push_back(connection);
    if (too_many) {
      jobs_.spawn(turn_away(connection, text_response(503, "too many connections\n")));
    } else {
      jobs_.spawn(serve(connection));
    }
  }
}

TimerId Server::close_at(const ConnectionPtr& connection, TimePoint at) {
  return env_.clock.call_at(at, [weak = std::weak_ptr<Connection>(connection)] {
    if (const ConnectionPtr late = weak.lock()) late->stream->close();
  });
}

/// Says why and closes; whoever reads from the connection ends then.
Job Server::turn_away(ConnectionPtr connection, Response response) {
  connection->turned_away = true;
  const std::string text = format_response(response, false, false);
  const TimerId timer = close_at(connection, env_.clock.now() + kLastWord);
  std::vector<ConstBytes> parts{as_bytes(text)};
  const Result<void> sent = co_await connection->stream->write(std::move(parts));
  if (!sent.has_value()) log_debug("http client: {}", sent.error().to_string());
  env_.clock.cancel(timer);
  connection->stream->close();
}

/// Errors: those of the stream; protocol_error, when the parser has the answer to it.
Task<Request> Server::read_request(ConnectionPtr connection) {
  std::array<std::byte, 4096> buffer;
  RequestParser::State state = connection->parser.feed({});
  while (state == RequestParser::State::needs_more) {
    AGRO_CO_TRY(const std::size_t count, co_await connection->stream->read_some(buffer));
    state = connection->parser.feed(ConstBytes(buffer).first(count));
  }
  if (state == RequestParser::State::broken) {
    co_return fail(Errc::protocol_error, connection->parser.problem().body);
  }
  co_return connection->parser.take();
}

Task<void> Server::send(ConnectionPtr connection, Response response, bool keep_alive, bool head) {
  const std::string text = format_response(response, keep_alive, head);
  const TimerId timer = close_at(connection, env_.clock.now() + kPatience);
  std::vector<ConstBytes> parts{as_bytes(text)};
  Result<void> sent = co_await connection->stream->write(std::move(parts));
  env_.clock.cancel(timer);
  co_return sent;
}

Job Server::serve(ConnectionPtr connection) {
  bool go_on = true;
  while (go_on && !stopping_) {
    const TimerId timer = env_.clock.call_at(
        env_.clock.now() + kPatience,
        [this, weak = std::weak_ptr<Connection>(connection)] {
          const ConnectionPtr late = weak.lock();
          if (late == nullptr || stopping_) return;
          if (late->parser.has_begun()) {
            jobs_.spawn(turn_away(late, text_response(408, "the request took too long\n")));
          } else {
            late->stream->close();
          }
        });
    Result<Request> request = co_await read_request(connection);
    env_.clock.cancel(timer);
    if (connection->turned_away) co_return;
    Response response;
    bool head = false;
    if (request.has_value()) {
      go_on = request->keep_alive;
      head = request->method == "HEAD";
      Result<Response> made = co_await respond(std::move(*request));
      response = made.has_value() ? std::move(*made)
                                  : text_response(503, made.error().to_string() + "\n");
    } else if (request.code() == Errc::protocol_error) {
      go_on = false;
      response = connection->parser.problem();
    } else {
      break;
    }
    const Result<void> sent = co_await send(connection, std::move(response), go_on, head);
    if (!sent.has_value()) break;
  }
  connection->stream->close();
}

Task<Response> Server::respond(Request request) {
  if (request.method != "GET" && request.method != "HEAD") {
    co_return text_response(405, "nothing can be changed here, use GET\n");
  }
  if (request.path == "/metrics") co_return co_await metrics();
  // That this is answered is the proof: the process lives and its loop turns.
  if (request.path == "/healthz") co_return text_response(200, "ok\n");
  if (request.path == "/readyz") co_return ready();
  if (request.path.starts_with(kApi)) co_return co_await api(request.path.substr(kApi.size()));
  std::string there_is = "/metrics\n/healthz\n/readyz\n";
  for (const std::string& topic : source_.topics()) there_is += fmt::format("{}{}\n", kApi, topic);
  const bool asked = request.path == "/";
  co_return text_response(asked ? 200 : 404, asked ? there_is : "not here, there is\n" + there_is);
}

Task<Response> Server::metrics() {
  MetricsSnapshot snapshot = env_.metrics.snapshot();
  co_await source_.add_metrics(snapshot);
  const auto shared = std::make_shared<const MetricsSnapshot>(std::move(snapshot));
  Response response;
  response.content_type = kExpositionType;
  auto work = [shared]() -> Result<std::string> { return to_exposition(*shared); };
  AGRO_CO_TRY(response.body, co_await run_blocking(env_.offload, std::move(work)));
  co_return response;
}

Response Server::ready() {
  Json checks = Json::array();
  bool all = true;
  for (const ReadyCheck& check : source_.readiness()) {
    Json one = {{"name", check.name}, {"ok", check.problem.empty()}};
    if (!check.problem.empty()) one["problem"] = check.problem;
    all = all && check.problem.empty();
    checks.push_back(std::move(one));
  }
  return json_response(all ? 200 : 503, {{"ready", all}, {"checks", checks}});
}

Task<Response> Server::api(std::string topic) {
  const std::vector<std::string> topics = source_.topics();
  if (std::find(topics.begin(), topics.end(), topic) == topics.end()) {
    co_return no_such_topic(topics);
  }
  Result<std::string> text = co_await source_.answer(std::move(topic));
  if (!text.has_value()) co_return no_answer(text.error());
  Response response;
  response.content_type = kJson;
  response.body = std::move(*text);
  co_return response;
}

Awaitable<void> Server::stop() {
  stopping_ = true;
  for (const std::shared_ptr<Listener>& listener : listeners_) listener->close();
  for (const std::weak_ptr<Connection>& weak : connections_) {
    if (const ConnectionPtr connection = weak.lock()) connection->stream->close();
  }
  co_await jobs_.join();
}

}  // namespace agro::http
