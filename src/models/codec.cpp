#include "models/codec.hpp"

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "models/agro.pb.h"

namespace agro {
namespace {

/// Field order is by number and the bytes are the same for the same record, which value_is
/// comparisons rely on: no message here has a map or keeps unknown fields.
template <class Message>
std::string to_bytes(const Message& message) {
  std::string bytes;
  const bool written = message.SerializeToString(&bytes);
  AGRO_ASSERT(written);
  return bytes;
}

template <class Message>
Result<Message> parse(std::string_view bytes, const char* what) {
  const google::protobuf::LogSilencer quiet;  // the error we return says it, once
  Message message;
  if (bytes.size() > INT32_MAX ||
      !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return fail(Errc::corrupt, fmt::format("the {} record in the metadata store is damaged", what));
  }
  return message;
}

tl::unexpected<Error> bad(const char* what, const char* field) {
  return fail(Errc::corrupt,
              fmt::format("the {} record in the metadata store is damaged: bad {}", what, field));
}

std::string uuid_bytes(const Uuid& id) {
  return {reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()};
}

bool read_uuid(const std::string& bytes, Uuid& out) {
  if (bytes.size() != out.bytes.size()) return false;
  std::memcpy(out.bytes.data(), bytes.data(), bytes.size());
  return true;
}

void fill_labels(const PeerLabels& labels, v1::PeerLabels& message) {
  message.set_zone(labels.zone);
  message.set_rack(labels.rack);
  message.set_host(labels.host);
}

PeerLabels read_labels(const v1::PeerLabels& message) {
  return {.zone = message.zone(), .rack = message.rack(), .host = message.host()};
}

void fill_head(const VolumeHead& head, v1::VolumeHead& message) {
  message.set_epoch(head.epoch.value);
  message.set_checkpoint_epoch(head.checkpoint_epoch.value);
  message.set_root_index(head.root_index);
  message.set_sequence(head.sequence);
  message.set_size(head.size);
  message.set_log_end(head.log_end);
}

VolumeHead read_head(const v1::VolumeHead& message) {
  return {.epoch = {message.epoch()},
          .checkpoint_epoch = {message.checkpoint_epoch()},
          .root_index = message.root_index(),
          .sequence = message.sequence(),
          .size = message.size(),
          .log_end = message.log_end()};
}

/// Members of each override: as many as a block has copies, all when there are fewer.
std::size_t override_size(const RingSpec& spec) {
  return std::min<std::size_t>(spec.replication, spec.members.size());
}

void fill_ring(const RingSpec& spec, v1::Ring& message) {
  message.set_kind(static_cast<std::uint32_t>(spec.kind));
  message.set_version(spec.version);
  message.set_replication(spec.replication);
  for (const RingMember& member : spec.members) {
    v1::RingMember& added = *message.add_members();
    added.set_id(uuid_bytes(member.id));
    added.set_weight(member.weight);
    if (member.labels != PeerLabels()) fill_labels(member.labels, *added.mutable_labels());
  }
  message.set_planned_kind(static_cast<std::uint32_t>(spec.planned_kind));
  message.set_group_count(spec.group_count);
  std::uint32_t next_group = 0;
  for (const RingOverride& one : spec.overrides) {
    AGRO_ASSERT(one.group >= next_group);
    AGRO_ASSERT(one.members.size() == override_size(spec));
    message.add_overrides(one.group - next_group);
    for (const std::uint16_t member : one.members) message.add_overrides(member);
    next_group = one.group + 1;
  }
  for (const RingSpec& part : spec.parts) fill_ring(part, *message.add_parts());
}

/// Errors: corrupt (a list that ends early, a group or a member beyond what any ring has).
Result<void> read_overrides(const v1::Ring& message, RingSpec& spec) {
  const auto size = static_cast<int>(override_size(spec));
  std::uint64_t next_group = 0;
  for (int index = 0; index < message.overrides_size(); index += size + 1) {
    if (message.overrides_size() - index < size + 1) return bad("ring", "length of the overrides");
    next_group += message.overrides(index);
    if (next_group >= UINT32_MAX) return bad("ring", "group");
    RingOverride one{.group = static_cast<std::uint32_t>(next_group++)};
    for (int place = 1; place <= size; ++place) {
      const std::uint32_t member = message.overrides(index + place);
      if (member >= spec.members.size() || member > UINT16_MAX) return bad("ring", "member");
      one.members.push_back(static_cast<std::uint16_t>(member));
    }
    spec.overrides.push_back(std::move(one));
  }
  return {};
}

/// `depth_max` bounds the nesting: a union has parts, a part has none.
Result<RingSpec> read_ring(const v1::Ring& message, int depth_max) {
  if (message.kind() > static_cast<std::uint32_t>(RingKind::placement)) {
    return fail(Errc::not_supported,
                fmt::format("the cluster's ring is of kind {}, which this version does not know",
                            message.kind()));
  }
  if (message.parts_size() > 0 && depth_max == 0) return bad("ring", "nesting");
  RingSpec spec;
  spec.kind = static_cast<RingKind>(message.kind());
  spec.version = message.version();
  spec.replication = message.replication();
  for (const v1::RingMember& member : message.members()) {
    RingMember added{.id = {}, .weight = member.weight(), .labels = read_labels(member.labels())};
    if (!read_uuid(member.id(), added.id)) return bad("ring", "member id");
    spec.members.push_back(std::move(added));
  }
  if (message.planned_kind() > static_cast<std::uint32_t>(RingKind::placement)) {
    return bad("ring", "planned kind");
  }
  spec.planned_kind = static_cast<RingKind>(message.planned_kind());
  spec.group_count = message.group_count();
  AGRO_TRY_OK(read_overrides(message, spec));
  for (const v1::Ring& part : message.parts()) {
    AGRO_TRY(RingSpec added, read_ring(part, depth_max - 1));
    spec.parts.push_back(std::move(added));
  }
  return spec;
}

}  // namespace

std::string encode(const ClusterRecord& record) {
  v1::Cluster message;
  message.set_id(uuid_bytes(record.id));
  message.set_block_size(record.block_size);
  message.set_block_spec(record.block_spec);
  message.set_min_copies(record.min_copies);
  message.set_created_unix_ms(record.created_unix_ms);
  return to_bytes(message);
}

Result<ClusterRecord> decode_cluster(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Cluster>(bytes, "cluster"));
  ClusterRecord record;
  if (!read_uuid(message.id(), record.id) || record.id.is_nil()) return bad("cluster", "id");
  record.block_size = message.block_size();
  record.block_spec = message.block_spec();
  record.min_copies = message.min_copies();
  record.created_unix_ms = message.created_unix_ms();
  return record;
}

