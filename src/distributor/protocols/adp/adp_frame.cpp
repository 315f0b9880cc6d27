#include "distributor/protocols/adp/adp_frame.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/crc32c.hpp"

namespace agro {
namespace {

constexpr std::size_t kHelloSize = 48;
constexpr std::size_t kWriteSize = kBlockRefSize + 8;
constexpr std::size_t kReadSize = kBlockRefSize + 8;
constexpr std::size_t kFilterSize = 32;
constexpr std::size_t kFenceSize = 16;
constexpr std::size_t kStatSize = 72;

constexpr std::uint32_t kFilterVolume = 1;
constexpr std::uint32_t kFilterType = 2;
constexpr std::uint32_t kFilterEpoch = 4;

template <class... Args>
tl::unexpected<Error> malformed(fmt::format_string<Args...> format, Args&&... args) {
  return fail(Errc::protocol_error, fmt::format(format, std::forward<Args>(args)...));
}

Result<void> expect_size(ConstBytes body, std::size_t size, std::string_view what) {
  if (body.size() != size) {
    return malformed("{} body of {} bytes instead of {}", what, body.size(), size);
  }
  return {};
}

Result<void> expect_items(ConstBytes body, std::size_t item_size, std::string_view what) {
  if (body.size() % item_size != 0) {
    return malformed("{} body of {} bytes, not a multiple of {}", what, body.size(), item_size);
  }
  return {};
}

std::uint32_t header_crc(ConstBytes header) {
  return crc32c(header.first(offsetof(AdpHeader, header_crc32c)));
}

std::uint8_t known_flags(const AdpHeader& header) {
  switch (header.operation()) {
    case AdpOp::write:
      return header.is_reply() ? 0 : kAdpWriteChecksummed | kAdpWriteReserve |
                                            kAdpWriteRepair | kAdpWriteKeep;
    case AdpOp::read:
      return header.is_reply() ? 0 : kAdpReadWithCrcs;
    case AdpOp::list:
      return header.is_reply() ? kAdpListMore : 0;
    default:
      return 0;
  }
}

bool may_have_payload(const AdpHeader& header) {
  if (header.status != 0) return false;
  return header.is_reply() ? header.operation() == AdpOp::read : header.operation() == AdpOp::write;
}

void put_uuid(std::vector<std::byte>& out, std::size_t at, const Uuid& id) {
  std::memcpy(out.data() + at, id.bytes.data(), id.bytes.size());
}

Uuid get_uuid(ConstBytes bytes, std::size_t at) {
  Uuid id;
  std::memcpy(id.bytes.data(), bytes.data() + at, id.bytes.size());
  return id;
}

template <class T>
void put(std::vector<std::byte>& out, std::size_t at, T value) {
  store<T>(MutableBytes(out).subspan(at), value);
}

template <class T>
T get(ConstBytes bytes, std::size_t at) {
  return load<T>(bytes.subspan(at));
}

}  // namespace

std::string_view adp_op_name(AdpOp op) {
  switch (op) {
    case AdpOp::hello:
      return "hello";
    case AdpOp::write:
      return "write";
    case AdpOp::read:
      return "read";
    case AdpOp::has:
      return "has";
    case AdpOp::list:
      return "list";
    case AdpOp::remove:
      return "remove";
    case AdpOp::fence:
      return "fence";
    case AdpOp::stat:
      return "stat";
    case AdpOp::report:
      return "report";
    case AdpOp::start:
      return "start";
  }
  return "unknown";
}

std::vector<std::byte> encode_adp_frame(AdpHeader header, ConstBytes body,
                                        std::uint32_t payload_size) {
  AGRO_ASSERT(body.size() <= kAdpBodySizeMax);
  header.body_size = static_cast<std::uint32_t>(body.size());
  header.payload_size = payload_size;
  header.body_crc32c = body.empty() ? 0 : crc32c(body);
  header.header_crc32c = header_crc(std::as_bytes(std::span(&header, 1)));
  std::vector<std::byte> bytes(kAdpHeaderSize + body.size());
  store(bytes, header);
  if (!body.empty()) std::memcpy(bytes.data() + kAdpHeaderSize, body.data(), body.size());
  return bytes;
}

Result<AdpHeader> decode_adp_header(ConstBytes bytes, std::uint32_t payload_size_max) {
  const auto header = load<AdpHeader>(bytes);
  if (header.magic != kAdpMagic) return malformed("not an ADP frame");
  if (header.version != kAdpVersion) {
    return fail(Errc::not_supported, fmt::format("ADP version {} is not supported, only {}",
                                                 header.version, kAdpVersion));
  }
  if (header.header_crc32c != header_crc(bytes)) return malformed("header checksum");
  const AdpOp op = header.operation();
  if (op < AdpOp::hello || op > AdpOp::start) {
    return malformed("unknown operation {}", header.op & ~kAdpReplyBit);
  }
  if (!header.is_reply() && header.status != 0) return malformed("a request with a status");
  if ((header.flags & ~known_flags(header)) != 0) {
    return malformed("unknown flags {:#x} for {}", header.flags, adp_op_name(op));
  }
  if (header.body_size > kAdpBodySizeMax) return malformed("a body of {} bytes", header.body_size);
  if (header.status != 0 && header.body_size > kAdpErrorTextMax) {
    return malformed("an error text of {} bytes", header.body_size);
  }
  if (header.payload_size > 0 && !may_have_payload(header)) {
    return malformed("a payload where {} has none", adp_op_name(op));
  }
  if (header.payload_size > payload_size_max) {
    return malformed("a payload of {} bytes, more than {}", header.payload_size, payload_size_max);
  }
  return header;
}

Result<void> check_adp_body(const AdpHeader& header, ConstBytes body) {
  AGRO_ASSERT(body.size() == header.body_size);
  const std::uint32_t expected = body.empty() ? 0 : crc32c(body);
  if (header.body_crc32c != expected) return malformed("body checksum");
  return {};
}

std::vector<std::byte> encode_adp_error(AdpOp op, std::uint64_t request_id, const Error& error) {
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(op) | kAdpReplyBit;
  header.status = static_cast<std::uint8_t>(error.code);
  header.request_id = request_id;
  const std::string_view text = std::string_view(error.message).substr(0, kAdpErrorTextMax);
  return encode_adp_frame(header, as_bytes(text), 0);
}

Error decode_adp_error(const AdpHeader& header, ConstBytes body) {
  AGRO_ASSERT(header.status != 0);
  std::string text(as_text(body));
  // It is printed: no control characters from the other side.
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 32; }, ' ');
  const Errc code = header.error();
  if (errc_name(code) == errc_name(static_cast<Errc>(255))) {
    return {Errc::protocol_error, fmt::format("unknown status {}: {}", header.status, text)};
  }
  return {code, std::move(text)};
}

