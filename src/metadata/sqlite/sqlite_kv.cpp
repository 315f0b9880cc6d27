#include "metadata/sqlite/sqlite_kv.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "metadata/sqlite/sqlite_store.hpp"
#include "metadata/watch_queue.hpp"

namespace agro {
namespace {

constexpr std::chrono::seconds kSweepInterval{1};

/// What the client and its poller share.
struct Shared {
  Shared(Env& used_env, std::unique_ptr<SqliteStore> opened)
      : env(used_env), store(std::move(opened)), jobs(used_env.executor) {}

  struct Watcher {
    std::weak_ptr<WatchQueue> queue;
    std::uint64_t revision = 0;  // delivered up to here
  };

  Env& env;
  std::unique_ptr<SqliteStore> store;
  AsyncMutex mutex;  // around every use of `store`
  bool closed = false;
  std::vector<Watcher> watchers;
  bool polling = false;
  bool wrote = false;  // our own commits do not show in data_version
  Event wake;
  TaskGroup jobs;

  void forget_ended_watchers() {
    std::erase_if(watchers, [](const Watcher& watcher) {
      const auto queue = watcher.queue.lock();
      return queue == nullptr || queue->ended();
    });
  }
  void end_watchers(const Error& error) {
    for (const Watcher& watcher : watchers) {
      if (const auto queue = watcher.queue.lock()) queue->end(error);
    }
    watchers.clear();
  }
  void deliver(const SqliteStore::Changes& changes);
};

using Ref = std::shared_ptr<Shared>;

std::int64_t now_ns(const Ref& shared) {
  return shared->env.clock.now().time_since_epoch().count();
}

/// Runs `function` on the store, off the loop and alone.
template <class Function>
auto call(Ref shared, Function function)
    -> Awaitable<std::invoke_result_t<Function&, SqliteStore&>> {
  using ResultType = std::invoke_result_t<Function&, SqliteStore&>;
  const AsyncMutex::Guard guard = co_await shared->mutex.lock();
  if (shared->closed) co_return ResultType(fail(Errc::closed, "the metadata store is closed"));
  auto work = [shared, &function] { return function(*shared->store); };
  ResultType result = co_await run_blocking(shared->env.offload, std::move(work));
  co_return std::move(result);
}

void Shared::deliver(const SqliteStore::Changes& changes) {
  for (Watcher& watcher : watchers) {
    const auto queue = watcher.queue.lock();
    if (queue == nullptr) continue;
    if (changes.missed) {
      queue->fall_behind();
      continue;
    }
    for (const auto& events : changes.transactions) {
      if (events.front().entry.mod_revision > watcher.revision) queue->add(events);
    }
    watcher.revision = std::max(watcher.revision, changes.revision);
  }
}

struct Poll {
  std::int64_t data_version = 0;
  std::optional<SqliteStore::Changes> changes;
};

/// Looks whether anything was committed, and only then reads it.
Result<Poll> poll_store(SqliteStore& store, std::uint64_t revision, std::int64_t known_version,
                        bool look, bool sweep, std::int64_t now) {
  if (sweep) AGRO_TRY_OK(store.sweep(now));
  Poll poll;
  AGRO_TRY(poll.data_version, store.data_version());
  if (poll.data_version == known_version && !look && !sweep) return poll;
  AGRO_TRY(poll.changes, store.changes_after(revision));
  return poll;
}

/// Runs while there are watchers.
Job poll_for_changes(Ref shared) {
  std::int64_t known_version = -1;
  TimePoint sweep_at = shared->env.clock.now() + kSweepInterval;
  while (!shared->closed) {
    shared->forget_ended_watchers();
    if (shared->watchers.empty()) break;
    std::uint64_t revision = UINT64_MAX;
    for (const auto& watcher : shared->watchers) revision = std::min(revision, watcher.revision);
    const TimePoint now = shared->env.clock.now();
    const bool sweep = now >= sweep_at;
    if (sweep) sweep_at = now + kSweepInterval;
    const bool look = std::exchange(shared->wrote, false);
    const std::int64_t time = now_ns(shared);
    auto work = [=](SqliteStore& store) {
      return poll_store(store, revision, known_version, look, sweep, time);
    };
    const Result<Poll> poll = co_await call(shared, std::move(work));
    if (poll.has_value()) {
      known_version = poll->data_version;
      if (poll->changes) shared->deliver(*poll->changes);
    } else if (poll.code() == Errc::unavailable) {
      known_version = -1;  // read again after the pause
      log_warning("metadata watch: {}", poll.error().message);
    } else {
      shared->end_watchers(poll.error());
    }
    if (shared->closed || shared->wrote) continue;
    co_await wait_until(shared->wake, shared->env.clock, now + kSqlitePollInterval);
  }
  shared->polling = false;
}

class SqliteKv final : public Kv {
 public:
  explicit SqliteKv(Ref shared) : shared_(std::move(shared)) {}
  ~SqliteKv() override { shut(); }

