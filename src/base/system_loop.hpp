// One loop with the real outside around it: what SystemEnv and LoopThread are made of.
//
// Threading: the loop's thread, but for the construction and the destruction, while it does not run.
#pragma once

#include "base/busy_poll.hpp"
#include "base/env.hpp"
#include "base/system_disk.hpp"
#include "base/system_network.hpp"

namespace agro {

struct SystemLoop {
  static constexpr unsigned kOffloadThreadCount = 2;

  SystemLoop()
      : clock(loop),
        random(Random::from_os()),
        disk(loop),
        network(loop, clock),
        offload(loop, kOffloadThreadCount),
        env{loop.get_executor(), clock, random, disk, network, offload, metrics} {}

  /// Until the loop is stopped.
  void run() { BusyPoll(loop, clock, busy_poll).run(); }

  asio::io_context loop{1};
  SystemClock clock;
  Random random;
  SystemDisk disk;
  SystemNetwork network;
  ThreadOffload offload;
  Metrics metrics;
  Env env;
  Duration busy_poll{};
};

}  // namespace agro
