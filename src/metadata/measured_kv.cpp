#include "metadata/measured_kv.hpp"

#include "metadata/open.hpp"

namespace agro {
namespace {

class MeasuredKv final : public Kv {
 public:
  MeasuredKv(Env& env, std::unique_ptr<Kv> kv) : env_(env), kv_(std::move(kv)) {}

  Task<std::optional<KeyValue>> get(std::string key) override {
    const ScopedLatency latency(env_.clock, get_);
    co_return co_await kv_->get(std::move(key));
  }
  Task<KvRange> list(std::string prefix) override {
    const ScopedLatency latency(env_.clock, list_);
    co_return co_await kv_->list(std::move(prefix));
  }
  Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) override {
    const ScopedLatency latency(env_.clock, transact_);
    co_return co_await kv_->transact(std::move(compares), std::move(ops));
  }
  Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) override {
    const ScopedLatency latency(env_.clock, watch_);
    co_return co_await kv_->watch(std::move(prefix), revision);
  }
  Task<std::uint64_t> grant_lease(std::chrono::milliseconds ttl) override {
    const ScopedLatency latency(env_.clock, grant_lease_);
    co_return co_await kv_->grant_lease(ttl);
  }
  Task<void> keep_alive(std::uint64_t lease) override {
    const ScopedLatency latency(env_.clock, keep_alive_);
    co_return co_await kv_->keep_alive(lease);
  }
  Task<void> revoke_lease(std::uint64_t lease) override {
    const ScopedLatency latency(env_.clock, revoke_lease_);
    co_return co_await kv_->revoke_lease(lease);
  }
  std::shared_ptr<LeaseRenewals> renew_by_itself(std::uint64_t lease, std::chrono::milliseconds ttl,
                                                 TimePoint granted) override {
    return kv_->renew_by_itself(lease, ttl, granted);  // on a thread of the store's: not timed
  }
  Task<void> close() override { return kv_->close(); }

 private:
  Histogram& latency_of(const char* op) {
    return env_.metrics.histogram("agro_mds_operation_seconds",
                                  "Time that calls to the metadata store took", {{"op", op}});
  }

  Env& env_;
  std::unique_ptr<Kv> kv_;
  Histogram& get_ = latency_of("get");
  Histogram& list_ = latency_of("list");
  Histogram& transact_ = latency_of("transact");
  Histogram& watch_ = latency_of("watch");
  Histogram& grant_lease_ = latency_of("grant_lease");
  Histogram& keep_alive_ = latency_of("keep_alive");
  Histogram& revoke_lease_ = latency_of("revoke_lease");
};

}  // namespace

Task<std::unique_ptr<Kv>> open_measured_kv(Env& env, std::string uri, bool create) {
  AGRO_CO_TRY(std::unique_ptr<Kv> kv, co_await open_kv(env, std::move(uri), create));
  std::unique_ptr<Kv> measured = std::make_unique<MeasuredKv>(env, std::move(kv));
  co_return std::move(measured);
}

}  // namespace agro
