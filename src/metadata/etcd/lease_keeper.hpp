// LeaseKeeper: renews leases of an etcd on a thread of its own, whatever the loop is doing.
//
// Invariants: a renewal counts from when it was sent; a lease nobody holds any more, or whose loop
// has been silent for too long, is not renewed.
// Threading: keep() on the loop; the answers are posted to it. Source: DESIGN.md section 4.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/async.hpp"
#include "metadata/etcd/etcd_client.hpp"

namespace agro {

class LeaseKeeper {
 public:
  LeaseKeeper(EtcdClient& client, const Clock& clock, Executor loop);
  ~LeaseKeeper();

  std::shared_ptr<LeaseRenewals> keep(std::uint64_t lease, Duration ttl, TimePoint granted);
  /// Ends the renewals. Shape: the client is closed, so that none is under way for long.
  void stop();

 private:
  struct Kept {
    std::uint64_t lease;
    Duration ttl;
    TimePoint due;
    std::shared_ptr<LeaseRenewals> renewals;
  };
  void run();
  bool is_silent(const Kept& kept) const;
  /// Puts one question, without the mutex, and returns when to put the next; nothing: the lease is lost.
  std::optional<TimePoint> renew(const Kept& kept);

  EtcdClient& client_;
  const Clock& clock_;
  Executor loop_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Kept> kept_;
  bool stopping_ = false;
  std::thread thread_;  // started by the first keep()
};

}  // namespace agro
