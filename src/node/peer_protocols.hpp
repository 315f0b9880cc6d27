// Which protocol speaks to or serves at a peer address.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "distributor/peer_address.hpp"
#include "distributor/peer_service.hpp"
#include "distributor/remote_peer.hpp"

namespace agro {

/// The address to use of those a peer has: the first of ADP, else the first that is understood.
std::optional<PeerAddress> choose_address(const std::vector<std::string>& addresses);

std::shared_ptr<RemotePeer> make_remote_peer(Env& env, PeerProtocol protocol,
                                             RemotePeerOptions options);
std::unique_ptr<PeerServer> make_peer_server(Env& env, PeerProtocol protocol, Uuid cluster,
                                             std::shared_ptr<PeerService> service);

}  // namespace agro
