// Leases and transactions when the store misbehaves. Method: a Kv that fails on demand, over
// TempKv.
#include <gtest/gtest.h>

#include "metadata/lease.hpp"
#include "metadata/metadata.hpp"
#include "metadata/test_support.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Passes calls on, loses the question or the answer, or keeps the question for deliver().
class FlakyKv final : public Kv {
 public:
  enum class Loss : std::uint8_t { none, question, answer, late };
  explicit FlakyKv(std::unique_ptr<Kv> kv) : kv_(std::move(kv)) {}

  Loss next_transaction = Loss::none;  // once
  bool reachable = true;
  bool readable = true;
  bool readable_after_loss = true;
  bool overtaken = false;  // somebody else is always quicker: no transaction's compares hold
  int transaction_count = 0;

  Task<std::optional<KeyValue>> get(std::string key) override {
    if (!reachable || !readable) co_return away();
    co_return co_await kv_->get(std::move(key));
  }
  Task<KvRange> list(std::string prefix) override {
    if (!reachable || !readable) co_return away();
    co_return co_await kv_->list(std::move(prefix));
  }
  Task<KvTxnResult> transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) override {
    if (!reachable) co_return away();
    ++transaction_count;
    if (overtaken) co_return KvTxnResult{};
    const Loss loss = std::exchange(next_transaction, Loss::none);
    if (loss != Loss::none) readable = readable_after_loss;
    if (loss == Loss::late) {
      late_compares_ = std::move(compares);
      late_ops_ = std::move(ops);
    }
    if (loss == Loss::question || loss == Loss::late) co_return fail(Errc::outcome_unknown, "the answer was lost");
    auto result = co_await kv_->transact(std::move(compares), std::move(ops));
    if (loss == Loss::answer) co_return fail(Errc::outcome_unknown, "the answer was lost");
    co_return std::move(result);
  }
  /// What was kept arrives after all.
  Task<KvTxnResult> deliver() {
    co_return co_await kv_->transact(std::move(late_compares_), std::move(late_ops_));
  }
  Task<std::unique_ptr<KvWatch>> watch(std::string prefix, std::uint64_t revision) override {
    co_return co_await kv_->watch(std::move(prefix), revision);
  }
  Task<std::uint64_t> grant_lease(milliseconds ttl) override {
    co_return co_await kv_->grant_lease(ttl);
  }
  Task<void> keep_alive(std::uint64_t lease) override {
    if (!reachable) co_return away();
    co_return co_await kv_->keep_alive(lease);
  }
  Task<void> revoke_lease(std::uint64_t lease) override {
    co_return co_await kv_->revoke_lease(lease);
  }
  Task<void> close() override { co_return co_await kv_->close(); }

 private:
  static tl::unexpected<Error> away() { return fail(Errc::unavailable, "the store is away"); }
  std::unique_ptr<Kv> kv_;
  std::vector<KvCompare> late_compares_;
  std::vector<KvOp> late_ops_;
};

class FlakyMetadataTest : public ::testing::Test {
 protected:
  void init() {
    ClusterRecord cluster;
    cluster.block_spec = "base";
    RingSpec ring;
    ring.version = 1;
    test.must(metadata.init_cluster(cluster, ring));
  }

  TestEnv test;
  TempKvStore store{test.sim.clock()};
  FlakyKv kv{store.connect()};
  Metadata metadata{test.env, kv};
};

class LostAnswersTest : public FlakyMetadataTest,
                        public ::testing::WithParamInterface<FlakyKv::Loss> {
 protected:
  void lose() { kv.next_transaction = GetParam(); }
};

// Goal: a removal of the record of few copies that arrives late does not undo a newer record, also not
// one that says the same. Method: with and without a try that came through before.
TEST_F(FlakyMetadataTest, LateRemovalOfTheRecordIsHarmless) {
  init();
  const VolumeRecord demo = test.must(
      metadata.create_volume({.name = "demo", .size = 4096, .block_spec = "", .replication = 0}));
  const std::uint64_t lease = test.must(kv.grant_lease(std::chrono::hours(1)));
  const AcquiredVolume held = test.must(metadata.acquire_volume(demo.id, lease, "A"));
  for (const bool readable : {true, false}) {
    test.must(metadata.set_degraded(demo.id, held.epoch, lease, 1));
    kv.next_transaction = FlakyKv::Loss::late;
    kv.readable_after_loss = readable;
    const Result<void> removed =
        test.sim.run(metadata.set_degraded(demo.id, held.epoch, lease, 0));
    EXPECT_EQ(removed.has_value(), readable);
    kv.readable = true;
    test.must(metadata.set_degraded(demo.id, held.epoch, lease, 1));
    EXPECT_FALSE(test.must(kv.deliver()).committed);
    EXPECT_EQ(test.must(metadata.positions()).front().degraded_copies, 1U);
  }
}

