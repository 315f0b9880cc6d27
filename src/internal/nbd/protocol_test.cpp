#include "internal/nbd/protocol.hpp"

#include <gtest/gtest.h>

#include <array>

namespace agro::nbd {
namespace {

std::string hex(ConstBytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += kDigits[static_cast<unsigned>(byte) >> 4];
    text += kDigits[static_cast<unsigned>(byte) & 15];
  }
  return text;
}

/// What `encode` wrote, in hex.
template <class Encode>
std::string encoded(Encode encode) {
  std::array<std::byte, 512> buffer{};
  const std::size_t size = encode(MutableBytes(buffer));
  return hex(ConstBytes(buffer).first(size));
}

// Goal: the bytes are the protocol's. Method: written down by hand from the document.
TEST(NbdProtocolTest, GoldenBytes) {
  EXPECT_EQ(encoded([](MutableBytes out) { return encode_greeting(out, 3); }),
            "4e42444d41474943"
            "49484156454f5054"
            "0003");
  EXPECT_EQ(encoded([](MutableBytes out) {
              return encode_option_header(out, {.option = Option::go, .size = 258});
            }),
            "49484156454f5054"
            "00000007"
            "00000102");
  EXPECT_EQ(encoded([](MutableBytes out) {
              return encode_option_reply_header(
                  out, {.option = Option::list, .type = OptionReplyType::error_policy, .size = 9});
            }),
            "0003e889045565a9"
            "00000003"
            "80000002"
            "00000009");
  EXPECT_EQ(encoded([](MutableBytes out) {
              return encode_export_name_reply(out, 0x0102030405060708, 0x0DED, false);
            }),
            "01020304050607080ded");
  EXPECT_EQ(encoded([](MutableBytes out) {
              return encode_request(out, {.flags = kFua,
                                          .command = Command::write_zeroes,
                                          .cookie = 0xA1A2A3A4A5A6A7A8,
                                          .offset = 0x1122334455667788,
                                          .size = 0x01020304});
            }),
            "25609513"
            "0001"
            "0006"
            "a1a2a3a4a5a6a7a8"
            "1122334455667788"
            "01020304");
  EXPECT_EQ(encoded([](MutableBytes out) {
              return encode_simple_reply(out, {.error = WireError::enospc, .cookie = 7});
            }),
            "67446698"
            "0000001c"
            "0000000000000007");
  EXPECT_EQ(encoded([](MutableBytes out) { return encode_offset_data_header(out, 7, 0x200, 16); }),
            "668e33ef"
            "0001"
            "0001"
            "0000000000000007"
            "00000018"
            "0000000000000200");
  EXPECT_EQ(
      encoded([](MutableBytes out) { return encode_error_chunk(out, 7, WireError::eio, "no"); }),
      "668e33ef"
      "0001"
      "8001"
      "0000000000000007"
      "00000008"
      "00000005"
      "0002"
      "6e6f");
  EXPECT_EQ(encoded([](MutableBytes out) {
              return encode_block_status_chunk(out, 7, 1, {{.size = 512, .flags = 3}});
            }),
            "668e33ef"
            "0001"
            "0005"
            "0000000000000007"
            "0000000c"
            "00000001"
            "00000200"
            "00000003");
}

TEST(NbdProtocolTest, GoldenOptionData) {
  const auto text_hex = [](const std::string& text) { return hex(as_bytes(text)); };
  EXPECT_EQ(text_hex(encode_info_export(0x100000, 0x0D6D)), "000000000000001000000d6d");
  EXPECT_EQ(text_hex(encode_info_text(InfoType::name, "ab")), "00016162");
  EXPECT_EQ(text_hex(encode_info_block_size(1, 4096, 32U << 20)), "0003000000010000100002000000");
  EXPECT_EQ(text_hex(encode_meta_context(1, "x:y")), "00000001783a79");
  EXPECT_EQ(text_hex(encode_server_data("ab", "cd")), "0000000261626364");
  EXPECT_EQ(text_hex(encode_info_request({.name = "a", .types = {InfoType::block_size}})),
            "000000016100010003");
  EXPECT_EQ(text_hex(encode_meta_request({.name = "a", .queries = {"b:c"}})),
            "00000001610000000100000003623a63");
}

TEST(NbdProtocolTest, ExportNameReplyWithZeroes) {
  std::array<std::byte, 134> buffer;
  buffer.fill(std::byte{0xFF});
  EXPECT_EQ(encode_export_name_reply(buffer, 1, 2, true), 134U);
  for (std::size_t at = 10; at < 134; ++at) EXPECT_EQ(buffer[at], std::byte{0}) << at;
}

// Goal: what is encoded is decoded to the same, and another magic is refused.
TEST(NbdProtocolTest, HeadersRoundTrip) {
  std::array<std::byte, 64> buffer{};
  encode_request(buffer,
                 {.flags = 5, .command = Command::trim, .cookie = 1, .offset = 2, .size = 3});
  const Result<Request> request = decode_request(buffer);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->flags, 5);
  EXPECT_EQ(request->command, Command::trim);
  EXPECT_EQ(request->cookie, 1U);
  EXPECT_EQ(request->offset, 2U);
  EXPECT_EQ(request->size, 3U);
  for (std::size_t at = 0; at < 4; ++at) {
    buffer[at] ^= std::byte{1};
    EXPECT_EQ(decode_request(buffer).code(), Errc::protocol_error);
    buffer[at] ^= std::byte{1};
  }
  encode_option_header(buffer, {.option = Option::abort, .size = 77});
  EXPECT_EQ(decode_option_header(buffer)->option, Option::abort);
  EXPECT_EQ(decode_option_header(buffer)->size, 77U);
  for (std::size_t at = 0; at < 8; ++at) {
    buffer[at] ^= std::byte{1};
    EXPECT_EQ(decode_option_header(buffer).code(), Errc::protocol_error);
    buffer[at] ^= std::byte{1};
  }
}

