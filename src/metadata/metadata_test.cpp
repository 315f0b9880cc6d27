// Metadata over every store. Method: two clients, A and B, each with its own Kv; simulated time,
// but over etcd.
#include "metadata/metadata.hpp"

#include <algorithm>

#include "metadata/etcd/etcd_testing.hpp"
#include "metadata/keys.hpp"
#include "metadata/lease.hpp"
#include "metadata/test_support.hpp"
#include "models/codec.hpp"

namespace agro {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

Uuid uuid(std::uint8_t number) {
  Uuid id;
  id.bytes.fill(number);
  return id;
}

RingSpec ring_of(std::uint64_t version, std::vector<std::uint8_t> numbers) {
  RingSpec ring{
      .kind = RingKind::mod, .version = version, .replication = 2, .members = {}, .parts = {}};
  for (const std::uint8_t number : numbers)
    ring.members.push_back({.id = uuid(number), .weight = 1});
  return ring;
}

Uuid one_of_many(std::uint32_t number) {
  Uuid id = uuid(1);
  id.bytes[0] = static_cast<std::uint8_t>(number >> 8);
  id.bytes[1] = static_cast<std::uint8_t>(number);
  return id;
}

/// A placement ring of labelled peers, every group of which is overridden.
RingSpec large_ring(std::uint64_t version, std::uint32_t member_count, std::uint32_t group_count) {
  RingSpec ring = ring_of(version, {});
  ring.kind = RingKind::placement;
  ring.replication = 3;
  ring.group_count = group_count;
  for (std::uint32_t number = 0; number < member_count; ++number) {
    ring.members.push_back({.id = one_of_many(number),
                            .weight = 4000,
                            .labels = {.zone = "zone-" + std::to_string(number % 5),
                                       .rack = "rack-" + std::to_string(number % 20),
                                       .host = "host-" + std::to_string(number)}});
  }
  for (std::uint32_t group = 0; group < group_count; ++group) {
    const auto first = static_cast<std::uint16_t>(group % (member_count - 2));
    ring.overrides.push_back(
        {group, {first, static_cast<std::uint16_t>(first + 1), static_cast<std::uint16_t>(first + 2)}});
  }
  return ring;
}

template <class Backend>
class MetadataTest : public ::testing::Test {
 protected:
  void TearDown() override {
    test().must(kv_a->close());
    test().must(kv_b->close());
  }
  auto& test() { return backend.test; }

  void init() {
    ClusterRecord cluster;
    cluster.block_size = 1 << 20;
    cluster.block_spec = "crc,base";
    test().must(a.init_cluster(cluster, ring_of(1, {1, 2, 3})));
  }
  VolumeRecord create(std::string name) {
    return test().must(a.create_volume(
        {.name = std::move(name), .size = 1 << 20, .block_spec = "", .replication = 0}));
  }
  std::uint64_t lease(Kv& kv, milliseconds ttl = hours(1)) {
    return test().must(kv.grant_lease(ttl));
  }
  PeerRecord peer(std::uint8_t number) {
    PeerRecord record;
    record.id = uuid(number);
    record.addresses = {"adp://h:" + std::to_string(number)};
    record.size = 100;
    return record;
  }
  /// The code; the text must hold `text`.
  template <class T>
  Errc error(Task<T> task, std::string_view text) {
    const Result<T> result = test().run(std::move(task));
    if (result.has_value()) return Errc::ok;
    EXPECT_NE(result.error().message.find(text), std::string::npos) << result.error().message;
    return result.code();
  }

