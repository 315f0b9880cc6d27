// State id: what a volume was at some time, for good and everywhere: so much of the log of one writer.
//
// Epochs are minted once in a volume and ids once in a cluster, so equal ids are equal bytes.
#pragma once

#include <cstdint>

#include "core/block_ref.hpp"
#include "core/uuid.hpp"

namespace agro {

struct StateId {
  Uuid cluster;
  VolumeId volume;
  Epoch epoch;
  std::uint64_t log_end = 0;  // one past the last block of the epoch's log
  bool operator==(const StateId&) const = default;
};

}  // namespace agro
