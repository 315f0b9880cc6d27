// ADP client: a Peer over one connection, which it makes, watches and makes again.
//
// Invariants: every call ends by its deadline; when the connection is lost, what is in flight on it
// fails with `unavailable` at once; after a read has returned, nothing touches its buffer.
// Threading: one loop. Format: docs/formats/adp.md. Source: DESIGN.md section 8.
#pragma once

#include <memory>

#include "base/env.hpp"
#include "core/uuid.hpp"
#include "distributor/peer.hpp"

namespace agro {

struct AdpPeerOptions {
  Uuid cluster;
  PeerId self;  // nil: a client
  PeerId peer;  // whom we want to talk to
  Address address;
  std::uint32_t block_size = 0;
};

class AdpPeer final : public Peer {
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
  /// Why there is no connection, for people; empty when there is one.
  std::string problem() const;

  void close() override;
  /// close(), and waits for the background work to end.
  Awaitable<void> stop();
  /// Returns when connected() or at the deadline; whether it is.
  Awaitable<bool> wait_connected(TimePoint deadline);
  /// There is news of it: if it is not connected, connect now and not when the next try is due.
  void connect_now();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace agro
