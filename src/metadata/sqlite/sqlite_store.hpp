// SqliteStore: SqliteKv's file, with blocking calls.
//
// Invariants: one SQLite transaction, synced, per transaction; revisions count those that changed
// something; ended leases and their keys go at the start of the next transaction of any process, as
// a revision of their own, and no read shows their keys. Format: docs/formats/metadata_keys.md,
// "The SQLite file". Threading: one thread at a time; other processes use the same file. Times are
// nanoseconds of the machine's monotonic clock: a lease of an earlier boot has ended, whatever its
// time says.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "metadata/kv.hpp"
#include "metadata/sqlite/database.hpp"
#include "metadata/sqlite/processes.hpp"

namespace agro {

class SqliteStore {
 public:
  /// Watches may start so many revisions back.
  static constexpr std::uint64_t kHistoryCount = 4096;
  /// "AGRO" in SQLite's application_id, and the version of the tables in its user_version.
  static constexpr std::int64_t kApplicationId = 0x4147524F;
  static constexpr std::int64_t kSchemaVersion = 1;

  /// Errors: not_found (no file, and `create` is false); corrupt; not_supported (another
  /// application's file, or a newer agro's); io_error.
  static Result<std::unique_ptr<SqliteStore>> open(const std::string& path, bool create,
                                                   std::shared_ptr<Processes> processes,
                                                   std::uint64_t history_count = kHistoryCount);

  // As Kv's, at `now_ns`.
  Result<std::optional<KeyValue>> get(const std::string& key, std::int64_t now_ns);
  Result<KvRange> list(const std::string& prefix, std::int64_t now_ns);
  Result<KvTxnResult> transact(const std::vector<KvCompare>& compares, const std::vector<KvOp>& ops,
                               std::int64_t now_ns);
  Result<std::uint64_t> grant_lease(std::chrono::milliseconds ttl, std::int64_t now_ns);
  Result<void> keep_alive(std::uint64_t lease, std::int64_t now_ns);
  Result<void> revoke_lease(std::uint64_t lease, std::int64_t now_ns);

  struct Changes {
    bool missed = false;  // some were trimmed already
    std::uint64_t revision = 0;
    std::vector<std::vector<KvEvent>> transactions;
  };
  Result<Changes> changes_after(std::uint64_t revision);
  /// Changes whenever another process committed something; cheap.
  Result<std::int64_t> data_version();
  /// Ends leases that are over, if there are any.
  Result<void> sweep(std::int64_t now_ns);

 private:
  struct Transaction;
  SqliteStore(std::unique_ptr<Database> database, std::shared_ptr<Processes> processes,
              ProcessIdentity self, std::uint64_t history_count);
  template <class Body>
  auto write(std::int64_t now_ns, Body body) -> decltype(body(std::declval<Transaction&>()));
  template <class Body>
  auto read(Body body) -> decltype(body());
  Result<std::vector<std::uint64_t>> ended_leases(std::int64_t now_ns);
  Result<void> remove_lease(Transaction& transaction, std::uint64_t lease);
  Result<std::optional<KeyValue>> find(const std::string& key);
  Result<bool> holds(const KvCompare& compare);
  Result<bool> lease_exists(std::uint64_t lease);
  Result<void> put(Transaction& transaction, const KvOp& op);
  Result<void> remove(Transaction& transaction, const std::string& key);
  Result<void> apply(Transaction& transaction, const KvOp& op);
  Result<std::vector<KeyValue>> select_prefix(const std::string& prefix);
  Result<void> log_change(const Transaction& transaction, const KvEvent& event);
  Result<void> trim(std::uint64_t revision);

  std::unique_ptr<Database> database_;
  std::shared_ptr<Processes> processes_;
  ProcessIdentity self_;
  std::uint64_t history_count_;
};

}  // namespace agro
