#include "internal/nbd/protocol.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace agro::nbd {

namespace {

/// Writes big-endian integers one after another.
class Writer {
 public:
  explicit Writer(MutableBytes out) : out_(out) {}
  template <class T>
  Writer& put(T value) {
    store_be<T>(out_.subspan(position_), value);
    position_ += sizeof(T);
    return *this;
  }
  Writer& text(std::string_view text) {
    AGRO_ASSERT(out_.size() - position_ >= text.size());
    if (!text.empty()) std::memcpy(out_.data() + position_, text.data(), text.size());
    position_ += text.size();
    return *this;
  }
  std::size_t size() const { return position_; }

 private:
  MutableBytes out_;
  std::size_t position_ = 0;
};

/// Reads them back from bytes that nobody vouches for.
class Reader {
 public:
  explicit Reader(ConstBytes bytes) : bytes_(bytes) {}
  /// nullopt-like: false when there are too few bytes.
  template <class T>
  bool get(T& value) {
    if (bytes_.size() < sizeof(T)) return false;
    value = load_be<T>(bytes_);
    bytes_ = bytes_.subspan(sizeof(T));
    return true;
  }
  /// A 32-bit length and that many bytes of text.
  bool get_text(std::string& text) {
    std::uint32_t size = 0;
    if (!get(size) || size > kStringSizeMax || size > bytes_.size()) return false;
    text = as_text(bytes_.first(size));
    bytes_ = bytes_.subspan(size);
    return true;
  }
  std::size_t left() const { return bytes_.size(); }

 private:
  ConstBytes bytes_;
};

template <class T>
void append(std::string& out, T value) {
  std::byte bytes[sizeof(T)];
  store_be<T>(bytes, value);
  out += as_text(bytes);
}

void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}

Result<void> check_magic(std::uint64_t found, std::uint64_t wanted, std::string_view what) {
  if (found == wanted) return {};
  return fail(Errc::protocol_error,
              fmt::format("the magic of {} is {:#x} instead of {:#x}", what, found, wanted));
}

}  // namespace

std::size_t encode_greeting(MutableBytes out, std::uint16_t handshake_flags) {
  return Writer(out).put(kInitMagic).put(kOptionMagic).put(handshake_flags).size();
}

std::size_t encode_option_header(MutableBytes out, const OptionHeader& header) {
  return Writer(out)
      .put(kOptionMagic)
      .put(static_cast<std::uint32_t>(header.option))
      .put(header.size)
      .size();
}

Result<OptionHeader> decode_option_header(ConstBytes bytes) {
  AGRO_TRY_OK(check_magic(load_be<std::uint64_t>(bytes), kOptionMagic, "an option"));
  return OptionHeader{.option = static_cast<Option>(load_be<std::uint32_t>(bytes.subspan(8))),
                      .size = load_be<std::uint32_t>(bytes.subspan(12))};
}

std::size_t encode_option_reply_header(MutableBytes out, const OptionReplyHeader& header) {
  return Writer(out)
      .put(kOptionReplyMagic)
      .put(static_cast<std::uint32_t>(header.option))
      .put(static_cast<std::uint32_t>(header.type))
      .put(header.size)
      .size();
}

Result<OptionReplyHeader> decode_option_reply_header(ConstBytes bytes) {
  AGRO_TRY_OK(check_magic(load_be<std::uint64_t>(bytes), kOptionReplyMagic, "an option reply"));
  return OptionReplyHeader{
      .option = static_cast<Option>(load_be<std::uint32_t>(bytes.subspan(8))),
      .type = static_cast<OptionReplyType>(load_be<std::uint32_t>(bytes.subspan(12))),
      .size = load_be<std::uint32_t>(bytes.subspan(16))};
}

std::size_t encode_export_name_reply(MutableBytes out, std::uint64_t size, std::uint16_t flags,
                                     bool zeroes) {
  Writer writer(out);
  writer.put(size).put(flags);
  if (zeroes) writer.text(std::string(kExportNameZeroesSize, '\0'));
  return writer.size();
}

