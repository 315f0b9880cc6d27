// Metrics server: answers GET /metrics and /healthz over HTTP/1.1, one request a connection.
//
// Invariants: whatever a client sends ends at most its own connection; a slow one ends after 10 s.
// Threading: one loop.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/env.hpp"

namespace agro::http {

class MetricsServer {
 public:
  /// `collect` brings gauges up to date before each answer. `env` outlives the server.
  MetricsServer(Env& env, std::function<void()> collect);

  /// Errors: those of Network::listen.
  Task<Address> listen(Address address);
  Awaitable<void> stop();

 private:
  Job accept_loop(std::shared_ptr<Listener> listener);
  Job answer(std::shared_ptr<Stream> stream);
  std::string response_to(std::string_view request_line);

  Env& env_;
  std::function<void()> collect_;
  std::list<std::shared_ptr<Listener>> listeners_;
  std::list<std::weak_ptr<Stream>> streams_;
  TaskGroup jobs_;
};

}  // namespace agro::http
