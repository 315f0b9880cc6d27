#include "metadata/sqlite/sqlite_store.hpp"

#include <fmt/format.h>

#include "base/assert.hpp"
#include "metadata/sqlite/sqlite_schema.hpp"

namespace agro {
namespace {

/// The first key after all that start with `prefix`; empty when there is none.
std::string end_of_prefix(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xFF) prefix.pop_back();
  if (!prefix.empty())
    prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
  return prefix;
}

/// Columns: key, value, create_revision, mod_revision, lease.
KeyValue read_entry(const Statement& row) {
  return {.key = row.text(0),
          .value = row.text(1),
          .create_revision = row.unsigned_integer(2),
          .mod_revision = row.unsigned_integer(3),
          .lease = row.unsigned_integer(4)};
}

}  // namespace

/// One write transaction; changes go to `revision`, which is the next one.
struct SqliteStore::Transaction {
  std::uint64_t revision = 0;
  bool changed = false;
};

Result<std::unique_ptr<SqliteStore>> SqliteStore::open(const std::string& path, bool create,
                                                       std::shared_ptr<Processes> processes,
                                                       std::uint64_t history_count) {
  AGRO_TRY(ProcessIdentity self, processes->self());
  AGRO_TRY(std::unique_ptr<Database> database, open_metadata_file(path, create));
  return std::unique_ptr<SqliteStore>(
      new SqliteStore(std::move(database), std::move(processes), std::move(self), history_count));
}

SqliteStore::SqliteStore(std::unique_ptr<Database> database, std::shared_ptr<Processes> processes,
                         ProcessIdentity self, std::uint64_t history_count)
    : database_(std::move(database)),
      processes_(std::move(processes)),
      self_(std::move(self)),
      history_count_(history_count) {}

/// Runs `body` in a synced transaction, after those leases that are over were ended.
template <class Body>
auto SqliteStore::write(std::int64_t now_ns, Body body)
    -> decltype(body(std::declval<Transaction&>())) {
  using ResultType = decltype(body(std::declval<Transaction&>()));
  const auto roll_back = [this](Error error) -> ResultType {
    if (!database_->in_transaction()) return fail(std::move(error));
    const Result<void> rolled_back = database_->execute("ROLLBACK");
    return fail(rolled_back.has_value() ? std::move(error) : rolled_back.error());
  };
  AGRO_TRY_OK(database_->execute("BEGIN IMMEDIATE"));
  const auto finish_revision = [this](Transaction& transaction) -> Result<void> {
    if (!transaction.changed) return {};
    AGRO_TRY(Statement update, database_->prepare("UPDATE state SET revision = ?1"));
    AGRO_TRY_OK(update.bind(1, transaction.revision).run());
    AGRO_TRY_OK(trim(transaction.revision));
    ++transaction.revision;
    transaction.changed = false;
    return {};
  };
  const auto all = [&]() -> ResultType {
    AGRO_TRY(const auto revision, database_->query_integer("SELECT revision FROM state"));
    Transaction transaction{.revision = static_cast<std::uint64_t>(revision) + 1};
    AGRO_TRY(const auto ended, ended_leases(now_ns));
    for (const std::uint64_t lease : ended) AGRO_TRY_OK(remove_lease(transaction, lease));
    AGRO_TRY_OK(finish_revision(transaction));
    ResultType result = body(transaction);
    if (result.has_value()) AGRO_TRY_OK(finish_revision(transaction));
    return result;
  };
  ResultType result = all();
  if (!result.has_value()) return roll_back(result.error());
  const Result<void> committed = database_->execute("COMMIT");
  if (committed.has_value()) return result;
  // An I/O error may have come after the commit record was written: nobody knows.
  if (committed.code() != Errc::io_error) return roll_back(committed.error());
  return roll_back({Errc::outcome_unknown, committed.error().message});
}

