// PeerLabels: where a peer stands, for placement. Format: models/agro.proto, message PeerLabels.
#pragma once

#include <compare>
#include <string>

namespace agro {

/// Failure domains, outermost first. Empty: not said.
struct PeerLabels {
  std::string zone = {};
  std::string rack = {};
  std::string host = {};

  auto operator<=>(const PeerLabels&) const = default;
};

}  // namespace agro
