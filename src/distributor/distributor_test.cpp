// Goal: the distributor makes one reliable backend from unreliable peers. Method: scripted peers on
// simulated time; what each call returns, when, and what each peer got.
#include "distributor/distributor.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "base/log.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/peer_service.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kBlockSize = 1 << 20;

BlockRef ref_of(std::uint64_t index) { return {VolumeId{1}, Epoch{1}, index, BlockType::data}; }

PeerId id_of(std::size_t number) {
  Uuid id;
  id.bytes[0] = static_cast<std::uint8_t>(number + 1);
  return id;
}

/// A peer that does what it is told.
class FakePeer final : public Peer {
 public:
  FakePeer(PeerId id, Clock& clock, Metrics& metrics)
      : clock_(clock), store(clock, kBlockSize), service_(id, store, metrics) {}

  bool is_connected = true;
  bool is_local = false;
  Duration delay{0};
  bool can_stop = false;  // a read under way, as AdpPeer
  std::optional<Errc> error;
  int read_count = 0;
  int write_count = 0;

 private:
  Clock& clock_;

 public:
  FakeStore store;

  PeerId id() const override { return service_.id(); }
  bool connected() const override { return is_connected; }
  bool local() const override { return is_local; }
  Task<void> write(PeerWrite request, TimePoint deadline) override {
    ++write_count;
    AGRO_CO_TRY_OK(co_await answer(deadline));
    co_return co_await service_.write(std::move(request));
  }
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  std::vector<std::uint32_t>* page_crcs, TimePoint deadline) override {
    ++read_count;
    AGRO_CO_TRY_OK(co_await answer(deadline));
    co_return co_await service_.read(ref, offset, out, page_crcs);
  }
  bool stops_reads() const override { return can_stop; }
  Task<void> read_stoppable(BlockRef ref, std::uint32_t offset, MutableBytes out,
                            std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                            ReadStop& stop) override {
    if (!can_stop) co_return co_await read(ref, offset, out, page_crcs, deadline);
    ++read_count;
    auto answered = std::make_shared<Promise<void>>();
    stop = {answered, [](void* call) {
              static_cast<Promise<void>*>(call)->set(fail(Errc::timed_out, "stopped"));
            }};
    const TimePoint at = std::min(clock_.now() + delay, deadline);
    const TimerId timer = clock_.call_at(at, [answered] { answered->set({}); });
    const Result<void> waited = co_await answered->get();
    clock_.cancel(timer);
    AGRO_CO_TRY_OK(waited);
    if (delay > deadline - at && at == deadline) co_return fail(Errc::timed_out, "scripted");
    if (error.has_value()) co_return fail(*error, "scripted");
    co_return co_await service_.read(ref, offset, out, page_crcs);
  }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       std::vector<std::uint32_t>* page_crcs) override {
    if (!is_local) return std::nullopt;
    ++read_count;
    return service_.try_read(ref, offset, out, page_crcs);
  }
  Task<std::vector<std::uint32_t>> has(std::vector<BlockRef> refs, std::uint64_t ring_version,
                                       TimePoint deadline) override {
    AGRO_CO_TRY_OK(co_await answer(deadline));
    co_return service_.has(refs, ring_version);
  }
  Task<PeerReport> report(TimePoint) override { co_return service_.report(); }
  Task<void> start(WorkKind kind, TimePoint) override { co_return service_.start(kind); }
  Awaitable<void> require_ring(std::uint64_t version) { return service_.require_ring(version); }
  Task<std::vector<BlockInfo>> list(BlockFilter filter, TimePoint deadline) override {
    AGRO_CO_TRY_OK(co_await answer(deadline));
    co_return service_.list(filter);
  }
  Task<void> remove(std::vector<BlockRef> refs, TimePoint deadline) override {
    AGRO_CO_TRY_OK(co_await answer(deadline));
    co_return co_await service_.remove(std::move(refs));
  }
  Task<void> fence(VolumeId volume, Epoch epoch, TimePoint deadline) override {
    AGRO_CO_TRY_OK(co_await answer(deadline));
    co_return co_await service_.fence(volume, epoch);
  }
  Task<PeerStat> stat(TimePoint) override { co_return service_.stat(); }
  std::optional<PeerStat> last_stat() const override {
    if (never_answered) return std::nullopt;
    return service_.stat();
  }
  bool never_answered = false;
  void close() override { is_connected = false; }

 private:
  Task<void> answer(TimePoint deadline) {
    const TimePoint at = clock_.now() + delay;
    if (at > deadline) {
      co_await sleep_until(clock_, deadline);
      co_return fail(Errc::timed_out, "scripted");
    }
    if (delay > Duration(0)) co_await sleep_until(clock_, at);
    if (error.has_value()) co_return fail(*error, "scripted");
    co_return Result<void>();
  }
  PeerService service_;
};

template <class T>
Job keep(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
  *out = co_await std::move(task);
}

