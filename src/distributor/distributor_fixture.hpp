// A distributor over scripted peers on simulated time, for tests.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/log.hpp"
#include "distributor/distributor.hpp"
#include "distributor/fake_store.hpp"
#include "distributor/peer_service.hpp"

namespace agro {

inline constexpr std::uint32_t kBlockSize = 1 << 20;

inline BlockRef ref_of(std::uint64_t index) { return {VolumeId{1}, Epoch{1}, index, BlockType::data}; }

inline PeerId id_of(std::size_t number) {
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

inline void lose(FakePeer& peer) { peer.is_connected = false; }
inline void refuse(FakePeer& peer, Errc code) { peer.error = code; }

}  // namespace agro
