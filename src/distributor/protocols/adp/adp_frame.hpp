// The ADP codec: frames and bodies to bytes and back.
//
// Invariants: decoders take any bytes and never read beyond them; what they return is in range.
// Threading: pure functions. Format: docs/formats/adp.md. Source: DESIGN.md section 8.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "core/block_ref.hpp"
#include "core/uuid.hpp"
#include "distributor/peer.hpp"
#include "storage/block_store.hpp"

namespace agro {

enum class AdpOp : std::uint8_t {
  hello = 1,
  write = 2,
  read = 3,
  has = 4,
  list = 5,
  remove = 6,
  fence = 7,
  stat = 8,
  report = 9,
  start = 10,
};
/// "write"; "unknown" for others.
std::string_view adp_op_name(AdpOp op);

inline constexpr std::uint32_t kAdpMagic = 0x31504441;  // "ADP1"
inline constexpr std::uint8_t kAdpVersion = 1;
inline constexpr std::uint8_t kAdpReplyBit = 0x80;
inline constexpr std::uint8_t kAdpWriteChecksummed = 1;
inline constexpr std::uint8_t kAdpWriteReserve = 2;
inline constexpr std::uint8_t kAdpWriteRepair = 4;
inline constexpr std::uint8_t kAdpWriteKeep = 8;
inline constexpr std::uint8_t kAdpReadWithCrcs = 1;
inline constexpr std::uint8_t kAdpListMore = 1;

/// A frame's first bytes (docs/formats/adp.md, "Frame"). Little-endian.
struct AdpHeader {
  std::uint32_t magic = kAdpMagic;     //  0
  std::uint8_t version = kAdpVersion;  //  4
  std::uint8_t op = 0;                 //  5  AdpOp, with kAdpReplyBit in replies
  std::uint8_t status = 0;             //  6  Errc
  std::uint8_t flags = 0;              //  7
  std::uint64_t request_id = 0;        //  8
  std::uint32_t body_size = 0;         // 16
  std::uint32_t payload_size = 0;      // 20
  std::uint32_t body_crc32c = 0;       // 24
  std::uint32_t header_crc32c = 0;     // 28  of bytes [0, 28)

  bool is_reply() const { return (op & kAdpReplyBit) != 0; }
  AdpOp operation() const { return static_cast<AdpOp>(op & ~kAdpReplyBit); }
  Errc error() const { return static_cast<Errc>(status); }
};
inline constexpr std::uint32_t kAdpHeaderSize = 32;
static_assert(sizeof(AdpHeader) == kAdpHeaderSize && offsetof(AdpHeader, header_crc32c) == 28);
static_assert(std::has_unique_object_representations_v<AdpHeader>, "no hidden padding");

/// A header and its body fit one input buffer of 64 KiB.
inline constexpr std::uint32_t kAdpBodySizeMax = 64 * 1024 - kAdpHeaderSize;
inline constexpr std::uint32_t kAdpErrorTextMax = 1024;
inline constexpr std::size_t kAdpListEntrySize = kBlockRefSize + 4;
/// Entries of a list reply, and refs of a remove request, per frame.
inline constexpr std::size_t kAdpItemsPerFrame = 2000;
static_assert(kAdpItemsPerFrame * kAdpListEntrySize <= kAdpBodySizeMax);

/// Fills in sizes and checksums; returns header and body, to be followed by the payload.
std::vector<std::byte> encode_adp_frame(AdpHeader header, ConstBytes body,
                                        std::uint32_t payload_size);
/// Shape: at least kAdpHeaderSize bytes. Errors: protocol_error; not_supported (another version).
Result<AdpHeader> decode_adp_header(ConstBytes bytes, std::uint32_t payload_size_max);
/// Errors: protocol_error.
Result<void> check_adp_body(const AdpHeader& header, ConstBytes body);

/// The reply that refuses a request.
std::vector<std::byte> encode_adp_error(AdpOp op, std::uint64_t request_id, const Error& error);
/// The error of a reply with a status. Shape: the status is not 0.
Error decode_adp_error(const AdpHeader& header, ConstBytes body);

struct AdpHello {
  Uuid cluster;
  PeerId peer;  // nil: a client
  std::uint32_t block_size = 0;
  bool operator==(const AdpHello&) const = default;
};
std::vector<std::byte> encode_adp_hello(const AdpHello& hello);
Result<AdpHello> decode_adp_hello(ConstBytes body);

struct AdpWrite {
  BlockRef ref;
  std::uint64_t ring_version = 0;
  bool operator==(const AdpWrite&) const = default;
};
std::vector<std::byte> encode_adp_write(const AdpWrite& write);
Result<AdpWrite> decode_adp_write(ConstBytes body);

struct AdpRead {
  BlockRef ref;
  std::uint32_t offset = 0;
  std::uint32_t size = 0;
  bool operator==(const AdpRead&) const = default;
};
std::vector<std::byte> encode_adp_read(const AdpRead& read);
/// Errors: protocol_error; size is 1 to `size_max`, and offset + size does not wrap.
Result<AdpRead> decode_adp_read(ConstBytes body, std::uint32_t size_max);

std::vector<std::byte> encode_adp_crcs(const std::vector<std::uint32_t>& crcs);
Result<std::vector<std::uint32_t>> decode_adp_crcs(ConstBytes body);

struct AdpHas {
  std::uint64_t ring_version = 0;
  std::vector<BlockRef> refs;  // at most kAdpItemsPerFrame
  bool operator==(const AdpHas&) const = default;
};
std::vector<std::byte> encode_adp_has(const AdpHas& has);
Result<AdpHas> decode_adp_has(ConstBytes body);

/// Sizes of blocks, in the order asked for. Shape: at most kAdpItemsPerFrame.
std::vector<std::byte> encode_adp_sizes(std::span<const std::uint32_t> sizes);
/// Errors: protocol_error, unless there are `count`.
Result<std::vector<std::uint32_t>> decode_adp_sizes(ConstBytes body, std::size_t count);

std::vector<std::byte> encode_adp_filter(const BlockFilter& filter);
Result<BlockFilter> decode_adp_filter(ConstBytes body);
/// Shape: at most kAdpItemsPerFrame.
std::vector<std::byte> encode_adp_entries(std::span<const BlockInfo> entries);
/// Appends to `out`.
Result<void> decode_adp_entries(ConstBytes body, std::vector<BlockInfo>& out);

/// Shape: at most kAdpItemsPerFrame.
std::vector<std::byte> encode_adp_refs(std::span<const BlockRef> refs);
Result<std::vector<BlockRef>> decode_adp_refs(ConstBytes body);

struct AdpFence {
  VolumeId volume;
  Epoch epoch;
  bool operator==(const AdpFence&) const = default;
};
std::vector<std::byte> encode_adp_fence(const AdpFence& fence);
Result<AdpFence> decode_adp_fence(ConstBytes body);

std::vector<std::byte> encode_adp_start(WorkKind kind);
/// Errors: protocol_error (no such kind).
Result<WorkKind> decode_adp_start(ConstBytes body);

std::vector<std::byte> encode_adp_stat(const PeerStat& stat);
Result<PeerStat> decode_adp_stat(ConstBytes body);

}  // namespace agro
