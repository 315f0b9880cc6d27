// Key-value store with revisions, transactions, leases and watches: the seam to the MDS.
//
// The smallest interface that etcd, SQLite and memory all provide; what agro keeps in it is in
// metadata/metadata.hpp, written once over this.
// Invariants: transactions are atomic, durable on return and totally ordered by revision.
// Implementations: TempKv (memory), SqliteKv, EtcdKv; one conformance suite
// (metadata/kv_conformance.hpp) passes on all. Threading: one loop.
// Source: DESIGN.md sections 2 and 4.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/async.hpp"
#include "base/clock.hpp"

namespace agro {

struct KeyValue {
  std::string key;
  std::string value;
  std::uint64_t create_revision = 0;
  std::uint64_t mod_revision = 0;
  std::uint64_t lease = 0;  // 0: none
};

/// A condition of a transaction on one key.
struct KvCompare {
  enum class Kind : std::uint8_t { absent, present, mod_revision_is, value_is };
  Kind kind = Kind::absent;
  std::string key;
  std::uint64_t mod_revision = 0;  // mod_revision_is
  std::string value;               // value_is
};

struct KvOp {
  enum class Kind : std::uint8_t { put, remove, remove_prefix };
  Kind kind = Kind::put;
  std::string key;          // or prefix
  std::string value;        // put
  std::uint64_t lease = 0;  // put: the key goes when the lease ends
};

struct KvTxnResult {
  bool committed = false;      // all compares held
  std::uint64_t revision = 0;  // of the store after the transaction
};

/// Keys under a prefix at one revision.
struct KvRange {
  std::vector<KeyValue> entries;  // sorted by key
  std::uint64_t revision = 0;
};

struct KvEvent {
  bool removed = false;
  KeyValue entry;  // removed: key and mod_revision only
};

/// A stream of changes under one prefix.
class KvWatch {
 public:
  virtual ~KvWatch() = default;
  /// Waits for changes and returns those of whole transactions, in order. Errors: closed;
  /// outcome_unknown: changes may have been missed (compaction): list again and watch anew.
  virtual Task<std::vector<KvEvent>> next() = 0;
  virtual void close() = 0;
};

/// A lease that the store renews without the loop's help. The atomics belong to both threads, the
/// rest to the loop.
struct LeaseRenewals {
  explicit LeaseRenewals(TimePoint granted) : renewed_at(granted), asked_at(granted) {}
  /// When the last renewal that the store confirmed was sent.
  std::atomic<TimePoint> renewed_at;
  /// When the loop last showed that it lives: a process that hangs must not hold its locks for ever.
  std::atomic<TimePoint> asked_at;
  bool lost = false;    // the store said that it has ended
  std::string problem;  // of the last renewal; empty: none
  /// Notified after each renewal and each failure of one.
  Event told;
};

/// How often a lease is renewed while it lasts.
inline constexpr int kRenewalsPerTtl = 8;

/// Errors of every call: unavailable (try again), timed_out, corrupt, io_error, closed;
/// outcome_unknown for a transaction whose answer was lost.
class Kv {
 public:
  virtual ~Kv() = default;
  /// The entry, or nothing.
  virtual Task<std::optional<KeyValue>> get(std::string key) = 0;
  virtual Task<KvRange> list(std::string prefix) = 0;
  /// Applies all ops if all compares hold, else nothing (committed = false, no error).
  /// Errors: not_found, when the lease of a put has ended; nothing is applied then.
  virtual Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) = 0;
  /// Changes after `revision` (as KvRange::revision gave it).
  virtual Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) = 0;

  /// A new lease. It ends `ttl` after the last keep_alive(), and, where the store can know
  /// (SqliteKv on one machine), when its process is gone.
  virtual Task<std::uint64_t> grant_lease(std::chrono::milliseconds ttl) = 0;
  /// Errors: not_found, when the lease has ended.
  virtual Task<void> keep_alive(std::uint64_t lease) = 0;
  /// Renews `lease`, sent at `granted`, from a thread of its own from now on, so that a busy loop
  /// cannot lose it; stops when the answer is dropped, when the lease is lost, and when the loop
  /// was silent for kLoopSilentTtls times `ttl`. Null where the store cannot: use keep_alive().
  virtual std::shared_ptr<LeaseRenewals> renew_by_itself(std::uint64_t lease,
                                                         std::chrono::milliseconds ttl,
                                                         TimePoint granted);
  static constexpr int kLoopSilentTtls = 6;
  /// Ends a lease and removes its keys.
  virtual Task<void> revoke_lease(std::uint64_t lease) = 0;

  virtual Task<void> close() = 0;
};

inline std::shared_ptr<LeaseRenewals> Kv::renew_by_itself(std::uint64_t /*lease*/,
                                                          std::chrono::milliseconds /*ttl*/,
                                                          TimePoint /*granted*/) {
  return nullptr;
}

}  // namespace agro
