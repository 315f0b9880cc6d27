#include "node/collector.hpp"

#include <gtest/gtest.h>

#include <set>

#include "block/volume_fixture.hpp"
#include "block/write_history.hpp"
#include "distributor/fake_store.hpp"
#include "metadata/keys.hpp"
#include "metadata/temp/temp_kv.hpp"
#include "models/codec.hpp"

namespace agro {
namespace {

constexpr VolumeId kVolume = VolumeFixture::kVolume;
const PeerId kPeer{{1}};

enum class Fault { none, unavailable, timed_out, empty };

/// What goes wrong at the n-th call, and at all after it when `lasting`.
struct FaultPlan {
  Fault fault = Fault::none;
  int at = 0;  // counts from 1
  bool lasting = false;
  int calls = 0;

  Fault next() {
    ++calls;
    return calls == at || (lasting && calls > at && at > 0) ? fault : Fault::none;
  }
};

tl::unexpected<Error> injected(Fault fault) {
  return fail(fault == Fault::timed_out ? Errc::timed_out : Errc::unavailable, "injected");
}

/// The metadata store, with faults; it shows the head that the volume committed last.
class TestKv final : public Kv {
 public:
  TestKv(std::unique_ptr<Kv> inner, VolumeFixture& volume)
      : inner_(std::move(inner)), volume_(volume) {}
  FaultPlan plan;

  Task<std::optional<KeyValue>> get(std::string key) override {
    const Fault fault = plan.next();
    if (fault == Fault::empty) co_return std::nullopt;
    if (fault != Fault::none) co_return injected(fault);
    co_return co_await inner_->get(std::move(key));
  }
  Task<KvRange> list(std::string prefix) override {
    const Fault fault = plan.next();
    if (fault != Fault::none && fault != Fault::empty) co_return injected(fault);
    AGRO_CO_TRY_OK(co_await show_head());
    AGRO_CO_TRY(KvRange range, co_await inner_->list(std::move(prefix)));
    if (fault == Fault::empty) range.entries.clear();
    co_return range;
  }
  Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) override {
    return inner_->transact(std::move(compares), std::move(ops));
  }
  Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) override {
    return inner_->watch(std::move(prefix), revision);
  }
  Task<std::uint64_t> grant_lease(std::chrono::milliseconds ttl) override {
    return inner_->grant_lease(ttl);
  }
  Task<void> keep_alive(std::uint64_t lease) override { return inner_->keep_alive(lease); }
  Task<void> revoke_lease(std::uint64_t lease) override { return inner_->revoke_lease(lease); }
  Task<void> close() override { return inner_->close(); }

 private:
  Task<void> show_head() {
    const LogHead& head = volume_.head;
    const VolumeHead shown{head.epoch, head.checkpoint_epoch, head.root_index, head.sequence,
                           volume_.size_bytes};
    const std::string key = keys::head(kVolume);
    AGRO_CO_TRY(const auto present, co_await inner_->get(key));
    if (!present.has_value() || present->value == encode(shown)) co_return Result<void>();
    std::vector<KvOp> ops = {keys::put(key, encode(shown))};
    AGRO_CO_TRY_OK(co_await inner_->transact({}, std::move(ops)));
    co_return Result<void>();
  }

  std::unique_ptr<Kv> inner_;
  VolumeFixture& volume_;
};

