// System environment: the real outside for programs, and the loop that runs them.
//
// Threading: one loop on the calling thread; workers only behind disk and offload. Further loops: base/loop_thread.
#pragma once

#include <functional>

#include "base/env.hpp"

namespace agro {

class SystemEnv {
 public:
  SystemEnv();
  ~SystemEnv();
  SystemEnv(const SystemEnv&) = delete;
  SystemEnv& operator=(const SystemEnv&) = delete;

  Env& env();
  /// Set and notified by SIGINT or SIGTERM; a second signal ends the process at once.
  bool stop_requested() const;
  Event& stop_event();

  /// How long the thread looks for work before it sleeps, while work comes that often
  /// (base/busy_poll); zero, as at first: never. Shape: before run().
  void set_busy_poll(Duration most);

  /// Runs `main` on the loop to its end and returns its answer.
  Result<void> run(Task<void> main);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agro