/// Runs `body` on one snapshot.
template <class Body>
auto SqliteStore::read(Body body) -> decltype(body()) {
  AGRO_TRY_OK(database_->execute("BEGIN"));
  auto result = body();
  const Result<void> ended = database_->execute("COMMIT");
  if (!ended.has_value()) return fail(ended.error());
  return result;
}

Result<std::vector<std::uint64_t>> SqliteStore::ended_leases(std::int64_t now_ns) {
  AGRO_TRY(Statement row, database_->prepare("SELECT id, ends_ns, pid, start_time, boot_id, "
                                             "pid_namespace FROM leases"));
  std::vector<std::uint64_t> ended;
  while (true) {
    AGRO_TRY(const bool found, row.step());
    if (!found) return ended;
    const ProcessIdentity holder{.pid = row.integer(2),
                                 .start_time = row.unsigned_integer(3),
                                 .boot_id = row.text(4),
                                 .pid_namespace = row.text(5)};
    const bool over = row.integer(1) <= now_ns;
    if (over || (holder != self_ && processes_->surely_gone(holder))) {
      ended.push_back(row.unsigned_integer(0));
    }
  }
}

Result<void> SqliteStore::remove_lease(Transaction& transaction, std::uint64_t lease) {
  std::vector<std::string> keys;
  {
    AGRO_TRY(Statement row, database_->prepare("SELECT key FROM entries WHERE lease = ?1 AND "
                                               "lease <> 0 ORDER BY key"));
    row.bind(1, lease);
    while (true) {
      AGRO_TRY(const bool found, row.step());
      if (!found) break;
      keys.push_back(row.text(0));
    }
  }
  for (const std::string& key : keys) AGRO_TRY_OK(remove(transaction, key));
  AGRO_TRY(Statement statement, database_->prepare("DELETE FROM leases WHERE id = ?1"));
  return statement.bind(1, lease).run();
}

Result<void> SqliteStore::sweep(std::int64_t now_ns) {
  AGRO_TRY(const auto ended, ended_leases(now_ns));
  if (ended.empty()) return {};
  return write(now_ns, [](Transaction&) { return Result<void>(); });
}

Result<std::optional<KeyValue>> SqliteStore::find(const std::string& key) {
  AGRO_TRY(Statement row, database_->prepare("SELECT key, value, create_revision, mod_revision, "
                                             "lease FROM entries WHERE key = ?1"));
  row.bind_text(1, key);
  AGRO_TRY(const bool found, row.step());
  if (!found) return std::optional<KeyValue>();
  return std::optional<KeyValue>(read_entry(row));
}

Result<std::optional<KeyValue>> SqliteStore::get(const std::string& key, std::int64_t now_ns) {
  AGRO_TRY_OK(sweep(now_ns));
  return find(key);
}

Result<std::vector<KeyValue>> SqliteStore::select_prefix(const std::string& prefix) {
  const std::string end = end_of_prefix(prefix);
  AGRO_TRY(
      Statement row,
      database_->prepare("SELECT key, value, create_revision, mod_revision, lease FROM entries "
                         "WHERE key >= ?1 AND (key < ?2 OR ?2 = '') ORDER BY key"));
  row.bind_text(1, prefix).bind_text(2, end);
  std::vector<KeyValue> entries;
  while (true) {
    AGRO_TRY(const bool found, row.step());
    if (!found) return entries;
    entries.push_back(read_entry(row));
  }
}

Result<KvRange> SqliteStore::list(const std::string& prefix, std::int64_t now_ns) {
  AGRO_TRY_OK(sweep(now_ns));
  return read([&]() -> Result<KvRange> {
    KvRange range;
    AGRO_TRY(range.entries, select_prefix(prefix));
    AGRO_TRY(const auto revision, database_->query_integer("SELECT revision FROM state"));
    range.revision = static_cast<std::uint64_t>(revision);
    return range;
  });
}