  Backend backend;
  std::unique_ptr<Kv> kv_a = backend.connect();
  std::unique_ptr<Kv> kv_b = backend.connect();
  Metadata a{backend.test.env, *kv_a};
  Metadata b{backend.test.env, *kv_b};
};

using Backends = ::testing::Types<TempBackend, SqliteBackend, EtcdBackend>;
TYPED_TEST_SUITE(MetadataTest, Backends);

TYPED_TEST(MetadataTest, BeforeInit) {
  const std::string hint = "run 'agroctl init'";
  EXPECT_EQ(this->error(this->a.cluster(), hint), Errc::not_found);
  EXPECT_EQ(this->error(this->a.ring(), hint), Errc::not_found);
  EXPECT_EQ(this->error(this->a.find_volume("x"), hint), Errc::not_found);
  EXPECT_EQ(this->error(this->a.delete_volume("x"), hint), Errc::not_found);
  EXPECT_EQ(this->error(this->a.create_volume(
                            {.name = "x", .size = 4096, .block_spec = "", .replication = 0}),
                        hint),
            Errc::not_found);
  EXPECT_EQ(this->error(this->a.register_peer(this->peer(1), this->lease(*this->kv_a)), hint),
            Errc::not_found);
  EXPECT_EQ(this->error(this->a.publish_ring(ring_of(2, {1}), 1), hint), Errc::not_found);
  EXPECT_FALSE(this->test().must(this->a.view()).cluster.has_value());
}

TYPED_TEST(MetadataTest, InitAndWipe) {
  this->init();
  const ClusterRecord cluster = this->test().must(this->b.cluster());
  EXPECT_FALSE(cluster.id.is_nil());
  EXPECT_EQ(cluster.block_spec, "crc,base");
  EXPECT_GT(cluster.created_unix_ms, 0);
  EXPECT_EQ(this->test().must(this->b.ring()), ring_of(1, {1, 2, 3}));
  EXPECT_EQ(this->error(this->b.init_cluster(cluster, {}), "already holds"), Errc::already_exists);
  this->create("demo");
  this->test().must(this->b.wipe());
  EXPECT_EQ(this->test().must(this->kv_a->list("")).entries.size(), 0U);
  this->init();
  EXPECT_NE(this->test().must(this->b.cluster()).id, cluster.id);
}

TYPED_TEST(MetadataTest, VolumesByName) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  EXPECT_EQ(demo.id.value, 1U);
  EXPECT_EQ(demo.block_spec, "crc,base");
  EXPECT_EQ(this->test().must(this->b.find_volume("demo")), demo);
  EXPECT_EQ(this->test().must(this->b.head(demo.id)), (VolumeHead{.size = demo.size}));
  EXPECT_EQ(this->error(this->b.create_volume(
                            {.name = "demo", .size = 4096, .block_spec = "", .replication = 0}),
                        "demo"),
            Errc::already_exists);
  const VolumeRecord other = this->test().must(this->b.create_volume(
      {.name = "a.b_C-9", .size = 4096, .block_spec = "base", .replication = 3}));
  EXPECT_EQ(other.replication, 3U);
  EXPECT_EQ(this->test().must(this->a.list_volumes()), (std::vector<VolumeRecord>{demo, other}));
  EXPECT_EQ(this->error(this->a.find_volume("none"), "volume list"), Errc::not_found);
}

TYPED_TEST(MetadataTest, BadVolumes) {
  this->init();
  for (const std::string& name :
       {std::string(), std::string("-x"), std::string(".x"), std::string("a@b"), std::string("a/b"),
        std::string("a b"), std::string("\xc3\xa4"), std::string(256, 'x')}) {
    EXPECT_EQ(this->error(this->a.create_volume(
                              {.name = name, .size = 4096, .block_spec = "", .replication = 0}),
                          "volume name"),
              Errc::invalid_argument);
  }
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{512}, std::uint64_t{1} << 51}) {
    EXPECT_EQ(this->error(this->a.create_volume(
                              {.name = "x", .size = size, .block_spec = "", .replication = 0}),
                          "bytes"),
              Errc::invalid_argument);
  }
  EXPECT_EQ(this->error(this->a.create_volume(
                            {.name = "x", .size = 4096, .block_spec = "", .replication = 4}),
                        "3 peers"),
            Errc::invalid_argument);
  EXPECT_TRUE(check_volume_name(std::string(255, 'x')).has_value());
}

// Goal: ids are never reused, also not after a deletion and by another client.
TYPED_TEST(MetadataTest, IdsAreNeverReused) {
  this->init();
  EXPECT_EQ(this->create("x").id.value, 1U);
  this->test().must(this->b.delete_volume("x"));
  EXPECT_EQ(this->create("x").id.value, 2U);
  this->test().must(this->b.delete_volume("x"));
  const VolumeRecord third = this->test().must(
      this->b.create_volume({.name = "y", .size = 4096, .block_spec = "", .replication = 0}));
  EXPECT_EQ(third.id.value, 3U);
}

