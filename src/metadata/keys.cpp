#include "metadata/keys.hpp"

#include <fmt/format.h>

namespace agro::keys {

std::string volume_text(VolumeId volume) { return fmt::format("{:010x}", volume.value); }

std::string volume(VolumeId volume) { return std::string(kVolumes) + volume_text(volume); }
std::string tombstone(VolumeId volume) { return std::string(kTombstones) + volume_text(volume); }
std::string name(std::string_view name) { return fmt::format("{}names/{}", kAll, name); }
std::string peer(const PeerId& peer) { return std::string(kPeers) + peer.to_string(); }
std::string alive(const PeerId& peer) { return std::string(kAlive) + peer.to_string(); }
std::string settled(const PeerId& peer) { return std::string(kSettled) + peer.to_string(); }
std::string volume_prefix(VolumeId volume) {
  return fmt::format("{}volume/{}/", kAll, volume_text(volume));
}
std::string head(VolumeId volume) { return volume_prefix(volume) + "head"; }
std::string lock(VolumeId volume) { return volume_prefix(volume) + "lock"; }
std::string epoch(VolumeId volume) { return volume_prefix(volume) + "epoch"; }
std::string degraded(VolumeId volume) { return volume_prefix(volume) + "degraded"; }
std::string health(VolumeId volume) { return volume_prefix(volume) + "health"; }
std::string published(VolumeId volume) { return volume_prefix(volume) + "published"; }
std::string node(std::string_view id) { return std::string(kNodes) + std::string(id); }
std::string snapshots_prefix(VolumeId volume) {
  return fmt::format("{}{}@", kVolumeState, volume_text(volume));
}
std::string snapshot(VolumeId volume, std::string_view name) {
  return snapshots_prefix(volume) + std::string(name);
}
std::string clone_origin(VolumeId clone) { return "@" + volume_text(clone); }
std::string snapshot_requests_prefix(VolumeId volume) {
  return fmt::format("{}{}@", kSnapshotRequests, volume_text(volume));
}
std::string snapshot_request(VolumeId volume, std::string_view name) {
  return snapshot_requests_prefix(volume) + std::string(name);
}

Result<std::uint64_t> parse_number(std::string_view text, int base, std::string_view what) {
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, problem] = std::from_chars(text.data(), end, value, base);
  if (problem != std::errc() || stopped != end) {
    return fail(
        Errc::corrupt,
        fmt::format("the {} in the metadata store is damaged: '{}' is no number", what, text));
  }
  return value;
}

KvCompare absent(std::string key) {
  return {.kind = KvCompare::Kind::absent, .key = std::move(key), .mod_revision = 0, .value = {}};
}
KvCompare present(std::string_view key) {
  return {
      .kind = KvCompare::Kind::present, .key = std::string(key), .mod_revision = 0, .value = {}};
}
KvCompare unchanged(const KeyValue& entry) {
  return {.kind = KvCompare::Kind::mod_revision_is,
          .key = entry.key,
          .mod_revision = entry.mod_revision,
          .value = {}};
}
KvOp put(std::string_view key, std::string value, std::uint64_t lease) {
  return {
      .kind = KvOp::Kind::put, .key = std::string(key), .value = std::move(value), .lease = lease};
}
KvOp remove(std::string_view key) {
  return {.kind = KvOp::Kind::remove, .key = std::string(key), .value = {}, .lease = 0};
}
KvOp remove_prefix(std::string_view prefix) {
  return {.kind = KvOp::Kind::remove_prefix, .key = std::string(prefix), .value = {}, .lease = 0};
}

}  // namespace agro::keys