std::vector<std::byte> encode_adp_hello(const AdpHello& hello) {
  std::vector<std::byte> body(kHelloSize);
  put_uuid(body, 0, hello.cluster);
  put_uuid(body, 16, hello.peer);
  put(body, 32, hello.block_size);
  return body;
}

Result<AdpHello> decode_adp_hello(ConstBytes body) {
  AGRO_TRY_OK(expect_size(body, kHelloSize, "hello"));
  return AdpHello{get_uuid(body, 0), get_uuid(body, 16), get<std::uint32_t>(body, 32)};
}

std::vector<std::byte> encode_adp_write(const AdpWrite& write) {
  std::vector<std::byte> body(kWriteSize);
  encode_block_ref(write.ref, body);
  put(body, kBlockRefSize, write.ring_version);
  return body;
}

Result<AdpWrite> decode_adp_write(ConstBytes body) {
  AGRO_TRY_OK(expect_size(body, kWriteSize, "write"));
  return AdpWrite{decode_block_ref(body), get<std::uint64_t>(body, kBlockRefSize)};
}

std::vector<std::byte> encode_adp_read(const AdpRead& read) {
  std::vector<std::byte> body(kReadSize);
  encode_block_ref(read.ref, body);
  put(body, kBlockRefSize, read.offset);
  put(body, kBlockRefSize + 4, read.size);
  return body;
}