inline Job create_many(Metadata& metadata, std::string prefix, int count, int* done) {
  for (int index = 0; index < count; ++index) {
    NewVolume wanted{
        .name = prefix + std::to_string(index), .size = 4096, .block_spec = "", .replication = 0};
    const auto volume = co_await metadata.create_volume(std::move(wanted));
    *done += volume.has_value() ? 1 : 0;
  }
}

// Goal: clients that create at the same time all succeed, each id once.
TYPED_TEST(MetadataTest, CreateAtTheSameTime) {
  this->init();
  int done = 0;
  for (Metadata* metadata : {&this->a, &this->b}) {
    const std::string prefix = metadata == &this->a ? "a" : "b";
    spawn(this->test().sim.executor(), create_many(*metadata, prefix, 10, &done));
    spawn(this->test().sim.executor(), create_many(*metadata, prefix + "2-", 10, &done));
  }
  ASSERT_TRUE(this->test().sim.run_until([&] { return done == 40; }));
  std::set<std::uint64_t> ids;
  for (const VolumeRecord& volume : this->test().must(this->a.list_volumes()))
    ids.insert(volume.id.value);
  EXPECT_EQ(ids.size(), 40U);
  EXPECT_EQ(*ids.rbegin(), 40U);
}

TYPED_TEST(MetadataTest, DeleteLeavesATombstone) {
  this->init();
  this->test().must(this->a.register_peer(this->peer(9), this->lease(*this->kv_a)));
  const VolumeRecord demo = this->create("demo");
  const Tombstone tombstone = this->test().must(this->b.delete_volume("demo"));
  EXPECT_EQ(tombstone.peers, (std::vector{uuid(1), uuid(2), uuid(3), uuid(9)}));
  EXPECT_EQ(tombstone.volume, demo.id);
  EXPECT_EQ(this->test().must(this->a.tombstones()), (std::vector{tombstone}));
  EXPECT_EQ(this->test().must(this->kv_a->list(keys::volume_prefix(demo.id))).entries.size(), 0U);
  EXPECT_EQ(this->error(this->a.find_volume("demo"), "demo"), Errc::not_found);
  EXPECT_EQ(this->error(this->a.delete_volume("demo"), "demo"), Errc::not_found);
  EXPECT_EQ(this->error(this->a.acquire_volume(demo.id, this->lease(*this->kv_a), "x"), "deleted"),
            Errc::not_found);
  for (const std::uint8_t number : {1, 9, 9, 2})
    this->test().must(this->a.purge_done(demo.id, uuid(number)));
  EXPECT_EQ(this->test().must(this->b.tombstones()).at(0).peers, (std::vector{uuid(3)}));
  this->test().must(this->a.purge_done(demo.id, uuid(3)));
  this->test().must(this->a.purge_done(demo.id, uuid(3)));
  EXPECT_EQ(this->test().must(this->b.tombstones()).size(), 0U);
}

