// Lease: kept alive in the background, and honest about when it may be gone.
//
// The store renews it by itself where it can (etcd: a thread that data traffic cannot starve), else
// the loop does.
// Invariants: valid(now) is true only while the store cannot have ended the lease, by the monotonic
// clock: it counts from when the last successful renewal was *sent*. Once lost() it never is valid
// again; unsure (the store is unreachable) it may become valid again by itself, and then nothing
// under it was lost. Threading: one loop. Source: DESIGN.md section 4.
#pragma once

#include <chrono>
#include <memory>

#include "base/env.hpp"
#include "metadata/kv.hpp"

namespace agro {

class Lease {
 public:
  /// A new lease, renewed every ttl/8: an outage of the store is noticed late. Stop it before `env` or `kv` go.
  /// Errors: those of Kv::grant_lease.
  static Task<std::unique_ptr<Lease>> grant(Env& env, Kv& kv, std::chrono::milliseconds ttl);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  /// Shape: stopped.
  ~Lease();

  std::uint64_t id() const { return id_; }
  /// Whether the lease is surely held at `now`. Ask right before each acknowledgment.
  bool valid(TimePoint now) const { return !lost_ && now < valid_until(); }
  /// Whether the store said that it has ended: get a new one (and Metadata::resume_volume).
  bool lost() const { return lost_; }
  TimePoint valid_until() const {
    const TimePoint end = renewals_ == nullptr ? valid_until_ : renewals_->renewed_at.load() + ttl_;
    return end - ttl_ / kMarginPart;
  }
  /// Notified when valid() turned false, turned true again, and when the lease is lost.
  Event& changed() { return changed_; }

  /// Ends the renewals and the lease. Idempotent. Errors of the revocation are not told: the lease
  /// then ends by itself.
  Awaitable<void> stop();

 private:
  /// Clocks that differ a little, and an answer on its way, must not make us hold it too long.
  static constexpr int kMarginPart = 50;
  Lease(Env& env, Kv& kv, std::uint64_t id, std::chrono::milliseconds ttl, TimePoint sent);
  Job renew();
  Job follow_renewals();
  void renewed(TimePoint sent);
  void renewal_failed(const std::string& why);
  void lose(const std::string& why);
  Job watch_validity();
  Awaitable<bool> pause_until(TimePoint at);

  Env& env_;
  Kv& kv_;
  const std::uint64_t id_;
  const Duration ttl_;
  const std::shared_ptr<LeaseRenewals> renewals_;  // null: the loop renews
  TimePoint valid_until_;  // without the margin, as the loop last saw it
  bool failing_ = false;   // told once, not at every attempt
  bool lost_ = false;
  bool stopping_ = false;
  Event changed_;
  Event wake_;
  TaskGroup jobs_;
};

}  // namespace agro
