#include "block/aoe/protocol.hpp"

#include <gtest/gtest.h>

namespace agro::aoe {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

MacAddress mac(int last) { return {std::byte{0x52}, std::byte{0x54}, {}, {}, {}, static_cast<std::byte>(last)}; }

// Goal: the bytes of docs/formats/aoe.md. Method: written down by hand.
TEST(AoeProtocolTest, GoldenHeader) {
  const Header header{.destination = mac(1), .source = mac(2), .version = 1, .flags = kFlagResponse | kFlagError,
                      .error = ErrorCode::reserved, .major = 0x0102, .minor = 3, .command = Command::reserve, .tag = 0xA1B2C3D4};
  std::vector<std::byte> out(kHeaderSize);
  encode_header(out, header);
  EXPECT_EQ(out, bytes_of({0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xA2, 0x1C, 6, 1, 2, 3, 3, 0xA1, 0xB2, 0xC3, 0xD4}));
  const Result<Header> back = decode_header(out);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->source, mac(2));
  EXPECT_EQ(back->version, 1);
  EXPECT_EQ(back->flags, kFlagResponse | kFlagError);
  EXPECT_EQ(back->error, ErrorCode::reserved);
  EXPECT_EQ(back->major, 0x0102);
  EXPECT_EQ(back->minor, 3);
  EXPECT_EQ(back->command, Command::reserve);
  EXPECT_EQ(back->tag, 0xA1B2C3D4);
  out[12] = std::byte{0x08};
  EXPECT_EQ(decode_header(out).code(), Errc::protocol_error);
  EXPECT_EQ(decode_header(ConstBytes(out).first(23)).code(), Errc::protocol_error);
}

TEST(AoeProtocolTest, GoldenAta) {
  const AtaHeader header{.flags = kAtaExtended | kAtaWrite, .error_or_feature = 0, .count = 2, .command_or_status = 0x34, .lba = 0x0605040302FFULL};
  std::vector<std::byte> out(kAtaHeaderSize);
  encode_ata(out, header);
  EXPECT_EQ(out, bytes_of({0x41, 0, 2, 0x34, 0xFF, 2, 3, 4, 5, 6, 0, 0}));
  EXPECT_EQ(decode_ata(out)->lba, header.lba);
  // With 28 bits the high ones are a drive's name in ATA, and no address.
  out[0] = std::byte{0};
  out[7] = std::byte{0xE4};
  EXPECT_EQ(decode_ata(out)->lba, 0x040302FFU);
  EXPECT_EQ(decode_ata(ConstBytes(out).first(11)).code(), Errc::protocol_error);
}

TEST(AoeProtocolTest, GoldenConfig) {
  const ConfigMessage message{.buffer_count = 128, .firmware = 0x0100, .sector_count_max = 17, .command = ConfigCommand::set, .text = "me"};
  const std::vector<std::byte> out = encode_config(message);
  EXPECT_EQ(out, bytes_of({0, 128, 1, 0, 17, 0x13, 0, 2, 'm', 'e'}));
  const Result<ConfigMessage> back = decode_config(out);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->text, "me");
  EXPECT_EQ(back->command, ConfigCommand::set);
  for (std::size_t size = 0; size < out.size(); ++size)
    EXPECT_EQ(decode_config(ConstBytes(out).first(size)).code(), Errc::protocol_error);
}

TEST(AoeProtocolTest, GoldenMask) {
  MaskMessage message{.command = MaskCommand::edit, .error = MaskError::full, .entries = {{MaskDirective::remove, mac(9)}}};
  const std::vector<std::byte> out = encode_mask(message);
  EXPECT_EQ(out, bytes_of({0, 1, 3, 1, 0, 2, 0x52, 0x54, 0, 0, 0, 9}));
  EXPECT_EQ(decode_mask(out)->entries, message.entries);
  for (std::size_t size = 0; size < out.size(); ++size)
    EXPECT_EQ(decode_mask(ConstBytes(out).first(size)).code(), Errc::protocol_error);
}

TEST(AoeProtocolTest, GoldenReserve) {
  const std::vector<std::byte> out = encode_reserve({ReserveCommand::force_set, {mac(7)}});
  EXPECT_EQ(out, bytes_of({2, 1, 0x52, 0x54, 0, 0, 0, 7}));
  EXPECT_EQ(decode_reserve(out)->addresses, std::vector<MacAddress>{mac(7)});
  for (std::size_t size = 0; size < out.size(); ++size)
    EXPECT_EQ(decode_reserve(ConstBytes(out).first(size)).code(), Errc::protocol_error);
}

// Goal: what the Linux driver reads of an identity: words 60, 83, 86, 100, little-endian, and strings in ATA's order.
TEST(AoeProtocolTest, Identify) {
  const auto data = encode_identify({.sector_count = 0x1'2345'6789, .model = "agro web", .serial = "web", .firmware = "0.1", .has_write_cache = false});
  const auto word = [&](std::size_t index) {
    return static_cast<int>(data[2 * index]) | static_cast<int>(data[2 * index + 1]) << 8;
  };
  EXPECT_EQ(word(60) | word(61) << 16, 0x0FFFFFFF) << "more than 28 bits say all of them";
  EXPECT_EQ(word(83) & (1 << 10), 1 << 10);
  EXPECT_EQ(word(86) & (1 << 10), 1 << 10);
  EXPECT_EQ(word(85) & (1 << 5), 0) << "no write cache";
  EXPECT_EQ(word(100), 0x6789);
  EXPECT_EQ(word(101), 0x2345);
  EXPECT_EQ(word(102), 1);
  EXPECT_EQ(word(27), 'a' << 8 | 'g');
  EXPECT_EQ(word(10), 'w' << 8 | 'e');
  const auto cached = encode_identify({.sector_count = 8, .model = {}, .serial = {}, .firmware = {}, .has_write_cache = true});
  EXPECT_EQ(static_cast<int>(cached[170]) & (1 << 5), 1 << 5);
}

}  // namespace
}  // namespace agro::aoe
