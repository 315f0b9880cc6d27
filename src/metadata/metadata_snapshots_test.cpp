// Snapshots, clones, names and sizes in the metadata, over every store.
// Method: a writer's answers are given by the test; FlakyKv's cases for the other transactions are
// in lost_answers_test.cpp.
#include "metadata/etcd/etcd_testing.hpp"
#include "metadata/keys.hpp"
#include "metadata/metadata.hpp"
#include "metadata/test_support.hpp"

namespace agro {
namespace {

template <class Backend>
class SnapshotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ClusterRecord cluster;
    cluster.block_size = 1 << 20;
    cluster.block_spec = "crc,base";
    RingSpec ring{
        .kind = RingKind::mod, .version = 1, .replication = 1, .members = {}, .parts = {}};
    ring.members.push_back({.id = peer_, .weight = 1});
    must(a.init_cluster(cluster, ring));
    volume = must(
        a.create_volume({.name = "demo", .size = 1 << 20, .block_spec = "", .replication = 0}));
    lease = must(kv->grant_lease(std::chrono::hours(1)));
  }
  void TearDown() override { must(kv->close()); }

  auto& test() { return backend.test; }
  template <class T>
  T must(Task<T> task) {
    return test().must(std::move(task));
  }
  template <class T>
  Errc error(Task<T> task, std::string_view text) {
    const Result<T> result = test().run(std::move(task));
    if (result.has_value()) return Errc::ok;
    EXPECT_NE(result.error().message.find(text), std::string::npos) << result.error().message;
    return result.code();
  }
  /// A writer opens the volume and commits a checkpoint.
  VolumeHead open(const VolumeRecord& which, std::uint64_t root) {
    epoch = must(a.acquire_volume(which.id, lease, "writer")).epoch;
    const VolumeHead head{epoch, epoch, root, 5, which.size, 0};
    must(a.commit_head(which.id, epoch, lease, head));
    return head;
  }
  void close(const VolumeRecord& which) { must(a.release_volume(which.id, epoch, lease)); }
  static VolumeHead ending(VolumeHead head, std::uint64_t log_end) {
    head.log_end = log_end;
    return head;
  }
  /// A snapshot of an open volume with the log up to 9.
  SnapshotRecord snap(const VolumeRecord& which, VolumeHead head, const std::string& name) {
    const std::uint64_t token = must(a.request_snapshot(which.id, name));
    const std::vector<SnapshotRequest> asked = must(a.view()).snapshot_requests;
    EXPECT_EQ(asked.size(), 1U);
    must(a.record_snapshot(epoch, lease, asked.at(0), ending(head, 10)));
    return must(a.poll_snapshot(which.id, name, token)).value_or(SnapshotRecord());
  }
  std::size_t key_count(const std::string& prefix) { return must(kv->list(prefix)).entries.size(); }

  Backend backend;
  PeerId peer_ = [] {
    PeerId id;
    id.bytes.fill(1);
    return id;
  }();
  std::unique_ptr<Kv> kv = backend.connect();
  Metadata a{backend.test.env, *kv};
  VolumeRecord volume;
  std::uint64_t lease = 0;
  Epoch epoch;
};

using Backends = ::testing::Types<TempBackend, SqliteBackend, EtcdBackend>;
TYPED_TEST_SUITE(SnapshotTest, Backends);

