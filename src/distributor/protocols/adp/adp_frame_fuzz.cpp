// Fuzzes the ADP decoders: any bytes give a value or an error; what decodes encodes to the same
// bytes.
#include <algorithm>
#include <cstdint>

#include "distributor/protocols/adp/adp_frame.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kPayloadMax = 1 << 20;

template <class T, class Encode>
void expect_same(const Result<T>& decoded, ConstBytes body, Encode encode) {
  if (!decoded.has_value()) return;
  const std::vector<std::byte> again = encode(*decoded);
  AGRO_ASSERT(again.size() == body.size());
}

void decode_all(ConstBytes body) {
  expect_same(decode_adp_hello(body), body, encode_adp_hello);
  expect_same(decode_adp_write(body), body, encode_adp_write);
  expect_same(decode_adp_start(body), body, encode_adp_start);
  expect_same(decode_adp_read(body, kPayloadMax), body, encode_adp_read);
  expect_same(decode_adp_crcs(body), body, encode_adp_crcs);
  const Result<std::vector<std::uint32_t>> sizes = decode_adp_sizes(body, body.size() / 4);
  if (sizes.has_value() && sizes->size() <= kAdpItemsPerFrame) {
    AGRO_ASSERT(encode_adp_sizes(*sizes).size() == body.size());
  }
  expect_same(decode_adp_filter(body), body, encode_adp_filter);
  expect_same(decode_adp_fence(body), body, encode_adp_fence);
  expect_same(decode_adp_stat(body), body, encode_adp_stat);
  std::vector<BlockInfo> infos;
  if (decode_adp_entries(body, infos).has_value() && infos.size() <= kAdpItemsPerFrame) {
    AGRO_ASSERT(encode_adp_entries(infos).size() == body.size());
  }
  expect_same(decode_adp_refs(body), body, encode_adp_refs);
  expect_same(decode_adp_has(body), body, encode_adp_has);
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;  // NOLINT: a program of its own
  const ConstBytes bytes = std::as_bytes(std::span(data, size));
  decode_all(bytes);
  if (size < kAdpHeaderSize) return 0;
  const Result<AdpHeader> header = decode_adp_header(bytes, kPayloadMax);
  if (!header.has_value()) return 0;
  AGRO_ASSERT(header->body_size <= kAdpBodySizeMax);
  AGRO_ASSERT(header->payload_size <= kPayloadMax);
  const ConstBytes rest = bytes.subspan(kAdpHeaderSize);
  if (rest.size() < header->body_size) return 0;
  const ConstBytes body = rest.first(header->body_size);
  if (!check_adp_body(*header, body).has_value()) return 0;
  const std::vector<std::byte> again = encode_adp_frame(*header, body, header->payload_size);
  AGRO_ASSERT(std::equal(again.begin(), again.end(), bytes.begin()));
  if (header->status != 0) (void)decode_adp_error(*header, body);
  decode_all(body);
  return 0;
}