/// All peers' blocks, with faults in reads.
class TestBackend final : public BlockBackend {
 public:
  explicit TestBackend(BlockBackend& inner) : inner_(inner) {}
  FaultPlan plan;

  Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) override {
    return inner_.write(ref, std::move(block), options);
  }
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  ReadOptions options) override {
    if (const Fault fault = plan.next(); fault != Fault::none) co_return injected(fault);
    co_return co_await inner_.read(ref, offset, out, options);
  }
  std::optional<Result<void>> try_read(const BlockRef&, std::uint32_t, MutableBytes,
                                       const ReadOptions&) override {
    return std::nullopt;
  }
  Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) override {
    const Fault fault = plan.next();
    if (fault == Fault::empty) co_return fail(Errc::not_found, "injected");
    if (fault != Fault::none) co_return injected(fault);
    co_return co_await inner_.read_block(ref, options);
  }
  Task<void> remove(std::vector<BlockRef> refs) override { return inner_.remove(std::move(refs)); }
  Task<Listing> list(BlockFilter filter, std::uint32_t missing_allowed) override {
    return inner_.list(filter, missing_allowed);
  }
  Task<Reached> fence(VolumeId volume, Epoch epoch, std::uint32_t missing_allowed) override {
    return inner_.fence(volume, epoch, missing_allowed);
  }
  std::uint32_t sure_copies() const override { return inner_.sure_copies(); }
  std::uint32_t ready_count() const override { return inner_.ready_count(); }
  Event& peers_changed() override { return inner_.peers_changed(); }
  std::uint32_t copy_count() const override { return inner_.copy_count(); }
  std::uint32_t block_size() const override { return inner_.block_size(); }
  Space space() const override { return inner_.space(); }

 private:
  BlockBackend& inner_;
};

/// A volume with a past, and a peer that missed every deletion of it.
class Scene {
 public:
  explicit Scene(std::uint64_t seed)
      : volume(seed), random(seed + 1), kv(kv_store.connect(), volume) {
    make_cluster();
    volume.options.checkpoint_after_blocks = 15;
    EXPECT_TRUE(volume.open());
  }
  ~Scene() {
    if (volume.volume != nullptr) stop_writing();
  }

  SimLoop& loop() { return volume.loop; }
  BlockRef of_volume(std::uint64_t id) { return {{id}, {1}, 1, BlockType::data}; }

  void start_writing() {
    stopped = false;
    writers.spawn(
        write_numbered(*volume.volume, history, random, volume.size_bytes / kSectorSize, stopped));
  }
  void stop_writing() {
    stopped = true;
    EXPECT_TRUE(loop().run_until([&] { return writers.count() == 0; }, std::chrono::minutes(1)));
  }
  /// Time passes, and the peer gets every block that is written.
  void pass(Duration duration) {
    const TimePoint end = loop().clock().now() + duration;
    while (loop().clock().now() < end) {
      loop().run_for(std::chrono::milliseconds(1));
      for (const auto& [ref, bytes] : volume.blocks.blocks) {
        all.try_emplace(ref, bytes.bytes.begin(), bytes.bytes.end());
      }
    }
  }
  /// Lives of several writers; the last one is closed, or dies and leaves a tail.
  void live(bool closes) {
    for (int life = 0; life < 3; ++life) {
      if (life > 0) EXPECT_TRUE(volume.open());
      start_writing();
      pass(std::chrono::milliseconds(300));
      stopped = true;
      if (life == 2 && closes) {
        stop_writing();
        EXPECT_TRUE(volume.close());
      } else {
        volume.crash();
        stop_writing();
      }
      pass(std::chrono::milliseconds(50));
      if (life < 2) history = {};
    }
    for (const std::uint64_t id : {3, 6, 9}) all[of_volume(id)] = std::vector<std::byte>(4096);
    backend_of_peers =
        std::make_unique<MemoryBackend>(volume.blocks, loop().clock(), 1, kBlockSizeMin);
  }
  /// What the device reads when the cluster has these blocks only.
  std::vector<std::uint64_t> contents_with(
      const std::map<BlockRef, std::vector<std::byte>>& blocks) {
    const MemoryBlocks saved_blocks = volume.blocks;
    const LogHead saved_head = volume.head;
    volume.blocks.blocks.clear();
    for (const auto& [ref, bytes] : blocks) volume.blocks.blocks[ref] = copy_shared(bytes);
    const Result<void> opened = volume.open();
    EXPECT_TRUE(opened.has_value()) << opened.error().to_string();
    std::vector<std::byte> bytes(volume.size_bytes);
    if (opened.has_value()) {
      const Result<void> read = loop().run(volume.volume->read(0, bytes));
      EXPECT_TRUE(read.has_value()) << read.error().to_string();
      EXPECT_TRUE(volume.close());
    }
    volume.blocks = saved_blocks;
    volume.head = saved_head;
    return numbers_of(bytes);
  }

