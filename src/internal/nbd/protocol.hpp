// The NBD wire: every magic, number, flag and message that our server speaks, and nothing else.
//
// Invariants: pure functions over bytes; all integers are big-endian. Encoders write to the front
// of `out`, which has room, and return how many bytes they wrote. Format: docs/formats/nbd.md.
// Source: doc/proto.md of the NetworkBlockDevice/nbd project.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"

namespace agro::nbd {

// ---- Limits

inline constexpr std::uint32_t kPayloadSizeMax = 32U << 20;  // of one READ or WRITE
inline constexpr std::uint32_t kBlockSizeMin = 1;
inline constexpr std::uint32_t kBlockSizePreferred = 4096;
inline constexpr std::uint32_t kStringSizeMax = 4096;  // names, queries, messages

// ---- Handshake: the server's greeting, the client's flags, then options one at a time

inline constexpr std::uint64_t kInitMagic = 0x4E42444D41474943;    // "NBDMAGIC"
inline constexpr std::uint64_t kOptionMagic = 0x49484156454F5054;  // "IHAVEOPT"
inline constexpr std::uint64_t kOptionReplyMagic = 0x0003E889045565A9;

inline constexpr std::uint16_t kFixedNewstyle = 1 << 0;  // handshake flags, and the client's answer
inline constexpr std::uint16_t kNoZeroes = 1 << 1;

/// Transmission flags: what an export can do.
enum TransmissionFlag : std::uint16_t {
  kHasFlags = 1 << 0,
  kReadOnly = 1 << 1,
  kSendFlush = 1 << 2,
  kSendFua = 1 << 3,
  kRotational = 1 << 4,
  kSendTrim = 1 << 5,
  kSendWriteZeroes = 1 << 6,
  kSendDontFragment = 1 << 7,  // structured replies only
  kCanMultiConn = 1 << 8,
  kSendResize = 1 << 9,
  kSendCache = 1 << 10,
  kSendFastZero = 1 << 11,
};

enum class Option : std::uint32_t {
  export_name = 1,
  abort = 2,
  list = 3,
  peek_export = 4,  // withdrawn
  start_tls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
  extended_headers = 11,
};

/// Errors have bit 31 set.
enum class OptionReplyType : std::uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  error_unsupported = 0x80000001,
  error_policy = 0x80000002,
  error_invalid = 0x80000003,
  error_platform = 0x80000004,
  error_tls_required = 0x80000005,
  error_unknown_export = 0x80000006,
  error_shutdown = 0x80000007,
  error_block_size_required = 0x80000008,
  error_too_big = 0x80000009,
};

enum class InfoType : std::uint16_t { export_ = 0, name = 1, description = 2, block_size = 3 };

inline constexpr std::string_view kBaseAllocation = "base:allocation";
inline constexpr std::uint32_t kStateHole = 1 << 0;  // flags of a base:allocation extent
inline constexpr std::uint32_t kStateZero = 1 << 1;

inline constexpr std::size_t kGreetingSize = 18;
inline constexpr std::size_t kClientFlagsSize = 4;
inline constexpr std::size_t kOptionHeaderSize = 16;
inline constexpr std::size_t kOptionReplyHeaderSize = 20;
inline constexpr std::size_t kExportNameReplySize = 10;
inline constexpr std::size_t kExportNameZeroesSize = 124;

/// The head of an option; `size` bytes of data follow.
struct OptionHeader {
  Option option{};
  std::uint32_t size = 0;
};

/// The head of a reply to an option; `size` bytes of data follow.
struct OptionReplyHeader {
  Option option{};
  OptionReplyType type{};
  std::uint32_t size = 0;
};

/// Data of INFO and GO.
struct InfoRequest {
  std::string name;
  std::vector<InfoType> types;
};

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
struct MetaRequest {
  std::string name;
  std::vector<std::string> queries;
};

std::size_t encode_greeting(MutableBytes out, std::uint16_t handshake_flags);
std::size_t encode_option_header(MutableBytes out, const OptionHeader& header);
/// Errors: protocol_error (wrong magic). Shape: kOptionHeaderSize bytes.
Result<OptionHeader> decode_option_header(ConstBytes bytes);
std::size_t encode_option_reply_header(MutableBytes out, const OptionReplyHeader& header);
/// Errors: protocol_error (wrong magic). Shape: kOptionReplyHeaderSize bytes.
Result<OptionReplyHeader> decode_option_reply_header(ConstBytes bytes);
/// The answer to EXPORT_NAME: 10 bytes, and 124 zeroes unless the client asked for none.
std::size_t encode_export_name_reply(MutableBytes out, std::uint64_t size, std::uint16_t flags,
                                     bool zeroes);