std::string encode(const VolumeRecord& record) {
  v1::Volume message;
  message.set_id(record.id.value);
  message.set_name(record.name);
  message.set_size(record.size);
  message.set_block_spec(record.block_spec);
  message.set_replication(record.replication);
  message.set_state(static_cast<std::uint32_t>(record.state));
  message.set_created_unix_ms(record.created_unix_ms);
  for (const VolumeAncestor& ancestor : record.ancestors) {
    v1::VolumeAncestor& added = *message.add_ancestors();
    added.set_volume(ancestor.volume.value);
    added.set_last_epoch(ancestor.last_epoch.value);
  }
  message.set_read_only(record.read_only);
  message.set_iops_max(record.iops_max);
  message.set_bandwidth_max(record.bandwidth_max);
  message.set_aoe_config(record.aoe_config);
  return to_bytes(message);
}

Result<VolumeRecord> decode_volume(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Volume>(bytes, "volume"));
  if (message.id() == 0 || message.id() > kVolumeIdMax) return bad("volume", "id");
  if (message.state() > static_cast<std::uint32_t>(VolumeState::kept)) {
    return fail(Errc::not_supported,
                fmt::format("volume '{}' is in state {}, which this version does not know",
                            message.name(), message.state()));
  }
  VolumeRecord volume{.id = {message.id()},
                      .name = message.name(),
                      .size = message.size(),
                      .block_spec = message.block_spec(),
                      .replication = message.replication(),
                      .state = static_cast<VolumeState>(message.state()),
                      .created_unix_ms = message.created_unix_ms()};
  Epoch last;
  for (const v1::VolumeAncestor& one : message.ancestors()) {
    const VolumeAncestor ancestor{{one.volume()}, {one.last_epoch()}};
    const bool good =
        one.volume() != 0 && one.volume() <= kVolumeIdMax && ancestor.last_epoch > last;
    if (!good) return bad("volume", "ancestors");
    last = ancestor.last_epoch;
    volume.ancestors.push_back(ancestor);
  }
  volume.read_only = message.read_only();
  volume.iops_max = message.iops_max();
  volume.bandwidth_max = message.bandwidth_max();
  volume.aoe_config = message.aoe_config();
  return volume;
}