TYPED_TEST(MetadataTest, OneWriter) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  const std::uint64_t lease_a = this->lease(*this->kv_a);
  const std::uint64_t lease_b = this->lease(*this->kv_b);
  const AcquiredVolume first =
      this->test().must(this->a.acquire_volume(demo.id, lease_a, "A on host, pid 1"));
  EXPECT_EQ(first.volume, demo);
  EXPECT_EQ(first.epoch.value, 1U);
  EXPECT_FALSE(first.head.has_checkpoint());
  EXPECT_EQ(first.degraded_copies, std::nullopt);
  EXPECT_EQ(this->error(this->b.acquire_volume(demo.id, lease_b, "B"), "A on host, pid 1"),
            Errc::locked);
  EXPECT_EQ(this->error(this->a.acquire_volume(demo.id, lease_a, "A"), "A on host"), Errc::locked);
  EXPECT_EQ(this->error(this->b.delete_volume("demo"), "A on host, pid 1"), Errc::locked);
  EXPECT_EQ(this->test().must(this->b.lock_of(demo.id))->epoch.value, 1U);

  const VolumeHead head{
      .epoch = {1}, .checkpoint_epoch = {1}, .root_index = 3, .sequence = 9, .size = demo.size};
  this->test().must(this->a.commit_head(demo.id, first.epoch, lease_a, head));
  this->test().must(this->a.set_degraded(demo.id, first.epoch, lease_a, 1));
  this->test().must(this->a.release_volume(demo.id, first.epoch, lease_a));
  this->test().must(this->a.release_volume(demo.id, first.epoch, lease_a));
  EXPECT_EQ(this->test().must(this->b.lock_of(demo.id)), std::nullopt);
  EXPECT_EQ(this->error(this->a.commit_head(demo.id, first.epoch, lease_a, head), "lease"),
            Errc::fenced);

  const AcquiredVolume second = this->test().must(this->b.acquire_volume(demo.id, lease_b, "B"));
  EXPECT_EQ(second.epoch.value, 2U);
  EXPECT_EQ(second.head, head);
  EXPECT_EQ(second.degraded_copies, 1U);
  EXPECT_EQ(this->error(this->a.clear_degraded(demo.id, second.epoch), "opened"), Errc::conflict);
  this->test().must(this->b.set_degraded(demo.id, second.epoch, lease_b, 0));
  this->test().must(this->b.set_degraded(demo.id, second.epoch, lease_b, 0));
  EXPECT_EQ(this->error(this->a.commit_head(demo.id, first.epoch, lease_a, head), "opened by B"),
            Errc::fenced);
  EXPECT_EQ(this->error(this->a.set_degraded(demo.id, first.epoch, lease_a, 1), "opened by B"),
            Errc::fenced);
  this->test().must(this->a.release_volume(demo.id, first.epoch, lease_a));  // not ours: left alone
  EXPECT_EQ(this->test().must(this->a.lock_of(demo.id))->holder, "B");
  this->test().must(this->b.release_volume(demo.id, second.epoch, lease_b));
  EXPECT_EQ(this->test().must(this->a.acquire_volume(demo.id, lease_a, "A")).degraded_copies,
            std::nullopt);
}

// Goal: the record of few copies is taken back only while nobody has the volume open, and a writer who
// resumes has his record again.
TYPED_TEST(MetadataTest, DegradedRecordOfDetached) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  std::uint64_t lease = this->lease(*this->kv_a, milliseconds(3000));
  const AcquiredVolume held = this->test().must(this->a.acquire_volume(demo.id, lease, "A"));
  this->test().must(this->a.set_degraded(demo.id, held.epoch, lease, 2));
  EXPECT_TRUE(this->test().must(this->b.positions()).front().locked);
  EXPECT_EQ(this->error(this->b.clear_degraded(demo.id, held.epoch), "opened"), Errc::conflict);
  this->test().sim.run_for(milliseconds(4000));
  EXPECT_EQ(this->error(this->b.clear_degraded(demo.id, Epoch{0}), "opened"), Errc::conflict);
  EXPECT_EQ(this->test().must(this->b.positions()).front().degraded_copies, 2U);
  this->test().must(this->b.clear_degraded(demo.id, held.epoch));
  this->test().must(this->b.clear_degraded(demo.id, held.epoch));
  EXPECT_EQ(this->error(this->b.clear_degraded({77}, held.epoch), "deleted"), Errc::not_found);
  EXPECT_FALSE(this->test().must(this->b.positions()).front().locked);
  EXPECT_EQ(this->test().must(this->b.positions()).front().degraded_copies, std::nullopt);
  lease = this->lease(*this->kv_a, milliseconds(3000));
  this->test().must(this->a.resume_volume(demo.id, held.epoch, lease, "A", 2));
  EXPECT_EQ(this->test().must(this->b.positions()).front().degraded_copies, 2U);
}

