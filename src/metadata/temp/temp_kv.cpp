#include "metadata/temp/temp_kv.hpp"

#include <fmt/format.h>

#include <deque>
#include <map>
#include <set>

#include "metadata/watch_queue.hpp"

namespace agro {
namespace {

struct LeaseState {
  Duration ttl{};
  TimePoint ends_at;
  std::set<std::string> keys;
};

}  // namespace

struct TempKvStore::State : std::enable_shared_from_this<TempKvStore::State> {
  State(Clock& used_clock, std::size_t history_revisions)
      : clock(used_clock), history_count(history_revisions) {}

  Clock& clock;
  const std::size_t history_count;
  std::map<std::string, KeyValue> entries;
  std::map<std::uint64_t, LeaseState> leases;
  std::uint64_t revision = 0;
  std::uint64_t next_lease = 1;
  std::deque<std::pair<std::uint64_t, std::vector<KvEvent>>> history;
  std::uint64_t forgotten_revision = 0;  // changes up to this one are not in `history`
  std::vector<std::weak_ptr<WatchQueue>> watches;

  void arm(std::uint64_t lease) {
    clock.call_at(leases.at(lease).ends_at, [weak = weak_from_this(), lease] {
      const std::shared_ptr<State> self = weak.lock();
      if (self == nullptr) return;
      self->end_leases();
      if (self->leases.contains(lease)) self->arm(lease);  // it was renewed meanwhile
    });
  }

  void end_leases() {
    std::vector<std::uint64_t> ended;
    for (const auto& [id, lease] : leases) {
      if (lease.ends_at <= clock.now()) ended.push_back(id);
    }
    for (const std::uint64_t id : ended) end_lease(id);
  }

  void end_lease(std::uint64_t id) {
    const auto node = leases.extract(id);
    std::vector<KvEvent> events;
    for (const std::string& key : node.mapped().keys) {
      entries.erase(key);
      events.push_back(removal(key));
    }
    publish(std::move(events));
  }

  /// As of the next revision.
  KvEvent removal(const std::string& key) const {
    KvEvent event{.removed = true, .entry = {}};
    event.entry.key = key;
    event.entry.mod_revision = revision + 1;
    return event;
  }

  /// Makes `events`, already applied, the next revision.
  void publish(std::vector<KvEvent> events) {
    if (events.empty()) return;
    ++revision;
    std::erase_if(watches, [](const auto& watch) { return watch.expired(); });
    for (const auto& weak : watches) {
      if (const auto watch = weak.lock()) watch->add(events);
    }
    history.emplace_back(revision, std::move(events));
    while (history.size() > history_count) {
      forgotten_revision = history.front().first;
      history.pop_front();
    }
  }

  bool holds(const KvCompare& compare) const {
    const auto found = entries.find(compare.key);
    const bool present = found != entries.end();
    switch (compare.kind) {
      case KvCompare::Kind::absent:
        return !present;
      case KvCompare::Kind::present:
        return present;
      case KvCompare::Kind::mod_revision_is:
        return present && found->second.mod_revision == compare.mod_revision;
      case KvCompare::Kind::value_is:
        return present && found->second.value == compare.value;
    }
    return false;
  }

  void remove(std::map<std::string, KeyValue>::iterator entry, std::vector<KvEvent>& events) {
    if (entry->second.lease != 0) leases.at(entry->second.lease).keys.erase(entry->first);
    events.push_back(removal(entry->first));
    entries.erase(entry);
  }

  void put(const KvOp& op, std::vector<KvEvent>& events) {
    auto [found, added] = entries.try_emplace(op.key);
    KeyValue& entry = found->second;
    if (added) {
      entry.key = op.key;
      entry.create_revision = revision + 1;
    }
    if (entry.lease != 0) leases.at(entry.lease).keys.erase(op.key);
    if (op.lease != 0) leases.at(op.lease).keys.insert(op.key);
    entry.value = op.value;
    entry.lease = op.lease;
    entry.mod_revision = revision + 1;
    events.push_back({.removed = false, .entry = entry});
  }

