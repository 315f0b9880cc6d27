#include "sim/sim_loop.hpp"

namespace agro {

SimProcess& SimLoop::add_process() {
  processes_.push_back(std::make_unique<SimProcess>());
  return *processes_.back();
}

bool SimLoop::step() {
  for (std::size_t tried = 0; tried < processes_.size(); ++tried) {
    if (processes_[turn_]->step()) return true;
    turn_ = (turn_ + 1) % processes_.size();
  }
  return false;
}

void SimLoop::poll() {
  while (step()) {
  }
}

std::uint64_t SimLoop::run_steps(std::uint64_t count, Duration limit) {
  const TimePoint deadline = clock_.now() + limit;
  std::uint64_t done = 0;
  while (done < count) {
    if (step()) {
      ++done;
    } else if (clock_.has_timers() && clock_.next_at() <= deadline) {
      clock_.fire_next();
    } else {
      break;
    }
  }
  return done;
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