Result<AdpRead> decode_adp_read(ConstBytes body, std::uint32_t size_max) {
  AGRO_TRY_OK(expect_size(body, kReadSize, "read"));
  const AdpRead read{decode_block_ref(body), get<std::uint32_t>(body, kBlockRefSize),
                     get<std::uint32_t>(body, kBlockRefSize + 4)};
  if (read.size == 0 || read.size > size_max || read.offset > size_max) {
    return malformed("read of {} bytes at {}", read.size, read.offset);
  }
  return read;
}

std::vector<std::byte> encode_adp_crcs(const std::vector<std::uint32_t>& crcs) {
  const ConstBytes bytes = std::as_bytes(std::span(crcs));
  return {bytes.begin(), bytes.end()};
}

Result<std::vector<std::uint32_t>> decode_adp_crcs(ConstBytes body) {
  AGRO_TRY_OK(expect_items(body, 4, "read reply"));
  std::vector<std::uint32_t> crcs(body.size() / 4);
  if (!body.empty()) std::memcpy(crcs.data(), body.data(), body.size());
  return crcs;
}

std::vector<std::byte> encode_adp_sizes(std::span<const std::uint32_t> sizes) {
  AGRO_ASSERT(sizes.size() <= kAdpItemsPerFrame);
  const ConstBytes bytes = std::as_bytes(sizes);
  return {bytes.begin(), bytes.end()};
}

Result<std::vector<std::uint32_t>> decode_adp_sizes(ConstBytes body, std::size_t count) {
  AGRO_TRY_OK(expect_size(body, 4 * count, "has reply"));
  std::vector<std::uint32_t> sizes(count);
  if (!body.empty()) std::memcpy(sizes.data(), body.data(), body.size());
  return sizes;
}

std::vector<std::byte> encode_adp_filter(const BlockFilter& filter) {
  std::vector<std::byte> body(kFilterSize);
  const std::uint32_t which = (filter.volume ? kFilterVolume : 0) |
                              (filter.type ? kFilterType : 0) | (filter.epoch ? kFilterEpoch : 0);
  put(body, 0, which);
  put(body, 4, filter.type ? static_cast<std::uint32_t>(*filter.type) : 0);
  put(body, 8, filter.volume ? filter.volume->value : 0);
  put(body, 16, filter.epoch ? filter.epoch->value : 0);
  put(body, 24, filter.index_from);
  return body;
}

Result<BlockFilter> decode_adp_filter(ConstBytes body) {
  AGRO_TRY_OK(expect_size(body, kFilterSize, "list"));
  const auto which = get<std::uint32_t>(body, 0);
  if ((which & ~(kFilterVolume | kFilterType | kFilterEpoch)) != 0) {
    return malformed("unknown list filter {:#x}", which);
  }
  BlockFilter filter;
  if ((which & kFilterVolume) != 0) filter.volume = VolumeId{get<std::uint64_t>(body, 8)};
  if ((which & kFilterType) != 0) {
    const auto type = get<std::uint32_t>(body, 4);
    if (type > 255) return malformed("unknown block type {}", type);
    filter.type = static_cast<BlockType>(type);
  }
  if ((which & kFilterEpoch) != 0) filter.epoch = Epoch{get<std::uint64_t>(body, 16)};
  filter.index_from = get<std::uint64_t>(body, 24);
  return filter;
}

std::vector<std::byte> encode_adp_entries(std::span<const BlockInfo> entries) {
  AGRO_ASSERT(entries.size() <= kAdpItemsPerFrame);
  std::vector<std::byte> body(entries.size() * kAdpListEntrySize);
  std::size_t at = 0;
  for (const BlockInfo& entry : entries) {
    encode_block_ref(entry.ref, MutableBytes(body).subspan(at));
    put(body, at + kBlockRefSize, entry.size);
    at += kAdpListEntrySize;
  }
  return body;
}