class DistributorTest : public testing::Test {
 protected:
  explicit DistributorTest(std::size_t peer_count = 4) {
    set_log_sink({});
    RingSpec spec;
    spec.kind = RingKind::ketama;
    spec.version = 1;
    spec.replication = 2;
    for (std::size_t index = 0; index < peer_count; ++index) {
      peers_.push_back(std::make_shared<FakePeer>(id_of(index), sim_.clock(), node_.metrics()));
      peer_map_[id_of(index)] = peers_.back();
      spec.members.push_back({id_of(index), 1});
    }
    ring_ = make_ring(spec).value();
    distributor_.set_peers(peer_map_);
    distributor_.set_ring(ring_);
  }
  ~DistributorTest() override { EXPECT_TRUE(sim_.run_job(distributor_.stop())); }

  /// The peer of that rank in the permutation of block `index`.
  FakePeer& ranked(std::uint64_t index, std::size_t rank) {
    std::vector<std::uint32_t> permutation;
    ring_->permutation(ref_of(index), permutation);
    const PeerId id = ring_->members()[permutation[rank]].id;
    return *peers_[static_cast<std::size_t>(id.bytes[0] - 1)];
  }
  Result<std::uint32_t> write(std::uint64_t index, WriteOptions options = {.checksummed = true}) {
    return sim_.run(distributor_.write(ref_of(index), make_block(ref_of(index), 9000), options));
  }
  Result<void> read(std::uint64_t index) {
    out_.assign(2 * kPageSize, std::byte{0});
    const Result<void> result =
        sim_.run(distributor_.read(ref_of(index), 0, out_, ReadOptions{&check_}));
    if (result.has_value()) {
      const SharedBytes block = make_block(ref_of(index), 9000);
      EXPECT_EQ(std::memcmp(out_.data(), block.bytes.data(), out_.size()), 0);
    }
    return result;
  }
  std::size_t copies(std::uint64_t index) const {
    std::size_t count = 0;
    for (const auto& peer : peers_) count += peer->store.blocks.count(ref_of(index));
    return count;
  }
  template <class T>
  std::shared_ptr<std::optional<Result<T>>> start(Task<T> task) {
    auto out = std::make_shared<std::optional<Result<T>>>();
    spawn(sim_.executor(), keep(std::move(task), out));
    return out;
  }
  std::uint64_t corrupt_count() { return node_.metrics().value("agro_corrupt_replicas_total"); }
  std::uint64_t repaired_count() { return node_.metrics().value("agro_repaired_replicas_total"); }

  SimLoop sim_;
  SimNetwork network_{sim_.executor(), sim_.clock(), Random(3)};
  FakeNode node_{sim_, network_, "client"};
  std::vector<std::shared_ptr<FakePeer>> peers_;
  std::map<PeerId, std::shared_ptr<Peer>> peer_map_;
  std::shared_ptr<const Ring> ring_;
  Distributor distributor_{node_.env(), kBlockSize};
  CrcCheck check_;
  std::vector<std::byte> out_;
};

struct WriteCase {
  const char* name;
  std::function<void(FakePeer& first, FakePeer& second, FakePeer& third, FakePeer& fourth)> script;
  Errc code;
  std::size_t copy_count;
  Duration longest;
};

void lose(FakePeer& peer) { peer.is_connected = false; }
void refuse(FakePeer& peer, Errc code) { peer.error = code; }

// Goal: R durable copies on distinct peers, or an error that says why not; never later than needed.
TEST_F(DistributorTest, WritesAsATable) {
  using P = FakePeer&;
  const Duration now{0};
  const std::vector<WriteCase> cases = {
      {"all well", [](P, P, P, P) {}, Errc::ok, 2, now},
      {"first gone", [](P a, P, P, P) { lose(a); }, Errc::ok, 2, now},
      {"two gone", [](P a, P b, P, P) { lose(a), lose(b); }, Errc::ok, 2, now},
      {"three gone", [](P a, P b, P c, P) { lose(a), lose(b), lose(c); }, Errc::no_quorum, 0, now},
      {"first fails", [](P a, P, P, P) { refuse(a, Errc::io_error); }, Errc::ok, 2, now},
      {"connection lost", [](P, P b, P, P) { refuse(b, Errc::unavailable); }, Errc::ok, 2, now},
      {"three fail",
       [](P a, P b, P c, P) {
         for (P peer : {std::ref(a), std::ref(b), std::ref(c)}) refuse(peer, Errc::io_error);
       },
       Errc::no_quorum, 1, now},
      {"first is slow", [](P a, P, P, P) { a.delay = seconds(2); }, Errc::ok, 2, milliseconds(500)},
      {"first is silent", [](P a, P, P, P) { a.delay = seconds(60); }, Errc::ok, 2,
       milliseconds(500)},
      {"two are silent", [](P a, P b, P, P) { a.delay = b.delay = seconds(60); }, Errc::ok, 2,
       milliseconds(500)},
      {"three are silent", [](P a, P b, P c, P) { a.delay = b.delay = c.delay = seconds(60); },
       Errc::no_quorum, 1, milliseconds(5500)},
      {"all slow, all answer",
       [](P a, P b, P c, P d) { a.delay = b.delay = c.delay = d.delay = seconds(2); }, Errc::ok, 2,
       seconds(2)},
      {"fenced by one", [](P, P b, P, P) { refuse(b, Errc::fenced); }, Errc::fenced, 1, now},
      {"fenced while another is silent",
       [](P a, P b, P, P) { a.delay = seconds(60), refuse(b, Errc::fenced); }, Errc::fenced, 0,
       now},
      {"one is full", [](P a, P, P, P) { refuse(a, Errc::out_of_space); }, Errc::ok, 2, now},
      {"three are full",
       [](P a, P b, P c, P) {
         for (P peer : {std::ref(a), std::ref(b), std::ref(c)}) refuse(peer, Errc::out_of_space);
       },
       Errc::out_of_space, 1, now},
      {"one full, two gone",
       [](P a, P b, P c, P) { refuse(a, Errc::out_of_space), lose(b), lose(c); },
       Errc::out_of_space, 1, now},
      {"one full, two broken",
       [](P a, P b, P c, P d) {
         refuse(a, Errc::out_of_space), refuse(b, Errc::io_error), refuse(c, Errc::io_error);
         refuse(d, Errc::io_error);
       },
       Errc::no_quorum, 0, now},
  };
  std::uint64_t index = 0;
  for (const WriteCase& entry : cases) {
    SCOPED_TRACE(entry.name);
    ++index;
    entry.script(ranked(index, 0), ranked(index, 1), ranked(index, 2), ranked(index, 3));
    const TimePoint before = sim_.clock().now();
    const Result<std::uint32_t> written = write(index);
    const Duration taken = sim_.clock().now() - before;
    EXPECT_EQ(written.code(), entry.code)
        << (written.has_value() ? "" : written.error().to_string());
    EXPECT_EQ(copies(index), entry.copy_count);
    EXPECT_EQ(taken, entry.longest);
    for (const auto& peer : peers_) {
      peer->is_connected = true;
      peer->delay = Duration(0);
      peer->error.reset();
    }
    sim_.run_for(seconds(20));  // late attempts and suspicions pass
  }
}

