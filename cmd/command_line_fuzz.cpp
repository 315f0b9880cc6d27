// Fuzzes what people write: sizes, durations, addresses, URIs, names, ring files. Any text gives a
// value or an error of one line, and what is printed of a value is read as the same value.
//
// The first byte chooses the kind of text.
#include <algorithm>
#include <cstdint>

#include "agroctl/ring_file.hpp"
#include "base/network.hpp"
#include "base/units.hpp"
#include "blockset/blockset.hpp"
#include "common/program.hpp"
#include "core/uuid.hpp"
#include "distributor/peer_address.hpp"
#include "internal/http/server.hpp"
#include "metadata/etcd/etcd_uri.hpp"
#include "metadata/metadata.hpp"
#include "node/peer_node.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

/// The value, if there is one; else looks at the error.
template <class T>
const T* value_of(const Result<T>& parsed) {
  if (parsed.has_value()) return &*parsed;
  AGRO_ASSERT(!parsed.error().message.empty());
  return nullptr;
}

void parse_texts(std::uint8_t kind, std::string_view text) {
  switch (kind % 10) {
    case 0:
      (void)value_of(parse_size(text));
      break;
    case 1: {
      const auto parsed = parse_duration(text);
      if (const auto* duration = value_of(parsed)) AGRO_ASSERT(duration->count() >= 0);
      break;
    }
    case 2: {
      const auto parsed = parse_address(text);
      if (const auto* address = value_of(parsed)) {
        AGRO_ASSERT(parse_address(address->to_string()).value() == *address);
      }
      break;
    }
    case 3: {
      const auto parsed = parse_peer_address(text);
      if (const auto* address = value_of(parsed)) {
        AGRO_ASSERT(parse_peer_address(format_peer_address(*address)).value() == *address);
      }
      break;
    }
    case 4:
      (void)value_of(http::parse_http_address(text));
      break;
    case 5: {
      const auto parsed = parse_etcd_uri(text);
      if (const auto* uri = value_of(parsed)) AGRO_ASSERT(!uri->endpoints.empty());
      break;
    }
    case 6: {
      const auto parsed = parse_uuid(text);
      if (const auto* id = value_of(parsed)) AGRO_ASSERT(parse_uuid(id->to_string()).value() == *id);
      break;
    }
    case 7:
      (void)value_of(parse_ring_kind(text));
      (void)value_of(parse_storage_kind(text));
      break;
    case 8: {
      const Result<void> checked = check_volume_name(text);
      if (checked.has_value()) AGRO_ASSERT(text.find('/') == std::string_view::npos);
      break;
    }
    default: {
      auto parsed = parse_ring_json(text);
      if (value_of(parsed) != nullptr) (void)value_of(make_ring(std::move(*parsed)));
      break;
    }
  }
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  agro::parse_texts(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}
