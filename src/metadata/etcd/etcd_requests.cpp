#include "metadata/etcd/etcd_requests.hpp"

#include <algorithm>
#include <set>

namespace agro::etcd {
namespace {

namespace pb = ::etcdserverpb;

const std::string kEnd("\0", 1);

bool covers(const KeyRange& range, const std::string& key) {
  return range.first <= key && (range.second == kEnd || key < range.second);
}

/// `range` without `keys`, which are sorted and in it.
std::vector<KeyRange> cut(KeyRange range, const std::vector<std::string>& keys) {
  std::vector<KeyRange> pieces;
  for (const std::string& key : keys) {
    if (range.first < key) pieces.emplace_back(range.first, key);
    range.first = key + '\0';
  }
  if (range.second == kEnd || range.first < range.second) pieces.push_back(std::move(range));
  return pieces;
}

void add_compare(pb::TxnRequest& txn, const std::string& key, const KvCompare& compare) {
  pb::Compare* made = txn.add_compare();
  made->set_key(key);
  made->set_result(pb::Compare::EQUAL);
  switch (compare.kind) {
    case KvCompare::Kind::absent:
      made->set_target(pb::Compare::CREATE);
      made->set_create_revision(0);
      return;
    case KvCompare::Kind::present:
      made->set_target(pb::Compare::CREATE);
      made->set_result(pb::Compare::GREATER);
      made->set_create_revision(0);
      return;
    case KvCompare::Kind::mod_revision_is:
      made->set_target(pb::Compare::MOD);
      // An absent key has revision 0 in etcd, and none here; no key has -1.
      made->set_mod_revision(compare.mod_revision == 0
                                 ? -1
                                 : static_cast<std::int64_t>(compare.mod_revision));
      return;
    case KvCompare::Kind::value_is:
      made->set_target(pb::Compare::VALUE);
      made->set_value(compare.value);
      return;
  }
}

pb::RequestOp removal_of(const KeyRange& range) {
  pb::RequestOp op;
  op.mutable_request_delete_range()->set_key(range.first);
  op.mutable_request_delete_range()->set_range_end(range.second);
  return op;
}

pb::RequestOp put_of(const std::string& key, const KvOp& put) {
  pb::RequestOp op;
  op.mutable_request_put()->set_key(key);
  op.mutable_request_put()->set_value(put.value);
  op.mutable_request_put()->set_lease(static_cast<std::int64_t>(put.lease));
  return op;
}

}  // namespace

KeyRange range_of_prefix(const std::string& prefix) {
  std::string end = prefix;
  while (!end.empty() && end.back() == '\xff') end.pop_back();
  if (end.empty()) return {prefix.empty() ? kEnd : prefix, kEnd};
  end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
  return {prefix, end};
}

KeyValue entry_of(const pb::KeyValue& kv, std::size_t prefix_size) {
  return {.key = kv.key().substr(std::min(prefix_size, kv.key().size())),
          .value = kv.value(),
          .create_revision = static_cast<std::uint64_t>(kv.create_revision()),
          .mod_revision = static_cast<std::uint64_t>(kv.mod_revision()),
          .lease = static_cast<std::uint64_t>(kv.lease())};
}

KvEvent event_of(const pb::Event& event, std::size_t prefix_size) {
  return {.removed = event.type() == pb::Event::DELETE,
          .entry = entry_of(event.kv(), prefix_size)};
}

pb::TxnRequest txn_of(const std::string& prefix, const std::vector<KvCompare>& compares,
                      const std::vector<KvOp>& ops) {
  pb::TxnRequest txn;
  for (const KvCompare& compare : compares) add_compare(txn, prefix + compare.key, compare);

  std::vector<pb::RequestOp> reversed;
  std::set<std::string> put_later;
  std::vector<KeyRange> removed_later;
  for (auto op = ops.rbegin(); op != ops.rend(); ++op) {
    const std::string key = prefix + op->key;
    if (op->kind == KvOp::Kind::put) {
      const bool removed = std::any_of(removed_later.begin(), removed_later.end(),
                                       [&](const KeyRange& range) { return covers(range, key); });
      if (!removed && put_later.insert(key).second) reversed.push_back(put_of(key, *op));
      continue;
    }
    if (op->kind == KvOp::Kind::remove) {
      removed_later.emplace_back(key, key + '\0');
      if (!put_later.contains(key)) reversed.push_back(removal_of({key, ""}));
      continue;
    }
    const KeyRange range = range_of_prefix(key);
    std::vector<std::string> spared;
    std::copy_if(put_later.begin(), put_later.end(), std::back_inserter(spared),
                 [&](const std::string& put) { return covers(range, put); });
    std::vector<KeyRange> pieces = cut(range, spared);
    for (auto piece = pieces.rbegin(); piece != pieces.rend(); ++piece) {
      reversed.push_back(removal_of(*piece));
    }
    removed_later.push_back(range);
  }
  for (auto op = reversed.rbegin(); op != reversed.rend(); ++op) *txn.add_success() = *op;
  return txn;
}

}  // namespace agro::etcd