TYPED_TEST(SnapshotTest, AskedMadeAndDeleted) {
  const VolumeHead head = this->open(this->volume, 3);
  const std::uint64_t token = this->must(this->a.request_snapshot(this->volume.id, "monday"));
  EXPECT_EQ(this->error(this->a.request_snapshot(this->volume.id, "monday"), "by somebody else"),
            Errc::already_exists);
  EXPECT_EQ(this->error(this->a.request_snapshot(this->volume.id, "@x"), "no volume name"),
            Errc::invalid_argument);
  EXPECT_FALSE(this->must(this->a.poll_snapshot(this->volume.id, "monday", token)).has_value());
  const ClusterView view = this->must(this->a.view());
  ASSERT_EQ(view.snapshot_requests.size(), 1U);
  const SnapshotRequest request = view.snapshot_requests[0];
  EXPECT_EQ(request.volume, this->volume.id);
  // Not the head that is committed; not the epoch; then right.
  VolumeHead newer = this->ending(head, 10);
  newer.root_index = 4;
  EXPECT_EQ(this->error(this->a.record_snapshot(this->epoch, this->lease, request, newer),
                        "newer checkpoint"),
            Errc::conflict);
  EXPECT_EQ(
      this->error(this->a.record_snapshot({99}, this->lease, request, this->ending(head, 10)), ""),
      Errc::fenced);
  this->must(this->a.record_snapshot(this->epoch, this->lease, request, this->ending(head, 10)));
  const auto made = this->must(this->a.poll_snapshot(this->volume.id, "monday", token));
  ASSERT_TRUE(made.has_value());
  EXPECT_EQ(made->head, this->ending(head, 10));
  EXPECT_TRUE(this->must(this->a.view()).snapshot_requests.empty());
  EXPECT_EQ(this->error(
                this->a.record_snapshot(this->epoch, this->lease, request, this->ending(head, 10)),
                "not asked for"),
            Errc::not_found);
  EXPECT_EQ(this->error(this->a.request_snapshot(this->volume.id, "monday"), "exists already"),
            Errc::already_exists);
  EXPECT_FALSE(made->origin.has_value());
  // What was loaded from a backup says whose state it is.
  const StateId origin{Uuid{{1, 2, 3}}, {9}, {4}, 77};
  this->must(this->a.request_snapshot(this->volume.id, "loaded", origin));
  const SnapshotRequest loaded = this->must(this->a.view()).snapshot_requests.at(0);
  this->must(this->a.record_snapshot(this->epoch, this->lease, loaded, this->ending(head, 10)));
  EXPECT_EQ(this->must(this->a.find_snapshot(this->volume, "loaded")).origin, origin);
  this->must(this->a.delete_snapshot(this->volume, "loaded"));
  EXPECT_EQ(this->must(this->a.find_snapshot(this->volume, "monday")), *made);
  EXPECT_EQ(this->must(this->a.snapshots(this->volume.id)).size(), 1U);
  const std::vector<VolumePosition> positions = this->must(this->a.positions());
  ASSERT_EQ(positions.size(), 1U);
  EXPECT_EQ(positions[0].head, head);
  EXPECT_EQ(positions[0].snapshots, std::vector{*made});
  this->must(this->a.delete_snapshot(this->volume, "monday"));
  EXPECT_EQ(this->error(this->a.delete_snapshot(this->volume, "monday"), "snapshot list"),
            Errc::not_found);
}

TYPED_TEST(SnapshotTest, RefusedOrWithdrawn) {
  this->open(this->volume, 3);
  const std::uint64_t token = this->must(this->a.request_snapshot(this->volume.id, "monday"));
  const SnapshotRequest request = this->must(this->a.view()).snapshot_requests.at(0);
  this->must(this->a.refuse_snapshot(request, "the peers are full"));
  EXPECT_EQ(
      this->error(this->a.poll_snapshot(this->volume.id, "monday", token), "the peers are full"),
      Errc::unavailable);
  EXPECT_TRUE(this->must(this->a.view()).snapshot_requests.empty());
  const std::uint64_t second = this->must(this->a.request_snapshot(this->volume.id, "monday"));
  this->must(this->a.withdraw_snapshot(this->volume.id, "monday", token));  // not that one
  EXPECT_EQ(this->must(this->a.view()).snapshot_requests.size(), 1U);
  this->must(this->a.withdraw_snapshot(this->volume.id, "monday", second));
  EXPECT_EQ(this->error(this->a.poll_snapshot(this->volume.id, "monday", second), "is gone"),
            Errc::not_found);
}

