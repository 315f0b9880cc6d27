// EtcdCalls: connections, deadlines, tokens and failover; what EtcdClient's calls are made with.
//
// Includes gRPC: for src/metadata/etcd/*.cpp only. Threading: any.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>

#include "metadata/etcd/etcd.grpc.pb.h"
#include "metadata/etcd/etcd_client.hpp"
#include "metadata/etcd/etcd_failure.hpp"

namespace agro::etcd {

/// One member, with one connection.
struct Endpoint {
  Endpoint(std::string address, const std::shared_ptr<grpc::ChannelCredentials>& credentials);
  const std::string name;
  const std::unique_ptr<::etcdserverpb::KV::Stub> kv;
  const std::unique_ptr<::etcdserverpb::Watch::Stub> watch;
  const std::unique_ptr<::etcdserverpb::Lease::Stub> lease;
  const std::unique_ptr<::etcdserverpb::Auth::Stub> auth;

 private:
  Endpoint(std::string address, const std::shared_ptr<grpc::Channel>& channel);
};

class EtcdCalls;

/// A context that close() can cancel.
class CallScope {
 public:
  explicit CallScope(EtcdCalls& calls);
  ~CallScope();
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;
  grpc::ClientContext& context() { return context_; }
  void set_timeout(std::chrono::milliseconds timeout);

 private:
  EtcdCalls& calls_;
  grpc::ClientContext context_;
};

class EtcdCalls {
 public:
  EtcdCalls(EtcdOptions options, const Clock& clock);

  const EtcdOptions& options() const { return options_; }
  TimePoint now() const { return clock_.now(); }

  /// The endpoint to ask.
  std::shared_ptr<Endpoint> current();
  /// From now on the next one is asked. This one gets a new connection: gRPC drives a connection
  /// that failed only while calls wait for it, and ours do not.
  void give_up_on(const Endpoint& endpoint);
  /// Adds what every request needs: a leader at the other side, and our token, which is fetched
  /// when there is none yet. Errors: those of logging in.
  grpc::Status prepare(Endpoint& endpoint, grpc::ClientContext& context,
                       std::chrono::milliseconds timeout, std::string& token);
  /// `token` is of no use any more.
  void forget_token(const std::string& token);
  void go_without_password() { without_password_ = true; }

  bool closed() const { return closed_; }
  void close();
  /// Waits; returns at once when closed.
  void pause(std::chrono::milliseconds time);

  /// With less time than this (and the pause before) there is no other attempt: it would only hide
  /// what the last one said.
  static constexpr std::chrono::milliseconds kAttemptMin{300};
  /// How often and how long one call tries.
  struct Patience {
    bool repeatable = true;
    std::chrono::milliseconds attempt_timeout;
    std::chrono::milliseconds call_timeout;
  };
  Patience usual(bool repeatable) const {
    return {repeatable, options_.attempt_timeout, options_.call_timeout};
  }
  /// `ask` puts one question: Status(Endpoint&, ClientContext&, Response&).
  template <class Response, class Ask>
  Result<Response> call(Patience patience, Ask ask);

  static tl::unexpected<Error> closed_error() {
    return fail(Errc::closed, "the metadata store is closed");
  }

 private:
  friend class CallScope;
  /// What the next attempt is, after a failure; an error when there is none.
  Result<void> after_failure(const Failure& failure, const Endpoint& endpoint,
                             const std::string& token, bool repeatable, bool last,
                             bool& logged_in_again);

  const EtcdOptions options_;
  const Clock& clock_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::atomic<bool> without_password_ = false;
  std::atomic<bool> closed_ = false;
  std::mutex mutex_;
  std::condition_variable closing_;
  std::set<grpc::ClientContext*> under_way_;
  std::vector<std::shared_ptr<Endpoint>> endpoints_;
  std::size_t current_ = 0;
  std::string token_;
};

template <class Response, class Ask>
Result<Response> EtcdCalls::call(Patience patience, Ask ask) {
  const TimePoint give_up_at = now() + patience.call_timeout;
  bool logged_in_again = false;
  for (std::size_t attempt = 1;; ++attempt) {
    if (closed()) return closed_error();
    const std::shared_ptr<Endpoint> endpoint = current();
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(give_up_at - now());
    Response response;
    std::string token;
    Failure failure;
    {
      CallScope scope(*this);
      scope.set_timeout(std::min(patience.attempt_timeout, left));
      grpc::Status status = prepare(*endpoint, scope.context(), patience.attempt_timeout, token);
      const bool asked = status.ok();
      if (asked) status = ask(*endpoint, scope.context(), response);
      if (status.ok()) return response;
      failure = judge(status, endpoint->name);
      failure.maybe_done &= asked;
    }
    if (closed() && !failure.maybe_done) return closed_error();
    AGRO_TRY_OK(after_failure(failure, *endpoint, token, patience.repeatable,
                              now() + kAttemptMin >= give_up_at, logged_in_again));
    if (attempt % options_.endpoints.size() == 0) pause(std::chrono::milliseconds(100));
  }
}

}  // namespace agro::etcd
