#include "internal/http/metrics_server.hpp"

#include <fmt/format.h>

#include <array>

#include "base/log.hpp"

namespace agro::http {
namespace {

constexpr std::size_t kRequestSizeMax = 8192;
constexpr Duration kPatience = std::chrono::seconds(10);

std::string response(std::string_view status, std::string_view body) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n"
      "Connection: close\r\n\r\n{}",
      status, body.size(), body);
}

}  // namespace

MetricsServer::MetricsServer(Env& env, std::function<void()> collect)
    : env_(env), collect_(std::move(collect)), jobs_(env.executor) {}

Task<Address> MetricsServer::listen(Address address) {
  AGRO_CO_TRY(std::unique_ptr<Listener> made, co_await env_.network.listen(address));
  std::shared_ptr<Listener> listener = std::move(made);
  listeners_.push_back(listener);
  jobs_.spawn(accept_loop(listener));
  co_return listener->address();
}

Job MetricsServer::accept_loop(std::shared_ptr<Listener> listener) {
  while (true) {
    Result<std::unique_ptr<Stream>> accepted = co_await listener->accept();
    if (!accepted.has_value()) co_return;
    std::shared_ptr<Stream> stream = std::move(*accepted);
    std::erase_if(streams_, [](const std::weak_ptr<Stream>& one) { return one.expired(); });
    streams_.push_back(stream);
    jobs_.spawn(answer(stream));
  }
}

Job MetricsServer::answer(std::shared_ptr<Stream> stream) {
  const TimerId timer = env_.clock.call_at(
      env_.clock.now() + kPatience, [weak = std::weak_ptr<Stream>(stream)] {
        if (const std::shared_ptr<Stream> late = weak.lock()) late->close();
      });
  std::string request;
  std::array<std::byte, 2048> buffer;
  Result<void> outcome;
  while (outcome.has_value() && request.find("\r\n\r\n") == std::string::npos) {
    const Result<std::size_t> count = co_await stream->read_some(buffer);
    if (!count.has_value() || request.size() + *count > kRequestSizeMax) {
      outcome = fail(Errc::closed, "no request");
      break;
    }
    request += as_text(ConstBytes(buffer).first(*count));
  }
  if (outcome.has_value()) {
    const std::string text = response_to(request.substr(0, request.find("\r\n")));
    std::vector<ConstBytes> parts{as_bytes(text)};
    outcome = co_await stream->write(std::move(parts));
  }
  if (!outcome.has_value()) log_debug("metrics client: {}", outcome.error().to_string());
  env_.clock.cancel(timer);
  stream->close();
}

std::string MetricsServer::response_to(std::string_view request_line) {
  if (!request_line.starts_with("GET ")) return response("405 Method Not Allowed", "use GET\n");
  const std::string_view rest = request_line.substr(4);
  const std::string_view path = rest.substr(0, rest.find_first_of(" ?"));
  if (path == "/metrics") {
    collect_();
    return response("200 OK", env_.metrics.to_text());
  }
  if (path == "/healthz") return response("200 OK", "ok\n");
  return response("404 Not Found", "there is /metrics and /healthz\n");
}

Awaitable<void> MetricsServer::stop() {
  for (const std::shared_ptr<Listener>& listener : listeners_) listener->close();
  for (const std::weak_ptr<Stream>& weak : streams_) {
    if (const std::shared_ptr<Stream> stream = weak.lock()) stream->close();
  }
  co_await jobs_.join();
}

}  // namespace agro::http