TEST_F(DistributorTest, CopiesGoWhereTheRingSays) {
  for (std::uint64_t index = 0; index < 20; ++index) {
    ASSERT_TRUE(write(index).has_value());
    EXPECT_EQ(copies(index), 2U);
    EXPECT_TRUE(ranked(index, 0).store.find(ref_of(index)).has_value());
    EXPECT_TRUE(ranked(index, 1).store.find(ref_of(index)).has_value());
  }
  ASSERT_TRUE(write(50, {.copy_count = 3}).has_value());
  EXPECT_EQ(copies(50), 3U);
  EXPECT_EQ(write(51, {.copy_count = 5}).code(), Errc::no_quorum);
  EXPECT_EQ(distributor_.copy_count(), 2U);
}

// Goal: recovery can add copies of an old writer's block below its own fence, and nobody else can.
// Goal: no block is acknowledged where an older ring put it, once as many peers as may be silent know
// the newer one; the write goes on as soon as the new ring is here.
TEST_F(DistributorTest, PeersRefuseWritesOfOlderRings) {
  bool drained = false;
  const auto require = [](FakePeer& peer, bool& done) -> Job {
    co_await peer.require_ring(2);
    done = true;
  };
  // A write that was accepted before holds the new ring up until it is done.
  FakePeer& first = ranked(1, 0);
  first.store.put_delay = milliseconds(10);
  const auto before = start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {}));
  spawn(sim_.executor(), require(first, drained));
  sim_.run_for(milliseconds(9));
  EXPECT_FALSE(drained);
  sim_.run_for(milliseconds(2));
  EXPECT_TRUE(drained);
  ASSERT_TRUE(before->has_value());
  EXPECT_TRUE((*before)->has_value());

  const auto after = start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {}));
  const TimePoint begin = sim_.clock().now();
  sim_.run_for(milliseconds(100));
  EXPECT_FALSE(after->has_value());
  RingSpec newer = ring_->spec();
  newer.version = 2;
  distributor_.set_ring(make_ring(newer).value());
  sim_.run_for(milliseconds(20));
  ASSERT_TRUE(after->has_value());
  EXPECT_TRUE((*after)->has_value());

  // The new ring comes while a write is under way by the old one: nothing more is waited for.
  distributor_.set_ring(ring_);
  first.delay = milliseconds(50);
  const auto overtaken = start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {}));
  sim_.run_for(milliseconds(20));
  distributor_.set_ring(make_ring(newer).value());
  sim_.run_for(milliseconds(100));
  ASSERT_TRUE(overtaken->has_value());
  EXPECT_TRUE((*overtaken)->has_value());
  first.delay = milliseconds(0);

  // Nobody brings the new ring: an error that says so, in bounded time.
  distributor_.set_ring(ring_);
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_LE(sim_.clock().now() - begin, seconds(4));
  EXPECT_TRUE(write(1, {.checksummed = true, .repair = true}).has_value());
}

