#include "csi/names.hpp"

#include <fmt/format.h>

#include <charconv>

#include "metadata/metadata.hpp"

namespace agro::csi {
namespace {

constexpr std::size_t kVolumeIdDigits = 10;
constexpr std::size_t kNameSizeMax = 128;  // the specification's, bytes
constexpr std::string_view kEncoded = "csi_";
constexpr std::size_t kSocketPathMax = 107;

std::string base64url(std::string_view bytes) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string text;
  std::uint32_t bits = 0;
  int bit_count = 0;
  for (const char byte : bytes) {
    bits = bits << 8 | static_cast<unsigned char>(byte);
    for (bit_count += 8; bit_count >= 6; bit_count -= 6) text += kDigits[bits >> (bit_count - 6) & 63];
  }
  if (bit_count > 0) text += kDigits[bits << (6 - bit_count) & 63];
  return text;
}

}  // namespace

std::string volume_id_text(VolumeId volume) { return fmt::format("{:010x}", volume.value); }

Result<VolumeId> parse_volume_id(std::string_view text) {
  VolumeId id;
  const char* end = text.data() + text.size();
  const auto [stopped, problem] = std::from_chars(text.data(), end, id.value, 16);
  // Written back it must be the same: one volume has one id.
  const bool good = text.size() == kVolumeIdDigits && problem == std::errc() && stopped == end && id.value != 0 &&
                    id.value <= kVolumeIdMax && volume_id_text(id) == text;
  if (good) return id;
  return fail(Errc::invalid_argument, fmt::format("'{}' is no volume id of agro: those are ten hexadecimal digits", text.substr(0, 64)));
}

std::string snapshot_id_text(const SnapshotId& id) { return volume_id_text(id.volume) + "@" + id.name; }

Result<SnapshotId> parse_snapshot_id(std::string_view text) {
  SnapshotId id;
  const std::size_t at = text.find('@');
  if (at != std::string_view::npos && check_volume_name(text.substr(at + 1)).has_value()) {
    AGRO_TRY(id.volume, parse_volume_id(text.substr(0, at)));
    id.name = text.substr(at + 1);
    return id;
  }
  return fail(Errc::invalid_argument, fmt::format("'{}' is no snapshot id of agro: those are VOLUME_ID@NAME", text.substr(0, 64)));
}

Result<std::string> our_name(std::string_view name) {
  if (name.empty()) return fail(Errc::invalid_argument, "the name is missing");
  if (name.size() > kNameSizeMax) {
    return fail(Errc::invalid_argument, fmt::format("the name has {} bytes, {} is the most", name.size(), kNameSizeMax));
  }
  for (const char letter : name) {
    if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f)
      return fail(Errc::invalid_argument, "the name has control characters");
  }
  if (check_volume_name(name).has_value() && !name.starts_with(kEncoded) && !name.starts_with(kPassing)) return std::string(name);
  return std::string(kEncoded) + base64url(name);
}

Result<VolumeId> parse_volume_token(std::string_view token) {
  const Result<VolumeId> id = parse_volume_id(token);
  if (id.has_value()) return *id;
  return fail(Errc::conflict, fmt::format("'{}' is no token of ListVolumes; start again without one", token.substr(0, 64)));
}

Result<SnapshotId> parse_snapshot_token(std::string_view token) {
  Result<SnapshotId> id = parse_snapshot_id(token);
  if (id.has_value()) return id;
  return fail(Errc::conflict, fmt::format("'{}' is no token of ListSnapshots; start again without one", token.substr(0, 64)));
}

Result<std::string> parse_endpoint(std::string_view text) {
  std::string_view path = text;
  if (path.starts_with("unix://")) path.remove_prefix(7);
  else if (path.starts_with("unix:")) path.remove_prefix(5);
  const bool other_scheme = path.find("://") != std::string_view::npos || path.starts_with("tcp:");
  if (path.empty() || other_scheme || path.size() > kSocketPathMax || path.find('\0') != std::string_view::npos) {
    return fail(Errc::invalid_argument, fmt::format("'{}' is no endpoint: give unix:///PATH, of at most {} bytes", text, kSocketPathMax));
  }
  return std::string(path);
}

}  // namespace agro::csi