  VolumeFixture volume;
  Random random;
  TempKvStore kv_store{volume.loop.clock()};
  TestKv kv;
  Metadata metadata{volume.env, kv};
  Uuid cluster{{9}};
  History history;
  bool stopped = true;
  TaskGroup writers{volume.loop.executor()};
  std::map<BlockRef, std::vector<std::byte>> all;  // ever written
  std::unique_ptr<MemoryBackend> backend_of_peers;

 private:
  template <class T>
  T must(Task<T> task) {
    Result<T> result = loop().run(std::move(task));
    EXPECT_TRUE(result.has_value()) << result.error().to_string();
    return std::move(*result);
  }
  /// Volumes 1 to 5 are deleted and forgotten, 6 is being deleted, 7 is alive, 8 was never made.
  void make_cluster() {
    ClusterRecord record;
    record.id = cluster;
    record.block_size = kBlockSizeMin;
    record.block_spec = "crc,base";
    RingSpec ring;
    ring.version = 1;
    ring.replication = 2;
    EXPECT_TRUE(loop().run(metadata.init_cluster(record, ring)));
    for (std::uint64_t id = 1; id <= kVolume.value; ++id) {
      NewVolume wanted;
      wanted.name = "v" + std::to_string(id);
      wanted.size = volume.size_bytes;
      EXPECT_EQ(must(metadata.create_volume(wanted)).id.value, id);
      if (id <= 5) must(metadata.delete_volume(wanted.name));
    }
    PeerRecord peer;
    peer.id = kPeer;
    EXPECT_TRUE(
        loop().run(metadata.register_peer(peer, must(kv.grant_lease(std::chrono::hours(100))))));
    must(metadata.delete_volume("v6"));
  }
};

/// The peer and its collector.
struct Peer1 {
  explicit Peer1(Scene& scene, CollectorOptions options = {})
      : store(scene.loop().clock(), kBlockSizeMin),
        service(kPeer, store, scene.volume.metrics),
        backend(*scene.backend_of_peers),
        collector(scene.volume.env, scene.metadata, backend, service, scene.cluster, options) {
    store.blocks = scene.all;
  }
  FakeStore store;
  PeerService service;
  TestBackend backend;
  Collector collector;
};

/// Every block of the volume that its last writer left, and what gc must not judge.
void expect_nothing_lost(Scene& scene, Peer1& peer) {
  for (const auto& [ref, bytes] : scene.volume.blocks.blocks) {
    ASSERT_TRUE(peer.store.blocks.contains(ref)) << ref.to_string() << " is gone";
  }
  ASSERT_TRUE(peer.store.blocks.contains(scene.of_volume(6))) << "the tombstone's work is not ours";
  ASSERT_TRUE(peer.store.blocks.contains(scene.of_volume(9))) << "a volume nobody knows yet";
}

void expect_garbage_gone(Scene& scene, Peer1& peer) {
  EXPECT_FALSE(peer.store.blocks.contains(scene.of_volume(3)));
  // The tail of a log that a writer cut off, and INodes it did not commit, are for its successor.
  std::size_t garbage = 0;
  for (const auto& [ref, bytes] : peer.store.blocks) {
    const bool kept = scene.volume.blocks.blocks.contains(ref) || ref.volume != kVolume ||
                      ref.epoch >= scene.volume.head.epoch;
    garbage += kept ? 0 : 1;
  }
  EXPECT_EQ(garbage, 0U);
}