/// Errors of both: invalid_argument, when lengths do not add up or a string is too long.
Result<InfoRequest> decode_info_request(ConstBytes data);
Result<MetaRequest> decode_meta_request(ConstBytes data);

// Data of option requests and replies, as whole byte strings: nobody is in a hurry here.
std::string encode_info_request(const InfoRequest& request);
std::string encode_meta_request(const MetaRequest& request);
std::string encode_server_data(std::string_view name, std::string_view description);
std::string encode_info_export(std::uint64_t size, std::uint16_t transmission_flags);
std::string encode_info_text(InfoType type, std::string_view text);
std::string encode_info_block_size(std::uint32_t min, std::uint32_t preferred, std::uint32_t max);
std::string encode_meta_context(std::uint32_t id, std::string_view name);

// ---- Transmission: requests one way, simple replies and structured chunks the other

inline constexpr std::uint32_t kRequestMagic = 0x25609513;
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr std::uint32_t kStructuredReplyMagic = 0x668E33EF;

enum class Command : std::uint16_t {
  read = 0,
  write = 1,  // payload follows
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
};

enum CommandFlag : std::uint16_t {
  kFua = 1 << 0,           // any command; means something for write, trim, write_zeroes
  kNoHole = 1 << 1,        // write_zeroes
  kDontFragment = 1 << 2,  // read, with structured replies
  kReqOne = 1 << 3,        // block_status
  kFastZero = 1 << 4,      // write_zeroes
};

/// Error numbers on the wire.
enum class WireError : std::uint32_t {
  none = 0,
  eperm = 1,
  eio = 5,
  enomem = 12,
  einval = 22,
  enospc = 28,
  eoverflow = 75,
  enotsup = 95,
  eshutdown = 108,
};

/// Errors have bit 15 set.
enum class ChunkType : std::uint16_t {
  none = 0,
  offset_data = 1,
  offset_hole = 2,
  block_status = 5,
  error = 0x8001,
  error_offset = 0x8002,
};
inline constexpr std::uint16_t kChunkDone = 1 << 0;
enum class ChunkPlace : bool { earlier, last };  // in its reply

inline constexpr std::size_t kRequestSize = 28;
inline constexpr std::size_t kSimpleReplySize = 16;
inline constexpr std::size_t kChunkHeaderSize = 20;
inline constexpr std::size_t kOffsetDataHeaderSize = kChunkHeaderSize + 8;

/// One request; `size` bytes of payload follow a write.
struct Request {
  std::uint16_t flags = 0;
  Command command{};
  std::uint64_t cookie = 0;  // the client's name for it, "handle" in older texts
  std::uint64_t offset = 0;
  std::uint32_t size = 0;
};

struct SimpleReply {
  WireError error = WireError::none;
  std::uint64_t cookie = 0;
};

/// The head of one structured chunk; `size` bytes of payload follow.
struct ChunkHeader {
  std::uint16_t flags = 0;
  ChunkType type{};
  std::uint64_t cookie = 0;
  std::uint32_t size = 0;
};

/// One descriptor of a block_status chunk.
struct StatusDescriptor {
  std::uint32_t size = 0;
  std::uint32_t flags = 0;
};

std::size_t encode_request(MutableBytes out, const Request& request);
/// Errors: protocol_error (wrong magic). Shape: at least kRequestSize bytes.
Result<Request> decode_request(ConstBytes bytes);
std::size_t encode_simple_reply(MutableBytes out, const SimpleReply& reply);
Result<SimpleReply> decode_simple_reply(ConstBytes bytes);
std::size_t encode_chunk_header(MutableBytes out, const ChunkHeader& header);
Result<ChunkHeader> decode_chunk_header(ConstBytes bytes);
/// Head of a chunk of a read, the last one or not: `size` bytes from `offset` follow.
std::size_t encode_offset_data_header(MutableBytes out, std::uint64_t cookie, std::uint64_t offset,
                                      std::uint32_t size, ChunkPlace place = ChunkPlace::last);
/// A whole last error chunk; `message` is cut to what fits in `out` and in a string.
std::size_t encode_error_chunk(MutableBytes out, std::uint64_t cookie, WireError error,
                               std::string_view message);
/// A whole last block_status chunk of context `context_id`.
std::size_t encode_block_status_chunk(MutableBytes out, std::uint64_t cookie,
                                      std::uint32_t context_id,
                                      const std::vector<StatusDescriptor>& descriptors);

/// What a failure of ours is called on the wire; EIO unless something fits better.
WireError to_wire_error(Errc code);

}  // namespace agro::nbd