  Result<KvTxnResult> transact(const std::vector<KvCompare>& compares,
                               const std::vector<KvOp>& ops) {
    end_leases();
    for (const KvCompare& compare : compares) {
      if (!holds(compare)) return KvTxnResult{.committed = false, .revision = revision};
    }
    for (const KvOp& op : ops) {
      if (op.kind == KvOp::Kind::put && op.lease != 0 && !leases.contains(op.lease)) {
        return fail(Errc::not_found, fmt::format("metadata lease {} has ended", op.lease));
      }
    }
    std::vector<KvEvent> events;
    for (const KvOp& op : ops) {
      if (op.kind == KvOp::Kind::put) {
        put(op, events);
        continue;
      }
      const bool prefix = op.kind == KvOp::Kind::remove_prefix;
      auto entry = entries.lower_bound(op.key);
      while (entry != entries.end() &&
             (prefix ? entry->first.starts_with(op.key) : entry->first == op.key)) {
        remove(entry++, events);
      }
    }
    publish(std::move(events));
    return KvTxnResult{.committed = true, .revision = revision};
  }
};

namespace {

class TempKv final : public Kv {
 public:
  explicit TempKv(std::shared_ptr<TempKvStore::State> state) : state_(std::move(state)) {}
  ~TempKv() override { close_watches(); }

  Task<std::optional<KeyValue>> get(std::string key) override {
    co_await yield_to_loop();
    if (closed_) co_return closed();
    state_->end_leases();
    const auto found = state_->entries.find(key);
    if (found == state_->entries.end()) co_return std::nullopt;
    co_return found->second;
  }

  Task<KvRange> list(std::string prefix) override {
    co_await yield_to_loop();
    if (closed_) co_return closed();
    state_->end_leases();
    KvRange range{.entries = {}, .revision = state_->revision};
    for (auto entry = state_->entries.lower_bound(prefix);
         entry != state_->entries.end() && entry->first.starts_with(prefix); ++entry) {
      range.entries.push_back(entry->second);
    }
    co_return range;
  }

  Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) override {
    co_await yield_to_loop();
    if (closed_) co_return closed();
    co_return state_->transact(compares, ops);
  }

  Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) override {
    co_await yield_to_loop();
    if (closed_) co_return closed();
    auto watch = std::make_shared<WatchQueue>(std::move(prefix));
    if (revision < state_->forgotten_revision) watch->fall_behind();
    for (const auto& [changed_at, events] : state_->history) {
      if (changed_at > revision) watch->add(events);
    }
    state_->watches.push_back(watch);
    std::erase_if(watches_, [](const auto& old) { return old.expired(); });
    watches_.push_back(watch);
    co_return make_watch(watch);
  }

  Task<std::uint64_t> grant_lease(std::chrono::milliseconds ttl) override {
    co_await yield_to_loop();
    if (closed_) co_return closed();
    const std::uint64_t id = state_->next_lease++;
    state_->leases[id] = {.ttl = ttl, .ends_at = state_->clock.now() + ttl, .keys = {}};
    state_->arm(id);
    co_return id;
  }

  Task<void> keep_alive(std::uint64_t lease) override {
    co_await yield_to_loop();
    if (closed_) co_return closed();
    state_->end_leases();
    const auto found = state_->leases.find(lease);
    if (found == state_->leases.end()) {
      co_return fail(Errc::not_found, fmt::format("metadata lease {} has ended", lease));
    }
    found->second.ends_at = state_->clock.now() + found->second.ttl;
    co_return Result<void>();
  }

  Task<void> revoke_lease(std::uint64_t lease) override {
    co_await yield_to_loop();
    if (closed_) co_return closed();
    if (state_->leases.contains(lease)) state_->end_lease(lease);
    co_return Result<void>();
  }

  Task<void> close() override {
    closed_ = true;
    close_watches();
    co_return Result<void>();
  }

 private:
  static tl::unexpected<Error> closed() {
    return fail(Errc::closed, "the metadata store is closed");
  }
  void close_watches() {
    for (const auto& weak : watches_) {
      if (const auto watch = weak.lock()) watch->close();
    }
  }

  std::shared_ptr<TempKvStore::State> state_;
  std::vector<std::weak_ptr<WatchQueue>> watches_;
  bool closed_ = false;
};

}  // namespace

TempKvStore::TempKvStore(Clock& clock, std::size_t history_count)
    : state_(std::make_shared<State>(clock, history_count)) {}
TempKvStore::~TempKvStore() = default;

std::unique_ptr<Kv> TempKvStore::connect() { return std::make_unique<TempKv>(state_); }

}  // namespace agro
