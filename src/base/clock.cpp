#include "base/clock.hpp"

#include <boost/asio/steady_timer.hpp>

namespace agro {

TimerId TimerQueue::add(TimePoint at, UniqueFunction callback) {
  const TimerId id{at, next_order_++};
  timers_.emplace(id, std::move(callback));
  return id;
}

UniqueFunction TimerQueue::pop() {
  auto node = timers_.extract(timers_.begin());
  return std::move(node.mapped());
}

struct SystemClock::Impl : std::enable_shared_from_this<SystemClock::Impl> {
  explicit Impl(asio::io_context& loop) : timer(loop) {}

  static TimePoint now() {
    return TimePoint(std::chrono::duration_cast<Duration>(
        std::chrono::steady_clock::now().time_since_epoch()));
  }

  /// Arms the one asio timer for the earliest of ours, if it is not armed for it already.
  void arm() {
    if (queue.empty() || (armed && armed_at <= queue.next_at())) return;
    armed = true;
    armed_at = queue.next_at();
    timer.expires_at(std::chrono::steady_clock::time_point(armed_at.time_since_epoch()));
    timer.async_wait([weak = weak_from_this()](const boost::system::error_code& problem) {
      const std::shared_ptr<Impl> self = weak.lock();
      if (self == nullptr || problem) return;  // re-armed for an earlier time, or the clock is gone
      self->armed = false;
      self->fire();
    });
  }

  void fire() {
    const TimePoint until = now();
    while (!queue.empty() && queue.next_at() <= until) queue.pop()();
    arm();
  }

  asio::steady_timer timer;
  TimerQueue queue;
  bool armed = false;
  TimePoint armed_at;
};

SystemClock::SystemClock(asio::io_context& loop) : impl_(std::make_shared<Impl>(loop)) {}
SystemClock::~SystemClock() = default;

TimePoint SystemClock::now() const { return Impl::now(); }

std::int64_t SystemClock::unix_time_ms() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

TimerId SystemClock::call_at(TimePoint at, UniqueFunction callback) {
  const TimerId id = impl_->queue.add(at, std::move(callback));
  impl_->arm();
  return id;
}

void SystemClock::cancel(TimerId id) { impl_->queue.remove(id); }

Awaitable<void> sleep_until(Clock& clock, TimePoint at) {
  co_await suspend(
      [&clock, at](UniqueFunction resume) { clock.call_at(at, std::move(resume)); });
}

Awaitable<bool> wait_until(Event& event, Clock& clock, TimePoint deadline) {
  auto fired = std::make_shared<Promise<bool>>();
  const std::uint64_t waiter = event.add([fired] { fired->set(true); });
  const TimerId timer = clock.call_at(deadline, [fired] { fired->set(false); });
  const Result<bool> result = co_await fired->get();
  event.remove(waiter);
  clock.cancel(timer);
  co_return *result;
}

}  // namespace agro
