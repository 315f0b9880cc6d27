// gRPC client: a Peer over one channel, which gRPC keeps connected.
//
// Invariants: every call ends by its deadline; after a read has returned, nothing touches its buffer;
// each call names cluster and peer, so that no other peer can answer it.
// Threading: one loop; gRPC's threads only hand over to it. Format: docs/formats/grpc.md.
#pragma once

#include <memory>

#include "base/env.hpp"
#include "distributor/remote_peer.hpp"

namespace agro {

class GrpcPeer final : public RemotePeer {
 public:
  /// Starts connecting in the background. Shape: `env` is a real one.
  GrpcPeer(Env env, RemotePeerOptions options);
  ~GrpcPeer() override;

  PeerId id() const override;
  bool connected() const override;
  bool local() const override;
  Task<void> write(PeerWrite request, TimePoint deadline) override;
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  std::vector<std::uint32_t>* page_crcs, TimePoint deadline) override;
  std::optional<Result<void>> try_read(const BlockRef&, std::uint32_t, MutableBytes,
                                       std::vector<std::uint32_t>*) override {
    return std::nullopt;
  }
  Task<std::vector<std::uint32_t>> has(std::vector<BlockRef> refs, std::uint64_t ring_version,
                                       TimePoint deadline) override;
  Task<std::vector<BlockInfo>> list(BlockFilter filter, TimePoint deadline) override;
  Task<void> remove(std::vector<BlockRef> refs, TimePoint deadline) override;
  Task<void> fence(VolumeId volume, Epoch epoch, TimePoint deadline) override;
  Task<PeerStat> stat(TimePoint deadline) override;
  Task<PeerReport> report(TimePoint deadline) override;
  Task<void> start(WorkKind kind, TimePoint deadline) override;
  std::optional<PeerStat> last_stat() const override;
  std::string problem() const override;
  void on_connection(std::function<void()> listener) override;
  void close() override;
  Awaitable<void> stop() override;
  Awaitable<bool> wait_connected(TimePoint deadline) override;
  void connect_now() override;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace agro
