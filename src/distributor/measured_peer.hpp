// A Peer whose calls are timed, as agro_peer_operation_seconds, over whatever protocol they go.
#pragma once

#include <memory>

#include "base/metrics.hpp"
#include "distributor/peer.hpp"

namespace agro {

/// Shape: `clock` and `metrics` outlive it.
std::shared_ptr<Peer> make_measured_peer(std::shared_ptr<Peer> peer, Clock& clock,
                                         Metrics& metrics);

}  // namespace agro
