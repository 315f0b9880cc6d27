// ADP server: listeners, their connections, and a PeerService behind them.
//
// Invariants: bad bytes on a connection close that connection and nothing else; replies to writes
// leave after the store says durable; memory per connection is bounded: no more is read while too
// much is under way. Threading: one loop. Format: docs/formats/adp.md.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/env.hpp"
#include "core/uuid.hpp"
#include "distributor/buffer_classes.hpp"
#include "distributor/peer_service.hpp"
#include "distributor/protocols/adp/adp_frame.hpp"
#include "distributor/remote_peer.hpp"

namespace agro {

class AdpServer final : public PeerServer {
 public:
  AdpServer(Env env, Uuid cluster, std::shared_ptr<PeerService> service);
  /// Shape: stop() has returned, or nothing was ever started.
  ~AdpServer() override;
  AdpServer(const AdpServer&) = delete;
  AdpServer& operator=(const AdpServer&) = delete;

  Task<Address> listen(Address address) override;

  /// Serves one connection in the background, however it came about.
  void serve(std::unique_ptr<Stream> stream);

  Awaitable<void> stop() override;

  std::size_t connection_count() const { return connections_.size(); }

 private:
  struct Connection;
  using ConnectionPtr = std::shared_ptr<Connection>;

  Job accept_loop(std::shared_ptr<Listener> listener);
  Job run_connection(ConnectionPtr connection);
  Task<void> read_requests(ConnectionPtr connection);
  Task<void> greet(ConnectionPtr connection);
  Task<void> handle_write(ConnectionPtr connection, AdpHeader header);
  Result<void> handle_read(const ConnectionPtr& connection, const AdpHeader& header);
  Result<void> handle_now(const ConnectionPtr& connection, const AdpHeader& header);
  void reply_list(Connection& connection, std::uint64_t request_id, const BlockFilter& filter);
  Job finish_write(ConnectionPtr connection, std::uint64_t request_id, PeerWrite request);
  Job finish_read(ConnectionPtr connection, std::uint64_t request_id, AdpRead request,
                  std::shared_ptr<AlignedBuffer> buffer, bool with_crcs);
  Job finish_void(ConnectionPtr connection, AdpOp op, std::uint64_t request_id, Task<void> work);

  Env env_;
  Uuid cluster_;
  std::shared_ptr<PeerService> service_;
  BufferClasses buffers_;
  bool stopping_ = false;
  Event stopped_;  // ends waits for another accept
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::vector<ConnectionPtr> connections_;
  TaskGroup jobs_;
  Metric& requests_;
  Metric& bad_connections_;
  Metric& open_connections_;
};

}  // namespace agro
