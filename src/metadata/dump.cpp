#include "metadata/dump.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/crc32c.hpp"
#include "metadata/keys.hpp"

namespace agro {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "agro-metadata-dump";
constexpr int kVersion = 1;
/// etcd takes 128 operations in a transaction.
constexpr std::size_t kOpsAtOnce = 100;
constexpr std::string_view kInterference =
    "somebody else changes the metadata store; when they are done, try again with --force";

std::string to_hex(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

Result<std::string> from_hex(std::string_view text) {
  const auto digit = [](char letter) {
    if (letter >= '0' && letter <= '9') return letter - '0';
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
  };
  if (text.size() % 2 != 0) return fail(Errc::corrupt, "a value of the dump is cut short");
  std::string bytes;
  for (std::size_t at = 0; at < text.size(); at += 2) {
    const int high = digit(text[at]);
    const int low = digit(text[at + 1]);
    if (high < 0 || low < 0) return fail(Errc::corrupt, "a value of the dump is not hexadecimal");
    bytes += static_cast<char>(high * 16 + low);
  }
  return bytes;
}

/// docs/formats/metadata_keys.md, "Dumps": over "KEY NUL HEX LF" of every entry.
std::string checksum_of(const Json& entries) {
  std::string all;
  for (const Json& entry : entries) {
    all += entry.at("key").get<std::string>();
    all += '\0';
    all += entry.at("value").get<std::string>();
    all += '\n';
  }
  return fmt::format("{:08x}", crc32c(std::as_bytes(std::span(all))));
}

/// The puts that a dump stands for. The record of the cluster, which all else starts with, is last.
Result<std::vector<KvOp>> decode_dump(const std::string& text) {
  std::vector<KvOp> ops;
  try {
    const Json dump = Json::parse(text);
    if (dump.at("format") != kFormat) return fail(Errc::corrupt, "this is no dump of metadata");
    if (dump.at("version") != kVersion) {
      return fail(Errc::not_supported, "this dump was made by a newer agroctl");
    }
    const Json& entries = dump.at("entries");
    if (dump.at("crc32c") != checksum_of(entries)) {
      return fail(Errc::corrupt, "the dump is damaged: its checksum does not fit");
    }
    for (const Json& entry : entries) {
      const auto key = entry.at("key").get<std::string>();
      if (!key.starts_with(keys::kAll)) {
        return fail(Errc::corrupt, fmt::format("the dump has a foreign key, {}", key));
      }
      AGRO_TRY(std::string value, from_hex(entry.at("value").get<std::string>()));
      ops.push_back(keys::put(key, std::move(value)));
    }
  } catch (const nlohmann::json::exception& problem) {
    return fail(Errc::corrupt, fmt::format("this is no dump of metadata: {}", problem.what()));
  }
  const auto cluster =
      std::find_if(ops.begin(), ops.end(), [](const KvOp& op) { return op.key == keys::kCluster; });
  if (cluster == ops.end()) return fail(Errc::corrupt, "the dump has no record of the cluster");
  std::rotate(cluster, cluster + 1, ops.end());
  return ops;
}

/// Errors: locked, when anything is under a lease; already_exists.
Result<void> check_target(const KvRange& present, bool replace) {
  for (const KeyValue& entry : present.entries) {
    if (entry.lease == 0) continue;
    return fail(Errc::locked,
                fmt::format("peers run or volumes are open on this metadata store ({}); stop them "
                            "first",
                            entry.key));
  }
  if (present.entries.empty() || replace) return {};
  return fail(Errc::already_exists,
              "the metadata store is not empty; use an empty one, or --force to replace it");
}

}  // namespace

Task<std::string> dump_metadata(Kv& kv) {
  AGRO_CO_TRY(const KvRange all, co_await kv.list(std::string(keys::kAll)));
  Json entries = Json::array();
  for (const KeyValue& entry : all.entries) {
    if (entry.lease != 0) continue;
    entries.push_back({{"key", entry.key}, {"value", to_hex(entry.value)}});
  }
  if (entries.empty()) {
    co_return fail(Errc::not_found, "the metadata store holds no cluster; there is nothing to dump");
  }
  const std::string checksum = checksum_of(entries);
  const Json dump = {{"format", kFormat},
                     {"version", kVersion},
                     {"revision", all.revision},
                     {"entries", std::move(entries)},
                     {"crc32c", checksum}};
  co_return dump.dump(1) + "\n";
}

Task<std::size_t> restore_metadata(Kv& kv, std::string text, bool replace) {
  AGRO_CO_TRY(std::vector<KvOp> ops, decode_dump(text));
  const std::size_t count = ops.size();
  AGRO_CO_TRY_OK(co_await fill_metadata(kv, std::move(ops), replace));
  co_return count;
}

Task<void> check_fillable(Kv& kv, bool replace) {
  AGRO_CO_TRY(const KvRange present, co_await kv.list(std::string(keys::kAll)));
  co_return check_target(present, replace);
}

Task<void> fill_metadata(Kv& kv, std::vector<KvOp> ops, bool replace) {
  AGRO_CO_TRY(const KvRange present, co_await kv.list(std::string(keys::kAll)));
  AGRO_CO_TRY_OK(check_target(present, replace));
  const std::size_t count = ops.size();
  if (!present.entries.empty()) {
    std::vector<KvCompare> as_seen;
    for (const KeyValue& entry : present.entries) {
      if (entry.key == keys::kCluster) as_seen.push_back(keys::unchanged(entry));
    }
    std::vector<KvOp> removal = {keys::remove_prefix(keys::kAll)};
    AGRO_CO_TRY(const KvTxnResult removed,
                co_await kv.transact(std::move(as_seen), std::move(removal)));
    if (!removed.committed) co_return fail(Errc::conflict, std::string(kInterference));
  }
  for (std::size_t first = 0; first < count; first += kOpsAtOnce) {
    const auto begin = ops.begin() + static_cast<std::ptrdiff_t>(first);
    const auto size = static_cast<std::ptrdiff_t>(std::min(kOpsAtOnce, count - first));
    std::vector<KvCompare> compares = {keys::absent(std::string(keys::kCluster))};
    std::vector<KvOp> batch(std::make_move_iterator(begin), std::make_move_iterator(begin + size));
    AGRO_CO_TRY(const KvTxnResult done,
                co_await kv.transact(std::move(compares), std::move(batch)));
    if (!done.committed) co_return fail(Errc::conflict, std::string(kInterference));
  }
  co_return Result<void>();
}

}  // namespace agro
