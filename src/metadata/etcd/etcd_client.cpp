#include "metadata/etcd/etcd_client.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "metadata/etcd/etcd_calls.hpp"
#include "metadata/etcd/etcd_requests.hpp"

namespace agro {

namespace pb = ::etcdserverpb;
using etcd::CallScope;
using etcd::Endpoint;
using etcd::EtcdCalls;
using grpc::ClientContext;
using std::chrono::milliseconds;

/// `context` is guarded by `mutex`.
class EtcdClient::Follower {
 public:
  Follower(std::string key_prefix, std::uint64_t revision)
      : prefix(std::move(key_prefix)), next(static_cast<std::int64_t>(revision) + 1) {}
  const std::string prefix;
  std::int64_t next;  // revision from which on nothing was delivered
  std::atomic<bool> cancelled = false;
  std::mutex mutex;
  ClientContext* context = nullptr;
};

struct EtcdClient::Impl {
  Impl(EtcdOptions options, const Clock& clock) : calls(std::move(options), clock) {}

  Result<pb::RangeResponse> range(const etcd::KeyRange& keys, std::int64_t limit,
                                  std::int64_t revision) {
    pb::RangeRequest request;
    request.set_key(keys.first);
    request.set_range_end(keys.second);
    request.set_limit(limit);
    request.set_revision(revision);
    return calls.call<pb::RangeResponse>(
        calls.usual(true), [&](Endpoint& endpoint, ClientContext& context, pb::RangeResponse& out) {
          return endpoint.kv->Range(&context, request, &out);
        });
  }

  Result<KvRange> list_once(const std::string& prefix);
  /// One connection's worth. Returns how it ended; OK asks for another at once.
  grpc::Status follow_once(Follower& follower, const EtcdSink& sink, bool& heard);
  /// False when the follower has ended.
  bool take(Follower& follower, const EtcdSink& sink, const pb::WatchResponse& response,
            grpc::Status& problem);