  Task<std::optional<KeyValue>> get(std::string key) override {
    const std::int64_t now = now_ns(shared_);
    auto work = [key = std::move(key), now](SqliteStore& store) { return store.get(key, now); };
    co_return co_await call(shared_, std::move(work));
  }

  Task<KvRange> list(std::string prefix) override {
    const std::int64_t now = now_ns(shared_);
    auto work = [prefix = std::move(prefix), now](SqliteStore& store) {
      return store.list(prefix, now);
    };
    co_return co_await call(shared_, std::move(work));
  }

  Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) override {
    const std::int64_t now = now_ns(shared_);
    auto work = [compares = std::move(compares), ops = std::move(ops), now](SqliteStore& store) {
      return store.transact(compares, ops, now);
    };
    auto result = co_await call(shared_, std::move(work));
    note_write();
    co_return std::move(result);
  }

  Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) override {
    auto queue = std::make_shared<WatchQueue>(std::move(prefix));
    auto work = [revision](SqliteStore& store) { return store.changes_after(revision); };
    AGRO_CO_TRY(const SqliteStore::Changes changes, co_await call(shared_, std::move(work)));
    if (shared_->closed) co_return fail(Errc::closed, "the metadata store is closed");
    if (changes.missed) queue->fall_behind();
    for (const auto& events : changes.transactions) queue->add(events);
    shared_->forget_ended_watchers();
    shared_->watchers.push_back({.queue = queue, .revision = std::max(revision, changes.revision)});
    if (!shared_->polling) {
      shared_->polling = true;
      shared_->jobs.spawn(poll_for_changes(shared_));
    }
    co_return make_watch(std::move(queue));
  }

  Task<std::uint64_t> grant_lease(std::chrono::milliseconds ttl) override {
    const std::int64_t now = now_ns(shared_);
    auto work = [ttl, now](SqliteStore& store) { return store.grant_lease(ttl, now); };
    co_return co_await call(shared_, std::move(work));
  }

  Task<void> keep_alive(std::uint64_t lease) override {
    const std::int64_t now = now_ns(shared_);
    auto work = [lease, now](SqliteStore& store) { return store.keep_alive(lease, now); };
    co_return co_await call(shared_, std::move(work));
  }

  Task<void> revoke_lease(std::uint64_t lease) override {
    const std::int64_t now = now_ns(shared_);
    auto work = [lease, now](SqliteStore& store) { return store.revoke_lease(lease, now); };
    const Result<void> result = co_await call(shared_, std::move(work));
    note_write();
    co_return result;
  }

  Task<void> close() override {
    shut();
    co_await shared_->jobs.join();
    const AsyncMutex::Guard guard = co_await shared_->mutex.lock();
    if (shared_->store == nullptr) co_return Result<void>();
    auto work = [shared = shared_] {
      shared->store.reset();  // the last process to close writes the WAL back
      return Result<void>();
    };
    co_return co_await run_blocking(shared_->env.offload, std::move(work));
  }

 private:
  void note_write() {
    shared_->wrote = true;
    shared_->wake.notify_all();
  }
  void shut() {
    shared_->closed = true;
    shared_->end_watchers({Errc::closed, "the metadata store is closed"});
    shared_->wake.notify_all();
  }

  Ref shared_;
};

}  // namespace

Task<std::unique_ptr<Kv>> open_sqlite_kv(Env& env, SqliteKvOptions options) {
  if (options.processes == nullptr) options.processes = std::make_shared<SystemProcesses>();
  auto work = [options] {
    return SqliteStore::open(options.path, options.create, options.processes,
                             options.history_count);
  };
  AGRO_CO_TRY(std::unique_ptr<SqliteStore> store,
              co_await run_blocking(env.offload, std::move(work)));
  co_return std::make_unique<SqliteKv>(std::make_shared<Shared>(env, std::move(store)));
}

}  // namespace agro
