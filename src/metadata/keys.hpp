// Keys: the names under which metadata is kept. One page describes them:
// docs/formats/metadata_keys.md.
//
// Invariants: numbers in keys are hexadecimal of fixed width, so that keys sort as numbers do.
#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "core/block_ref.hpp"
#include "core/uuid.hpp"
#include "metadata/kv.hpp"

namespace agro::keys {

inline constexpr std::string_view kAll = "/agro/v1/";
/// What ClusterView shows and ClusterWatch watches.
inline constexpr std::string_view kView = "/agro/v1/cluster/";
inline constexpr std::string_view kCluster = "/agro/v1/cluster/info";
inline constexpr std::string_view kRing = "/agro/v1/cluster/ring";
inline constexpr std::string_view kVolumes = "/agro/v1/cluster/volumes/";
inline constexpr std::string_view kPeers = "/agro/v1/cluster/peers/";
inline constexpr std::string_view kAlive = "/agro/v1/cluster/alive/";
inline constexpr std::string_view kSettled = "/agro/v1/cluster/settled/";
inline constexpr std::string_view kSnapshotRequests = "/agro/v1/cluster/snapshot_requests/";
/// What belongs to volumes and is not in the view.
inline constexpr std::string_view kVolumeState = "/agro/v1/volume/";
inline constexpr std::string_view kTombstones = "/agro/v1/cluster/tombstones/";
inline constexpr std::string_view kNextVolume = "/agro/v1/next_volume";
/// The counter as a rebuild made it: of volumes below, nobody knows whether they were deleted.
inline constexpr std::string_view kRebuiltVolumes = "/agro/v1/next_volume/rebuilt";

/// Ten hexadecimal digits: 40 bits.
std::string volume_text(VolumeId volume);

std::string volume(VolumeId volume);
std::string tombstone(VolumeId volume);
std::string name(std::string_view name);
std::string peer(const PeerId& peer);
std::string alive(const PeerId& peer);
std::string settled(const PeerId& peer);
/// Prefix of what belongs to one volume and is not in the view.
std::string volume_prefix(VolumeId volume);
std::string head(VolumeId volume);
std::string lock(VolumeId volume);
std::string epoch(VolumeId volume);
std::string degraded(VolumeId volume);
std::string health(VolumeId volume);
std::string published(VolumeId volume);
/// A machine that runs the node half of agrocsi.
inline constexpr std::string_view kNodes = "/agro/v1/nodes/";
std::string node(std::string_view id);

/// Prefix of the snapshots of a volume; outside of volume_prefix(), which writers read often, and inside of
/// kVolumeState, so that one list has heads and snapshots as they were at one time.
std::string snapshots_prefix(VolumeId volume);
std::string snapshot(VolumeId volume, std::string_view name);
/// The name, in its origin's snapshots, of what `clone` started from.
std::string clone_origin(VolumeId clone);
std::string snapshot_requests_prefix(VolumeId volume);
std::string snapshot_request(VolumeId volume, std::string_view name);

/// Reads a whole number in `base`. Errors: corrupt, naming `what`.
Result<std::uint64_t> parse_number(std::string_view text, int base, std::string_view what);

// What transactions are made of.
KvCompare absent(std::string key);
KvCompare present(std::string_view key);
KvCompare unchanged(const KeyValue& entry);
KvOp put(std::string_view key, std::string value, std::uint64_t lease = 0);
KvOp remove(std::string_view key);
KvOp remove_prefix(std::string_view prefix);

}  // namespace agro::keys
