#include "block/aoe/protocol.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace agro::aoe {
namespace {

Error too_short(const char* what) { return {Errc::protocol_error, fmt::format("AoE: {} is cut short", what)}; }

std::uint8_t byte_at(ConstBytes bytes, std::size_t index) { return static_cast<std::uint8_t>(bytes[index]); }

MacAddress mac_at(ConstBytes bytes, std::size_t offset) {
  MacAddress address;
  std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), address.size(), address.begin());
  return address;
}

}  // namespace

Result<Header> decode_header(ConstBytes frame) {
  if (frame.size() < kHeaderSize) return fail(too_short("a frame"));
  if (load_be<std::uint16_t>(frame.subspan(12)) != kEtherType)
    return fail(Errc::protocol_error, "AoE: a frame of another protocol");
  Header header;
  header.destination = mac_at(frame, 0);
  header.source = mac_at(frame, 6);
  header.version = byte_at(frame, 14) >> 4;
  header.flags = byte_at(frame, 14) & 0x0F;
  header.error = static_cast<ErrorCode>(byte_at(frame, 15));
  header.major = load_be<std::uint16_t>(frame.subspan(16));
  header.minor = byte_at(frame, 18);
  header.command = static_cast<Command>(byte_at(frame, 19));
  header.tag = load_be<std::uint32_t>(frame.subspan(20));
  return header;
}

void encode_header(MutableBytes out, const Header& header) {
  AGRO_ASSERT(out.size() >= kHeaderSize);
  std::copy(header.destination.begin(), header.destination.end(), out.begin());
  std::copy(header.source.begin(), header.source.end(), out.begin() + 6);
  store_be<std::uint16_t>(out.subspan(12), kEtherType);
  out[14] = static_cast<std::byte>(header.version << 4 | header.flags);
  out[15] = static_cast<std::byte>(header.error);
  store_be<std::uint16_t>(out.subspan(16), header.major);
  out[18] = static_cast<std::byte>(header.minor);
  out[19] = static_cast<std::byte>(header.command);
  store_be<std::uint32_t>(out.subspan(20), header.tag);
}

Result<AtaHeader> decode_ata(ConstBytes bytes) {
  if (bytes.size() < kAtaHeaderSize) return fail(too_short("an ATA command"));
  AtaHeader header;
  header.flags = byte_at(bytes, 0);
  header.error_or_feature = byte_at(bytes, 1);
  header.count = byte_at(bytes, 2);
  header.command_or_status = byte_at(bytes, 3);
  const bool extended = (header.flags & kAtaExtended) != 0;
  for (std::size_t index = extended ? 6 : 4; index-- > 0;) header.lba = header.lba << 8 | byte_at(bytes, 4 + index);
  if (!extended) header.lba &= 0x0FFFFFFF;
  return header;
}

void encode_ata(MutableBytes out, const AtaHeader& header) {
  AGRO_ASSERT(out.size() >= kAtaHeaderSize);
  out[0] = static_cast<std::byte>(header.flags);
  out[1] = static_cast<std::byte>(header.error_or_feature);
  out[2] = static_cast<std::byte>(header.count);
  out[3] = static_cast<std::byte>(header.command_or_status);
  for (std::size_t index = 0; index < 6; ++index) out[4 + index] = static_cast<std::byte>(header.lba >> (8 * index));
  out[10] = out[11] = std::byte{0};
}

Result<ConfigMessage> decode_config(ConstBytes bytes) {
  if (bytes.size() < kConfigHeaderSize) return fail(too_short("a config command"));
  ConfigMessage message;
  message.buffer_count = load_be<std::uint16_t>(bytes);
  message.firmware = load_be<std::uint16_t>(bytes.subspan(2));
  message.sector_count_max = byte_at(bytes, 4);
  message.command = static_cast<ConfigCommand>(byte_at(bytes, 5) & 0x0F);
  const std::size_t size = load_be<std::uint16_t>(bytes.subspan(6));
  if (size > bytes.size() - kConfigHeaderSize) return fail(too_short("a config string"));
  message.text = as_text(bytes.subspan(kConfigHeaderSize, size));
  return message;
}

std::vector<std::byte> encode_config(const ConfigMessage& message) {
  std::vector<std::byte> bytes(kConfigHeaderSize + message.text.size());
  const MutableBytes out(bytes);
  store_be<std::uint16_t>(out, message.buffer_count);
  store_be<std::uint16_t>(out.subspan(2), message.firmware);
  out[4] = static_cast<std::byte>(message.sector_count_max);
  out[5] = static_cast<std::byte>(kVersion << 4 | static_cast<std::uint8_t>(message.command));
  store_be<std::uint16_t>(out.subspan(6), static_cast<std::uint16_t>(message.text.size()));
  std::memcpy(bytes.data() + kConfigHeaderSize, message.text.data(), message.text.size());
  return bytes;
}

Result<MaskMessage> decode_mask(ConstBytes bytes) {
  constexpr std::size_t kEntrySize = 8;
  if (bytes.size() < kMaskHeaderSize) return fail(too_short("a MAC mask command"));
  MaskMessage message;
  message.command = static_cast<MaskCommand>(byte_at(bytes, 1));
  message.error = static_cast<MaskError>(byte_at(bytes, 2));
  const std::size_t count = byte_at(bytes, 3);
  if (bytes.size() < kMaskHeaderSize + count * kEntrySize) return fail(too_short("a MAC mask list"));
  for (std::size_t index = 0; index < count; ++index) {
    const ConstBytes entry = bytes.subspan(kMaskHeaderSize + index * kEntrySize, kEntrySize);
    message.entries.push_back({static_cast<MaskDirective>(byte_at(entry, 1)), mac_at(entry, 2)});
  }
  return message;
}

std::vector<std::byte> encode_mask(const MaskMessage& message) {
  std::vector<std::byte> bytes(kMaskHeaderSize);
  bytes[1] = static_cast<std::byte>(message.command);
  bytes[2] = static_cast<std::byte>(message.error);
  bytes[3] = static_cast<std::byte>(message.entries.size());
  for (const MaskMessage::Entry& entry : message.entries) {
    bytes.push_back(std::byte{0});
    bytes.push_back(static_cast<std::byte>(entry.directive));
    bytes.insert(bytes.end(), entry.address.begin(), entry.address.end());
  }
  return bytes;
}

Result<ReserveMessage> decode_reserve(ConstBytes bytes) {
  if (bytes.size() < kReserveHeaderSize) return fail(too_short("a reserve command"));
  ReserveMessage message;
  message.command = static_cast<ReserveCommand>(byte_at(bytes, 0));
  const std::size_t count = byte_at(bytes, 1);
  constexpr std::size_t kSize = sizeof(MacAddress);
  if (bytes.size() < kReserveHeaderSize + count * kSize) return fail(too_short("a reserve list"));
  for (std::size_t index = 0; index < count; ++index)
    message.addresses.push_back(mac_at(bytes, kReserveHeaderSize + index * kSize));
  return message;
}

std::vector<std::byte> encode_reserve(const ReserveMessage& message) {
  std::vector<std::byte> bytes = {static_cast<std::byte>(message.command),
                                  static_cast<std::byte>(message.addresses.size())};
  for (const MacAddress& address : message.addresses) bytes.insert(bytes.end(), address.begin(), address.end());
  return bytes;
}

std::string to_string(const MacAddress& address) {
  std::string text;
  for (const std::byte part : address) text += fmt::format("{}{:02x}", text.empty() ? "" : ":", static_cast<int>(part));
  return text;
}

}  // namespace agro::aoe