// Goal: a leaving peer gets no new block, not even when those that stay fail or are slow.
TEST_F(DistributorTest, LeavingPeersGetNoWrites) {
  RingSpec staying = ring_->spec();
  const PeerId leaving = staying.members.back().id;
  staying.members.pop_back();
  RingSpec both;
  both.kind = RingKind::union_;
  both.version = 2;
  both.replication = 2;
  both.parts = {ring_->spec(), staying};
  distributor_.set_ring(make_ring(both).value());
  peers_[0]->error = Errc::io_error;
  for (std::uint64_t index = 1; index < 50; ++index) EXPECT_TRUE(write(index).has_value());
  peers_[1]->error = Errc::io_error;
  EXPECT_EQ(write(50).code(), Errc::no_quorum);
  for (const auto& peer : peers_) {
    if (peer->id() == leaving) EXPECT_TRUE(peer->store.blocks.empty());
  }
}

TEST_F(DistributorTest, RepairingWritesPassFences) {
  ASSERT_TRUE(write(1, {.copy_count = 1}).has_value());
  ASSERT_TRUE(sim_.run(distributor_.fence(VolumeId{1}, Epoch{2})).has_value());
  EXPECT_EQ(write(1).code(), Errc::fenced);
  EXPECT_EQ(write(2).code(), Errc::fenced);
  WriteOptions repairing;
  repairing.repair = true;
  ASSERT_TRUE(write(1, repairing).has_value());
  EXPECT_EQ(copies(1), 2U);
  EXPECT_TRUE(read(1).has_value());
}

// Goal: a silent peer costs one slow write, not one each. Method: the second write's time.
TEST_F(DistributorTest, SuspectsAreAskedLast) {
  ASSERT_TRUE(write(7).has_value());
  FakePeer& silent = ranked(7, 0);
  silent.delay = seconds(600);
  std::uint64_t index = 100;
  for (int slow_count = 0; slow_count < 1;) {
    while (&ranked(index, 0) != &silent) ++index;
    const TimePoint before = sim_.clock().now();
    ASSERT_TRUE(write(index++).has_value());
    EXPECT_EQ(sim_.clock().now() - before, milliseconds(500));
    ++slow_count;
  }
  const TimePoint before = sim_.clock().now();
  for (int count = 0; count < 20; ++count) ASSERT_TRUE(write(index++).has_value());
  ASSERT_TRUE(read(7).has_value());
  EXPECT_EQ(sim_.clock().now(), before);
  silent.delay = Duration(0);
  sim_.run_for(seconds(20));
  while (&ranked(index, 0) != &silent) ++index;
  ASSERT_TRUE(write(index).has_value());
  EXPECT_TRUE(silent.store.find(ref_of(index)).has_value());
}