// Goal: what is restored goes on from the snapshot, and nothing of before is taken for its log.
TYPED_TEST(SnapshotTest, Restored) {
  const VolumeHead head = this->open(this->volume, 3);
  const SnapshotRecord made = this->snap(this->volume, head, "monday");
  this->must(this->a.change_volume("demo", {.size = 2 << 20}));
  this->must(this->a.commit_head(this->volume.id, this->epoch, this->lease,
                                 {this->epoch, this->epoch, 7, 40, 2 << 20, 0}));
  EXPECT_EQ(this->error(this->a.restore_snapshot(this->volume, "monday"), "open by writer"),
            Errc::locked);
  this->close(this->volume);
  EXPECT_EQ(this->error(this->a.restore_snapshot(this->volume, "tuesday"), "no snapshot"),
            Errc::not_found);
  this->must(this->a.restore_snapshot(this->volume, "monday"));
  const AcquiredVolume again =
      this->must(this->a.acquire_volume(this->volume.id, this->lease, "writer"));
  EXPECT_EQ(again.head, made.head);
  EXPECT_EQ(again.volume.size, 1U << 20);
  EXPECT_EQ(again.epoch.value, this->epoch.value + 2);
}

// Goal: a parent's blocks stay for its clones, whatever of it is deleted, and go with the last of
// them.
TYPED_TEST(SnapshotTest, ClonesOutliveTheirParents) {
  const VolumeHead head = this->open(this->volume, 3);
  const SnapshotRecord made = this->snap(this->volume, head, "monday");
  this->close(this->volume);
  const VolumeRecord child = this->must(this->a.clone_volume({this->volume, "monday", "child"}));
  EXPECT_EQ(child.ancestors, (std::vector<VolumeAncestor>{{this->volume.id, head.epoch}}));
  EXPECT_EQ(this->must(this->a.head(child.id)), made.head);
  EXPECT_EQ(this->error(this->a.clone_volume({this->volume, "monday", "child"}), "exists already"),
            Errc::already_exists);
  EXPECT_EQ(this->error(this->a.clone_volume({this->volume, "friday", "other"}), "no snapshot"),
            Errc::not_found);
  const VolumeHead child_head = this->open(child, 9);
  EXPECT_GT(child_head.epoch, head.epoch);
  this->snap(child, child_head, "deep");
  this->close(child);
  const VolumeRecord grandchild = this->must(this->a.clone_volume({child, "deep", "grandchild"}));
  EXPECT_EQ(grandchild.ancestors, (std::vector<VolumeAncestor>{{this->volume.id, head.epoch},
                                                               {child.id, child_head.epoch}}));

  EXPECT_EQ(this->error(this->a.delete_volume("demo"), "--snapshots"), Errc::conflict);
  EXPECT_TRUE(this->must(this->a.delete_volume("demo", true)).peers.empty());
  EXPECT_TRUE(this->must(this->a.delete_volume("child", true)).peers.empty());
  EXPECT_EQ(this->error(this->a.find_volume("demo"), "no volume"), Errc::not_found);
  EXPECT_EQ(this->error(this->a.acquire_volume(child.id, this->lease, "late"), "deleted"),
            Errc::not_found);
  EXPECT_EQ(this->must(this->a.list_volumes()), std::vector{grandchild});
  EXPECT_EQ(this->must(this->a.view()).volumes.size(), 3U);
  const std::vector<VolumePosition> positions = this->must(this->a.positions());
  ASSERT_EQ(positions.size(), 3U);
  ASSERT_EQ(positions[0].snapshots.size(), 1U);
  EXPECT_TRUE(positions[0].snapshots[0].is_clone_origin());
  EXPECT_EQ(positions[0].snapshots[0].head, made.head);
  EXPECT_TRUE(this->must(this->a.tombstones()).empty());

  this->must(this->a.delete_volume("grandchild"));
  EXPECT_EQ(this->must(this->a.tombstones()).size(), 3U);
  EXPECT_EQ(this->key_count(std::string(keys::kVolumeState)), 0U);
  EXPECT_EQ(this->key_count(std::string(keys::kVolumes)), 0U);
}

