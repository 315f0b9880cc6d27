// What the CSI driver parses itself: ids, names, tokens, endpoints, the node's state, mountinfo.
// Property: whatever is accepted is written back as it was read, and names stay apart.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/assert.hpp"
#include "csi/names.hpp"
#include "csi/node_state.hpp"
#include "metadata/metadata.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro::csi;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto id = parse_volume_id(text)) AGRO_ASSERT(volume_id_text(*id) == text);
  if (const auto id = parse_snapshot_id(text)) AGRO_ASSERT(snapshot_id_text(*id) == text);
  if (const auto id = parse_volume_token(text)) AGRO_ASSERT(volume_id_text(*id) == text);
  if (const auto id = parse_snapshot_token(text)) AGRO_ASSERT(snapshot_id_text(*id) == text);
  if (const auto name = our_name(text)) {
    AGRO_ASSERT(agro::check_volume_name(*name).has_value());
    const auto again = our_name(*name);
    AGRO_ASSERT(*name == text || !again.has_value() || *again != *name);
  }
  if (const auto path = parse_endpoint(text)) AGRO_ASSERT(!path->empty());
  if (const auto state = decode_node_state(text)) {
    const auto again = decode_node_state(encode(*state));
    AGRO_ASSERT(again.has_value());
    AGRO_ASSERT(*again == *state);
  }
  for (const MountEntry& mount : parse_mounts(text)) AGRO_ASSERT(mount.path.size() <= size);
  return 0;
}
