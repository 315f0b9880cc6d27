#include "base/offload.hpp"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace agro {

struct ThreadOffload::Impl {
  struct Item {
    UniqueFunction work;
    UniqueFunction done;
  };

  explicit Impl(asio::io_context& io) : loop(io.get_executor()) {}

  void work_loop() {
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [this] { return stopping || !items.empty(); });
      if (items.empty()) return;
      Item item = std::move(items.front());
      items.pop_front();
      lock.unlock();
      item.work();
      asio::post(loop, [done = std::move(item.done)]() mutable { done(); });
      lock.lock();
    }
  }

  Executor loop;
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Item> items;
  bool stopping = false;
  std::vector<std::thread> threads;
};

ThreadOffload::ThreadOffload(asio::io_context& loop, unsigned thread_count)
    : impl_(std::make_unique<Impl>(loop)) {
  for (unsigned index = 0; index < thread_count; ++index) {
    impl_->threads.emplace_back([impl = impl_.get()] { impl->work_loop(); });
  }
}

ThreadOffload::~ThreadOffload() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

void ThreadOffload::submit(UniqueFunction work, UniqueFunction done) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->items.push_back({std::move(work), std::move(done)});
  }
  impl_->wake.notify_one();
}

void InlineOffload::submit(UniqueFunction work, UniqueFunction done) {
  work();
  asio::post(executor_, [done = std::move(done)]() mutable { done(); });
}

}  // namespace agro