// Goal: many snapshots of one volume are kept apart, listed, and deleted; a thousand where a transaction costs nothing.
TYPED_TEST(SnapshotTest, Many) {
  const VolumeHead head = this->open(this->volume, 3);
  const int count = std::is_same_v<TypeParam, TempBackend> ? 1000 : 40;
  for (int number = 0; number < count; ++number) this->snap(this->volume, head, "s" + std::to_string(number));
  EXPECT_EQ(this->must(this->a.snapshots(this->volume.id)).size(), static_cast<std::size_t>(count));
  EXPECT_EQ(this->must(this->a.position(this->volume.id)).snapshots.size(), static_cast<std::size_t>(count));
  for (int number = 0; number < count; number += 2)
    this->must(this->a.delete_snapshot(this->volume, "s" + std::to_string(number)));
  const std::vector<SnapshotRecord> left = this->must(this->a.snapshots(this->volume.id));
  EXPECT_EQ(left.size(), static_cast<std::size_t>(count / 2));
  EXPECT_EQ(left.front().name, "s1");
  this->close(this->volume);
}

TYPED_TEST(SnapshotTest, RenamedAndResized) {
  this->must(
      this->a.create_volume({.name = "other", .size = 4096, .block_spec = "", .replication = 0}));
  EXPECT_EQ(this->error(this->a.rename_volume("demo", "other"), "exists already"),
            Errc::already_exists);
  EXPECT_EQ(this->error(this->a.rename_volume("demo", "-"), "no volume name"),
            Errc::invalid_argument);
  EXPECT_EQ(this->error(this->a.rename_volume("none", "some"), "no volume"), Errc::not_found);
  this->must(this->a.rename_volume("demo", "new"));
  EXPECT_EQ(this->must(this->a.find_volume("new")).id, this->volume.id);
  EXPECT_EQ(this->error(this->a.find_volume("demo"), "no volume"), Errc::not_found);
  VolumeChange change{.size = 8 << 20, .read_only = true, .iops_max = 10, .bandwidth_max = 20, .aoe_config = "me"};
  const VolumeRecord changed = this->must(this->a.change_volume("new", change));
  EXPECT_EQ(this->must(this->a.find_volume("new")), changed);
  EXPECT_TRUE(changed.size == 8U << 20 && changed.read_only && changed.iops_max == 10 &&
              changed.bandwidth_max == 20 && changed.aoe_config == "me");
  this->open(changed, 1);
  const VolumeChange smaller{.size = 4096, .shrink_after = this->epoch};
  EXPECT_EQ(this->error(this->a.rename_volume("new", "newer"), "open by writer"), Errc::locked);
  EXPECT_EQ(this->error(this->a.change_volume("new", {.size = 4096}), "what is beyond is lost"),
            Errc::invalid_argument);
  EXPECT_EQ(this->error(this->a.change_volume("new", smaller), "open by writer"), Errc::locked);
  EXPECT_EQ(this->error(this->a.change_volume("new", {.size = 4097}), "multiple"),
            Errc::invalid_argument);
  this->close(changed);
  const VolumeChange outdated{.size = 4096, .shrink_after = Epoch{this->epoch.value - 1}};
  EXPECT_EQ(this->error(this->a.change_volume("new", outdated), "opened meanwhile"), Errc::conflict);
  EXPECT_EQ(this->must(this->a.change_volume("new", smaller)).size, 4096U);
  // What was beyond is in the map until somebody opens it: whoever saw it grow would see that again.
  EXPECT_EQ(this->error(this->a.change_volume("new", {.size = 8192}), "not been opened since"), Errc::conflict);
  VolumeRecord cut = changed;
  cut.size = 4096;
  this->open(cut, 2);
  EXPECT_EQ(this->must(this->a.change_volume("new", {.size = 8192})).size, 8192U);
  this->close(cut);
}

}  // namespace
}  // namespace agro
