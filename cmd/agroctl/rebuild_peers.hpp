// The peers that `agroctl metadata rebuild` reads: stores of this machine, opened here, and peers that
// run anywhere, by their addresses.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "distributor/peer_service.hpp"
#include "distributor/remote_peer.hpp"
#include "node/volume_search.hpp"
#include "storage/mmap_store.hpp"

namespace agro {

struct RebuildSources {
  std::vector<std::string> data_dirs;  // of peers, or of `agro standalone`
  std::vector<std::string> peers;      // UUID@ADDRESS
  std::string cluster_id;              // empty: what the stores say
  std::uint64_t block_size = 0;        // 0: what the stores say
};

/// Peers that were opened; close() before it goes.
class RebuildPeers {
 public:
  explicit RebuildPeers(Env& env) : env_(env) {}
  RebuildPeers(const RebuildPeers&) = delete;
  RebuildPeers& operator=(const RebuildPeers&) = delete;

  /// Errors: invalid_argument; not_found (no store there); locked (its peer runs); cluster_mismatch;
  /// unavailable (a peer does not answer); corrupt; already_exists (one peer named twice).
  Task<void> open(RebuildSources sources);
  Task<void> close();

  const Uuid& cluster_id() const { return cluster_id_; }
  std::uint32_t block_size() const { return block_size_; }
  const std::vector<SearchedPeer>& peers() const { return peers_; }
  /// With their sizes as weights when all of them run; stores do not say how large they may grow.
  const std::vector<RingMember>& members() const { return members_; }
  bool weighted() const { return stores_.empty(); }

 private:
  Task<std::vector<std::string>> store_dirs(std::string directory);
  Task<StoreOptions> store_place(std::string directory);
  Task<void> learn(const std::vector<std::string>& dirs, const RebuildSources& sources);
  Task<void> open_store(std::string directory);
  Task<void> connect(std::string text);
  Result<void> add(SearchedPeer peer, std::uint64_t weight);

  Env& env_;
  Uuid cluster_id_;
  std::uint32_t block_size_ = 0;
  std::vector<std::unique_ptr<BlockStore>> stores_;
  std::vector<std::shared_ptr<RemotePeer>> remotes_;
  std::vector<SearchedPeer> peers_;
  std::vector<RingMember> members_;
};

}  // namespace agro
