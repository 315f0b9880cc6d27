#include "models/codec.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

Uuid uuid(std::uint8_t number) {
  Uuid id;
  id.bytes.fill(number);
  return id;
}

RingSpec ketama(std::uint64_t version, std::vector<std::uint8_t> numbers) {
  RingSpec spec{
      .kind = RingKind::ketama, .version = version, .replication = 2, .members = {}, .parts = {}};
  for (const std::uint8_t number : numbers) {
    spec.members.push_back({.id = uuid(number), .weight = 10U * number});
  }
  return spec;
}

// Goal: every record comes back as it was. Method: every field set to something of its own.
TEST(CodecTest, RoundTrips) {
  const ClusterRecord cluster{.id = uuid(1),
                              .block_size = 1 << 20,
                              .block_spec = "crc,base",
                              .min_copies = 1,
                              .created_unix_ms = 1700000000123};
  EXPECT_EQ(decode_cluster(encode(cluster)), cluster);
  const VolumeRecord volume{.id = {kVolumeIdMax},
                            .name = "demo",
                            .size = 10ULL << 30,
                            .block_spec = "crc,base",
                            .replication = 3,
                            .state = VolumeState::kept,
                            .created_unix_ms = 5,
                            .ancestors = {{{7}, {3}}, {{9}, {12}}},
                            .read_only = true,
                            .iops_max = 500,
                            .bandwidth_max = 1 << 20,
                            .aoe_config = std::string("\0me", 3)};
  EXPECT_EQ(decode_volume(encode(volume)), volume);
  const VolumeHead head{
      .epoch = {7}, .checkpoint_epoch = {6}, .root_index = 12, .sequence = UINT64_MAX, .size = 1, .log_end = 9};
  EXPECT_EQ(decode_volume_head(encode(head)), head);
  EXPECT_TRUE(head.has_checkpoint());
  EXPECT_FALSE(VolumeHead{}.has_checkpoint());
  const SnapshotRecord snapshot{"monday", {{7}, {6}, 12, 40, 1 << 20, 44}, 6};
  EXPECT_EQ(decode_snapshot(encode(snapshot)), snapshot);
  for (const VolumeHead& bad : {VolumeHead{{7}, {6}, 12, 40, 1, 40}, VolumeHead{{7}, {0}, 0, 0, 1, 1}}) {
    EXPECT_EQ(decode_snapshot(encode(SnapshotRecord{"a", bad, 0})).code(), Errc::corrupt);
  }
  VolumeRecord descending = volume;
  std::swap(descending.ancestors[0], descending.ancestors[1]);
  EXPECT_EQ(decode_volume(encode(descending)).code(), Errc::corrupt);
  const SnapshotRequest request{{}, "monday", UINT64_MAX, "no space", 8};
  EXPECT_EQ(decode_snapshot_request(encode(request)), request);
  const VolumeLock lock{.holder = "host pid 5",
                        .lease = 9,
                        .epoch = {7},
                        .token = UINT64_MAX,
                        .acquired_unix_ms = -1};
  EXPECT_EQ(decode_volume_lock(encode(lock)), lock);
  const PeerRecord peer{.id = uuid(2),
                        .addresses = {"adp://a:1", "adp+unix:/x"},
                        .size = 100,
                        .used = 50,
                        .labels = {"z", "r", "h"},
                        .started_unix_ms = 1,
                        .updated_unix_ms = 2};
  EXPECT_EQ(decode_peer(encode(peer)), peer);
  const Tombstone tombstone{
      .volume = {3}, .name = "old", .peers = {uuid(1), uuid(2)}, .deleted_unix_ms = 4};
  EXPECT_EQ(decode_tombstone(encode(tombstone)), tombstone);
  const PeerReport report{.id = uuid(4),
                          .ring_version = 5,
                          .rebalance = {true, 4, 10, 11, 12, 13, 14, "slow", 15},
                          .scrub = {true, 20, 21, 22, 23, 24, 25, 26, "bad"},
                          .gc = {true, 30, 31, 32, 33, "no volumes"},
                          .store_problem = "EIO"};
  EXPECT_EQ(decode_peer_report(encode(report)), report);
  ScrubState scrub{.report = report.scrub, .position = {}};
  EXPECT_EQ(decode_scrub_state(encode(scrub)), scrub);
  scrub.position = BlockRef{{7}, {3}, 1042, BlockType::inode};
  EXPECT_EQ(decode_scrub_state(encode(scrub)), scrub);
  EXPECT_EQ(decode_scrub_state("\x12\x01x").code(), Errc::corrupt);
  RingSpec both = ketama(3, {1, 2, 3});
  both.kind = RingKind::union_;
  both.parts = {ketama(1, {1, 2}), ketama(2, {2, 3})};
  EXPECT_EQ(decode_ring(encode(both)), both);
  EXPECT_EQ(decode_ring(""), (RingSpec{.replication = 0, .members = {}, .parts = {}}));
}

// Goal: the state that a snapshot was loaded from stays with it, and with the request for it.
TEST(CodecTest, OriginsOfSnapshots) {
  const StateId origin{uuid(3), {7}, {2}, 44};
  const SnapshotRecord loaded{"monday", {{7}, {6}, 12, 40, 1 << 20, 44}, 6, origin, 17};
  EXPECT_EQ(decode_snapshot(encode(loaded)), loaded);
  const SnapshotRequest request{{}, "monday", 5, "", 8, origin};
  EXPECT_EQ(decode_snapshot_request(encode(request)), request);
  // A cluster's id of 15 bytes, with its length and the message's before it to match.
  std::string cut = encode(loaded);
  const std::size_t at = cut.find("\x0a\x10" + std::string(reinterpret_cast<const char*>(origin.cluster.bytes.data()), 16));
  ASSERT_NE(at, std::string::npos);
  cut.erase(at + 2, 1);
  cut[at + 1] = 15;
  --cut[at - 1];
  EXPECT_EQ(decode_snapshot(cut).code(), Errc::corrupt);
}