std::string encode(const VolumeHead& record) {
  v1::VolumeHead message;
  fill_head(record, message);
  return to_bytes(message);
}

Result<VolumeHead> decode_volume_head(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::VolumeHead>(bytes, "volume head"));
  return read_head(message);
}

namespace {

void fill_state(const std::optional<StateId>& state, v1::StateId& message) {
  message.set_cluster(state->cluster.bytes.data(), state->cluster.bytes.size());
  message.set_volume(state->volume.value);
  message.set_epoch(state->epoch.value);
  message.set_log_end(state->log_end);
}

Result<StateId> read_state(const v1::StateId& message) {
  StateId state;
  if (message.cluster().size() != state.cluster.bytes.size()) return bad("snapshot", "origin");
  std::memcpy(state.cluster.bytes.data(), message.cluster().data(), state.cluster.bytes.size());
  state.volume = {message.volume()};
  state.epoch = {message.epoch()};
  state.log_end = message.log_end();
  return state;
}

}  // namespace

std::string encode(const SnapshotRecord& record) {
  v1::Snapshot message;
  message.set_name(record.name);
  fill_head(record.head, *message.mutable_head());
  message.set_created_unix_ms(record.created_unix_ms);
  if (record.origin.has_value()) fill_state(record.origin, *message.mutable_origin());
  message.set_note_index(record.note_index);
  return to_bytes(message);
}

Result<SnapshotRecord> decode_snapshot(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Snapshot>(bytes, "snapshot"));
  SnapshotRecord snapshot{message.name(), read_head(message.head()), message.created_unix_ms()};
  if (message.has_origin()) {
    AGRO_TRY(snapshot.origin, read_state(message.origin()));
  }
  snapshot.note_index = message.note_index();
  const VolumeHead& head = snapshot.head;
  if (!head.has_checkpoint() || head.log_end <= head.sequence) return bad("snapshot", "head");
  return snapshot;
}

std::string encode(const SnapshotRequest& record) {
  v1::SnapshotRequest message;
  message.set_name(record.name);
  message.set_token(record.token);
  message.set_problem(record.problem);
  message.set_created_unix_ms(record.created_unix_ms);
  if (record.origin.has_value()) fill_state(record.origin, *message.mutable_origin());
  return to_bytes(message);
}

Result<SnapshotRequest> decode_snapshot_request(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::SnapshotRequest>(bytes, "snapshot request"));
  SnapshotRequest request{.volume = {},
                          .name = message.name(),
                          .token = message.token(),
                          .problem = message.problem(),
                          .created_unix_ms = message.created_unix_ms()};
  if (message.has_origin()) {
    AGRO_TRY(request.origin, read_state(message.origin()));
  }
  return request;
}

std::string encode(const VolumeLock& record) {
  v1::VolumeLock message;
  message.set_holder(record.holder);
  message.set_lease(record.lease);
  message.set_epoch(record.epoch.value);
  message.set_token(record.token);
  message.set_acquired_unix_ms(record.acquired_unix_ms);
  return to_bytes(message);
}

