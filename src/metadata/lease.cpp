#include "metadata/lease.hpp"

#include <algorithm>

#include "base/log.hpp"

namespace agro {

Task<std::unique_ptr<Lease>> Lease::grant(Env& env, Kv& kv, std::chrono::milliseconds ttl) {
  const TimePoint sent = env.clock.now();
  AGRO_CO_TRY(const std::uint64_t id, co_await kv.grant_lease(ttl));
  std::unique_ptr<Lease> lease(new Lease(env, kv, id, ttl, sent));
  lease->jobs_.spawn(lease->renew());
  lease->jobs_.spawn(lease->watch_validity());
  co_return std::move(lease);
}

Lease::Lease(Env& env, Kv& kv, std::uint64_t id, std::chrono::milliseconds ttl, TimePoint sent)
    : env_(env), kv_(kv), id_(id), ttl_(ttl), valid_until_(sent + ttl), jobs_(env.executor) {}

Lease::~Lease() = default;

/// False when stop() came first.
Awaitable<bool> Lease::pause_until(TimePoint at) {
  while (!stopping_ && env_.clock.now() < at) co_await wait_until(wake_, env_.clock, at);
  co_return !stopping_;
}

Job Lease::renew() {
  TimePoint due = env_.clock.now() + ttl_ / 3;
  bool failing = false;  // told once, not at every attempt
  while (co_await pause_until(due)) {
    const TimePoint sent = env_.clock.now();
    const Result<void> renewed = co_await kv_.keep_alive(id_);
    if (stopping_) co_return;
    if (renewed.has_value()) {
      const bool was_valid = valid(env_.clock.now());
      valid_until_ = sent + ttl_;
      if (failing) log_info("metadata lease {} is renewed again", id_);
      failing = false;
      wake_.notify_all();  // watch_validity() has a later time to wait for
      if (!was_valid) changed_.notify_all();
      due = sent + ttl_ / 3;
    } else if (renewed.code() == Errc::not_found || renewed.code() == Errc::closed) {
      log_warning("metadata lease {} is lost: {}", id_, renewed.error().message);
      lost_ = true;
      wake_.notify_all();
      changed_.notify_all();
      co_return;
    } else {
      if (!failing) {
        log_warning("metadata lease {} cannot be renewed, trying on: {}", id_,
                    renewed.error().message);
      }
      failing = true;
      due = env_.clock.now() + std::min(ttl_ / 10, Duration(std::chrono::seconds(1)));
    }
  }
}

/// Tells those who wait for changed() the moment that valid() turns false.
Job Lease::watch_validity() {
  while (!stopping_ && !lost_) {
    const TimePoint until = valid_until_;
    if (env_.clock.now() < until) {
      co_await wait_until(wake_, env_.clock, until);
      continue;
    }
    changed_.notify_all();
    while (!stopping_ && !lost_ && valid_until_ == until) co_await wake_.wait();
  }
}

Awaitable<void> Lease::stop() {
  if (stopping_) {
    co_await jobs_.join();
    co_return;
  }
  stopping_ = true;
  wake_.notify_all();
  co_await jobs_.join();
  if (!lost_) {
    const Result<void> revoked = co_await kv_.revoke_lease(id_);
    if (!revoked.has_value()) {
      log_debug("metadata lease {} ends by itself: {}", id_, revoked.error().message);
    }
  }
  lost_ = true;
  changed_.notify_all();
}

}  // namespace agro
