#include "distributor/measured_peer.hpp"

namespace agro {
namespace {

class MeasuredPeer final : public Peer {
 public:
  MeasuredPeer(std::shared_ptr<Peer> peer, Clock& clock, Metrics& metrics)
      : peer_(std::move(peer)), clock_(clock), metrics_(metrics) {}

  PeerId id() const override { return peer_->id(); }
  bool connected() const override { return peer_->connected(); }
  bool local() const override { return peer_->local(); }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       std::vector<std::uint32_t>* page_crcs) override {
    return peer_->try_read(ref, offset, out, page_crcs);  // at once, so there is nothing to time
  }
  std::optional<PeerStat> last_stat() const override { return peer_->last_stat(); }
  void on_connection(std::function<void()> listener) override {
    peer_->on_connection(std::move(listener));
  }
  void close() override { peer_->close(); }

  // What an await needs is owned by its frame: the last reference to us may go meanwhile.
  Task<void> write(PeerWrite request, TimePoint deadline) override {
    return timed(peer_->write(std::move(request), deadline), clock_, write_);
  }
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  std::vector<std::uint32_t>* page_crcs, TimePoint deadline) override {
    return timed(peer_->read(ref, offset, out, page_crcs, deadline), clock_, read_);
  }
  bool stops_reads() const override { return peer_->stops_reads(); }
  Task<void> read_stoppable(BlockRef ref, std::uint32_t offset, MutableBytes out,
                            std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                            ReadStop& stop) override {
    return timed(peer_->read_stoppable(ref, offset, out, page_crcs, deadline, stop), clock_, read_);
  }
  Task<std::vector<std::uint32_t>> has(std::vector<BlockRef> refs, std::uint64_t ring_version,
                                       TimePoint deadline) override {
    return timed(peer_->has(std::move(refs), ring_version, deadline), clock_, has_);
  }
  Task<std::vector<BlockInfo>> list(BlockFilter filter, TimePoint deadline) override {
    return timed(peer_->list(std::move(filter), deadline), clock_, list_);
  }
  Task<void> remove(std::vector<BlockRef> refs, TimePoint deadline) override {
    return timed(peer_->remove(std::move(refs), deadline), clock_, remove_);
  }
  Task<void> fence(VolumeId volume, Epoch epoch, TimePoint deadline) override {
    return timed(peer_->fence(volume, epoch, deadline), clock_, fence_);
  }
  Task<PeerStat> stat(TimePoint deadline) override {
    return timed(peer_->stat(deadline), clock_, stat_);
  }
  Task<PeerReport> report(TimePoint deadline) override { return peer_->report(deadline); }
  Task<void> start(WorkKind kind, TimePoint deadline) override {
    return peer_->start(kind, deadline);
  }

 private:
  template <class T>
  static Task<T> timed(Task<T> call, Clock& clock, Histogram& histogram) {
    const ScopedLatency latency(clock, histogram);
    co_return co_await std::move(call);
  }
  Histogram& latency_of(const char* op) {
    return metrics_.histogram("agro_peer_operation_seconds", "Time that calls to peers took",
                              {{"op", op}});
  }

  std::shared_ptr<Peer> peer_;
  Clock& clock_;
  Metrics& metrics_;
  Histogram& write_ = latency_of("write");
  Histogram& read_ = latency_of("read");
  Histogram& has_ = latency_of("has");
  Histogram& list_ = latency_of("list");
  Histogram& remove_ = latency_of("remove");
  Histogram& fence_ = latency_of("fence");
  Histogram& stat_ = latency_of("stat");
};

}  // namespace

std::shared_ptr<Peer> make_measured_peer(std::shared_ptr<Peer> peer, Clock& clock,
                                         Metrics& metrics) {
  return std::make_shared<MeasuredPeer>(std::move(peer), clock, metrics);
}

}  // namespace agro