Result<VolumeLock> decode_volume_lock(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::VolumeLock>(bytes, "volume lock"));
  return VolumeLock{.holder = message.holder(),
                    .lease = message.lease(),
                    .epoch = {message.epoch()},
                    .token = message.token(),
                    .acquired_unix_ms = message.acquired_unix_ms()};
}

std::string encode(const PeerRecord& record) {
  v1::Peer message;
  message.set_id(uuid_bytes(record.id));
  for (const std::string& address : record.addresses) message.add_addresses(address);
  message.set_size(record.size);
  message.set_used(record.used);
  fill_labels(record.labels, *message.mutable_labels());
  message.set_started_unix_ms(record.started_unix_ms);
  message.set_updated_unix_ms(record.updated_unix_ms);
  return to_bytes(message);
}

Result<PeerRecord> decode_peer(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Peer>(bytes, "peer"));
  PeerRecord record;
  if (!read_uuid(message.id(), record.id) || record.id.is_nil()) return bad("peer", "id");
  record.addresses.assign(message.addresses().begin(), message.addresses().end());
  record.size = message.size();
  record.used = message.used();
  record.labels = read_labels(message.labels());
  record.started_unix_ms = message.started_unix_ms();
  record.updated_unix_ms = message.updated_unix_ms();
  return record;
}

std::string encode(const RingSpec& record) {
  v1::Ring message;
  fill_ring(record, message);
  return to_bytes(message);
}

Result<RingSpec> decode_ring(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Ring>(bytes, "ring"));
  return read_ring(message, 1);
}

std::string encode(const std::vector<Publication>& records) {
  v1::Publications message;
  for (const Publication& record : records) {
    v1::Publication* node = message.add_nodes();
    node->set_node(record.node);
    node->set_read_only(record.read_only);
    node->set_access_mode(record.access_mode);
  }
  return to_bytes(message);
}

Result<std::vector<Publication>> decode_publications(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Publications>(bytes, "publications"));
  std::vector<Publication> records;
  for (const v1::Publication& node : message.nodes()) {
    if (node.node().empty()) return bad("publications", "node");
    records.push_back({node.node(), node.read_only(), node.access_mode()});
  }
  return records;
}

std::string encode(const NodeRecord& record) {
  v1::Node message;
  message.set_id(record.id);
  message.set_registered_unix_ms(record.registered_unix_ms);
  return to_bytes(message);
}

Result<NodeRecord> decode_node(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Node>(bytes, "node"));
  if (message.id().empty()) return bad("node", "id");
  return NodeRecord{message.id(), message.registered_unix_ms()};
}

std::string encode(const Tombstone& record) {
  v1::Tombstone message;
  message.set_volume(record.volume.value);
  message.set_name(record.name);
  for (const PeerId& peer : record.peers) message.add_peers(uuid_bytes(peer));
  message.set_deleted_unix_ms(record.deleted_unix_ms);
  return to_bytes(message);
}

Result<Tombstone> decode_tombstone(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::Tombstone>(bytes, "tombstone"));
  if (message.volume() == 0 || message.volume() > kVolumeIdMax)
    return bad("tombstone", "volume id");
  Tombstone record;
  record.volume = {message.volume()};
  record.name = message.name();
  for (const std::string& peer : message.peers()) {
    PeerId id;
    if (!read_uuid(peer, id)) return bad("tombstone", "peer id");
    record.peers.push_back(id);
  }
  record.deleted_unix_ms = message.deleted_unix_ms();
  return record;
}

