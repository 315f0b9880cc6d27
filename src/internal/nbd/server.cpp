#include "internal/nbd/server.hpp"

#include <optional>
#include <string>

#include "base/log.hpp"

namespace agro::nbd {

namespace {
/// Large enough for 32 requests of 4 KiB and more, small enough for a core's cache.
constexpr std::size_t kInputSize = 256U << 10;
constexpr Duration kAcceptRetryDelay = std::chrono::seconds(1);
}  // namespace

struct Server::Connection {
  Connection(std::unique_ptr<Stream> connected, TimePoint handshake_end)
      : stream(std::move(connected)), name(stream->peer_name()), deadline(handshake_end) {}

  std::unique_ptr<Stream> stream;
  std::string name;
  TimePoint deadline;  // of the handshake, wherever it goes on
  InputBuffer input{kInputSize};
  Haggling haggling;
  std::optional<Transmission> transmission;  // after the handshake
  bool timed_out = false;
};

/// A connection between two servers. It belongs to neither loop.
struct Server::Handover {
  DetachedStream stream;
  TimePoint deadline;
  InputBuffer input;
  Haggling haggling;
};

Server::Server(Executor executor, Clock& clock, Metrics& metrics, DeviceProvider& provider,
               ServerOptions options)
    : clock_(clock), metrics_(metrics), provider_(provider), options_(options), jobs_(executor) {}

Server::~Server() = default;

void Server::use_siblings(Siblings& siblings, Network& network) {
  siblings_ = &siblings;
  network_ = &network;
}

Task<Address> Server::listen(Network& network, Address address) {
  AGRO_CO_TRY(std::unique_ptr<Listener> listener, co_await network.listen(std::move(address)));
  if (is_stopping_) {
    listener->close();
    co_return fail(Errc::closed, "the NBD server has been stopped");
  }
  const Address bound = listener->address();
  serve(std::move(listener));
  co_return bound;
}

void Server::serve(std::unique_ptr<Listener> listener) {
  std::shared_ptr<Listener> shared = std::move(listener);
  if (is_stopping_) {
    shared->close();
    return;
  }
  listeners_.push_back(shared);
  jobs_.spawn(accept_connections(std::move(shared)));
}

Job Server::accept_connections(std::shared_ptr<Listener> listener) {
  for (;;) {
    Result<std::unique_ptr<Stream>> accepted = co_await listener->accept();
    if (accepted.has_value()) {
      serve(std::move(*accepted));
      continue;
    }
    if (accepted.error().code == Errc::closed || is_stopping_) co_return;
    // Out of descriptors, most likely: those who are connected will leave some day.
    log_warning("nbd: cannot accept on {}: {}", listener->address().to_string(),
                accepted.error().to_string());
    co_await wait_until(stopped_, clock_, clock_.now() + kAcceptRetryDelay);
  }
}

void Server::serve(std::unique_ptr<Stream> stream) {
  const bool admitted = admit(std::make_shared<Connection>(std::move(stream), clock_.now() + options_.handshake_timeout));
  if (admitted) metrics_.connections_total.add();
}

bool Server::admit(std::shared_ptr<Connection> connection) {
  if (is_stopping_ || connections_.size() >= options_.connection_count_max) {
    if (!is_stopping_) log_warning("nbd: {} refused: {} connections are open", connection->name, connections_.size());
    connection->stream->close();
    return false;
  }
  connections_.push_back(connection);
  metrics_.connections.value = connections_.size();
  jobs_.spawn(run_connection(std::move(connection)));
  return true;
}

Job Server::run_connection(std::shared_ptr<Connection> connection) {
  const Result<void> result = co_await run_phases(connection);
  connection->stream->close();
  if (connection->timed_out) {
    log_warning("nbd: {} closed: no export chosen in time", connection->name);
  } else if (!result.has_value() && result.error().code != Errc::closed) {
    if (result.error().code == Errc::protocol_error) metrics_.protocol_errors_total.add();
    log_warning("nbd: {} closed: {}", connection->name, result.error().to_string());
  }
  connections_.remove(connection);
  metrics_.connections.value = connections_.size();
  if (connections_.empty()) stopped_.notify_all();
}

Task<void> Server::run_phases(std::shared_ptr<Connection> connection) {
  const TimerId timer =
      clock_.call_at(connection->deadline, [connection = connection.get()] {
        connection->timed_out = true;
        connection->stream->close();
      });
  const Offer offer{provider_, options_.tls, siblings_};
  Result<Agreement> agreement = co_await negotiate(connection->stream, connection->input, offer, connection->haggling);
  clock_.cancel(timer);
  if (!agreement.has_value()) co_return fail(std::move(agreement).error());
  if (is_stopping_) co_return Result<void>();
  if (agreement->elsewhere != nullptr) co_return hand_over(*connection, *agreement->elsewhere);
  std::optional<Session>& session = agreement->session;
  if (!session.has_value()) co_return Result<void>();
  connection->transmission.emplace(jobs_.executor(), *connection->stream, connection->input, pools_,
                                   metrics_, std::move(*session));
  log_debug("nbd: {} attached", connection->name);
  co_return co_await connection->transmission->run();
}

Result<void> Server::hand_over(Connection& connection, Server& to) {
  AGRO_TRY(DetachedStream stream, connection.stream->detach());
  asio::post(to.jobs_.executor(),
             [&to, handover = Handover{std::move(stream), connection.deadline, std::move(connection.input),
                                       std::move(connection.haggling)}]() mutable { to.take_over(std::move(handover)); });
  return {};
}

/// A connection that came from another server; it is closed when we do not take it.
void Server::take_over(Handover handover) {
  if (is_stopping_) return;
  Result<std::unique_ptr<Stream>> stream = network_->adopt(std::move(handover.stream));
  if (!stream.has_value()) {
    log_warning("nbd: a connection is lost between two loops: {}", stream.error().to_string());
    return;
  }
  auto connection = std::make_shared<Connection>(std::move(*stream), handover.deadline);
  connection->input = std::move(handover.input);
  connection->haggling = std::move(handover.haggling);
  admit(std::move(connection));
}

Awaitable<void> Server::stop() {
  if (!is_stopping_) {
    is_stopping_ = true;
    stopped_.notify_all();  // ends waits for another accept
    for (const std::shared_ptr<Listener>& listener : listeners_) listener->close();
    for (const std::shared_ptr<Connection>& connection : connections_) {
      if (connection->transmission.has_value()) {
        connection->transmission->begin_stop();
      } else {
        connection->stream->close();
      }
    }
    const TimePoint deadline = clock_.now() + options_.drain_timeout;
    while (!connections_.empty() && clock_.now() < deadline) {
      co_await wait_until(stopped_, clock_, deadline);
    }
    for (const std::shared_ptr<Connection>& connection : connections_) connection->stream->close();
  }
  co_await jobs_.join();
}

}  // namespace agro::nbd
