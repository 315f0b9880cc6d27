// What every protocol between peers provides: a Peer at an address, and a server of a PeerService.
//
// Implementations: AdpPeer, AdpServer (protocols/adp); GrpcPeer, GrpcServer (protocols/grpc).
// node/peer_protocols chooses by the address's scheme. Threading: one loop.
#pragma once

#include "base/network.hpp"
#include "core/uuid.hpp"
#include "distributor/peer.hpp"

namespace agro {

struct RemotePeerOptions {
  Uuid cluster;
  PeerId self;  // nil: a client
  PeerId peer;  // whom we want to talk to
  Address address;
  std::uint32_t block_size = 0;
};

/// Connects in the background, watches the connection, and makes it again.
class RemotePeer : public Peer {
 public:
  /// Why there is no connection, for people; empty when there is one.
  virtual std::string problem() const = 0;
  /// close(), and waits for the background work to end.
  virtual Awaitable<void> stop() = 0;
  /// Returns when connected() or at the deadline; whether it is.
  virtual Awaitable<bool> wait_connected(TimePoint deadline) = 0;
  /// There is news of it: if it is not connected, connect now and not when the next try is due.
  virtual void connect_now() = 0;
};

/// Serves a PeerService on any number of addresses.
class PeerServer {
 public:
  virtual ~PeerServer() = default;
  /// Listens and serves in the background. Returns the address with its real port.
  /// Errors: as Network::listen.
  virtual Task<Address> listen(Address address) = 0;
  /// Closes listeners and connections and waits for the requests under way.
  virtual Awaitable<void> stop() = 0;
};

}  // namespace agro