Result<InfoRequest> decode_info_request(ConstBytes data) {
  Reader reader(data);
  InfoRequest request;
  std::uint16_t type_count = 0;
  if (!reader.get_text(request.name)) {
    return fail(Errc::invalid_argument, "the export name's length does not fit");
  }
  if (!reader.get(type_count) || reader.left() != type_count * sizeof(std::uint16_t)) {
    return fail(Errc::invalid_argument, "the number of information requests does not fit");
  }
  request.types.reserve(type_count);
  for (std::uint16_t type = 0; reader.get(type);) {
    request.types.push_back(static_cast<InfoType>(type));
  }
  return request;
}

Result<MetaRequest> decode_meta_request(ConstBytes data) {
  Reader reader(data);
  MetaRequest request;
  std::uint32_t query_count = 0;
  if (!reader.get_text(request.name)) {
    return fail(Errc::invalid_argument, "the export name's length does not fit");
  }
  if (!reader.get(query_count)) return fail(Errc::invalid_argument, "no number of queries");
  for (; query_count > 0; --query_count) {
    if (!reader.get_text(request.queries.emplace_back())) {
      return fail(Errc::invalid_argument, "a query's length does not fit");
    }
  }
  if (reader.left() != 0) return fail(Errc::invalid_argument, "bytes left over after the queries");
  return request;
}

std::string encode_info_request(const InfoRequest& request) {
  std::string out;
  append_text(out, request.name);
  append(out, static_cast<std::uint16_t>(request.types.size()));
  for (const InfoType type : request.types) append(out, static_cast<std::uint16_t>(type));
  return out;
}

std::string encode_meta_request(const MetaRequest& request) {
  std::string out;
  append_text(out, request.name);
  append(out, static_cast<std::uint32_t>(request.queries.size()));
  for (const std::string& query : request.queries) append_text(out, query);
  return out;
}

std::string encode_server_data(std::string_view name, std::string_view description) {
  std::string out;
  append_text(out, name);
  out += description;
  return out;
}

std::string encode_info_export(std::uint64_t size, std::uint16_t transmission_flags) {
  std::string out;
  append(out, static_cast<std::uint16_t>(InfoType::export_));
  append(out, size);
  append(out, transmission_flags);
  return out;
}

std::string encode_info_text(InfoType type, std::string_view text) {
  std::string out;
  append(out, static_cast<std::uint16_t>(type));
  out += text;
  return out;
}

std::string encode_info_block_size(std::uint32_t min, std::uint32_t preferred, std::uint32_t max) {
  std::string out;
  append(out, static_cast<std::uint16_t>(InfoType::block_size));
  append(out, min);
  append(out, preferred);
  append(out, max);
  return out;
}

std::string encode_meta_context(std::uint32_t id, std::string_view name) {
  std::string out;
  append(out, id);
  out += name;
  return out;
}

std::size_t encode_request(MutableBytes out, const Request& request) {
  return Writer(out)
      .put(kRequestMagic)
      .put(request.flags)
      .put(static_cast<std::uint16_t>(request.command))
      .put(request.cookie)
      .put(request.offset)
      .put(request.size)
      .size();
}

Result<Request> decode_request(ConstBytes bytes) {
  AGRO_ASSERT(bytes.size() >= kRequestSize);
  AGRO_TRY_OK(check_magic(load_be<std::uint32_t>(bytes), kRequestMagic, "a request"));
  return Request{.flags = load_be<std::uint16_t>(bytes.subspan(4)),
                 .command = static_cast<Command>(load_be<std::uint16_t>(bytes.subspan(6))),
                 .cookie = load_be<std::uint64_t>(bytes.subspan(8)),
                 .offset = load_be<std::uint64_t>(bytes.subspan(16)),
                 .size = load_be<std::uint32_t>(bytes.subspan(24))};
}

std::size_t encode_simple_reply(MutableBytes out, const SimpleReply& reply) {
  return Writer(out)
      .put(kSimpleReplyMagic)
      .put(static_cast<std::uint32_t>(reply.error))
      .put(reply.cookie)
      .size();
}