// Goal: a writer whose lease ended is fenced; it may resume exactly when nobody came between.
TYPED_TEST(MetadataTest, LostLease) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  std::uint64_t lease_a = this->lease(*this->kv_a, milliseconds(3000));
  const AcquiredVolume held = this->test().must(this->a.acquire_volume(demo.id, lease_a, "A"));
  VolumeHead head = held.head;
  head.epoch = held.epoch;
  this->test().sim.run_for(milliseconds(4000));
  EXPECT_EQ(this->error(this->a.commit_head(demo.id, held.epoch, lease_a, head), "lease"),
            Errc::fenced);
  EXPECT_EQ(this->error(this->a.acquire_volume(demo.id, lease_a, "A"), "lease"), Errc::fenced);
  EXPECT_EQ(this->error(this->a.resume_volume(demo.id, held.epoch, lease_a, "A"), "lease"),
            Errc::unavailable);
  lease_a = this->lease(*this->kv_a, milliseconds(3000));
  this->test().must(this->a.resume_volume(demo.id, held.epoch, lease_a, "A"));
  this->test().must(this->a.resume_volume(demo.id, held.epoch, lease_a, "A"));
  this->test().must(this->a.commit_head(demo.id, held.epoch, lease_a, head));
  this->test().sim.run_for(milliseconds(4000));
  const AcquiredVolume taken =
      this->test().must(this->b.acquire_volume(demo.id, this->lease(*this->kv_b), "B"));
  EXPECT_EQ(taken.epoch.value, held.epoch.value + 1);
  lease_a = this->lease(*this->kv_a);
  EXPECT_EQ(this->error(this->a.resume_volume(demo.id, held.epoch, lease_a, "A"), "opened"),
            Errc::fenced);
  EXPECT_EQ(this->error(this->a.resume_volume({77}, held.epoch, lease_a, "A"), "deleted"),
            Errc::fenced);
}

inline Job open_and_close(Metadata& metadata, VolumeId volume, std::uint64_t lease, int* rounds,
                          std::vector<std::uint64_t>* epochs) {
  while (*rounds > 0) {
    const auto opened = co_await metadata.acquire_volume(volume, lease, "x");
    if (opened.code() == Errc::locked) {
      co_await yield_to_loop();
      continue;
    }
    if (!opened.has_value()) co_return;
    epochs->push_back(opened->epoch.value);
    --*rounds;
    const auto closed = co_await metadata.release_volume(volume, opened->epoch, lease);
    if (!closed.has_value()) co_return;
  }
}

// Goal: of clients that race for a volume one at a time wins, and each epoch is minted once.
TYPED_TEST(MetadataTest, RaceForTheLock) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  int rounds = 30;
  std::vector<std::uint64_t> epochs;
  TaskGroup jobs(this->test().sim.executor());
  for (int job = 0; job < 4; ++job) {
    Kv& kv = job % 2 == 0 ? *this->kv_a : *this->kv_b;
    Metadata& metadata = job % 2 == 0 ? this->a : this->b;
    jobs.spawn(open_and_close(metadata, demo.id, this->lease(kv), &rounds, &epochs));
  }
  ASSERT_TRUE(this->test().sim.run_until([&] { return jobs.count() == 0; }));
  ASSERT_GE(epochs.size(), 30U);
  for (std::size_t index = 0; index < epochs.size(); ++index) EXPECT_EQ(epochs[index], index + 1);
}