  EtcdCalls calls;
};

EtcdClient::EtcdClient(EtcdOptions options, const Clock& clock)
    : impl_(std::make_unique<Impl>(std::move(options), clock)) {}
EtcdClient::~EtcdClient() = default;

void EtcdClient::close() { impl_->calls.close(); }

Result<std::optional<KeyValue>> EtcdClient::get(const std::string& key) {
  const std::string& prefix = impl_->calls.options().prefix;
  AGRO_TRY(const pb::RangeResponse response, impl_->range({prefix + key, ""}, 1, 0));
  if (response.kvs().empty()) return std::nullopt;
  return etcd::entry_of(response.kvs(0), prefix.size());
}

/// All pages at the revision of the first one. Errors: outcome_unknown, when that was compacted
/// meanwhile.
Result<KvRange> EtcdClient::Impl::list_once(const std::string& prefix) {
  const EtcdOptions& options = calls.options();
  etcd::KeyRange keys = etcd::range_of_prefix(options.prefix + prefix);
  KvRange all;
  while (true) {
    AGRO_TRY(const pb::RangeResponse page,
             range(keys, options.page_count, static_cast<std::int64_t>(all.revision)));
    if (all.revision == 0) all.revision = static_cast<std::uint64_t>(page.header().revision());
    for (const pb::KeyValue& kv : page.kvs()) {
      all.entries.push_back(etcd::entry_of(kv, options.prefix.size()));
    }
    if (!page.more() || page.kvs().empty()) return all;
    keys.first = page.kvs().rbegin()->key() + '\0';
  }
}

Result<KvRange> EtcdClient::list(const std::string& prefix) {
  constexpr int kAttemptsMax = 5;
  for (int attempt = 1;; ++attempt) {
    Result<KvRange> listed = impl_->list_once(prefix);
    if (listed.code() != Errc::outcome_unknown) return listed;
    if (attempt == kAttemptsMax) {
      return fail(Errc::unavailable, "etcd is compacted faster than it can be listed");
    }
  }
}

Result<KvTxnResult> EtcdClient::transact(const std::vector<KvCompare>& compares,
                                         const std::vector<KvOp>& ops) {
  const pb::TxnRequest request = etcd::txn_of(impl_->calls.options().prefix, compares, ops);
  AGRO_TRY(const pb::TxnResponse response,
           impl_->calls.call<pb::TxnResponse>(
               impl_->calls.usual(false),
               [&](Endpoint& endpoint, ClientContext& context, pb::TxnResponse& out) {
                 return endpoint.kv->Txn(&context, request, &out);
               }));
  return KvTxnResult{.committed = response.succeeded(),
                     .revision = static_cast<std::uint64_t>(response.header().revision())};
}

Result<std::uint64_t> EtcdClient::grant_lease(milliseconds ttl) {
  pb::LeaseGrantRequest request;
  request.set_ttl(std::chrono::ceil<std::chrono::seconds>(ttl).count());
  // Granted twice, because an answer was lost, the first ends by itself.
  AGRO_TRY(const pb::LeaseGrantResponse response,
           impl_->calls.call<pb::LeaseGrantResponse>(
               impl_->calls.usual(true),
               [&](Endpoint& endpoint, ClientContext& context, pb::LeaseGrantResponse& out) {
                 return endpoint.lease->LeaseGrant(&context, request, &out);
               }));
  return static_cast<std::uint64_t>(response.id());
}

Result<void> EtcdClient::keep_alive(std::uint64_t lease) {
  return keep_alive(lease, impl_->calls.options().attempt_timeout);
}

Result<void> EtcdClient::keep_alive(std::uint64_t lease, milliseconds attempt_timeout) {
  pb::LeaseKeepAliveRequest request;
  request.set_id(static_cast<std::int64_t>(lease));
  const auto ask = [&](Endpoint& endpoint, ClientContext& context,
                       pb::LeaseKeepAliveResponse& out) {
    const auto stream = endpoint.lease->LeaseKeepAlive(&context);
    stream->Write(request);  // a failure shows in Read()
    const bool answered = stream->Read(&out);
    context.TryCancel();
    const grpc::Status status = stream->Finish();
    if (answered) return grpc::Status::OK;
    if (!status.ok()) return status;
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "it closed the stream of renewals");
  };
  EtcdCalls::Patience patience = impl_->calls.usual(true);
  patience.attempt_timeout = attempt_timeout;
  patience.call_timeout =
      std::min<milliseconds>(patience.call_timeout,
                             attempt_timeout * static_cast<int>(
                                                   impl_->calls.options().endpoints.size()));
  AGRO_TRY(const pb::LeaseKeepAliveResponse response,
           impl_->calls.call<pb::LeaseKeepAliveResponse>(patience, ask));
  if (response.ttl() > 0) return {};
  return fail(Errc::not_found, fmt::format("metadata lease {} has ended", lease));
}

Result<void> EtcdClient::revoke_lease(std::uint64_t lease) {
  pb::LeaseRevokeRequest request;
  request.set_id(static_cast<std::int64_t>(lease));
  const Result<pb::LeaseRevokeResponse> response = impl_->calls.call<pb::LeaseRevokeResponse>(
      impl_->calls.usual(true),
      [&](Endpoint& endpoint, ClientContext& context, pb::LeaseRevokeResponse& out) {
        return endpoint.lease->LeaseRevoke(&context, request, &out);
      });
  if (response.has_value() || response.code() == Errc::not_found) return {};
  return fail(response.error());
}

std::shared_ptr<EtcdClient::Follower> EtcdClient::make_follower(std::string prefix,
                                                                std::uint64_t revision) {
  return std::make_shared<Follower>(impl_->calls.options().prefix + std::move(prefix), revision);
}