// Goal: when all is well, garbage goes after its grace period and not before, and nothing else
// ever.
TEST(CollectorTest, GarbageGoesAfterItsGracePeriod) {
  for (const bool closes : {true, false}) {
    Scene scene(11);
    scene.live(closes);
    Peer1 peer(scene);
    ASSERT_GT(scene.all.size(), scene.volume.blocks.blocks.size() + 50);
    const std::vector<std::uint64_t> before = scene.contents_with(scene.all);
    ASSERT_TRUE(scene.loop().run(peer.collector.cycle()));
    const std::uint64_t condemned = peer.collector.report().condemned_blocks;
    EXPECT_GT(condemned, 50U);
    scene.loop().run_for(std::chrono::minutes(9));
    ASSERT_TRUE(scene.loop().run(peer.collector.cycle()));
    EXPECT_EQ(peer.store.blocks.size(), scene.all.size()) << "the grace period is not over";
    EXPECT_EQ(peer.collector.report().condemned_blocks, condemned);
    scene.loop().run_for(std::chrono::minutes(2));
    ASSERT_TRUE(scene.loop().run(peer.collector.cycle()));
    const GcReport report = peer.collector.report();
    EXPECT_EQ(report.condemned_blocks, 0U);
    EXPECT_EQ(report.deleted_blocks, condemned);
    EXPECT_EQ(report.problem, "");
    EXPECT_GT(report.finished_unix_ms, 0);
    expect_nothing_lost(scene, peer);
    expect_garbage_gone(scene, peer);
    EXPECT_EQ(scene.contents_with(peer.store.blocks), before);
    // A quiet volume's INode is not read again.
    const int reads = peer.backend.plan.calls;
    ASSERT_TRUE(scene.loop().run(peer.collector.cycle()));
    ASSERT_TRUE(scene.loop().run(peer.collector.cycle()));
    EXPECT_LE(peer.backend.plan.calls, 2 * reads / 3 + reads);
    const int settled = peer.backend.plan.calls;
    ASSERT_TRUE(scene.loop().run(peer.collector.cycle()));
    EXPECT_EQ(peer.backend.plan.calls, settled);
  }
}

/// One fault in the metadata or the reads, in the first, the second or both cycles. False when the
/// cycles make fewer calls than that.
bool fault_case(Scene& scene, const std::vector<std::uint64_t>& before, bool in_reads,
                FaultPlan plan, bool first, bool second) {
  SCOPED_TRACE(testing::Message() << (in_reads ? "read " : "metadata call ") << plan.at << " fault "
                                  << static_cast<int>(plan.fault) << " lasting " << plan.lasting
                                  << " in cycles " << first << second);
  Peer1 peer(scene);
  FaultPlan& used = in_reads ? peer.backend.plan : scene.kv.plan;
  bool hit = false;
  for (const bool faulty : {first, second}) {
    used = faulty ? plan : FaultPlan{};
    const Result<void> done = scene.loop().run(peer.collector.cycle());
    const bool struck = faulty && used.calls >= plan.at;
    hit = hit || struck;
    if (struck) {
      EXPECT_FALSE(done.has_value());
      EXPECT_NE(peer.collector.report().problem, "");
    }
    scene.loop().run_for(std::chrono::minutes(11));
  }
  used = {};
  expect_nothing_lost(scene, peer);
  EXPECT_EQ(scene.contents_with(peer.store.blocks), before);
  if (!hit) return false;
  // All is well again: what had to wait goes.
  for (int cycle = 0; cycle < 2; ++cycle) {
    EXPECT_TRUE(scene.loop().run(peer.collector.cycle()));
    scene.loop().run_for(std::chrono::minutes(11));
  }
  expect_nothing_lost(scene, peer);
  expect_garbage_gone(scene, peer);
  return true;
}

// Goal: whatever fails at whatever step of a cycle, and however, no block that is needed goes; what
// failed is said, and later cycles do what this one could not. Method: every fault at every call.
TEST(CollectorTest, EveryFaultAtEveryStep) {
  int case_count = 0;
  for (const bool closes : {true, false}) {
    Scene scene(closes ? 21 : 23);  // one that dies between a commit and its deletions leaves more than is needed
    scene.live(closes);
    const std::vector<std::uint64_t> before = scene.contents_with(scene.all);
    for (const bool in_reads : {false, true}) {
      for (const Fault fault : {Fault::unavailable, Fault::timed_out, Fault::empty}) {
        for (const bool lasting : {false, true}) {
          for (int which = 1; which <= 3; ++which) {
            int at = 1;
            while (fault_case(scene, before, in_reads, {fault, at, lasting}, (which & 1) != 0,
                              (which & 2) != 0)) {
              ASSERT_FALSE(testing::Test::HasFailure());
              ++at;
            }
            EXPECT_GT(at, in_reads ? 2 : 3) << "nothing was injected";
            case_count += at - 1;
          }
        }
      }
    }
  }
  EXPECT_GT(case_count, 200);
}

