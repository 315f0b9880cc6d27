// Loop thread: one more loop of a process, on a thread of its own.
//
// Invariants: loops share nothing; one asks another with run_on() or asio::post().
// Threading: made and destroyed by one other thread; what belongs to the loop is touched by its tasks only.
#pragma once

#include <memory>

#include "base/env.hpp"

namespace agro {

class LoopThread {
 public:
  /// Starts it. `number`: for the thread's name; `busy_poll`: as SystemEnv::set_busy_poll().
  LoopThread(unsigned number, Duration busy_poll);
  /// Stops the loop, waits for the thread, and drops what still waits.
  /// Shape: nobody waits in run_on() for it.
  ~LoopThread();
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  Env& env();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agro
