// Asking another loop: where a process runs several, each on a thread of its own (base/loop_thread).
//
// Invariants: nothing is shared; the task runs on the other loop from begin to end, and its answer
// comes back as a message.
#pragma once

#include <optional>

#include "base/async.hpp"

namespace agro {

namespace detail {

template <class T>
Job run_and_resume(Task<T> task, std::optional<Result<T>>& answer, UniqueFunction resume) {
  answer.emplace(co_await std::move(task));
  resume();  // the task is gone by now, with all that it held
}

}  // namespace detail

/// Runs `task` on the loop of `there` and returns its answer here.
/// Lifetime: both loops run until it returns; what the task refers to belongs to `there`.
template <class T>
Task<T> run_on(Executor there, Task<T> task) {
  std::optional<Result<T>> answer;
  co_await suspend([&](UniqueFunction resume) {
    asio::post(there, [there, &answer, task = std::move(task), resume = std::move(resume)]() mutable {
      spawn(there, detail::run_and_resume(std::move(task), answer, std::move(resume)));
    });
  });
  co_return std::move(*answer);
}

}  // namespace agro