TYPED_TEST(MetadataTest, Peers) {
  this->init();
  const std::uint64_t lease_a = this->lease(*this->kv_a, milliseconds(3000));
  this->test().must(this->a.register_peer(this->peer(1), lease_a));
  this->test().must(this->a.register_peer(this->peer(1), lease_a));
  const std::uint64_t lease_b = this->lease(*this->kv_b);
  EXPECT_EQ(this->error(this->b.register_peer(this->peer(1), lease_b), "copied"),
            Errc::already_exists);
  this->test().must(this->b.register_peer(this->peer(8), lease_b));
  PeerRecord used = this->peer(8);
  used.used = 42;
  this->test().must(this->b.update_peer(used));
  EXPECT_EQ(this->error(this->b.update_peer(this->peer(7)), "not registered"), Errc::not_found);
  this->test().sim.run_for(milliseconds(4000));
  const std::vector<PeerView> peers = this->test().must(this->a.list_peers());
  ASSERT_EQ(peers.size(), 2U);
  EXPECT_FALSE(peers[0].alive);
  EXPECT_EQ(peers[0].record.addresses, this->peer(1).addresses);
  EXPECT_TRUE(peers[1].alive);
  EXPECT_EQ(peers[1].record.used, 42U);
  EXPECT_EQ(this->error(this->a.forget_peer(uuid(8)), "running"), Errc::locked);
  EXPECT_EQ(this->error(this->a.forget_peer(uuid(1)), "ring"), Errc::conflict);
  EXPECT_EQ(this->error(this->a.forget_peer(uuid(7)), "no peer"), Errc::not_found);
  this->create("demo");
  this->test().must(this->a.delete_volume("demo"));
  this->test().must(this->kv_b->revoke_lease(lease_b));
  this->test().must(this->a.forget_peer(uuid(8)));
  EXPECT_EQ(this->test().must(this->a.list_peers()).size(), 1U);
  EXPECT_EQ(this->test().must(this->a.tombstones()).at(0).peers,
            (std::vector{uuid(1), uuid(2), uuid(3)}));
}

TYPED_TEST(MetadataTest, RingVersions) {
  this->init();
  this->test().must(this->a.publish_ring(ring_of(2, {1, 2}), 1));
  EXPECT_EQ(this->error(this->b.publish_ring(ring_of(2, {3, 4}), 1), "version 2, not 1"),
            Errc::conflict);
  EXPECT_EQ(this->error(this->b.publish_ring(ring_of(5, {3, 4}), 2), "cannot be"),
            Errc::invalid_argument);
  RingSpec large = ring_of(3, {3, 4});
  large.members[0].labels.zone.assign(kRingRecordSizeMax, 'z');
  EXPECT_EQ(this->error(this->b.publish_ring(large, 2), "524288 is the limit"),
            Errc::invalid_argument);
  EXPECT_EQ(this->test().must(this->b.ring()), ring_of(2, {1, 2}));
  this->test().must(this->b.publish_ring(ring_of(3, {1, 3}), 2, true));
  this->create("demo");
  EXPECT_EQ(this->error(this->b.publish_ring(ring_of(4, {1, 2}), 3, true), "a volume was made"),
            Errc::conflict);
  RingSpec both = ring_of(4, {});
  both.kind = RingKind::union_;
  both.parts = {ring_of(3, {1, 2}), ring_of(4, {2, 5})};
  this->test().must(this->b.publish_ring(both, 3));
  EXPECT_EQ(this->test().must(this->a.ring()), both);
  EXPECT_EQ(ring_peers(both), (std::vector{uuid(1), uuid(2), uuid(5)}));
}

