// Fuzzer of ring specs: the bytes are a Ring message and then three words, the ref to place.
#include <algorithm>

#include "base/assert.hpp"
#include "models/codec.hpp"
#include "ring/ring.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  agro::BlockRef ref;
  if (size >= agro::kBlockRefSize) {
    size -= agro::kBlockRefSize;
    ref = agro::decode_block_ref(std::as_bytes(std::span(data + size, agro::kBlockRefSize)));
  }
  auto spec = agro::decode_ring({reinterpret_cast<const char*>(data), size});
  if (!spec.has_value()) return 0;
  const auto ring = agro::make_ring(std::move(*spec));
  if (!ring.has_value()) return 0;
  std::vector<std::uint32_t> order;
  (*ring)->permutation(ref, order);
  AGRO_ASSERT(order.size() == (*ring)->members().size());
  std::vector<std::uint32_t> owners;
  (*ring)->owners(ref, owners);
  AGRO_ASSERT(std::equal(owners.begin(), owners.end(), order.begin()));
  AGRO_ASSERT(owners.size() == std::min<std::size_t>(order.size(), (*ring)->replication()));
  std::sort(order.begin(), order.end());
  for (std::uint32_t index = 0; index < order.size(); ++index) AGRO_ASSERT(order[index] == index);
  const auto again = agro::make_ring((*ring)->spec());
  AGRO_ASSERT(again.has_value() && (*again)->spec() == (*ring)->spec());
  return 0;
}