Result<bool> SqliteStore::holds(const KvCompare& compare) {
  AGRO_TRY(const auto entry, find(compare.key));
  switch (compare.kind) {
    case KvCompare::Kind::absent:
      return !entry.has_value();
    case KvCompare::Kind::present:
      return entry.has_value();
    case KvCompare::Kind::mod_revision_is:
      return entry.has_value() && entry->mod_revision == compare.mod_revision;
    case KvCompare::Kind::value_is:
      return entry.has_value() && entry->value == compare.value;
  }
  return false;
}

Result<bool> SqliteStore::lease_exists(std::uint64_t lease) {
  AGRO_TRY(Statement row, database_->prepare("SELECT 1 FROM leases WHERE id = ?1"));
  row.bind(1, lease);
  return row.step();
}

Result<void> SqliteStore::log_change(const Transaction& transaction, const KvEvent& event) {
  AGRO_TRY(Statement insert,
           database_->prepare("INSERT INTO changes(revision, removed, key, value, create_revision, "
                              "lease) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"));
  insert.bind(1, transaction.revision).bind(2, std::int64_t{event.removed ? 1 : 0});
  insert.bind_text(3, event.entry.key).bind_blob(4, event.entry.value);
  insert.bind(5, event.entry.create_revision).bind(6, event.entry.lease);
  return insert.run();
}

Result<void> SqliteStore::put(Transaction& transaction, const KvOp& op) {
  AGRO_TRY(const auto present, find(op.key));
  KvEvent event;
  event.entry = {.key = op.key,
                 .value = op.value,
                 .create_revision = present ? present->create_revision : transaction.revision,
                 .mod_revision = transaction.revision,
                 .lease = op.lease};
  AGRO_TRY(Statement insert,
           database_->prepare("INSERT OR REPLACE INTO entries(key, value, create_revision, "
                              "mod_revision, lease) VALUES (?1, ?2, ?3, ?4, ?5)"));
  insert.bind_text(1, op.key).bind_blob(2, op.value).bind(3, event.entry.create_revision);
  insert.bind(4, event.entry.mod_revision).bind(5, event.entry.lease);
  AGRO_TRY_OK(insert.run());
  transaction.changed = true;
  return log_change(transaction, event);
}

Result<void> SqliteStore::remove(Transaction& transaction, const std::string& key) {
  AGRO_TRY(const auto present, find(key));
  if (!present.has_value()) return {};
  AGRO_TRY(Statement statement, database_->prepare("DELETE FROM entries WHERE key = ?1"));
  AGRO_TRY_OK(statement.bind_text(1, key).run());
  transaction.changed = true;
  KvEvent event;
  event.removed = true;
  event.entry.key = key;
  return log_change(transaction, event);
}

Result<void> SqliteStore::apply(Transaction& transaction, const KvOp& op) {
  if (op.kind == KvOp::Kind::put) return put(transaction, op);
  if (op.kind == KvOp::Kind::remove) return remove(transaction, op.key);
  AGRO_TRY(const std::vector<KeyValue> entries, select_prefix(op.key));
  for (const KeyValue& entry : entries) AGRO_TRY_OK(remove(transaction, entry.key));
  return {};
}

Result<KvTxnResult> SqliteStore::transact(const std::vector<KvCompare>& compares,
                                          const std::vector<KvOp>& ops, std::int64_t now_ns) {
  return write(now_ns, [&](Transaction& transaction) -> Result<KvTxnResult> {
    for (const KvCompare& compare : compares) {
      AGRO_TRY(const bool held, holds(compare));
      if (!held) return KvTxnResult{.committed = false, .revision = transaction.revision - 1};
    }
    for (const KvOp& op : ops) {
      if (op.kind != KvOp::Kind::put || op.lease == 0) continue;
      AGRO_TRY(const bool exists, lease_exists(op.lease));
      if (!exists)
        return fail(Errc::not_found, fmt::format("metadata lease {} has ended", op.lease));
    }
    for (const KvOp& op : ops) AGRO_TRY_OK(apply(transaction, op));
    return KvTxnResult{
        .committed = true,
        .revision = transaction.changed ? transaction.revision : transaction.revision - 1};
  });
}