// Goal: beside a writer that writes, overwrites, cleans and commits all the time, nothing it needs
// goes. Method: seeds; cycles without a grace period to speak of, while the volume works; the peer
// holds every block ever written and is then all that is left.
TEST(CollectorTest, BesideAWriterAtWork) {
  for (std::uint64_t seed = 1; seed <= 25 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Scene scene(seed);
    scene.backend_of_peers = std::make_unique<MemoryBackend>(
        scene.volume.blocks, scene.loop().clock(), 1, kBlockSizeMin);
    CollectorOptions options;
    options.grace = std::chrono::milliseconds(1);
    options.interval = std::chrono::milliseconds(3);
    options.first_after = std::chrono::milliseconds(1);
    options.retry_after = std::chrono::milliseconds(1);
    Peer1 peer(scene, options);
    std::set<BlockRef> given;
    const auto give = [&] {
      for (const auto& [ref, bytes] : scene.all) {
        if (given.insert(ref).second) peer.store.blocks[ref] = bytes;
      }
    };
    peer.collector.start();
    scene.start_writing();
    for (int round = 0; round < 400; ++round) {
      scene.pass(std::chrono::milliseconds(1));
      give();
    }
    scene.stop_writing();
    ASSERT_TRUE(scene.loop().run(scene.volume.volume->flush()));
    ASSERT_TRUE(scene.volume.close());
    scene.pass(std::chrono::milliseconds(5));
    give();
    scene.loop().run_for(std::chrono::milliseconds(20));
    ASSERT_TRUE(scene.loop().run_job(peer.collector.stop()));
    EXPECT_GT(peer.collector.report().deleted_blocks, 10U) << peer.collector.report().problem;
    const std::uint64_t sector_count = scene.volume.size_bytes / kSectorSize;
    EXPECT_EQ(scene.contents_with(peer.store.blocks),
              scene.history.replay(scene.history.writes.size(), sector_count));
  }
}

// Goal: after a rebuild, a volume that it did not find is not taken for deleted.
TEST(CollectorTest, RebuiltListsDoNotCondemn) {
  Scene scene(41);
  scene.live(true);
  Peer1 peer(scene);
  std::vector<KvOp> ops = {keys::put(keys::kRebuiltVolumes, "8")};
  ASSERT_TRUE(scene.loop().run(scene.kv.transact({}, std::move(ops))));
  for (int cycle = 0; cycle < 2; ++cycle) {
    ASSERT_TRUE(scene.loop().run(peer.collector.cycle()));
    scene.loop().run_for(std::chrono::minutes(11));
  }
  EXPECT_TRUE(peer.store.blocks.contains(scene.of_volume(3)));
  EXPECT_GT(peer.collector.report().deleted_blocks, 50U) << "of the volume that is known";
}

// Goal: the metadata of another cluster, or one that lost its contents, condemns nothing.
TEST(CollectorTest, AnotherClustersWordIsNoProof) {
  Scene scene(31);
  scene.live(true);
  Peer1 peer(scene);
  ASSERT_TRUE(scene.loop().run(scene.metadata.wipe()));
  EXPECT_EQ(scene.loop().run(peer.collector.cycle()).code(), Errc::not_found);
  ClusterRecord other;
  other.id = Uuid{{8}};
  other.block_size = kBlockSizeMin;
  other.block_spec = "crc,base";
  RingSpec ring;
  ring.version = 1;
  ring.replication = 2;
  ASSERT_TRUE(scene.loop().run(scene.metadata.init_cluster(other, ring)));
  EXPECT_EQ(scene.loop().run(peer.collector.cycle()).code(), Errc::cluster_mismatch);
  ASSERT_TRUE(scene.loop().run(scene.metadata.wipe()));
  other.id = scene.cluster;  // made again by hand, with nothing in it
  ASSERT_TRUE(scene.loop().run(scene.metadata.init_cluster(other, ring)));
  EXPECT_EQ(scene.loop().run(peer.collector.cycle()).code(), Errc::not_found);
  EXPECT_NE(peer.collector.report().problem, "");
  EXPECT_EQ(peer.collector.report().condemned_blocks, 0U);
  EXPECT_EQ(peer.store.blocks.size(), scene.all.size());
}

}  // namespace
}  // namespace agro
