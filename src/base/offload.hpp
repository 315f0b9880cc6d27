// Where blocking calls go: a worker thread in programs, the loop itself in the simulator.
#pragma once

#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/async.hpp"
#include "base/clock.hpp"

namespace agro {

class Offload {
 public:
  virtual ~Offload() = default;
  /// Runs `work` off the loop, then `done` on the loop. Order between works is not kept.
  virtual void submit(UniqueFunction work, UniqueFunction done) = 0;
};

/// Worker threads that finish on `loop`. The destructor waits for the work under way.
class ThreadOffload final : public Offload {
 public:
  ThreadOffload(asio::io_context& loop, unsigned thread_count);
  ~ThreadOffload() override;
  void submit(UniqueFunction work, UniqueFunction done) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Runs the work at once, and posts `done`.
class InlineOffload final : public Offload {
 public:
  explicit InlineOffload(Executor executor) : executor_(executor) {}
  void submit(UniqueFunction work, UniqueFunction done) override;

 private:
  Executor executor_;
};

/// Runs `function` (returning Result<T>) off the loop. It must own, or share, all that it touches.
template <class Function>
auto run_blocking(Offload& offload, Function function)
    -> Awaitable<std::invoke_result_t<Function&>> {
  using ResultType = std::invoke_result_t<Function&>;
  std::optional<ResultType> result;
  co_await suspend([&](UniqueFunction resume) {
    offload.submit([&] { result.emplace(function()); }, std::move(resume));
  });
  co_return std::move(*result);
}

}  // namespace agro
