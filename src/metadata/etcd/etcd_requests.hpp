// Between the Kv seam's words and etcd's messages. Pure.
//
// Includes generated code: for src/metadata/etcd/*.cpp only.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "metadata/etcd/etcd.pb.h"
#include "metadata/kv.hpp"

namespace agro::etcd {

/// The keys [first, second), as etcd writes them: "\0" as second is the end of all keys.
using KeyRange = std::pair<std::string, std::string>;

/// All keys that start with `prefix`.
KeyRange range_of_prefix(const std::string& prefix);

/// The entry with its key less the first `prefix_size` bytes.
KeyValue entry_of(const ::etcdserverpb::KeyValue& kv, std::size_t prefix_size);
KvEvent event_of(const ::etcdserverpb::Event& event, std::size_t prefix_size);

/// etcd refuses two changes of one key in a transaction, the Kv seam applies them in order: so only
/// the last change of each key is sent, and ranges are cut where a later put stands.
::etcdserverpb::TxnRequest txn_of(const std::string& prefix, const std::vector<KvCompare>& compares,
                                  const std::vector<KvOp>& ops);

}  // namespace agro::etcd
