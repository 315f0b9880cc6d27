// HTTP server of a process: /metrics, /healthz, /readyz and /api/v1/..., read only.
//
// Invariants: whatever a client sends ends at most its own connection; one that is slow to ask or to
// take its answer ends after 10 s, one beyond the 64th at once; printing metrics happens on a worker.
// Threading: one loop.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "internal/http/message.hpp"

namespace agro::http {

/// Something that must hold before the process can do its work.
struct ReadyCheck {
  std::string name;
  std::string problem;  // empty: it holds
};

/// What the server tells. It knows no cluster: programs give it one of these.
class Source {
 public:
  virtual ~Source() = default;
  /// Adds what is only known when asked for to the loop's metrics. `snapshot` outlives the await.
  virtual Awaitable<void> add_metrics(MetricsSnapshot& snapshot) = 0;
  virtual std::vector<ReadyCheck> readiness() = 0;
  /// The names below /api/v1/.
  virtual std::vector<std::string> topics() const = 0;
  /// JSON text about one of topics(). Its errors become 503.
  virtual Task<std::string> answer(std::string topic) = 0;
};

/// "unix:PATH", "HOST:PORT", "tcp:HOST:PORT"; "PORT" and ":PORT" are 127.0.0.1's.
/// Errors: invalid_argument.
Result<Address> parse_http_address(std::string_view text);

class Server {
 public:
  /// `env` and `source` outlive the server.
  Server(Env& env, Source& source);

  /// Errors: those of Network::listen.
  Task<Address> listen(Address address);
  Awaitable<void> stop();

 private:
  struct Connection;
  using ConnectionPtr = std::shared_ptr<Connection>;
  Job accept_loop(std::shared_ptr<Listener> listener);
  Job serve(ConnectionPtr connection);
  Task<Request> read_request(ConnectionPtr connection);
  Task<void> send(ConnectionPtr connection, Response response, bool keep_alive, bool head);
  Job turn_away(ConnectionPtr connection, Response response);
  Task<Response> respond(Request request);
  Task<Response> metrics();
  Response ready();
  Task<Response> api(std::string topic);
  TimerId close_at(const ConnectionPtr& connection, TimePoint at);

  Env& env_;
  Source& source_;
  std::list<std::shared_ptr<Listener>> listeners_;
  std::list<std::weak_ptr<Connection>> connections_;
  bool stopping_ = false;
  TaskGroup jobs_;
};

}  // namespace agro::http
