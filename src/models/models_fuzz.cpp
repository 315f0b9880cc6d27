// Fuzzer of the record decoders. First byte: which record; the rest: its bytes.
#include "base/assert.hpp"
#include "models/codec.hpp"

namespace {

/// What decodes must encode to something that decodes to the same.
template <class Decode>
void check(Decode decode, std::string_view bytes) {
  const auto record = decode(bytes);
  if (!record.has_value()) return;
  const auto again = decode(agro::encode(*record));
  AGRO_ASSERT(again.has_value());
  AGRO_ASSERT(*again == *record);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 13) {
    case 0:
      check(agro::decode_cluster, bytes);
      break;
    case 1:
      check(agro::decode_volume, bytes);
      break;
    case 2:
      check(agro::decode_volume_head, bytes);
      break;
    case 3:
      check(agro::decode_volume_lock, bytes);
      break;
    case 4:
      check(agro::decode_peer, bytes);
      break;
    case 5:
      check(agro::decode_ring, bytes);
      break;
    case 6:
      check(agro::decode_tombstone, bytes);
      break;
    case 7:
      check(agro::decode_peer_report, bytes);
      break;
    case 8:
      check(agro::decode_scrub_state, bytes);
      break;
    case 9:
      check(agro::decode_snapshot, bytes);
      break;
    case 10:
      check(agro::decode_publications, bytes);
      break;
    case 11:
      check(agro::decode_node, bytes);
      break;
    default:
      check(agro::decode_snapshot_request, bytes);
      break;
  }
  return 0;
}
