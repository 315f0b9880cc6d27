// ADP client: a Peer over one connection, which it makes, watches and makes again.
//
// Invariants: every call ends by its deadline; when the connection is lost, what is in flight on it
// fails with `unavailable` at once; after a read has returned, nothing touches its buffer.
// Threading: one loop. Format: docs/formats/adp.md. Source: DESIGN.md section 8.
#pragma once

#include <memory>

#include "base/env.hpp"
#include "core/uuid.hpp"
#include "distributor/remote_peer.hpp"

namespace agro {

using AdpPeerOptions = RemotePeerOptions;

class AdpPeer final : public RemotePeer {
 public:
  /// Starts connecting in the background.
  AdpPeer(Env env, AdpPeerOptions options);
  ~AdpPeer() override;
  AdpPeer(const AdpPeer&) = delete;
  AdpPeer& operator=(const AdpPeer&) = delete;

  PeerId id() const override;
  bool connected() const override;
  void on_connection(std::function<void()> listener) override;
  bool local() const override;
  Task<void> write(PeerWrite request, TimePoint deadline) override;
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  std::vector<std::uint32_t>* page_crcs, TimePoint deadline) override;
  bool stops_reads() const override { return true; }
  Task<void> read_stoppable(BlockRef ref, std::uint32_t offset, MutableBytes out,
                            std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                            ReadStop& stop) override;
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

  void close() override;
  Awaitable<void> stop() override;
  Awaitable<bool> wait_connected(TimePoint deadline) override;
  void connect_now() override;

 private:
  Task<void> read_with(BlockRef ref, std::uint32_t offset, MutableBytes out,
                       std::vector<std::uint32_t>* page_crcs, TimePoint deadline, ReadStop* stop);
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace agro
