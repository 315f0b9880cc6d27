// Lineage: whose blocks a volume consists of.
//
// A clone starts with the map of its origin, and its epochs go on where those of the origin's log stood. So
// the epoch in a block's name says whose the block is: no map, table or INode names volumes.
// Source: docs/architecture.md, "Snapshots and clones".
#pragma once

#include <vector>

#include "core/block_ref.hpp"

namespace agro {

/// Blocks of epochs up to and including `last_epoch`, and above that of the ancestor before, are its own.
struct VolumeAncestor {
  VolumeId volume;
  Epoch last_epoch;
  bool operator==(const VolumeAncestor&) const = default;
};

class Lineage {
 public:
  /// Shape: ancestors are the oldest first, by ascending epoch.
  Lineage(VolumeId self, std::vector<VolumeAncestor> ancestors = {})
      : self_(self), ancestors_(std::move(ancestors)) {}

  VolumeId self() const { return self_; }
  const std::vector<VolumeAncestor>& ancestors() const { return ancestors_; }
  VolumeId owner_of(Epoch epoch) const {
    for (const VolumeAncestor& ancestor : ancestors_) {
      if (epoch <= ancestor.last_epoch) return ancestor.volume;
    }
    return self_;
  }

 private:
  VolumeId self_;
  std::vector<VolumeAncestor> ancestors_;
};

}  // namespace agro
