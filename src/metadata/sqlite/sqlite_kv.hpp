// SqliteKv: the metadata store of one machine, in one file that its processes share.
//
// Invariants: as kv.hpp; every SQLite call runs on the Offload, one at a time. A lease ends with
// its ttl or with its process, whichever is first. Changes of other processes are seen within
// kPollInterval; only while somebody watches is there any polling.
// Threading: one loop. Format: docs/formats/metadata_keys.md, "The SQLite file".
#pragma once

#include <memory>
#include <string>

#include "base/env.hpp"
#include "metadata/kv.hpp"
#include "metadata/sqlite/processes.hpp"

namespace agro {

inline constexpr std::chrono::milliseconds kSqlitePollInterval{25};

struct SqliteKvOptions {
  std::string path;
  bool create = false;  // make the file when there is none; its directory exists
  /// Null: this machine's.
  std::shared_ptr<Processes> processes;
  /// Watches may start so many revisions back.
  std::uint64_t history_count = 4096;
};

/// Shape: `env` outlives the store; close() it before the loop ends.
/// Errors: not_found; corrupt; not_supported (foreign or newer file); io_error.
Task<std::unique_ptr<Kv>> open_sqlite_kv(Env& env, SqliteKvOptions options);

}  // namespace agro
