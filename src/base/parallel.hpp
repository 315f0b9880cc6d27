// Several of the same at once: for_each_parallel.
#pragma once

#include <algorithm>
#include <cstddef>

#include "base/async.hpp"

namespace agro {

namespace parallel_detail {

template <class Function>
struct Shared {
  std::size_t count;
  Function& function;
  std::size_t next = 0;
  Result<void> result;
};

template <class Function>
Job work(Shared<Function>& shared) {
  while (shared.next < shared.count && shared.result.has_value()) {
    const std::size_t index = shared.next++;
    Result<void> one = co_await shared.function(index);
    if (!one.has_value() && shared.result.has_value()) shared.result = std::move(one);
  }
}

}  // namespace parallel_detail

/// Runs function(0) … function(count - 1), each a Task<void>, at most `width` at once; after the
/// first error no further one starts, and that error is returned when those under way have ended.
/// Shape: `function` may be a capturing lambda that *returns* a Task of a plain coroutine.
template <class Function>
Task<void> for_each_parallel(std::size_t count, std::size_t width, Function function) {
  parallel_detail::Shared<Function> shared{count, function, 0, {}};
  TaskGroup group(co_await asio::this_coro::executor);
  const std::size_t worker_count = std::min(count, width);
  for (std::size_t worker = 0; worker < worker_count; ++worker) {
    group.spawn(parallel_detail::work(shared));
  }
  co_await group.join();
  co_return std::move(shared.result);
}

}  // namespace agro
