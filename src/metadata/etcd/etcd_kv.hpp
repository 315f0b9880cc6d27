// EtcdKv: the metadata store of a cluster, an etcd of one or more members.
//
// Invariants: as kv.hpp; reads are linearizable. No call to etcd is made on the loop: calls have
// worker threads, each watch and the renewal of leases a thread of their own.
// Threading: one loop. Format: docs/formats/metadata_keys.md, "etcd".
#pragma once

#include <memory>

#include "base/env.hpp"
#include "metadata/etcd/etcd_client.hpp"

namespace agro {

/// Asks etcd once, so that what is wrong with address, certificates or password shows at once.
/// Shape: `env` outlives the store; close() it before the loop ends.
/// Errors: unavailable or timed_out (nobody answers); invalid_argument (user, password, rights).
Task<std::unique_ptr<Kv>> open_etcd_kv(Env& env, EtcdOptions options);

}  // namespace agro
