// Fuzzes block specs and the verification of checksummed blocks.
#include <cstdint>
#include <string>
#include <string_view>

#include "blockset/blockset.hpp"
#include "blockset/crc.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;
  const ConstBytes bytes(reinterpret_cast<const std::byte*>(data), size);
  const Result<BlocksetSpec> spec = parse_blockset_spec(as_text(bytes));
  if (spec.has_value()) {
    const Result<BlocksetSpec> again = parse_blockset_spec(spec->to_string());
    AGRO_ASSERT(again.has_value());
    AGRO_ASSERT(*again == *spec);
  }
  const BlockRef ref{.volume = {7}, .epoch = {1}, .index = 1, .type = BlockType::data};
  const Result<std::uint32_t> payload = crc_verify_block(ref, bytes);
  if (payload.has_value()) AGRO_ASSERT(*payload <= crc_payload_capacity(static_cast<std::uint32_t>(size)));
  (void)crc_table_position(static_cast<std::uint32_t>(size), 0, static_cast<std::uint32_t>(size % 300));
  return 0;
}