Result<std::uint64_t> SqliteStore::grant_lease(std::chrono::milliseconds ttl, std::int64_t now_ns) {
  return write(now_ns, [&](Transaction&) -> Result<std::uint64_t> {
    AGRO_TRY(const auto next, database_->query_integer("SELECT next_lease FROM state"));
    AGRO_TRY_OK(database_->execute("UPDATE state SET next_lease = next_lease + 1"));
    AGRO_TRY(Statement insert,
             database_->prepare("INSERT INTO leases(id, ttl_ms, ends_ns, pid, start_time, boot_id, "
                                "pid_namespace) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"));
    const auto ttl_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(ttl).count();
    insert.bind(1, next).bind(2, std::int64_t{ttl.count()}).bind(3, std::int64_t{now_ns + ttl_ns});
    insert.bind(4, self_.pid).bind(5, self_.start_time);
    insert.bind_text(6, self_.boot_id).bind_text(7, self_.pid_namespace);
    AGRO_TRY_OK(insert.run());
    return static_cast<std::uint64_t>(next);
  });
}

Result<void> SqliteStore::keep_alive(std::uint64_t lease, std::int64_t now_ns) {
  return write(now_ns, [&](Transaction&) -> Result<void> {
    AGRO_TRY(const bool exists, lease_exists(lease));
    if (!exists) return fail(Errc::not_found, fmt::format("metadata lease {} has ended", lease));
    AGRO_TRY(Statement update,
             database_->prepare("UPDATE leases SET ends_ns = ?2 + ttl_ms * 1000000 "
                                "WHERE id = ?1"));
    return update.bind(1, lease).bind(2, now_ns).run();
  });
}

Result<void> SqliteStore::revoke_lease(std::uint64_t lease, std::int64_t now_ns) {
  return write(now_ns, [&](Transaction& transaction) { return remove_lease(transaction, lease); });
}

Result<void> SqliteStore::trim(std::uint64_t revision) {
  constexpr std::uint64_t kTrimEvery = 64;  // not at every transaction
  if (revision % kTrimEvery != 0 || revision <= history_count_) return {};
  AGRO_TRY(Statement erase, database_->prepare("DELETE FROM changes WHERE revision <= ?1"));
  AGRO_TRY_OK(erase.bind(1, revision - history_count_).run());
  AGRO_TRY(Statement update, database_->prepare("UPDATE state SET trimmed_revision = ?1"));
  return update.bind(1, revision - history_count_).run();
}

Result<SqliteStore::Changes> SqliteStore::changes_after(std::uint64_t revision) {
  return read([&]() -> Result<Changes> {
    Changes changes;
    AGRO_TRY(const auto present, database_->query_integer("SELECT revision FROM state"));
    AGRO_TRY(const auto trimmed, database_->query_integer("SELECT trimmed_revision FROM state"));
    changes.revision = static_cast<std::uint64_t>(present);
    changes.missed = revision < static_cast<std::uint64_t>(trimmed);
    if (changes.missed || revision >= changes.revision) return changes;
    AGRO_TRY(Statement row,
             database_->prepare("SELECT key, value, create_revision, revision, lease, "
                                "removed FROM changes WHERE revision > ?1 "
                                "ORDER BY sequence"));
    row.bind(1, revision);
    std::uint64_t last = 0;
    while (true) {
      AGRO_TRY(const bool found, row.step());
      if (!found) return changes;
      KvEvent event{.removed = row.integer(5) != 0, .entry = read_entry(row)};
      if (event.entry.mod_revision != last) changes.transactions.emplace_back();
      last = event.entry.mod_revision;
      changes.transactions.back().push_back(std::move(event));
    }
  });
}

Result<std::int64_t> SqliteStore::data_version() {
  return database_->query_integer("PRAGMA data_version");
}

}  // namespace agro