// Goal: lengths that do not add up are refused. Method: every truncation, and one byte too many.
TEST(NbdProtocolTest, MalformedOptionData) {
  const std::string info = encode_info_request(
      {.name = "volume", .types = {InfoType::name, InfoType::description, InfoType::block_size}});
  const std::string meta = encode_meta_request({.name = "volume", .queries = {"base:", "x:y"}});
  ASSERT_TRUE(decode_info_request(as_bytes(info)).has_value());
  ASSERT_TRUE(decode_meta_request(as_bytes(meta)).has_value());
  EXPECT_EQ(decode_info_request(as_bytes(info))->types.size(), 3U);
  EXPECT_EQ(decode_meta_request(as_bytes(meta))->queries.back(), "x:y");
  for (std::size_t size = 0; size < info.size(); ++size) {
    EXPECT_FALSE(decode_info_request(as_bytes(info).first(size)).has_value()) << size;
  }
  for (std::size_t size = 0; size < meta.size(); ++size) {
    EXPECT_FALSE(decode_meta_request(as_bytes(meta).first(size)).has_value()) << size;
  }
  EXPECT_FALSE(decode_info_request(as_bytes(info + "x")).has_value());
  EXPECT_FALSE(decode_meta_request(as_bytes(meta + "x")).has_value());
  const std::string long_name = encode_info_request({.name = std::string(4097, 'a'), .types = {}});
  EXPECT_FALSE(decode_info_request(as_bytes(long_name)).has_value());
}

TEST(NbdProtocolTest, ErrorMessagesAreCut) {
  std::array<std::byte, 40> buffer;
  EXPECT_EQ(encode_error_chunk(buffer, 1, WireError::eio, std::string(100, 'm')), 40U);
  EXPECT_EQ(decode_chunk_header(buffer)->size, 20U);
}

TEST(NbdProtocolTest, ErrorsHaveNumbers) {
  EXPECT_EQ(to_wire_error(Errc::out_of_space), WireError::enospc);
  EXPECT_EQ(to_wire_error(Errc::closed), WireError::eshutdown);
  for (const Errc code : {Errc::fenced, Errc::io_error, Errc::corrupt, Errc::timed_out,
                          Errc::no_quorum, Errc::unavailable}) {
    EXPECT_EQ(to_wire_error(code), WireError::eio);
  }
}

}  // namespace
}  // namespace agro::nbd