namespace {

void fill_scrub(const ScrubReport& report, v1::ScrubReport& message) {
  message.set_running(report.running);
  message.set_bytes_done(report.bytes_done);
  message.set_bytes_total(report.bytes_total);
  message.set_bad_blocks(report.bad_blocks);
  message.set_repaired_blocks(report.repaired_blocks);
  message.set_lost_blocks(report.lost_blocks);
  message.set_started_unix_ms(report.started_unix_ms);
  message.set_finished_unix_ms(report.finished_unix_ms);
  message.set_problem(report.problem);
}

ScrubReport read_scrub(const v1::ScrubReport& message) {
  return {message.running(),         message.bytes_done(),       message.bytes_total(),
          message.bad_blocks(),      message.repaired_blocks(),  message.lost_blocks(),
          message.started_unix_ms(), message.finished_unix_ms(), message.problem()};
}

}  // namespace

std::string encode(const PeerReport& report) {
  v1::PeerReport message;
  message.set_id(uuid_bytes(report.id));
  message.set_ring_version(report.ring_version);
  v1::RebalanceReport& rebalance = *message.mutable_rebalance();
  rebalance.set_running(report.rebalance.running);
  rebalance.set_settled_version(report.rebalance.settled_version);
  rebalance.set_blocks_left(report.rebalance.blocks_left);
  rebalance.set_bytes_left(report.rebalance.bytes_left);
  rebalance.set_blocks_moved(report.rebalance.blocks_moved);
  rebalance.set_bytes_moved(report.rebalance.bytes_moved);
  rebalance.set_bytes_per_second(report.rebalance.bytes_per_second);
  rebalance.set_problem(report.rebalance.problem);
  rebalance.set_short_blocks(report.rebalance.short_blocks);
  fill_scrub(report.scrub, *message.mutable_scrub());
  v1::GcReport& gc = *message.mutable_gc();
  gc.set_running(report.gc.running);
  gc.set_condemned_blocks(report.gc.condemned_blocks);
  gc.set_deleted_blocks(report.gc.deleted_blocks);
  gc.set_deleted_bytes(report.gc.deleted_bytes);
  gc.set_finished_unix_ms(report.gc.finished_unix_ms);
  gc.set_problem(report.gc.problem);
  message.set_store_problem(report.store_problem);
  return to_bytes(message);
}

Result<PeerReport> decode_peer_report(std::string_view bytes) {
  AGRO_TRY(const auto message, parse<v1::PeerReport>(bytes, "peer report"));
  PeerReport report;
  if (!read_uuid(message.id(), report.id)) return bad("peer report", "id");
  report.ring_version = message.ring_version();
  const v1::RebalanceReport& rebalance = message.rebalance();
  report.rebalance = {
      rebalance.running(),          rebalance.settled_version(), rebalance.blocks_left(),
      rebalance.bytes_left(),       rebalance.blocks_moved(),    rebalance.bytes_moved(),
      rebalance.bytes_per_second(), rebalance.problem(),         rebalance.short_blocks()};
  report.scrub = read_scrub(message.scrub());
  const v1::GcReport& gc = message.gc();
  report.gc = {gc.running(),       gc.condemned_blocks(), gc.deleted_blocks(),
               gc.deleted_bytes(), gc.finished_unix_ms(), gc.problem()};
  report.store_problem = message.store_problem();
  return report;
}

std::string encode(const ScrubState& state) {
  v1::ScrubState message;
  fill_scrub(state.report, *message.mutable_report());
  if (state.position.has_value()) {
    std::string bytes(kBlockRefSize, '\0');
    encode_block_ref(*state.position, std::as_writable_bytes(std::span(bytes)));
    message.set_position(bytes);
  }
  return to_bytes(message);
}

Result<ScrubState> decode_scrub_state(std::string_view bytes) {
  const google::protobuf::LogSilencer quiet;
  v1::ScrubState message;
  if (bytes.size() > INT32_MAX ||
      !message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return fail(Errc::corrupt, "the state of the last scrub is damaged");
  }
  ScrubState state;
  state.report = read_scrub(message.report());
  const std::string& position = message.position();
  if (!position.empty() && position.size() != kBlockRefSize) {
    return fail(Errc::corrupt, "the state of the last scrub is damaged: bad position");
  }
  if (!position.empty()) state.position = decode_block_ref(std::as_bytes(std::span(position)));
  return state;
}

}  // namespace agro
