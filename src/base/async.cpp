#include "base/async.hpp"

#include <cstdio>

namespace agro {

void spawn(Executor executor, Job job) {
  asio::co_spawn(executor, std::move(job), [](const std::exception_ptr& thrown) {
    if (thrown == nullptr) return;
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "agro: internal error: exception in a job: %s\n", error.what());
    }
    std::abort();
  });
}

Awaitable<void> yield_to_loop() {
  const Executor executor = co_await asio::this_coro::executor;
  co_await asio::post(executor, use_task);
}

Awaitable<void> Event::wait() {
  co_await suspend([this](UniqueFunction resume) { add(std::move(resume)); });
}

std::uint64_t Event::add(UniqueFunction callback) {
  waiters_.emplace(next_id_, std::move(callback));
  return next_id_++;
}

void Event::notify_all() {
  std::map<std::uint64_t, UniqueFunction> woken;
  woken.swap(waiters_);
  for (auto& [id, callback] : woken) callback();
}

Awaitable<AsyncMutex::Guard> AsyncMutex::lock() {
  if (locked_) {
    co_await suspend([this](UniqueFunction resume) { waiters_.push_back(std::move(resume)); });
  }
  locked_ = true;  // handed over while still locked, so no newcomer slips in between
  co_return Guard(this);
}

void AsyncMutex::unlock() {
  if (waiters_.empty()) {
    locked_ = false;
    return;
  }
  UniqueFunction resume = std::move(waiters_.front());
  waiters_.pop_front();
  resume();
}

void TaskGroup::spawn(Job job) {
  ++state_->count;
  agro::spawn(executor_, run(state_, std::move(job)));
}

Job TaskGroup::run(std::shared_ptr<State> state, Job job) {
  co_await std::move(job);
  if (--state->count == 0) state->emptied.notify_all();
}

Awaitable<void> TaskGroup::join() {
  const std::shared_ptr<State> state = state_;
  while (state->count > 0) co_await state->emptied.wait();
}

}  // namespace agro
