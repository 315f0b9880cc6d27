#include "metadata/lease.hpp"

#include <algorithm>
#include <utility>

#include "base/log.hpp"

namespace agro {

Task<std::unique_ptr<Lease>> Lease::grant(Env& env, Kv& kv, std::chrono::milliseconds ttl) {
  const TimePoint sent = env.clock.now();
  AGRO_CO_TRY(const std::uint64_t id, co_await kv.grant_lease(ttl));
  std::unique_ptr<Lease> lease(new Lease(env, kv, id, ttl, sent));
  lease->jobs_.spawn(lease->renewals_ == nullptr ? lease->renew() : lease->follow_renewals());
  lease->jobs_.spawn(lease->watch_validity());
  co_return std::move(lease);
}

Lease::Lease(Env& env, Kv& kv, std::uint64_t id, std::chrono::milliseconds ttl, TimePoint sent)
    : env_(env),
      kv_(kv),
      id_(id),
      ttl_(ttl),
      renewals_(kv.renew_by_itself(id, ttl, sent)),
      valid_until_(sent + ttl),
      jobs_(env.executor) {}

Lease::~Lease() = default;

/// False when stop() came first.
Awaitable<bool> Lease::pause_until(TimePoint at) {
  while (!stopping_ && env_.clock.now() < at) co_await wait_until(wake_, env_.clock, at);
  co_return !stopping_;
}

void Lease::renewed(TimePoint sent) {
  const bool was_valid = env_.clock.now() < valid_until_ - ttl_ / kMarginPart;
  valid_until_ = sent + ttl_;
  if (std::exchange(failing_, false)) log_info("metadata lease {} is renewed again", id_);
  wake_.notify_all();  // watch_validity() has a later time to wait for
  if (!was_valid) changed_.notify_all();
}

void Lease::renewal_failed(const std::string& why) {
  if (std::exchange(failing_, true)) return;
  log_warning("metadata lease {} cannot be renewed, trying on: {}", id_, why);
}

void Lease::lose(const std::string& why) {
  log_warning("metadata lease {} is lost: {}", id_, why);
  lost_ = true;
  wake_.notify_all();
  changed_.notify_all();
}

Job Lease::renew() {
  TimePoint due = env_.clock.now() + ttl_ / kRenewalsPerTtl;
  while (co_await pause_until(due)) {
    const TimePoint sent = env_.clock.now();
    const Result<void> answer = co_await kv_.keep_alive(id_);
    if (stopping_) co_return;
    if (answer.has_value()) {
      renewed(sent);
      due = sent + ttl_ / kRenewalsPerTtl;
    } else if (answer.code() == Errc::not_found || answer.code() == Errc::closed) {
      lose(answer.error().message);
      co_return;
    } else {
      renewal_failed(answer.error().message);
      due = env_.clock.now() + std::min(ttl_ / 10, Duration(std::chrono::seconds(1)));
    }
  }
}

/// The store renews; here the loop learns of it, and shows that it lives.
Job Lease::follow_renewals() {
  while (!stopping_) {
    const TimePoint now = env_.clock.now();
    renewals_->asked_at = now;
    if (renewals_->lost) {
      lose(renewals_->problem);
      co_return;
    }
    const TimePoint sent = renewals_->renewed_at;
    if (sent + ttl_ > valid_until_) renewed(sent);
    if (!renewals_->problem.empty()) renewal_failed(renewals_->problem);
    co_await wait_until(renewals_->told, env_.clock, now + ttl_ / 3);
  }
}

/// Tells those who wait for changed() the moment that valid() turns false.
Job Lease::watch_validity() {
  while (!stopping_ && !lost_) {
    const TimePoint until = valid_until();
    if (env_.clock.now() < until) {
      co_await wait_until(wake_, env_.clock, until);
      continue;
    }
    changed_.notify_all();
    while (!stopping_ && !lost_ && valid_until() == until) co_await wake_.wait();
  }
}

Awaitable<void> Lease::stop() {
  if (stopping_) {
    co_await jobs_.join();
    co_return;
  }
  stopping_ = true;
  wake_.notify_all();
  if (renewals_ != nullptr) renewals_->told.notify_all();
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
