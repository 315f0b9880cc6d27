#include "metadata/etcd/etcd_calls.hpp"

#include <grpc/support/log.h>

#include "base/assert.hpp"
#include "metadata/etcd/etcd_uri.hpp"

namespace agro::etcd {
namespace {

using std::chrono::milliseconds;

/// gRPC would write lines of its own to standard error; what matters comes as a Status.
void drop_grpc_log(gpr_log_func_args*) {}

grpc::ChannelArguments channel_arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A connection whose other side is gone or frozen is noticed by pings. etcd allows one in 5 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Failover is ours: a dead endpoint must say so at once, and be tried again soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return arguments;
}

std::shared_ptr<grpc::ChannelCredentials> credentials_of(const EtcdOptions& options) {
  if (!options.tls) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = options.ca,
                               .pem_private_key = options.key,
                               .pem_cert_chain = options.certificate});
}

}  // namespace

CallScope::CallScope(EtcdCalls& calls) : calls_(calls) {
  const std::lock_guard lock(calls_.mutex_);
  calls_.under_way_.insert(&context_);
  if (calls_.closed()) context_.TryCancel();
}

CallScope::~CallScope() {
  const std::lock_guard lock(calls_.mutex_);
  calls_.under_way_.erase(&context_);
}

void CallScope::set_timeout(milliseconds timeout) {
  context_.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                     gpr_time_from_millis(timeout.count(), GPR_TIMESPAN)));
}

Endpoint::Endpoint(std::string address,
                   const std::shared_ptr<grpc::ChannelCredentials>& credentials)
    : Endpoint(address, grpc::CreateCustomChannel(address, credentials, channel_arguments())) {}

Endpoint::Endpoint(std::string address, const std::shared_ptr<grpc::Channel>& channel)
    : name(std::move(address)),
      kv(::etcdserverpb::KV::NewStub(channel)),
      watch(::etcdserverpb::Watch::NewStub(channel)),
      lease(::etcdserverpb::Lease::NewStub(channel)),
      auth(::etcdserverpb::Auth::NewStub(channel)) {}

EtcdCalls::EtcdCalls(EtcdOptions options, const Clock& clock)
    : options_(std::move(options)), clock_(clock), credentials_(credentials_of(options_)) {
  AGRO_ASSERT(!options_.endpoints.empty());
  gpr_set_log_function(drop_grpc_log);
  for (const std::string& name : options_.endpoints) {
    endpoints_.push_back(std::make_shared<Endpoint>(name, credentials_));
  }
}

std::shared_ptr<Endpoint> EtcdCalls::current() {
  const std::lock_guard lock(mutex_);
  return endpoints_[current_];
}

void EtcdCalls::give_up_on(const Endpoint& endpoint) {
  auto fresh = std::make_shared<Endpoint>(endpoint.name, credentials_);
  const std::lock_guard lock(mutex_);
  if (endpoints_[current_].get() != &endpoint) return;  // somebody did before us
  endpoints_[current_].swap(fresh);
  current_ = (current_ + 1) % endpoints_.size();
}

grpc::Status EtcdCalls::prepare(Endpoint& endpoint, grpc::ClientContext& context,
                                milliseconds timeout, std::string& token) {
  context.AddMetadata("hasleader", "true");
  if (options_.user.empty() || without_password_) return grpc::Status::OK;
  {
    const std::lock_guard lock(mutex_);
    token = token_;
  }
  if (token.empty()) {
    CallScope scope(*this);
    scope.set_timeout(timeout);
    ::etcdserverpb::AuthenticateRequest request;
    request.set_name(options_.user);
    request.set_password(options_.password);
    ::etcdserverpb::AuthenticateResponse response;
    const grpc::Status status = endpoint.auth->Authenticate(&scope.context(), request, &response);
    if (!status.ok()) return status;
    token = response.token();
    const std::lock_guard lock(mutex_);
    token_ = token;
  }
  context.AddMetadata("token", token);
  return grpc::Status::OK;
}

void EtcdCalls::forget_token(const std::string& token) {
  const std::lock_guard lock(mutex_);
  if (token_ == token) token_.clear();
}

Result<void> EtcdCalls::after_failure(const Failure& failure, const Endpoint& endpoint,
                                      const std::string& token, bool repeatable, bool last,
                                      bool& logged_in_again) {
  if (failure.next == Failure::Next::no_password) {
    go_without_password();
    return {};
  }
  if (failure.next == Failure::Next::login && !std::exchange(logged_in_again, true)) {
    forget_token(token);
    return {};
  }
  const bool give_up = failure.next == Failure::Next::give_up;
  if (!give_up) give_up_on(endpoint);
  if (failure.maybe_done && !repeatable) {
    return fail(Errc::outcome_unknown,
                "a metadata transaction may or may not have happened: " + failure.error.message);
  }
  if (!give_up && !last) return {};
  if (give_up || options_.endpoints.size() == 1) return fail(failure.error);
  return fail(failure.error.code, failure.error.message + " (all of " +
                                      endpoints_text(options_.endpoints) + " were tried)");
}

void EtcdCalls::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (grpc::ClientContext* context : under_way_) context->TryCancel();
  closing_.notify_all();
}

void EtcdCalls::pause(milliseconds time) {
  std::unique_lock lock(mutex_);
  closing_.wait_for(lock, time, [this] { return closed(); });
}

}  // namespace agro::etcd