Result<void> decode_adp_entries(ConstBytes body, std::vector<BlockInfo>& out) {
  AGRO_TRY_OK(expect_items(body, kAdpListEntrySize, "list reply"));
  for (; !body.empty(); body = body.subspan(kAdpListEntrySize)) {
    out.push_back({decode_block_ref(body), get<std::uint32_t>(body, kBlockRefSize)});
  }
  return {};
}

std::vector<std::byte> encode_adp_refs(std::span<const BlockRef> refs) {
  AGRO_ASSERT(refs.size() <= kAdpItemsPerFrame);
  std::vector<std::byte> body(refs.size() * kBlockRefSize);
  std::size_t at = 0;
  for (const BlockRef& ref : refs) {
    encode_block_ref(ref, MutableBytes(body).subspan(at));
    at += kBlockRefSize;
  }
  return body;
}

Result<std::vector<BlockRef>> decode_adp_refs(ConstBytes body) {
  AGRO_TRY_OK(expect_items(body, kBlockRefSize, "list of refs"));
  if (body.size() > kAdpItemsPerFrame * kBlockRefSize) return malformed("too many refs");
  std::vector<BlockRef> refs;
  refs.reserve(body.size() / kBlockRefSize);
  for (; !body.empty(); body = body.subspan(kBlockRefSize)) refs.push_back(decode_block_ref(body));
  return refs;
}

std::vector<std::byte> encode_adp_has(const AdpHas& has) {
  std::vector<std::byte> body = encode_adp_refs(has.refs);
  body.insert(body.begin(), 8, std::byte{0});
  put(body, 0, has.ring_version);
  return body;
}

Result<AdpHas> decode_adp_has(ConstBytes body) {
  if (body.size() < 8) return malformed("has body of {} bytes", body.size());
  AGRO_TRY(std::vector<BlockRef> refs, decode_adp_refs(body.subspan(8)));
  return AdpHas{get<std::uint64_t>(body, 0), std::move(refs)};
}

std::vector<std::byte> encode_adp_fence(const AdpFence& fence) {
  std::vector<std::byte> body(kFenceSize);
  put(body, 0, fence.volume.value);
  put(body, 8, fence.epoch.value);
  return body;
}

Result<AdpFence> decode_adp_fence(ConstBytes body) {
  AGRO_TRY_OK(expect_size(body, kFenceSize, "fence"));
  const AdpFence fence{VolumeId{get<std::uint64_t>(body, 0)}, Epoch{get<std::uint64_t>(body, 8)}};
  if (fence.volume.value > kVolumeIdMax) return malformed("volume {}", fence.volume.value);
  return fence;
}

std::vector<std::byte> encode_adp_start(WorkKind kind) {
  std::vector<std::byte> body(4);
  put(body, 0, static_cast<std::uint32_t>(kind));
  return body;
}

Result<WorkKind> decode_adp_start(ConstBytes body) {
  AGRO_TRY_OK(expect_size(body, 4, "start"));
  const auto kind = get<std::uint32_t>(body, 0);
  if (kind < 1 || kind > 3) return malformed("unknown kind of work {}", kind);
  return static_cast<WorkKind>(kind);
}

std::vector<std::byte> encode_adp_stat(const PeerStat& stat) {
  std::vector<std::byte> body(kStatSize);
  put_uuid(body, 0, stat.id);
  const StoreStats& s = stat.store;
  std::size_t at = 16;
  for (const std::uint64_t value :
       {s.size, s.used, s.available, s.block_count, s.index_bytes, s.sync_count, s.bytes_written}) {
    put(body, at, value);
    at += 8;
  }
  return body;
}

Result<PeerStat> decode_adp_stat(ConstBytes body) {
  AGRO_TRY_OK(expect_size(body, kStatSize, "stat reply"));
  PeerStat stat;
  stat.id = get_uuid(body, 0);
  StoreStats& s = stat.store;
  std::size_t at = 16;
  for (std::uint64_t* value : {&s.size, &s.used, &s.available, &s.block_count, &s.index_bytes,
                               &s.sync_count, &s.bytes_written}) {
    *value = get<std::uint64_t>(body, at);
    at += 8;
  }
  return stat;
}

}  // namespace agro
