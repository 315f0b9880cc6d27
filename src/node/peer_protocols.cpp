#include "node/peer_protocols.hpp"

#include "base/log.hpp"
#include "distributor/protocols/adp/adp_peer.hpp"
#include "distributor/protocols/adp/adp_server.hpp"
#include "distributor/protocols/grpc/grpc_peer.hpp"
#include "distributor/protocols/grpc/grpc_server.hpp"

namespace agro {

std::optional<PeerAddress> choose_address(const std::vector<std::string>& addresses) {
  std::optional<PeerAddress> chosen;
  for (const std::string& text : addresses) {
    const Result<PeerAddress> address = parse_peer_address(text);
    if (!address.has_value()) {
      log_warning("{}", address.error().message);
      continue;
    }
    if (address->protocol == PeerProtocol::adp) return *address;
    if (!chosen.has_value()) chosen = *address;
  }
  return chosen;
}

std::shared_ptr<RemotePeer> make_remote_peer(Env& env, PeerProtocol protocol,
                                             RemotePeerOptions options) {
  if (protocol == PeerProtocol::grpc) return std::make_shared<GrpcPeer>(env, std::move(options));
  return std::make_shared<AdpPeer>(env, std::move(options));
}

std::unique_ptr<PeerServer> make_peer_server(Env& env, PeerProtocol protocol, Uuid cluster,
                                             std::shared_ptr<PeerService> service) {
  if (protocol == PeerProtocol::grpc) {
    return std::make_unique<GrpcServer>(env, cluster, std::move(service));
  }
  return std::make_unique<AdpServer>(env, cluster, std::move(service));
}

}  // namespace agro
