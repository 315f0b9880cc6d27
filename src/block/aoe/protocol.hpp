// The AoE wire: every command, number, flag and message that our target speaks, and nothing else.
//
// Invariants: pure functions over bytes; integers are big-endian but for ATA's own identify data. What is too short
// decodes to protocol_error. Format: docs/formats/aoe.md. Source: "AoE (ATA over Ethernet)", revision 11.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "block/aoe/ether.hpp"

namespace agro::aoe {

inline constexpr std::uint16_t kEtherType = 0x88A2;
inline constexpr std::uint8_t kVersion = 1;
inline constexpr std::uint16_t kMajorBroadcast = 0xFFFF;
inline constexpr std::uint8_t kMinorBroadcast = 0xFF;
inline constexpr std::size_t kHeaderSize = 24;     // with Ethernet's 14
inline constexpr std::size_t kAtaHeaderSize = 12;  // follows it
inline constexpr std::size_t kConfigHeaderSize = 8;
inline constexpr std::size_t kMaskHeaderSize = 4;
inline constexpr std::size_t kReserveHeaderSize = 2;
inline constexpr std::size_t kConfigStringMax = 1024;
inline constexpr std::size_t kMacListMax = 255;
inline constexpr std::uint32_t kAtaSectorSize = 512;

enum class Command : std::uint8_t { ata = 0, config = 1, mac_mask = 2, reserve = 3 };

enum class ErrorCode : std::uint8_t {
  none = 0,
  unknown_command = 1,
  bad_argument = 2,
  unavailable = 3,
  config_present = 4,
  version = 5,
  reserved = 6,
};

inline constexpr std::uint8_t kFlagResponse = 0x08;
inline constexpr std::uint8_t kFlagError = 0x04;

struct Header {
  MacAddress destination{};
  MacAddress source{};
  std::uint8_t version = kVersion;
  std::uint8_t flags = 0;
  ErrorCode error = ErrorCode::none;
  std::uint16_t major = 0;
  std::uint8_t minor = 0;
  Command command{};
  std::uint32_t tag = 0;
};

/// Errors: protocol_error (too short, another EtherType).
Result<Header> decode_header(ConstBytes frame);
/// Shape: `out` has kHeaderSize bytes.
void encode_header(MutableBytes out, const Header& header);

// ---- ATA

inline constexpr std::uint8_t kAtaWrite = 0x01;     // flags of an AtaHeader
inline constexpr std::uint8_t kAtaAsync = 0x02;
inline constexpr std::uint8_t kAtaExtended = 0x40;  // 48-bit addresses

enum class AtaCommand : std::uint8_t {
  read = 0x20,
  read_extended = 0x24,
  write = 0x30,
  write_extended = 0x34,
  flush = 0xE7,
  flush_extended = 0xEA,
  identify = 0xEC,
};

inline constexpr std::uint8_t kAtaReady = 0x40;  // status
inline constexpr std::uint8_t kAtaFailed = 0x01;
inline constexpr std::uint8_t kAtaAborted = 0x04;        // error register
inline constexpr std::uint8_t kAtaNotFound = 0x10;       // no such address
inline constexpr std::uint8_t kAtaUncorrectable = 0x40;  // bad data

struct AtaHeader {
  std::uint8_t flags = 0;
  std::uint8_t error_or_feature = 0;
  std::uint8_t count = 0;  // sectors of 512 bytes
  std::uint8_t command_or_status = 0;
  std::uint64_t lba = 0;   // 48 bits, or 28
};

Result<AtaHeader> decode_ata(ConstBytes bytes);
void encode_ata(MutableBytes out, const AtaHeader& header);

/// What an IDENTIFY DEVICE answers: 512 bytes.
struct DeviceIdentity {
  std::uint64_t sector_count = 0;  // of 512 bytes
  std::string model;
  std::string serial;
  std::string firmware;
  bool has_write_cache = false;  // what is written is not durable before a flush
};
std::array<std::byte, 512> encode_identify(const DeviceIdentity& identity);

// ---- Config

enum class ConfigCommand : std::uint8_t { read = 0, test = 1, test_prefix = 2, set = 3, force_set = 4 };

struct ConfigMessage {
  std::uint16_t buffer_count = 0;  // requests that we hold at once
  std::uint16_t firmware = 0;
  std::uint8_t sector_count_max = 0;  // of one request
  ConfigCommand command{};
  std::string text;
};

Result<ConfigMessage> decode_config(ConstBytes bytes);
std::vector<std::byte> encode_config(const ConfigMessage& message);

// ---- MAC mask list

enum class MaskCommand : std::uint8_t { read = 0, edit = 1 };
enum class MaskDirective : std::uint8_t { none = 0, add = 1, remove = 2 };
enum class MaskError : std::uint8_t { none = 0, unspecified = 1, bad_directive = 2, full = 3 };

struct MaskMessage {
  struct Entry {
    MaskDirective directive{};
    MacAddress address{};
    auto operator<=>(const Entry&) const = default;
  };
  MaskCommand command{};
  MaskError error = MaskError::none;
  std::vector<Entry> entries;
};

Result<MaskMessage> decode_mask(ConstBytes bytes);
std::vector<std::byte> encode_mask(const MaskMessage& message);

// ---- Reserve, release

enum class ReserveCommand : std::uint8_t { read = 0, set = 1, force_set = 2 };

struct ReserveMessage {
  ReserveCommand command{};
  std::vector<MacAddress> addresses;
};

Result<ReserveMessage> decode_reserve(ConstBytes bytes);
std::vector<std::byte> encode_reserve(const ReserveMessage& message);

/// "52:54:00:12:34:56".
std::string to_string(const MacAddress& address);

}  // namespace agro::aoe
