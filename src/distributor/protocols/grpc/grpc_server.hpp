// gRPC server: listeners, and a PeerService behind them.
//
// Invariants: a request is checked, and carried out, on the loop; replies to writes leave after the
// store says durable; a message is at most a block and some slack, a connection has at most 64 calls
// under way, and all together hold at most 256 MiB.
// Threading: one loop; gRPC's threads only hand over to it. Format: docs/formats/grpc.md.
#pragma once

#include <memory>

#include "base/env.hpp"
#include "distributor/peer_service.hpp"
#include "distributor/remote_peer.hpp"

namespace agro {

class GrpcServer final : public PeerServer {
 public:
  /// Shape: `env` is a real one, its offload with threads of its own.
  GrpcServer(Env env, Uuid cluster, std::shared_ptr<PeerService> service);
  /// Shape: stop() has returned, or nothing was ever started.
  ~GrpcServer() override;

  Task<Address> listen(Address address) override;
  Awaitable<void> stop() override;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace agro
