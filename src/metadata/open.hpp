// open_kv: from a metadata URI to a store.
#pragma once

#include <memory>
#include <string>

#include "base/env.hpp"
#include "metadata/kv.hpp"

namespace agro {

/// "etcd://HOST:PORT,HOST:PORT[/PREFIX][?OPTIONS]" (metadata/etcd/etcd_uri.hpp), "sqlite:PATH" (a
/// file of this machine), "temp:" (a new, empty store in this process's memory).
/// `create` makes the sqlite file and its directory when there is none. `env` outlives the store.
/// Errors: invalid_argument (no such scheme; etcd refuses us); unavailable, timed_out (no etcd
/// answers); not_found, corrupt, not_supported (foreign or newer file), io_error for files.
Task<std::unique_ptr<Kv>> open_kv(Env& env, std::string uri, bool create);

}  // namespace agro