// Goal: every call comes to the right end, once, whether the question or its answer was lost.
TEST_P(LostAnswersTest, AreResolved) {
  lose();
  init();
  lose();
  const VolumeRecord demo = test.must(
      metadata.create_volume({.name = "demo", .size = 4096, .block_spec = "", .replication = 0}));
  EXPECT_EQ(demo.id.value, 1U);
  EXPECT_EQ(test.must(metadata.list_volumes()).size(), 1U);
  const std::uint64_t lease = test.must(kv.grant_lease(std::chrono::hours(1)));
  lose();
  const AcquiredVolume held = test.must(metadata.acquire_volume(demo.id, lease, "A"));
  EXPECT_EQ(held.epoch.value, 1U);
  VolumeHead head = held.head;
  head.epoch = held.epoch;
  head.checkpoint_epoch = held.epoch;
  head.sequence = 5;
  lose();
  const int before = kv.transaction_count;
  test.must(metadata.commit_head(demo.id, held.epoch, lease, head));
  EXPECT_EQ(kv.transaction_count - before, GetParam() == FlakyKv::Loss::answer ? 1 : 2);
  EXPECT_EQ(test.must(metadata.head(demo.id)), head);
  lose();
  test.must(metadata.set_degraded(demo.id, held.epoch, lease, 1));
  lose();
  test.must(metadata.release_volume(demo.id, held.epoch, lease));
  lose();
  test.must(metadata.resume_volume(demo.id, held.epoch, lease, "A"));
  test.must(metadata.release_volume(demo.id, held.epoch, lease));
  PeerRecord peer;
  peer.id.bytes.fill(3);
  lose();
  test.must(metadata.register_peer(peer, lease));
  lose();
  test.must(metadata.update_peer(peer));
  lose();
  EXPECT_EQ(test.must(metadata.delete_volume("demo")).peers, std::vector{peer.id});
  lose();
  test.must(metadata.purge_done(demo.id, peer.id));
  EXPECT_TRUE(test.must(metadata.tombstones()).empty());
  test.must(kv.revoke_lease(lease));
  lose();
  test.must(metadata.forget_peer(peer.id));
  RingSpec ring;
  ring.version = 2;
  lose();
  test.must(metadata.publish_ring(ring, 1));
  EXPECT_EQ(test.must(metadata.ring()), ring);
  lose();
  test.must(metadata.wipe());
  EXPECT_EQ(kv.next_transaction, FlakyKv::Loss::none);
}

INSTANTIATE_TEST_SUITE_P(Both, LostAnswersTest,
                         ::testing::Values(FlakyKv::Loss::question, FlakyKv::Loss::answer));

// Goal: when nothing can be read after a lost answer, the caller hears that the outcome is unknown:
// a checkpoint that may be committed must not be cleaned up.
TEST_F(FlakyMetadataTest, UnreadableIsUnknown) {
  init();
  const VolumeRecord demo = test.must(
      metadata.create_volume({.name = "demo", .size = 4096, .block_spec = "", .replication = 0}));
  const std::uint64_t lease = test.must(kv.grant_lease(std::chrono::hours(1)));
  const AcquiredVolume held = test.must(metadata.acquire_volume(demo.id, lease, "A"));
  kv.next_transaction = FlakyKv::Loss::answer;
  kv.readable_after_loss = false;
  const auto result = test.run(metadata.commit_head(demo.id, held.epoch, lease, held.head));
  EXPECT_EQ(result.code(), Errc::outcome_unknown);
}

// Goal: a call that others overtake each time ends and says so, having changed nothing; afterwards each
// of them does what it was asked.
TEST_F(FlakyMetadataTest, AlwaysOvertaken) {
  kv.overtaken = true;
  RingSpec ring;
  ring.version = 1;
  EXPECT_EQ(test.run(metadata.init_cluster(ClusterRecord(), ring)).code(), Errc::conflict);
  kv.overtaken = false;
  init();
  const auto make = [&](std::string name) {
    return metadata.create_volume(
        {.name = std::move(name), .size = 4096, .block_spec = "", .replication = 0});
  };
  const VolumeRecord demo = test.must(make("demo"));
  const VolumeRecord old = test.must(make("old"));
  const std::uint64_t lease = test.must(kv.grant_lease(std::chrono::hours(1)));
  PeerRecord peer;
  peer.id.bytes.fill(3);
  PeerRecord gone;
  gone.id.bytes.fill(4);
  const std::uint64_t short_lease = test.must(kv.grant_lease(seconds(1)));
  test.must(metadata.register_peer(gone, short_lease));
  test.must(metadata.register_peer(peer, lease));
  test.must(metadata.delete_volume("old"));
  test.must(kv.revoke_lease(short_lease));
  const AcquiredVolume held = test.must(metadata.acquire_volume(demo.id, lease, "A"));
  const VolumeRecord free = test.must(make("free"));
  VolumeHead head = held.head;
  head.epoch = held.epoch;
  head.checkpoint_epoch = held.epoch;
  head.sequence = 9;
  ring.version = 2;
  const auto all = [&] {
    std::vector<Errc> codes;
    codes.push_back(test.run(make("new")).code());
    codes.push_back(test.run(metadata.acquire_volume(free.id, lease, "A")).code());
    codes.push_back(test.run(metadata.commit_head(demo.id, held.epoch, lease, head)).code());
    codes.push_back(test.run(metadata.set_degraded(demo.id, held.epoch, lease, 1)).code());
    codes.push_back(test.run(metadata.set_health(demo.id, held.epoch, lease, "slow")).code());
    codes.push_back(test.run(metadata.purge_done(old.id, peer.id)).code());
    codes.push_back(test.run(metadata.forget_peer(gone.id)).code());
    codes.push_back(test.run(metadata.publish_ring(ring, 1)).code());
    codes.push_back(test.run(metadata.release_volume(demo.id, held.epoch, lease)).code());
    return codes;
  };
  const std::uint64_t before = test.must(kv.list("/")).revision;
  kv.overtaken = true;
  for (const Errc code : all()) EXPECT_EQ(code, Errc::conflict);
  EXPECT_EQ(test.must(kv.list("/")).revision, before);
  EXPECT_EQ(test.must(metadata.health_of(demo.id)), "");
  kv.overtaken = false;
  for (const Errc code : all()) EXPECT_EQ(code, Errc::ok);
  EXPECT_EQ(test.must(metadata.head(demo.id)), head);
  EXPECT_EQ(test.must(metadata.list_volumes()).size(), 3U);
  EXPECT_EQ(test.must(metadata.ring()), ring);
  EXPECT_EQ(test.must(metadata.list_peers()).size(), 1U);
  for (const bool overtaken : {true, false}) {
    kv.overtaken = overtaken;
    EXPECT_EQ(test.run(metadata.resume_volume(demo.id, held.epoch, lease, "A")).code(),
              overtaken ? Errc::conflict : Errc::ok);
  }
}

