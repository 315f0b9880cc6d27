// EtcdClient: blocking calls to an etcd of several endpoints, from any thread.
//
// Invariants: every call ends by its deadline; one whose endpoint is dead, silent or without a
// leader goes on with the next; a transaction is repeated only when it surely did not happen.
// Threading: any; close() from any thread ends everything that is under way. No gRPC in this header.
// Source: DESIGN.md sections 2 and 4.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "metadata/kv.hpp"

namespace agro {

struct EtcdOptions {
  std::vector<std::string> endpoints;  // HOST:PORT each; at least one
  std::string prefix;                  // before every key
  bool tls = false;
  // PEM texts; empty: none.
  std::string ca;
  std::string certificate;
  std::string key;
  // Empty: no authentication by password.
  std::string user;
  std::string password;
  /// One question to one endpoint.
  std::chrono::milliseconds attempt_timeout{3000};
  /// A call, with all its attempts.
  std::chrono::milliseconds call_timeout{6000};
  /// Keys of one answer; a list is as many answers as it needs.
  std::int64_t page_count = 256;
};

/// What a follower of changes is told; called on the thread that follows.
struct EtcdSink {
  /// The changes of whole transactions, in order.
  std::function<void(std::vector<KvEvent>)> changed;
  /// No more will come.
  std::function<void(Error)> ended;
};

class EtcdClient {
 public:
  /// Connects nothing yet. `clock` outlives it; only its now() is used.
  EtcdClient(EtcdOptions options, const Clock& clock);
  /// Shape: no call is under way.
  ~EtcdClient();
  EtcdClient(const EtcdClient&) = delete;
  EtcdClient& operator=(const EtcdClient&) = delete;

  // As kv.hpp says.
  Result<std::optional<KeyValue>> get(const std::string& key);
  Result<KvRange> list(const std::string& prefix);
  Result<KvTxnResult> transact(const std::vector<KvCompare>& compares,
                               const std::vector<KvOp>& ops);
  /// etcd counts in seconds: `ttl` is rounded up.
  Result<std::uint64_t> grant_lease(std::chrono::milliseconds ttl);
  /// `attempt_timeout` is for each endpoint; there is one attempt at each.
  Result<void> keep_alive(std::uint64_t lease, std::chrono::milliseconds attempt_timeout);
  Result<void> keep_alive(std::uint64_t lease);
  Result<void> revoke_lease(std::uint64_t lease);

  /// One stream of changes; makes new connections by itself.
  class Follower;
  std::shared_ptr<Follower> make_follower(std::string prefix, std::uint64_t revision);
  /// Blocks until cancel(), close(), or an end by itself; one thread per follower.
  void follow(Follower& follower, const EtcdSink& sink);
  void cancel(Follower& follower);

  /// Ends what is under way; every call from now on fails with closed. Idempotent.
  void close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace agro