// Goal: a record that would not fit is refused by name, whatever the store.
TYPED_TEST(MetadataTest, RecordsAreLimited) {
  this->init();
  const RingSpec ring = large_ring(2, 16'384, 4096);
  EXPECT_EQ(this->error(this->a.publish_ring(ring, 1), "ring would take"), Errc::invalid_argument);
  PeerRecord large = this->peer(1);
  large.addresses = {"adp://" + std::string(70000, 'h') + ":1"};
  EXPECT_EQ(this->error(this->a.register_peer(large, this->lease(*this->kv_a)), "would take"),
            Errc::too_large);
  EXPECT_EQ(this->test().must(this->b.ring()).version, 1U);
}

// Goal: a cluster of 1,000 peers can change its ring, twice on top of a change under way, in every store.
// Method: unions of rings of which every group is overridden, read back by the other client.
TYPED_TEST(MetadataTest, RingOfAThousandPeers) {
  this->init();
  RingSpec both = ring_of(2, {});
  both.kind = RingKind::union_;
  both.replication = 3;
  for (const std::uint32_t member_count : {1000, 1001, 1000, 999})
    both.parts.push_back(large_ring(2, member_count, 4096));
  EXPECT_GT(encode(both).size(), 4 * kRecordSizeMax);
  this->test().must(this->a.publish_ring(both, 1));
  EXPECT_EQ(this->test().must(this->b.ring()), both);
  EXPECT_EQ(this->test().must(this->b.view()).ring, both);
  RingSpec after = large_ring(3, 1001, 65'536);
  EXPECT_LT(encode(after).size(), kRingRecordSizeMax);
  this->test().must(this->b.publish_ring(after, 2));
  EXPECT_EQ(this->test().must(this->a.view()).ring, after);
}

// Goal: whoever follows view() and watch() learns of each kind of change, and of nothing else.
TYPED_TEST(MetadataTest, Following) {
  this->init();
  const std::uint64_t lease = this->lease(*this->kv_a, milliseconds(3000));
  const VolumeRecord volume = this->create("quiet");
  ClusterView view = this->test().must(this->b.view());
  const auto follow = [&] {
    const auto watch = this->test().must(this->b.watch(view.revision));
    this->test().must(watch->changed());
    view = this->test().must(this->b.view());
  };
  this->test().must(this->a.acquire_volume(volume.id, lease, "A"));  // not in the view
  this->create("demo");
  follow();
  EXPECT_EQ(view.volumes.size(), 2U);
  this->test().must(this->a.register_peer(this->peer(4), lease));
  follow();
  EXPECT_TRUE(view.peers.at(0).alive);
  this->test().must(this->a.publish_ring(ring_of(2, {1, 4}), 1));
  follow();
  EXPECT_EQ(view.ring.version, 2U);
  this->test().must(this->a.delete_volume("demo"));
  follow();
  EXPECT_EQ(view.tombstones.size(), 1U);
  follow();  // the lease ends
  EXPECT_FALSE(view.peers.at(0).alive);
  const auto watch = this->test().must(this->b.watch(view.revision));
  watch->close();
  EXPECT_EQ(this->test().run(watch->changed()).code(), Errc::closed);
}

// Goal: what a peer says of itself is seen by all: which ring it has settled to. One that nobody
// registered says nothing.
TYPED_TEST(MetadataTest, SettledPeers) {
  this->init();
  this->test().must(this->a.register_peer(this->peer(1), this->lease(*this->kv_a)));
  EXPECT_EQ(this->test().must(this->b.list_peers()).at(0).settled_version, 0U);
  this->test().must(this->a.report_settled(uuid(1), 7));
  EXPECT_EQ(this->test().must(this->b.list_peers()).at(0).settled_version, 7U);
  EXPECT_EQ(this->error(this->a.report_settled(uuid(9), 7), "not registered"), Errc::not_found);
}

// Goal: a writer's health is seen by others until it is well, and never after it lost the volume.
TYPED_TEST(MetadataTest, HealthOfAVolume) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  const std::uint64_t lease = this->lease(*this->kv_a);
  const Epoch epoch = this->test().must(this->a.acquire_volume(demo.id, lease, "A")).epoch;
  this->test().must(this->a.set_health(demo.id, epoch, lease, "suspended: no space"));
  EXPECT_EQ(this->test().must(this->b.health_of(demo.id)), "suspended: no space");
  this->test().must(this->a.set_health(demo.id, epoch, lease, ""));
  EXPECT_EQ(this->test().must(this->b.health_of(demo.id)), "");
  this->test().must(this->a.set_health(demo.id, epoch, lease, "degraded"));
  this->test().must(this->kv_a->revoke_lease(lease));
  EXPECT_EQ(this->test().must(this->b.health_of(demo.id)), "") << "it outlived its writer";
  const std::uint64_t other = this->lease(*this->kv_b);
  this->test().must(this->b.acquire_volume(demo.id, other, "B"));
  EXPECT_EQ(this->error(this->a.set_health(demo.id, epoch, lease, "well"), "opened by B"),
            Errc::fenced);
}

// Goal: the account that garbage collection goes by names all that exists or existed; without the
// counter of ids there is none, and no new volume.
TYPED_TEST(MetadataTest, AccountOfVolumes) {
  EXPECT_EQ(this->error(this->a.volume_account(), "run 'agroctl init'"), Errc::not_found);
  this->init();
  const std::uint64_t lease = this->lease(*this->kv_a);
  this->test().must(this->a.register_peer(this->peer(2), lease));
  const VolumeRecord demo = this->create("demo");
  const VolumeRecord old = this->create("old");
  this->test().must(this->a.delete_volume("old"));
  this->test().must(this->a.acquire_volume(demo.id, lease, "A"));
  VolumeAccount account = this->test().must(this->b.volume_account());
  EXPECT_EQ(account.cluster, this->test().must(this->b.cluster()).id);
  EXPECT_EQ(account.next_volume, old.id.value + 1);
  EXPECT_EQ(account.rebuilt_below, 0U);
  EXPECT_EQ(account.volumes, std::vector{demo});
  ASSERT_EQ(account.positions.size(), 1U);
  EXPECT_TRUE(account.positions.at(0).locked);
  EXPECT_EQ(account.tombstones.at(0).volume, old.id);
  EXPECT_EQ(account.peers, std::vector{uuid(2)});

  std::vector<KvOp> rebuilt = {keys::put(keys::kRebuiltVolumes, "2")};
  this->test().must(this->kv_a->transact({}, std::move(rebuilt)));
  EXPECT_EQ(this->test().must(this->b.volume_account()).rebuilt_below, 2U);
  std::vector<KvOp> lost = {keys::remove(std::string(keys::kNextVolume))};
  this->test().must(this->kv_a->transact({}, std::move(lost)));
  EXPECT_EQ(this->error(this->b.volume_account(), "counter of volume ids"), Errc::corrupt);
  const NewVolume wanted{.name = "x", .size = 4096, .block_spec = "", .replication = 0};
  EXPECT_EQ(this->error(this->a.create_volume(wanted), "counter of volume ids"), Errc::corrupt);
  std::vector<KvOp> used_up = {keys::put(keys::kNextVolume, std::to_string(kVolumeIdMax + 1))};
  this->test().must(this->kv_a->transact({}, std::move(used_up)));
  EXPECT_EQ(this->error(this->a.create_volume(wanted), "used up"), Errc::out_of_space);
}

// Goal: keys that are gone are told from a cluster or a volume that never was.
TYPED_TEST(MetadataTest, LostKeys) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  std::vector<KvOp> lost = {keys::remove(std::string(keys::kRing)), keys::remove(keys::head(demo.id))};
  this->test().must(this->kv_a->transact({}, std::move(lost)));
  EXPECT_EQ(this->error(this->a.ring(), "lost the cluster's ring"), Errc::corrupt);
  EXPECT_EQ(this->error(this->a.publish_ring(ring_of(2, {1}), 1), "lost the cluster's ring"),
            Errc::corrupt);
  EXPECT_EQ(this->error(this->a.head(demo.id), "lost the head or epoch"), Errc::corrupt);
  EXPECT_EQ(this->error(this->a.acquire_volume(demo.id, this->lease(*this->kv_a), "A"), "lost"),
            Errc::corrupt);
}

// Goal: damaged records are reported, not served.
TYPED_TEST(MetadataTest, DamagedRecords) {
  this->init();
  const VolumeRecord demo = this->create("demo");
  const std::uint64_t lease = this->lease(*this->kv_a);
  for (const std::string& key : {keys::head(demo.id), keys::epoch(demo.id), keys::volume(demo.id),
                                 std::string(keys::kNextVolume), std::string(keys::kRing)}) {
    SCOPED_TRACE(key);
    const auto good = this->test().must(this->kv_a->get(key));
    std::vector<KvOp> ops = {keys::put(key, "\xff\xff")};
    this->test().must(this->kv_a->transact({}, std::move(ops)));
    const bool of_volume = key.find("/volume") != std::string::npos;
    const Errc code =
        of_volume
            ? this->error(this->a.acquire_volume(demo.id, lease, "A"), "damaged")
            : this->error(this->a.create_volume(
                              {.name = "x", .size = 4096, .block_spec = "", .replication = 0}),
                          "damaged");
    EXPECT_EQ(code, Errc::corrupt);
    std::vector<KvOp> repair = {keys::put(key, good->value)};
    this->test().must(this->kv_a->transact({}, std::move(repair)));
  }
}

}  // namespace
}  // namespace agro