Result<SimpleReply> decode_simple_reply(ConstBytes bytes) {
  AGRO_TRY_OK(check_magic(load_be<std::uint32_t>(bytes), kSimpleReplyMagic, "a simple reply"));
  return SimpleReply{.error = static_cast<WireError>(load_be<std::uint32_t>(bytes.subspan(4))),
                     .cookie = load_be<std::uint64_t>(bytes.subspan(8))};
}

std::size_t encode_chunk_header(MutableBytes out, const ChunkHeader& header) {
  return Writer(out)
      .put(kStructuredReplyMagic)
      .put(header.flags)
      .put(static_cast<std::uint16_t>(header.type))
      .put(header.cookie)
      .put(header.size)
      .size();
}

Result<ChunkHeader> decode_chunk_header(ConstBytes bytes) {
  AGRO_TRY_OK(check_magic(load_be<std::uint32_t>(bytes), kStructuredReplyMagic, "a chunk"));
  return ChunkHeader{.flags = load_be<std::uint16_t>(bytes.subspan(4)),
                     .type = static_cast<ChunkType>(load_be<std::uint16_t>(bytes.subspan(6))),
                     .cookie = load_be<std::uint64_t>(bytes.subspan(8)),
                     .size = load_be<std::uint32_t>(bytes.subspan(16))};
}

std::size_t encode_offset_data_header(MutableBytes out, std::uint64_t cookie, std::uint64_t offset,
                                      std::uint32_t size, ChunkPlace place) {
  encode_chunk_header(out, {.flags = place == ChunkPlace::last ? kChunkDone : std::uint16_t{0},
                            .type = ChunkType::offset_data,
                            .cookie = cookie,
                            .size = static_cast<std::uint32_t>(size + sizeof offset)});
  store_be(out.subspan(kChunkHeaderSize), offset);
  return kOffsetDataHeaderSize;
}

std::size_t encode_error_chunk(MutableBytes out, std::uint64_t cookie, WireError error,
                               std::string_view message) {
  constexpr std::size_t kFixedSize = sizeof(std::uint32_t) + sizeof(std::uint16_t);
  AGRO_ASSERT(out.size() >= kChunkHeaderSize + kFixedSize);
  const std::size_t room = out.size() - kChunkHeaderSize - kFixedSize;
  message = message.substr(0, std::min<std::size_t>(room, kStringSizeMax));
  encode_chunk_header(out, {.flags = kChunkDone,
                            .type = ChunkType::error,
                            .cookie = cookie,
                            .size = static_cast<std::uint32_t>(kFixedSize + message.size())});
  return kChunkHeaderSize + Writer(out.subspan(kChunkHeaderSize))
                                .put(static_cast<std::uint32_t>(error))
                                .put(static_cast<std::uint16_t>(message.size()))
                                .text(message)
                                .size();
}

std::size_t encode_block_status_chunk(MutableBytes out, std::uint64_t cookie,
                                      std::uint32_t context_id,
                                      const std::vector<StatusDescriptor>& descriptors) {
  encode_chunk_header(
      out, {.flags = kChunkDone,
            .type = ChunkType::block_status,
            .cookie = cookie,
            .size = static_cast<std::uint32_t>(sizeof context_id +
                                               sizeof(StatusDescriptor) * descriptors.size())});
  Writer writer(out.subspan(kChunkHeaderSize));
  writer.put(context_id);
  for (const StatusDescriptor& one : descriptors) writer.put(one.size).put(one.flags);
  return kChunkHeaderSize + writer.size();
}

WireError to_wire_error(Errc code) {
  switch (code) {
    case Errc::ok:
      return WireError::none;
    case Errc::invalid_argument:
      return WireError::einval;
    case Errc::out_of_space:
      return WireError::enospc;
    case Errc::too_large:
      return WireError::eoverflow;
    case Errc::not_supported:
      return WireError::enotsup;
    case Errc::closed:
      return WireError::eshutdown;
    default:
      return WireError::eio;
  }
}

}  // namespace agro::nbd
