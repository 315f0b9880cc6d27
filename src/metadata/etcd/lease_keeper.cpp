#include "metadata/etcd/lease_keeper.hpp"

#include <algorithm>

namespace agro {

using std::chrono::milliseconds;

LeaseKeeper::LeaseKeeper(EtcdClient& client, const Clock& clock, Executor loop)
    : client_(client), clock_(clock), loop_(loop) {}

LeaseKeeper::~LeaseKeeper() { stop(); }

std::shared_ptr<LeaseRenewals> LeaseKeeper::keep(std::uint64_t lease, Duration ttl,
                                                 TimePoint granted) {
  auto renewals = std::make_shared<LeaseRenewals>(granted);
  const std::lock_guard lock(mutex_);
  kept_.push_back({.lease = lease, .ttl = ttl, .due = granted + ttl / 3, .renewals = renewals});
  if (!thread_.joinable() && !stopping_) thread_ = std::thread([this] { run(); });
  wake_.notify_all();
  return renewals;
}

void LeaseKeeper::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

bool LeaseKeeper::is_silent(const Kept& kept) const {
  return clock_.now() - kept.renewals->asked_at.load() > Kv::kLoopSilentTtls * kept.ttl;
}

void LeaseKeeper::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    std::erase_if(kept_, [](const Kept& kept) { return kept.renewals.use_count() == 1; });
    const auto next = std::min_element(
        kept_.begin(), kept_.end(), [](const Kept& a, const Kept& b) { return a.due < b.due; });
    if (next == kept_.end()) {
      wake_.wait(lock);
      continue;
    }
    const Duration left = next->due - clock_.now();
    if (left > Duration::zero()) {
      wake_.wait_for(lock, left);
      continue;
    }
    if (is_silent(*next)) {
      // Not now; when the loop is heard again, the next renewal tells it what became of the lease.
      next->due = clock_.now() + next->ttl / kRenewalsPerTtl;
      continue;
    }
    const Kept kept = *next;
    lock.unlock();
    const std::optional<TimePoint> due = renew(kept);
    lock.lock();
    // keep() may have moved the entries meanwhile.
    const auto entry = std::find_if(kept_.begin(), kept_.end(), [&kept](const Kept& one) {
      return one.renewals == kept.renewals;
    });
    if (!due.has_value()) {
      kept_.erase(entry);
    } else {
      entry->due = *due;
    }
  }
}

std::optional<TimePoint> LeaseKeeper::renew(const Kept& kept) {
  const TimePoint sent = clock_.now();
  const auto timeout = std::clamp(std::chrono::duration_cast<milliseconds>(kept.ttl / 6),
                                  milliseconds(300), milliseconds(3000));
  const Result<void> answer = client_.keep_alive(kept.lease, timeout);
  const bool lost = answer.code() == Errc::not_found;
  if (answer.has_value()) kept.renewals->renewed_at = sent;
  asio::post(loop_, [renewals = kept.renewals, lost,
                     problem = answer.has_value() ? "" : answer.error().message] {
    renewals->lost |= lost;
    renewals->problem = problem;
    renewals->told.notify_all();
  });
  if (answer.has_value()) return sent + kept.ttl / kRenewalsPerTtl;
  if (lost) return std::nullopt;
  return clock_.now() + std::min(kept.ttl / 10, Duration(std::chrono::seconds(1)));
}

}  // namespace agro
