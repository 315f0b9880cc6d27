#include "sim/sim_loop.hpp"

namespace agro {

void SimLoop::poll() {
  loop_.restart();
  loop_.poll();
}

bool SimLoop::run_until(const std::function<bool()>& done, Duration limit) {
  const TimePoint deadline = clock_.now() + limit;
  while (true) {
    poll();
    if (done()) return true;
    if (!clock_.has_timers() || clock_.next_at() > deadline) return false;
    clock_.fire_next();
  }
}

void SimLoop::run_for(Duration duration) {
  const TimePoint deadline = clock_.now() + duration;
  run_until([] { return false; }, duration);
  clock_.advance_to(deadline);
  poll();
}

Job SimLoop::note_end(Job job, std::shared_ptr<bool> done) {
  co_await std::move(job);
  *done = true;
}

bool SimLoop::run_job(Job job, Duration limit) {
  auto done = std::make_shared<bool>(false);
  spawn(executor(), note_end(std::move(job), done));
  return run_until([&] { return *done; }, limit);
}

}  // namespace agro
