// Codecs: records to bytes and back, by protobuf, which stays inside codec.cpp.
//
// Invariants: decode(encode(record)) == record; fields that this version does not know are skipped;
// bytes that are no such record are `corrupt`, and the text says which record.
// Format: models/agro.proto.
#pragma once

#include <string>
#include <string_view>

#include "base/result.hpp"
#include "models/peer_report.hpp"
#include "models/records.hpp"

namespace agro {

/// The largest value a metadata store takes from us, but for the ring: one record stays below it.
inline constexpr std::size_t kRecordSizeMax = 64 * 1024;
/// Of the ring, which names all peers: three changes at once of 1,000 of them. A third of the request
/// that etcd takes (1.5 MiB).
inline constexpr std::size_t kRingRecordSizeMax = 512 * 1024;

std::string encode(const ClusterRecord& record);
std::string encode(const VolumeRecord& record);
std::string encode(const VolumeHead& record);
std::string encode(const SnapshotRecord& record);
/// Without the volume, which the key says.
std::string encode(const SnapshotRequest& record);
std::string encode(const VolumeLock& record);
std::string encode(const PeerRecord& record);
/// Shape: overrides ascend by group and name min(replication, members) members each.
std::string encode(const RingSpec& record);
std::string encode(const std::vector<Publication>& records);
std::string encode(const NodeRecord& record);
std::string encode(const Tombstone& record);
std::string encode(const PeerReport& report);
std::string encode(const ScrubState& state);

/// Errors of all: corrupt.
Result<ClusterRecord> decode_cluster(std::string_view bytes);
Result<std::vector<Publication>> decode_publications(std::string_view bytes);
Result<NodeRecord> decode_node(std::string_view bytes);
Result<VolumeRecord> decode_volume(std::string_view bytes);
Result<VolumeHead> decode_volume_head(std::string_view bytes);
/// Also corrupt: a head without a checkpoint or an end of its log.
Result<SnapshotRecord> decode_snapshot(std::string_view bytes);
Result<SnapshotRequest> decode_snapshot_request(std::string_view bytes);
Result<VolumeLock> decode_volume_lock(std::string_view bytes);
Result<PeerRecord> decode_peer(std::string_view bytes);
/// Checks the shape only; make_ring() validates what it says.
Result<RingSpec> decode_ring(std::string_view bytes);
Result<Tombstone> decode_tombstone(std::string_view bytes);
Result<PeerReport> decode_peer_report(std::string_view bytes);
Result<ScrubState> decode_scrub_state(std::string_view bytes);

}  // namespace agro
