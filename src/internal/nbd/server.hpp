// NBD server: serves a DeviceProvider's devices to NBD clients, over any stream.
//
// Invariants: what one client sends can end only its own connection; every connection and listener
// is gone when stop() returns.
// Threading: one loop, that of the devices. Where a process has several, one of them listens, and a connection goes to the
// loop of its export as soon as the client has named it.
// Format: docs/formats/nbd.md. Source: DESIGN.md section 9.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "base/clock.hpp"
#include "base/metrics.hpp"
#include "base/network.hpp"
#include "block/block_device.hpp"
#include "internal/nbd/transmission.hpp"

namespace agro::nbd {

struct ServerOptions {
  /// A client that has not chosen an export by then is dropped.
  Duration handshake_timeout = std::chrono::seconds(60);
  /// How long stop() lets clients take their last replies.
  Duration drain_timeout = std::chrono::seconds(5);
  /// Of this server; further ones are closed at once.
  std::size_t connection_count_max = 1024;
  /// Clients must begin TLS with these certificates; none: there is no TLS.
  std::shared_ptr<const TlsContext> tls = nullptr;
};

class Server {
 public:
  /// Lifetime: clock, metrics and provider outlive the server.
  Server(Executor executor, Clock& clock, Metrics& metrics, DeviceProvider& provider,
         ServerOptions options = {});
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  /// Shape: stop() has returned, or the loop runs no more.
  ~Server();

  /// From now on clients must begin TLS with these certificates; without them there is no TLS. Before any listen().
  void use_tls(std::shared_ptr<const TlsContext> tls) { options_.tls = std::move(tls); }
  /// From now on connections go to the server that has their export, and may come from others, to go on over `network`. Before any
  /// listen(). Lifetime: all servers outlive the connections of each, so stop() all before the first of them goes.
  void use_siblings(Siblings& siblings, Network& network);
  /// Listens on `address` and serves whoever connects; returns the address with its real port.
  /// Lifetime: `network` outlives the server. Errors: of Network::listen; closed after stop().
  Task<Address> listen(Network& network, Address address);
  /// Serves a listener that somebody else made (socket activation).
  void serve(std::unique_ptr<Listener> listener);
  /// Serves one connection that is there already.
  void serve(std::unique_ptr<Stream> stream);

  /// Stops listening, lets the requests under way finish and their replies go out, closes all
  /// connections and waits until they are gone. A request that hangs in its device holds this up:
  /// close the devices meanwhile if they may be suspended. Idempotent.
  Awaitable<void> stop();

  std::size_t connection_count() const { return connections_.size(); }

 private:
  struct Connection;
  struct Handover;

  bool admit(std::shared_ptr<Connection> connection);
  Result<void> hand_over(Connection& connection, Server& to);
  void take_over(Handover handover);
  Job accept_connections(std::shared_ptr<Listener> listener);
  Job run_connection(std::shared_ptr<Connection> connection);
  Task<void> run_phases(std::shared_ptr<Connection> connection);

  Clock& clock_;
  ServerMetrics metrics_;
  DeviceProvider& provider_;
  ServerOptions options_;
  Siblings* siblings_ = nullptr;
  Network* network_ = nullptr;  // there when siblings are
  PayloadPools pools_;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::list<std::shared_ptr<Connection>> connections_;
  TaskGroup jobs_;
  Event stopped_;
  bool is_stopping_ = false;
};

}  // namespace agro::nbd