void EtcdClient::cancel(Follower& follower) {
  const std::lock_guard lock(follower.mutex);
  follower.cancelled = true;
  if (follower.context != nullptr) follower.context->TryCancel();
}

bool EtcdClient::Impl::take(Follower& follower, const EtcdSink& sink,
                            const pb::WatchResponse& response, grpc::Status& problem) {
  if (response.canceled()) {
    if (response.compact_revision() > 0) {
      sink.ended({Errc::outcome_unknown,
                  "the metadata watch missed changes: etcd was compacted meanwhile"});
      follower.cancelled = true;
    } else {
      problem = grpc::Status(grpc::StatusCode::UNAVAILABLE, response.cancel_reason());
    }
    return false;
  }
  std::vector<KvEvent> events;
  for (const pb::Event& event : response.events()) {
    if (event.kv().mod_revision() < follower.next) continue;
    events.push_back(etcd::event_of(event, calls.options().prefix.size()));
  }
  if (!events.empty()) {
    follower.next = static_cast<std::int64_t>(events.back().entry.mod_revision) + 1;
    sink.changed(std::move(events));
  } else if (!response.created() && response.events().empty()) {
    // Progress: nothing up to there is missing, so a new connection need not ask further back.
    follower.next = std::max(follower.next, response.header().revision() + 1);
  }
  return true;
}

grpc::Status EtcdClient::Impl::follow_once(Follower& follower, const EtcdSink& sink, bool& heard) {
  const std::shared_ptr<Endpoint> endpoint = calls.current();
  CallScope scope(calls);
  std::string token;
  grpc::Status problem =
      calls.prepare(*endpoint, scope.context(), calls.options().attempt_timeout, token);
  if (problem.ok()) {
    {
      const std::lock_guard lock(follower.mutex);
      follower.context = &scope.context();
      if (follower.cancelled) scope.context().TryCancel();
    }
    const auto stream = endpoint->watch->Watch(&scope.context());
    pb::WatchRequest request;
    pb::WatchCreateRequest& create = *request.mutable_create_request();
    const etcd::KeyRange keys = etcd::range_of_prefix(follower.prefix);
    create.set_key(keys.first);
    create.set_range_end(keys.second);
    create.set_start_revision(follower.next);
    create.set_progress_notify(true);
    stream->Write(request);
    pb::WatchResponse response;
    bool going_on = true;
    while (going_on && stream->Read(&response)) {
      going_on = take(follower, sink, response, problem);
      heard |= going_on;
    }
    scope.context().TryCancel();
    const grpc::Status finished = stream->Finish();
    if (problem.ok()) problem = finished;
    if (problem.ok()) problem = {grpc::StatusCode::UNAVAILABLE, "it closed the stream of changes"};
    const std::lock_guard lock(follower.mutex);
    follower.context = nullptr;
  }
  const etcd::Failure failure = etcd::judge(problem, endpoint->name);
  if (failure.next == etcd::Failure::Next::login) {
    calls.forget_token(token);
  } else if (failure.next == etcd::Failure::Next::no_password) {
    calls.go_without_password();
  } else if (!follower.cancelled) {
    calls.give_up_on(*endpoint);
  }
  return problem;
}

void EtcdClient::follow(Follower& follower, const EtcdSink& sink) {
  constexpr milliseconds kPauseMin{50};
  constexpr milliseconds kPauseMax{1000};
  milliseconds pause = kPauseMin;
  while (!follower.cancelled && !impl_->calls.closed()) {
    bool heard = false;
    const grpc::Status problem = impl_->follow_once(follower, sink, heard);
    if (follower.cancelled || impl_->calls.closed()) break;
    const etcd::Failure failure = etcd::judge(problem, "the watch");
    if (failure.next == etcd::Failure::Next::give_up) {
      sink.ended(failure.error);
      return;
    }
    pause = heard ? kPauseMin : std::min(2 * pause, kPauseMax);
    impl_->calls.pause(pause);
  }
}

}  // namespace agro
