// The outside world as one bundle of seams, handed to everything that needs it.
#pragma once

#include "base/async.hpp"
#include "base/clock.hpp"
#include "base/disk.hpp"
#include "base/metrics.hpp"
#include "base/network.hpp"
#include "base/offload.hpp"
#include "base/random.hpp"

namespace agro {

/// What one node sees of the outside. The references outlive everything that holds an Env.
/// Implementations: SystemEnv (base/system_env) in programs, SimNode (sim/) in the simulator.
struct Env {
  Executor executor;
  Clock& clock;
  Random& random;
  Disk& disk;
  Network& network;
  Offload& offload;
  Metrics& metrics;
};

}  // namespace agro
