#include "metadata/etcd/etcd_kv.hpp"

#include <algorithm>
#include <atomic>
#include <list>
#include <thread>

#include "base/log.hpp"
#include "metadata/etcd/lease_keeper.hpp"
#include "metadata/watch_queue.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;

/// Calls at the same time; more wait for their turn.
constexpr unsigned kCallThreadCount = 4;

/// A thread that follows changes and posts them to the loop.
struct WatchThread {
  WatchThread(EtcdClient& used_client, Executor executor, std::string prefix,
              std::uint64_t revision)
      : client(used_client),
        loop(executor),
        follower(client.make_follower(prefix, revision)),
        queue(std::make_shared<WatchQueue>(std::move(prefix))),
        thread([this] { run(); }) {}
  ~WatchThread() {
    stop();
    thread.join();
  }

  void run() {
    const EtcdSink sink{
        .changed =
            [this](std::vector<KvEvent> events) {
              asio::post(loop, [to = queue, batch = std::move(events)] { to->add(batch); });
            },
        .ended =
            [this](Error error) {
              asio::post(loop, [to = queue, why = std::move(error)] { to->end(why); });
            }};
    client.follow(*follower, sink);
    finished = true;
  }
  void stop() {
    queue->close();
    client.cancel(*follower);
  }

  EtcdClient& client;
  Executor loop;
  std::shared_ptr<EtcdClient::Follower> follower;
  std::shared_ptr<WatchQueue> queue;
  std::atomic<bool> finished = false;
  std::thread thread;
};

/// The reader's side; the store may be gone before it.
class EtcdWatch final : public KvWatch {
 public:
  EtcdWatch(std::shared_ptr<WatchQueue> queue, std::weak_ptr<WatchThread> thread)
      : queue_(std::move(queue)), thread_(std::move(thread)) {}
  ~EtcdWatch() override { EtcdWatch::close(); }
  Task<std::vector<KvEvent>> next() override { return WatchQueue::next(queue_); }
  void close() override {
    queue_->close();
    if (const auto thread = thread_.lock()) thread->stop();
  }

 private:
  std::shared_ptr<WatchQueue> queue_;
  std::weak_ptr<WatchThread> thread_;
};

class EtcdKv final : public Kv {
 public:
  EtcdKv(Env& env, EtcdOptions options)
      : env_(env),
        client_(std::make_shared<EtcdClient>(std::move(options), env.clock)),
        offload_(env.executor.context(), kCallThreadCount),
        keeper_(*client_, env.clock, env.executor) {}
  ~EtcdKv() override { shut_down(); }

  Task<std::optional<KeyValue>> get(std::string key) override {
    auto work = [client = client_, key = std::move(key)] { return client->get(key); };
    co_return co_await run_blocking(offload_, std::move(work));
  }
  Task<KvRange> list(std::string prefix) override {
    auto work = [client = client_, prefix = std::move(prefix)] { return client->list(prefix); };
    co_return co_await run_blocking(offload_, std::move(work));
  }
  Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) override {
    auto work = [client = client_, compares = std::move(compares), ops = std::move(ops)] {
      return client->transact(compares, ops);
    };
    co_return co_await run_blocking(offload_, std::move(work));
  }
  Task<std::uint64_t> grant_lease(milliseconds ttl) override {
    auto work = [client = client_, ttl] { return client->grant_lease(ttl); };
    co_return co_await run_blocking(offload_, std::move(work));
  }
  Task<void> keep_alive(std::uint64_t lease) override {
    auto work = [client = client_, lease] { return client->keep_alive(lease); };
    co_return co_await run_blocking(offload_, std::move(work));
  }
  Task<void> revoke_lease(std::uint64_t lease) override {
    auto work = [client = client_, lease] { return client->revoke_lease(lease); };
    co_return co_await run_blocking(offload_, std::move(work));
  }
  std::shared_ptr<LeaseRenewals> renew_by_itself(std::uint64_t lease, milliseconds ttl,
                                                 TimePoint granted) override {
    return keeper_.keep(lease, ttl, granted);
  }

  Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) override {
    if (closed_) co_return fail(Errc::closed, "the metadata store is closed");
    std::erase_if(watches_, [](const auto& watch) { return watch->finished.load(); });
    watches_.push_back(
        std::make_shared<WatchThread>(*client_, env_.executor, std::move(prefix), revision));
    co_return std::make_unique<EtcdWatch>(watches_.back()->queue, watches_.back());
  }

  Task<void> close() override {
    shut_down();
    co_return Result<void>();
  }

 private:
  void shut_down() {
    if (std::exchange(closed_, true)) return;
    client_->close();  // what is under way ends now
    keeper_.stop();
    watches_.clear();
  }

  Env& env_;
  std::shared_ptr<EtcdClient> client_;
  ThreadOffload offload_;
  LeaseKeeper keeper_;
  std::list<std::shared_ptr<WatchThread>> watches_;
  bool closed_ = false;
};

}  // namespace

Task<std::unique_ptr<Kv>> open_etcd_kv(Env& env, EtcdOptions options) {
  auto kv = std::make_unique<EtcdKv>(env, std::move(options));
  // Any key will do: the answer shows that we are let in and that there is a leader.
  AGRO_CO_TRY_OK(co_await kv->get("/agro/v1/cluster/info"));
  co_return std::move(kv);
}

}  // namespace agro