class LeaseTest : public ::testing::Test {
 protected:
  TimePoint now() { return test.sim.clock().now(); }

  TestEnv test;
  TempKvStore store{test.sim.clock()};
  FlakyKv kv{store.connect()};
};

Job count_changes(Lease& lease, const bool* done, int* count) {
  while (!*done) {
    co_await lease.changed().wait();
    ++*count;
  }
}

// Goal: a lease stays valid as long as the store answers, and stop() ends it there.
TEST_F(LeaseTest, IsKeptAlive) {
  auto lease = test.must(Lease::grant(test.env, kv, seconds(9)));
  bool done = false;
  int changes = 0;
  spawn(test.sim.executor(), count_changes(*lease, &done, &changes));
  for (int minute = 0; minute < 10; ++minute) {
    test.sim.run_for(std::chrono::minutes(1));
    EXPECT_TRUE(lease->valid(now()));
    EXPECT_GE(lease->valid_until() - now(), seconds(6));
  }
  EXPECT_EQ(changes, 0);
  test.must(kv.keep_alive(lease->id()));
  done = true;
  test.sim.run_job(lease->stop());
  test.sim.run_job(lease->stop());
  EXPECT_FALSE(lease->valid(now()));
  EXPECT_EQ(test.run(kv.keep_alive(lease->id())).code(), Errc::not_found);
  test.sim.poll();
  EXPECT_EQ(changes, 1);
}

// Goal: when the store is away, valid() turns false before the store can have ended the lease,
// waiters are told, and when it comes back in time nothing was lost. Method: another client renews
// the lease in the store meanwhile, so that it outlives what its holder can be sure of.
TEST_F(LeaseTest, OutageWithinAndBeyondTheTtl) {
  auto lease = test.must(Lease::grant(test.env, kv, seconds(9)));
  const auto direct = store.connect();
  bool done = false;
  int changes = 0;
  spawn(test.sim.executor(), count_changes(*lease, &done, &changes));
  test.sim.run_for(seconds(30));
  kv.reachable = false;
  test.sim.run_for(seconds(4));
  EXPECT_TRUE(lease->valid(now()));
  kv.reachable = true;
  test.sim.run_for(seconds(4));
  EXPECT_EQ(changes, 0);  // an outage shorter than the ttl is invisible
  kv.reachable = false;
  const TimePoint until = lease->valid_until();
  test.must(direct->keep_alive(lease->id()));
  test.sim.run_for(until - now() - milliseconds(1));
  EXPECT_TRUE(lease->valid(now()));
  test.must(direct->keep_alive(lease->id()));
  test.sim.run_for(milliseconds(2));
  EXPECT_FALSE(lease->valid(now()));
  EXPECT_FALSE(lease->lost());
  EXPECT_EQ(changes, 1);
  kv.reachable = true;
  test.sim.run_for(seconds(2));
  EXPECT_TRUE(lease->valid(now()));
  EXPECT_EQ(changes, 2);
  kv.reachable = false;
  test.sim.run_for(seconds(60));
  EXPECT_EQ(changes, 3);
  kv.reachable = true;
  test.sim.run_for(seconds(2));
  EXPECT_TRUE(lease->lost());
  EXPECT_FALSE(lease->valid(now()));
  EXPECT_EQ(changes, 4);
  done = true;
  test.sim.run_job(lease->stop());
}

}  // namespace
}  // namespace agro
