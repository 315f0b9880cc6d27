// Fuzzes what `agroctl metadata restore` is given, and keys and records as a damaged or foreign
// metadata store may hold them: what is restored dumps to the same, and reading it as a cluster gives
// values or errors.
//
// The first byte: 0, the rest is the text as it is; 1, the same with its checksum put right; 2, the
// rest is "KEY NUL VALUE LF" lines, which become keys.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/assert.hpp"
#include "base/crc32c.hpp"
#include "metadata/dump.hpp"
#include "metadata/keys.hpp"
#include "metadata/metadata.hpp"
#include "metadata/temp/temp_kv.hpp"
#include "sim/sim_disk.hpp"
#include "sim/sim_loop.hpp"
#include "sim/sim_network.hpp"

namespace agro {
namespace {

using Json = nlohmann::ordered_json;

struct Node {
  SimLoop sim;
  Random random{1};
  SimDisk disk{sim.clock(), Random(1)};
  SimNetwork network{sim.executor(), sim.clock(), Random(1)};
  InlineOffload offload{sim.executor()};
  Metrics metrics;
  Env env{sim.executor(), sim.clock(), random, disk, network.host("a"), offload, metrics};
  TempKvStore store{sim.clock()};
  std::unique_ptr<Kv> kv = store.connect();
};

std::string with_right_checksum(const std::string& text) {
  Json dump = Json::parse(text, nullptr, false);
  if (!dump.is_object() || !dump.contains("entries") || !dump["entries"].is_array()) return text;
  std::string all;
  for (const Json& entry : dump["entries"]) {
    if (!entry.is_object() || !entry.contains("key") || !entry["key"].is_string() ||
        !entry.contains("value") || !entry["value"].is_string()) {
      return text;
    }
    all += entry["key"].get<std::string>() + '\0' + entry["value"].get<std::string>() + '\n';
  }
  dump["crc32c"] = fmt::format("{:08x}", crc32c(std::as_bytes(std::span(all))));
  return dump.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void restore(Node& node, const std::string& text) {
  const auto count = node.sim.run(restore_metadata(*node.kv, text, false));
  if (!count.has_value()) return;
  const auto dumped = node.sim.run(dump_metadata(*node.kv));
  AGRO_ASSERT(dumped.has_value());
  Node other;
  AGRO_ASSERT(other.sim.run(restore_metadata(*other.kv, *dumped, false)).has_value());
}

void put_lines(Node& node, std::string_view lines) {
  std::vector<KvOp> ops;
  while (!lines.empty() && ops.size() < 100) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    const std::size_t key_size = std::min(line.find('\0'), line.size());
    const std::string_view value = line.substr(std::min(key_size + 1, line.size()));
    ops.push_back(keys::put(std::string(keys::kAll) + std::string(line.substr(0, key_size)),
                            std::string(value)));
  }
  if (!ops.empty()) AGRO_ASSERT(node.sim.run(node.kv->transact({}, std::move(ops))).has_value());
}

void read_all(Node& node) {
  Metadata metadata(node.env, *node.kv);
  SimLoop& sim = node.sim;
  (void)sim.run(metadata.cluster());
  const auto view = sim.run(metadata.view());
  if (view.has_value()) {
    for (const VolumeRecord& volume : view->volumes) {
      (void)sim.run(metadata.find_volume(volume.name));
      (void)sim.run(metadata.head(volume.id));
      (void)sim.run(metadata.lock_of(volume.id));
      (void)sim.run(metadata.health_of(volume.id));
      (void)sim.run(metadata.acquire_volume(volume.id, 0, "fuzzer"));
    }
  }
  (void)sim.run(metadata.positions());
  (void)sim.run(metadata.volume_account());
  (void)sim.run(metadata.create_volume({.name = "new", .size = 1 << 20, .block_spec = {}}));
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;  // NOLINT: a program of its own
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  Node node;
  if (data[0] % 3 == 2) {
    put_lines(node, text);
  } else {
    restore(node, data[0] % 3 == 1 ? with_right_checksum(text) : text);
  }
  read_all(node);
  AGRO_ASSERT(node.sim.run(node.kv->close()).has_value());
  return 0;
}
