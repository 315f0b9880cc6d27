// Coroutines on one loop: Task, Job, suspending and waking, events, task groups.
//
// Invariants: everything here belongs to one loop (one io_context, one thread); wake-ups are posted,
// never run inline. A job that is spawned does run inline, up to its first wait. Nothing is cancelled from outside: what waits is
// woken by closing what it waits for, which keeps a run deterministic and destructors simple.
// Source: DESIGN.md section 10.
#pragma once

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <utility>

#include "base/assert.hpp"
#include "base/result.hpp"

namespace agro {

namespace asio = boost::asio;

using Executor = asio::io_context::executor_type;

/// A coroutine that returns a Result<T>. Lazy: it starts when awaited. Always await it: clang warns
/// when the value is dropped, g++ 12 does not.
template <class T = void>
using Task = asio::awaitable<Result<T>, Executor>;

/// A coroutine that returns a bare T and cannot fail.
template <class T = void>
using Awaitable = asio::awaitable<T, Executor>;

/// Background work that deals with its own errors.
using Job = Awaitable<void>;

inline constexpr asio::use_awaitable_t<Executor> use_task{};

/// A move-only `void()`; std::function wants to copy.
class UniqueFunction {
 public:
  UniqueFunction() = default;
  template <class F>
  UniqueFunction(F function)  // NOLINT(google-explicit-constructor): it stands for any callable
      : callable_(std::make_unique<Model<F>>(std::move(function))) {}
  explicit operator bool() const { return callable_ != nullptr; }
  /// Shape: once; the callable is gone afterwards.
  void operator()() { std::exchange(callable_, nullptr)->call(); }

 private:
  struct Callable {
    virtual ~Callable() = default;
    virtual void call() = 0;
  };
  template <class F>
  struct Model final : Callable {
    explicit Model(F function) : function_(std::move(function)) {}
    void call() override { function_(); }
    F function_;
  };
  std::unique_ptr<Callable> callable_;
};

/// Suspends the coroutine and hands `accept` a UniqueFunction that resumes it, once, by posting to
/// its loop. Call it on the loop's thread. Dropping the function destroys the coroutine.
template <class Accept>
Awaitable<void> suspend(Accept accept) {
  const Executor executor = co_await asio::this_coro::executor;
  co_await asio::async_initiate<const asio::use_awaitable_t<Executor>, void()>(
      [executor, &accept](auto handler) {
        accept(UniqueFunction([executor, handler = std::move(handler)]() mutable {
          asio::post(executor, std::move(handler));
        }));
      },
      use_task);
}

/// Runs `job` on the loop; up to its first wait at once, when called on the loop. An exception out of it ends the program: our code throws none.
void spawn(Executor executor, Job job);

/// Lets everything that is ready run first.
Awaitable<void> yield_to_loop();

/// Wakes every coroutine that waits at the moment of notify_all(). No memory: test your condition
/// in a loop around wait().
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// Returns after the next notify_all(). The event must outlive the wait.
  Awaitable<void> wait();
  void notify_all();
  bool has_waiters() const { return !waiters_.empty(); }

  /// Runs `callback` inside the next notify_all(), unless removed before; for wait_until().
  std::uint64_t add(UniqueFunction callback);
  void remove(std::uint64_t id) { waiters_.erase(id); }

 private:
  std::map<std::uint64_t, UniqueFunction> waiters_;  // in order of arrival
  std::uint64_t next_id_ = 0;
};

/// Runs one holder at a time, in order of arrival.
class AsyncMutex {
 public:
  /// Unlocks when it goes.
  class Guard {
   public:
    explicit Guard(AsyncMutex* mutex) : mutex_(mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (mutex_ != nullptr) mutex_->unlock();
    }

   private:
    AsyncMutex* mutex_;
  };

  Awaitable<Guard> lock();

 private:
  void unlock();
  bool locked_ = false;
  std::deque<UniqueFunction> waiters_;
};

/// Counts spawned jobs so that an owner can wait for all of them before it goes.
class TaskGroup {
 public:
  explicit TaskGroup(Executor executor) : executor_(executor) {}
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  /// A group that dies while its loop still runs must have been joined.
  ~TaskGroup() = default;

  /// Starts `job` on the loop. The group must outlive it: join() before destruction.
  void spawn(Job job);
  /// Returns when no job is left. Jobs end by themselves or because what they wait for was closed.
  Awaitable<void> join();
  std::size_t count() const { return state_->count; }
  Executor executor() const { return executor_; }

 private:
  struct State {
    std::size_t count = 0;
    Event emptied;
  };
  static Job run(std::shared_ptr<State> state, Job job);
  Executor executor_;
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace agro