TEST_F(DistributorTest, ReadsChooseTheSameReplicaAndPreferLocalOnes) {
  ASSERT_TRUE(write(1).has_value());
  for (int count = 0; count < 5; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(ranked(1, 0).read_count, 5);
  EXPECT_EQ(ranked(1, 1).read_count, 0);
  ranked(1, 1).is_local = true;
  ranked(1, 2).is_local = true;  // local but no replica: not asked
  ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(ranked(1, 1).read_count, 1);
  EXPECT_EQ(ranked(1, 2).read_count, 0);
}

struct ReadCase {
  const char* name;
  std::function<void(DistributorTest& test, FakePeer& first, FakePeer& second, FakePeer& third)>
      script;
  Errc code;
  Duration longest;
};

// Goal: nobody goes on with fewer copies on the word of a peer that has gone since, perhaps with its
// disk. Method: the first stores and goes, the second takes longer than anybody waits. Found by the
// simulator, seed 821813.
TEST_F(DistributorTest, ACopyWhosePeerIsGoneIsNotEnough) {
  lose(ranked(1, 2));
  lose(ranked(1, 3));
  ranked(1, 1).delay = seconds(3);
  FakePeer& first = ranked(1, 0);
  sim_.clock().call_at(sim_.clock().now() + milliseconds(300), [&first] { lose(first); });
  const TimePoint begin = sim_.clock().now();
  EXPECT_EQ(write(1, {.checksummed = true, .min_copies = 1}), 2U);
  EXPECT_GE(sim_.clock().now() - begin, seconds(3));
}

// Goal: a good copy is found wherever it is. Method: block 1 on the first two peers of four.
TEST_F(DistributorTest, ReadsAsATable) {
  using P = FakePeer&;
  using T = DistributorTest&;
  const Duration now{0};
  const BlockRef ref = ref_of(1);
  const auto break_off = [this](FakePeer& a, FakePeer& b) {
    lose(a), lose(b);
    sim_.clock().call_at(sim_.clock().now() + milliseconds(250),
                         [&a, &b] { a.is_connected = b.is_connected = true; });
  };
  const std::vector<ReadCase> cases = {
      {"all well", [](T, P, P, P) {}, Errc::ok, now},
      {"first gone", [](T, P a, P, P) { lose(a); }, Errc::ok, now},
      {"first fails", [](T, P a, P, P) { refuse(a, Errc::unavailable); }, Errc::ok, now},
      {"first lost it", [ref](T, P a, P, P) { a.store.blocks.erase(ref); }, Errc::ok, now},
      {"first is slow", [](T, P a, P, P) { a.delay = seconds(1); }, Errc::ok, milliseconds(20)},
      {"both are slow", [](T, P a, P b, P) { a.delay = b.delay = seconds(1); }, Errc::ok,
       milliseconds(1220)},
      {"elsewhere in the ring",
       [ref](T, P a, P b, P c) {
         c.store.blocks[ref] = a.store.blocks[ref];
         a.store.blocks.erase(ref);
         b.store.blocks.erase(ref);
       },
       Errc::ok, now},
      {"both gone", [](T, P a, P b, P) { lose(a), lose(b); }, Errc::unavailable, seconds(5)},
      {"both break off and are soon back", [&](T, P a, P b, P) { break_off(a, b); }, Errc::ok,
       milliseconds(300)},
      {"both break off, back they are slow",
       [&](T, P a, P b, P) { break_off(a, b), a.delay = b.delay = seconds(1); }, Errc::ok,
       milliseconds(1300)},
      {"one gone, one lost it", [ref](T, P a, P b, P) { lose(a), b.store.blocks.erase(ref); },
       Errc::unavailable, seconds(5)},
      {"both lost it",
       [ref](T, P a, P b, P) { a.store.blocks.erase(ref), b.store.blocks.erase(ref); },
       Errc::not_found, now},
      {"first is bad", [ref](T, P a, P, P) { a.store.flip(ref, 5000); }, Errc::ok, now},
      {"both are bad", [ref](T, P a, P b, P) { a.store.flip(ref, 5000), b.store.flip(ref, 1); },
       Errc::corrupt, now},
      {"one bad, one gone", [ref](T, P a, P b, P) { a.store.flip(ref, 5000), lose(b); },
       Errc::unavailable, seconds(5)},
      {"silent", [](T, P a, P b, P) { a.delay = b.delay = seconds(60); }, Errc::unavailable,
       milliseconds(5'260)},
  };
  for (const ReadCase& entry : cases) {
    SCOPED_TRACE(entry.name);
    for (const auto& peer : peers_) peer->store.blocks.clear();
    ASSERT_TRUE(write(1).has_value());
    entry.script(*this, ranked(1, 0), ranked(1, 1), ranked(1, 2));
    const TimePoint before = sim_.clock().now();
    const Result<void> got = read(1);
    EXPECT_EQ(got.code(), entry.code) << (got.has_value() ? "" : got.error().to_string());
    // The delay before a hedge moves a little with every read.
    EXPECT_LE(sim_.clock().now() - before, entry.longest);
    EXPECT_GE(sim_.clock().now() - before, entry.longest * 99 / 100);
    if (!got.has_value()) EXPECT_NE(got.error().message.find("data:1:1:1"), std::string::npos);
    const Result<SharedBytes> block =
        sim_.run(distributor_.read_block(ref_of(1), ReadOptions{&check_}));
    // By now a bad copy may be repaired, but what is nowhere good stays so.
    if (entry.code != Errc::unavailable) EXPECT_EQ(block.code(), entry.code);
    for (const auto& peer : peers_) {
      peer->is_connected = true;
      peer->delay = Duration(0);
      peer->error.reset();
    }
    sim_.run_for(seconds(20));
  }
}

struct HedgeCase {
  const char* name;
  std::function<void(FakePeer& first, FakePeer& second)> script;
  Errc code;
  Duration took;
  std::uint64_t hedge_count;
  std::uint64_t won_count;
};

// Goal: a read that takes longer than reads use to is answered by another replica, whatever becomes of
// the first; a bad second answer harms nothing. Method: block 1 on two peers, of which the first can
// or cannot end a read early; the caller's memory is watched afterwards.
TEST_F(DistributorTest, HedgesAsATable) {
  using P = FakePeer&;
  const BlockRef ref = ref_of(1);
  const SharedBytes good = make_block(ref, 9000);
  const std::vector<HedgeCase> cases = {
      {"quick", [](P a, P) { a.delay = milliseconds(10); }, Errc::ok, milliseconds(10), 0, 0},
      {"slow", [](P a, P) { a.delay = milliseconds(100); }, Errc::ok, milliseconds(20), 1, 1},
      {"never answers", [](P a, P) { a.delay = seconds(600); }, Errc::ok, milliseconds(20), 1, 1},
      {"the second is slower",
       [](P a, P b) { a.delay = milliseconds(50), b.delay = milliseconds(90); }, Errc::ok,
       milliseconds(50), 1, 0},
      {"the second is a little slow",
       [](P a, P b) { a.delay = milliseconds(90), b.delay = milliseconds(30); }, Errc::ok,
       milliseconds(50), 1, 1},
      {"the second fails", [](P a, P b) { a.delay = milliseconds(90), refuse(b, Errc::io_error); },
       Errc::ok, milliseconds(90), 1, 0},
      {"the second is bad",
       [ref](P a, P b) { a.delay = milliseconds(90), b.store.flip(ref, 5000); }, Errc::ok,
       milliseconds(90), 1, 0},
      {"the second lost it",
       [ref](P a, P b) { a.delay = milliseconds(90), b.store.blocks.erase(ref); }, Errc::ok,
       milliseconds(90), 1, 0},
      {"the second is gone", [](P a, P b) { a.delay = milliseconds(90), lose(b); }, Errc::ok,
       milliseconds(90), 1, 0},
      {"the first is bad, late",
       [ref](P a, P b) {
         a.delay = milliseconds(30), b.delay = milliseconds(60), a.store.flip(ref, 5000);
       },
       Errc::ok, milliseconds(80), 1, 0},
      {"both are bad",
       [ref](P a, P b) {
         a.delay = milliseconds(30), a.store.flip(ref, 5000), b.store.flip(ref, 5000);
       },
       Errc::corrupt, milliseconds(30), 1, 0},
  };
  for (const bool can_stop : {false, true}) {
    for (const HedgeCase& entry : cases) {
      SCOPED_TRACE(fmt::format("{}, can stop: {}", entry.name, can_stop));
      for (const auto& peer : peers_) {
        peer->store.blocks.clear();
        peer->is_connected = true;
        peer->delay = Duration(0);
        peer->error.reset();
        peer->can_stop = can_stop;
      }
      Distributor distributor(node_.env(), kBlockSize);  // that has read nothing yet
      distributor.set_peers(peer_map_);
      distributor.set_ring(ring_);
      ASSERT_TRUE(write(1).has_value());
      entry.script(ranked(1, 0), ranked(1, 1));
      const std::uint64_t hedges = node_.metrics().value("agro_hedged_reads_total");
      const std::uint64_t won = node_.metrics().value("agro_hedged_reads_won_total");
      const TimePoint before = sim_.clock().now();
      out_.assign(2 * kPageSize, std::byte{0});
      const Result<void> got =
          sim_.run(distributor.read(ref, 0, out_, ReadOptions{&check_}));
      EXPECT_EQ(got.code(), entry.code);
      EXPECT_EQ(sim_.clock().now() - before, entry.took);
      if (got.has_value()) EXPECT_EQ(std::memcmp(out_.data(), good.bytes.data(), out_.size()), 0);
      EXPECT_EQ(node_.metrics().value("agro_hedged_reads_total") - hedges, entry.hedge_count);
      EXPECT_EQ(node_.metrics().value("agro_hedged_reads_won_total") - won, entry.won_count);
      std::fill(out_.begin(), out_.end(), std::byte{0xEE});
      sim_.run_for(seconds(10));
      EXPECT_EQ(std::count(out_.begin(), out_.end(), std::byte{0xEE}),
                static_cast<std::ptrdiff_t>(out_.size()));
      ASSERT_TRUE(sim_.run_job(distributor.stop()));
    }
  }
}

// Goal: hedges are few when everybody is slow. Method: all peers slow at once, reads one by one.
TEST_F(DistributorTest, HedgesAreBounded) {
  ASSERT_TRUE(write(1).has_value());
  for (const auto& peer : peers_) peer->delay = milliseconds(150);
  for (int count = 0; count < 400; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_LE(node_.metrics().value("agro_hedged_reads_total"), 30U);
}

// Goal: a replica that stays slow is asked second, and first again when it is well. Method: who was
// asked; which delays reads have meanwhile.
TEST_F(DistributorTest, ASlowReplicaIsAskedLess) {
  ASSERT_TRUE(write(1).has_value());
  FakePeer& slow = ranked(1, 0);
  slow.delay = milliseconds(100);
  for (int count = 0; count < 3; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(node_.metrics().value("agro_hedged_reads_won_total"), 3U);
  const TimePoint before = sim_.clock().now();
  for (int count = 0; count < 50; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(sim_.clock().now(), before);
  EXPECT_EQ(slow.read_count, 3);
  sim_.run_for(seconds(2));  // asked again, overtaken again: left alone for two seconds
  ASSERT_TRUE(read(1).has_value());
  sim_.run_for(milliseconds(1500));
  ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(slow.read_count, 4);
  slow.delay = Duration(0);
  sim_.run_for(seconds(1));
  for (int count = 0; count < 50; ++count) ASSERT_TRUE(read(1).has_value());
  EXPECT_EQ(slow.read_count, 54);
}

// Goal: the delay follows what reads take, and extra reads stay within their share.
TEST(HedgePolicyTest, FollowsTheSlowestHundredth) {
  HedgePolicy policy;
  EXPECT_EQ(policy.delay(), milliseconds(20));
  for (int count = 0; count < 10'000; ++count) policy.note(milliseconds(1));
  EXPECT_EQ(policy.delay(), HedgePolicy::kDelayMin);
  for (int count = 0; count < 100'000; ++count) policy.note(milliseconds(count % 50 == 0 ? 30 : 5));
  EXPECT_GT(policy.delay(), milliseconds(25));  // 2 % take 30 ms
  EXPECT_LT(policy.delay(), milliseconds(35));
  for (int count = 0; count < 100'000; ++count) policy.note(milliseconds(count % 500 == 0 ? 30 : 5));
  EXPECT_LT(policy.delay(), milliseconds(8));  // 0.2 % do
  EXPECT_GE(policy.delay(), milliseconds(5));
  for (int count = 0; count < 1000; ++count) policy.note(seconds(5));
  EXPECT_EQ(policy.delay(), HedgePolicy::kDelayMax);
  int spent = 0;
  for (int count = 0; count < 1000; ++count) {
    policy.earn();
    spent += policy.spend() ? 1 : 0;
  }
  EXPECT_GE(spent, 50);
  EXPECT_LE(spent, 60);
}

// Goal: a bad copy is counted, repaired from the good one, and then right.
TEST_F(DistributorTest, RepairsBadCopies) {
  for (const std::uint32_t offset : {0U, 5000U}) {
    SCOPED_TRACE(offset);
    for (const auto& peer : peers_) peer->store.blocks.clear();
    ASSERT_TRUE(write(1).has_value());
    const std::vector<std::byte> good = ranked(1, 1).store.blocks[ref_of(1)];
    const std::uint64_t corrupt_before = corrupt_count();
    const std::uint64_t repaired_before = repaired_count();
    ranked(1, 0).store.flip(ref_of(1), offset);
    ASSERT_TRUE(read(1).has_value());
    sim_.run_for(seconds(1));
    EXPECT_EQ(corrupt_count(), corrupt_before + 1);
    EXPECT_EQ(repaired_count(), repaired_before + 1);
    EXPECT_EQ(ranked(1, 0).store.blocks[ref_of(1)], good);
    const int other_reads = ranked(1, 1).read_count;
    ASSERT_TRUE(read(1).has_value());
    EXPECT_EQ(ranked(1, 1).read_count, other_reads);
  }
  // Rot in the part nobody reads: read_block() finds it, and a repair is never made from it.
  ranked(1, 0).store.flip(ref_of(1), 9100);
  ASSERT_TRUE(sim_.run(distributor_.read_block(ref_of(1), ReadOptions{&check_})).has_value());
  sim_.run_for(seconds(1));
  EXPECT_EQ(repaired_count(), 3U);
  ranked(1, 0).store.flip(ref_of(1), 1);
  ranked(1, 1).store.flip(ref_of(1), 9100);
  ASSERT_TRUE(read(1).has_value());  // the pages read are good
  sim_.run_for(seconds(1));
  EXPECT_EQ(repaired_count(), 3U);
}

TEST_F(DistributorTest, TryReadUsesLocalMemoryOnly) {
  ASSERT_TRUE(write(1).has_value());
  out_.assign(kPageSize, std::byte{0});
  const ReadOptions options{&check_};
  EXPECT_FALSE(distributor_.try_read(ref_of(1), 0, out_, options).has_value());
  ranked(1, 1).is_local = true;
  std::map<PeerId, std::shared_ptr<Peer>> peers;
  for (const auto& peer : peers_) peers[peer->id()] = peer;
  distributor_.set_peers(peers);
  std::optional<Result<void>> got = distributor_.try_read(ref_of(1), 0, out_, options);
  ASSERT_TRUE(got.has_value() && got->has_value());
  EXPECT_EQ(std::memcmp(out_.data(), make_block(ref_of(1), 9000).bytes.data(), kPageSize), 0);
  EXPECT_FALSE(distributor_.try_read(ref_of(2), 0, out_, options).has_value());
  ranked(1, 1).store.flip(ref_of(1), 17);
  EXPECT_FALSE(distributor_.try_read(ref_of(1), 0, out_, options).has_value());
  ranked(1, 1).store.cold = true;
  EXPECT_FALSE(distributor_.try_read(ref_of(1), 0, out_, {}).has_value());
}

TEST_F(DistributorTest, ListsFencesAndRemovesEverywhere) {
  for (std::uint64_t index = 1; index <= 5; ++index) ASSERT_TRUE(write(index).has_value());
  ranked(3, 0).store.blocks.erase(ref_of(3));
  BlockFilter filter;
  filter.volume = VolumeId{1};
  filter.index_from = 2;
  Listing listing = sim_.run(distributor_.list(filter)).value();
  ASSERT_EQ(listing.entries.size(), 4U);
  EXPECT_EQ(listing.unreachable_count, 0U);
  EXPECT_EQ(listing.entries[0].ref, ref_of(2));
  EXPECT_EQ(listing.entries[0].copy_count, 2U);
  EXPECT_EQ(listing.entries[1].copy_count, 1U);
  EXPECT_EQ(listing.entries[1].size, make_block(ref_of(3), 9000).size());

  EXPECT_EQ(sim_.run(distributor_.fence(VolumeId{1}, Epoch{4})).value().answered.size(), 4U);
  EXPECT_EQ(sim_.run(distributor_.fence(VolumeId{1}, Epoch{3})).code(), Errc::fenced);
  EXPECT_EQ(write(9).code(), Errc::fenced);

  lose(*peers_[0]);
  refuse(*peers_[1], Errc::unavailable);
  EXPECT_EQ(sim_.run(distributor_.list(filter)).value().unreachable_count, 2U);
  const Reached reached = sim_.run(distributor_.fence(VolumeId{1}, Epoch{5})).value();
  EXPECT_EQ(reached.members.size(), 4U);
  EXPECT_EQ(reached.answered, (std::vector<PeerId>{id_of(2), id_of(3)}));
  EXPECT_EQ(missing_in(reached, listing.reached), (std::vector<PeerId>{id_of(0), id_of(1)}));
  // Silent ones are not waited for when enough have answered.
  peers_[2]->delay = seconds(600);
  const TimePoint before = sim_.clock().now();
  EXPECT_EQ(sim_.run(distributor_.fence(VolumeId{1}, Epoch{6}, 3)).value().answered.size(), 1U);
  EXPECT_EQ(sim_.clock().now() - before, milliseconds(300));
  EXPECT_EQ(sim_.run(distributor_.list(filter, 3)).value().unreachable_count, 3U);
  EXPECT_EQ(sim_.clock().now() - before, milliseconds(300));
  peers_[2]->delay = Duration(0);
  EXPECT_TRUE(sim_.run(distributor_.remove({ref_of(1), ref_of(2)})).has_value());
  EXPECT_FALSE(peers_[2]->store.find(ref_of(1)).has_value());
  EXPECT_FALSE(peers_[3]->store.find(ref_of(1)).has_value());
}

TEST_F(DistributorTest, SpaceIsTheSumOfMembers) {
  ASSERT_TRUE(write(1).has_value());
  const std::uint64_t size = make_block(ref_of(1), 9000).size();
  Space space = distributor_.space();
  EXPECT_EQ(space.size, 4ULL << 30);
  EXPECT_EQ(space.used, 2 * size);
  EXPECT_EQ(space.available, (4ULL << 30) - 2 * size);
  lose(ranked(1, 0));
  EXPECT_EQ(distributor_.space().available, (3ULL << 30) - size);
  lose(ranked(1, 1));
  EXPECT_EQ(distributor_.space().available, 2ULL << 30);
  lose(ranked(1, 2));  // now peers are missing, not space
  EXPECT_EQ(distributor_.space().available, (4ULL << 30) - 2 * size);
}

// Goal: a member that never said what it has does not make the others look full.
TEST_F(DistributorTest, SpaceWithoutWhoNeverAnswered) {
  for (std::size_t rank = 1; rank < 4; ++rank) ranked(1, rank).never_answered = true;
  EXPECT_EQ(distributor_.space().size, 1ULL << 30);
  EXPECT_EQ(distributor_.space().available, 1ULL << 30);
}

// Goal: what is available is what two copies on distinct peers can take.
TEST_F(DistributorTest, SpaceForCopiesAsATable) {
  struct Case {
    std::array<std::uint64_t, 4> free;
    std::uint64_t available;
  };
  for (const Case& entry : {Case{{100, 100, 100, 100}, 400}, Case{{0, 0, 0, 100}, 0},
                            Case{{10, 0, 0, 100}, 20}, Case{{10, 20, 30, 100}, 120},
                            Case{{0, 0, 50, 50}, 100}, Case{{0, 0, 0, 0}, 0}}) {
    for (std::size_t index = 0; index < 4; ++index) peers_[index]->store.size = entry.free[index];
    EXPECT_EQ(distributor_.space().available, entry.available);
  }
}

TEST_F(DistributorTest, PeersAreCounted) {
  refuse(ranked(1, 0), Errc::io_error);
  ASSERT_TRUE(write(1).has_value());
  const MetricLabels label{{"peer", ranked(1, 0).id().to_string()}};
  EXPECT_EQ(node_.metrics().value("agro_peer_requests_total", label), 1U);
  EXPECT_EQ(node_.metrics().value("agro_peer_errors_total", label), 1U);
}

// Goal: stop() waits for late attempts, ends waiting calls, and refuses new ones.
TEST_F(DistributorTest, StopDrains) {
  for (const auto& peer : peers_) peer->delay = seconds(3);
  const auto written =
      start(distributor_.write(ref_of(1), make_block(ref_of(1), 9000), {.checksummed = true}));
  sim_.run_for(milliseconds(10));
  const TimePoint before = sim_.clock().now();
  ASSERT_TRUE(sim_.run_job(distributor_.stop()));
  ASSERT_TRUE(written->has_value());
  EXPECT_EQ(written->value().code(), Errc::closed);
  EXPECT_LE(sim_.clock().now() - before, seconds(3));
  EXPECT_EQ(write(2).code(), Errc::closed);
  EXPECT_EQ(read(1).code(), Errc::closed);
  EXPECT_EQ(sim_.run(distributor_.list({})).code(), Errc::closed);
}

// Goal: without a ring or members nothing is stored and nothing crashes.
TEST_F(DistributorTest, EmptyRing) {
  distributor_.set_ring(nullptr);
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_EQ(read(1).code(), Errc::unavailable);
  distributor_.set_ring(make_ring({}).value());
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_EQ(read(1).code(), Errc::unavailable);
  distributor_.set_ring(ring_);
  distributor_.set_peers({});
  EXPECT_EQ(write(1).code(), Errc::no_quorum);
  EXPECT_EQ(sim_.run(distributor_.list({})).value().unreachable_count, 4U);
  EXPECT_EQ(distributor_.space().size, 0U);
}

}  // namespace
}  // namespace agro