// Goal: a placement ring is the bytes of docs/formats/metadata_keys.md. Method: two overrides, groups
// 5 and 7, of three members of which one has labels.
TEST(CodecTest, PlacementGolden) {
  RingSpec spec{.kind = RingKind::placement, .version = 9, .replication = 2, .members = {}, .parts = {}};
  for (const std::uint8_t number : {1, 2, 3}) {
    spec.members.push_back({.id = uuid(number), .weight = 20});
  }
  spec.members[1].labels = {.zone = "z", .rack = "", .host = "h"};
  spec.group_count = 4096;
  spec.overrides = {{.group = 5, .members = {2, 0}}, {.group = 7, .members = {1, 2}}};
  const std::string bytes = encode(spec);
  const auto member = [](char number, const std::string& labels) {
    const std::string body = "\x0a\x10" + std::string(16, number) + "\x10\x14" + labels;
    return std::string("\x22") + static_cast<char>(body.size()) + body;
  };
  EXPECT_EQ(bytes, std::string("\x08\x05\x10\x09\x18\x02") + member('\x01', "") +
                       member('\x02', "\x1a\x06\x0a\x01z\x1a\x01h") + member('\x03', "") +
                       std::string("\x38\x80\x20\x42\x06\x05\x02\x00\x01\x01\x02", 11));
  EXPECT_EQ(decode_ring(bytes), spec);
  const RingSpec planned{.kind = RingKind::empty,
                         .version = 1,
                         .replication = 3,
                         .members = {},
                         .parts = {},
                         .planned_kind = RingKind::placement,
                         .group_count = 1024};
  EXPECT_EQ(decode_ring(encode(planned)), planned);
}

// Goal: overrides that cannot be are corrupt. Method: lists cut short, members and groups too high.
TEST(CodecTest, BadOverrides) {
  const RingSpec spec = ketama(1, {1, 2, 3});
  for (const std::string& overrides :
       {std::string("\x42\x02\x05\x01"), std::string("\x42\x04\x05\x01\x02\x05"),
        std::string("\x42\x03\x05\x01\x03"),
        std::string("\x42\x07\xff\xff\xff\xff\x0f\x01\x02"), std::string("\x30\x63")}) {
    EXPECT_EQ(decode_ring(encode(spec) + overrides).code(), Errc::corrupt);
  }
}

// Goal: a field of a later version does no harm. Method: append field 15, varint.
TEST(CodecTest, UnknownFieldsAreSkipped) {
  const ClusterRecord cluster{.id = uuid(1), .block_size = 4, .block_spec = "base"};
  EXPECT_EQ(decode_cluster(encode(cluster) + std::string("\x78\x05", 2)), cluster);
}

// Goal: damaged bytes are corrupt, and the text names the record.
TEST(CodecTest, DamageIsCorrupt) {
  const std::string good = encode(ClusterRecord{.id = uuid(1), .block_size = 4, .block_spec = "b"});
  for (const std::string& bytes : {std::string("\xff\xff", 2), good.substr(0, good.size() - 1),
                                   std::string("\x0a\x01x", 3), std::string()}) {
    const auto decoded = decode_cluster(bytes);
    ASSERT_EQ(decoded.code(), Errc::corrupt);
    EXPECT_NE(decoded.error().message.find("cluster record"), std::string::npos);
  }
  EXPECT_EQ(decode_volume("").code(), Errc::corrupt);  // id 0
  EXPECT_EQ(
      decode_volume(encode(VolumeRecord{.id = {kVolumeIdMax + 1}, .name = "x", .block_spec = ""}))
          .code(),
      Errc::corrupt);
  EXPECT_EQ(decode_peer("").code(), Errc::corrupt);
  EXPECT_EQ(decode_tombstone("").code(), Errc::corrupt);
  EXPECT_EQ(decode_node("").code(), Errc::corrupt);
  EXPECT_EQ(decode_publications(encode(std::vector<Publication>{{"", false, 1}})).code(), Errc::corrupt);
}

TEST(CodecTest, WhereVolumesMayBeUsed) {
  const std::vector<Publication> publications{{"node-1", false, 1}, {"node-2", true, 7}};
  EXPECT_EQ(decode_publications(encode(publications)), publications);
  EXPECT_EQ(encode(std::vector<Publication>{{"n", true, 2}}), "\x0a\x07\x0a\x01n\x10\x01\x18\x02");
  const NodeRecord node{.id = "node-1", .registered_unix_ms = 3};
  EXPECT_EQ(decode_node(encode(node)), node);
}

// Goal: rings nest one deep, and kinds of later versions are named as such.
TEST(CodecTest, RingLimits) {
  RingSpec deep = ketama(1, {1});
  for (int level = 0; level < 2; ++level) {
    RingSpec outer = ketama(1, {1});
    outer.parts = {deep};
    deep = outer;
  }
  EXPECT_EQ(decode_ring(encode(deep)).code(), Errc::corrupt);
  EXPECT_EQ(decode_ring("\x08\x63").code(), Errc::not_supported);
}

}  // namespace
}  // namespace agro
