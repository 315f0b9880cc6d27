#include "agroctl/rebuild_peers.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.hpp"
#include "node/peer_protocols.hpp"
#include "node/ring_change.hpp"
#include "node/store_place.hpp"

namespace agro {
namespace {

constexpr Duration kConnectLimit = std::chrono::seconds(10);
/// A store needs a little room for the index it writes when it is closed.
constexpr std::uint32_t kRoomBlocks = 32;

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

/// The directory itself, or the peers' in one of `agro standalone`.
Task<std::vector<std::string>> RebuildPeers::store_dirs(std::string directory) {
  while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
  Result<std::vector<std::string>> names = co_await env_.disk.list(directory);
  if (!names.has_value()) co_return fail(with_context(names.error(), directory));
  std::vector<std::string> dirs;
  if (contains(*names, "blocks") || contains(*names, "device")) {
    dirs.push_back(std::move(directory));
    co_return std::move(dirs);
  }
  for (const std::string& name : *names) {
    if (name.starts_with("peer-") && !name.ends_with(".log")) dirs.push_back(directory + "/" + name);
  }
  std::sort(dirs.begin(), dirs.end());
  if (dirs.empty()) {
    co_return fail(Errc::not_found,
                   directory + " holds no store: there is no file 'blocks' or 'device' and no 'peer-1'");
  }
  co_return std::move(dirs);
}

/// Where the store of a directory is.
Task<StoreOptions> RebuildPeers::store_place(std::string directory) {
  StoreOptions options;
  AGRO_CO_TRY(options.device, co_await noted_device(env_.disk, directory));
  options.directory = std::move(directory);
  co_return std::move(options);
}

/// Which cluster it is, from the stores or from what was said.
Task<void> RebuildPeers::learn(const std::vector<std::string>& dirs, const RebuildSources& sources) {
  block_size_ = static_cast<std::uint32_t>(sources.block_size);
  if (!sources.cluster_id.empty()) {
    AGRO_CO_TRY(cluster_id_, parse_uuid(sources.cluster_id));
  }
  for (const std::string& dir : dirs) {
    AGRO_CO_TRY(const StoreOptions place, co_await store_place(dir));
    AGRO_CO_TRY(const StoreIdentity identity, co_await read_store_identity(env_.disk, place));
    if (cluster_id_.is_nil()) cluster_id_ = identity.cluster_id;
    if (block_size_ == 0) block_size_ = identity.block_size;
    if (identity.cluster_id != cluster_id_ || identity.block_size != block_size_) {
      co_return fail(Errc::cluster_mismatch,
                     fmt::format("{} belongs to cluster {} with blocks of {}, the others to {} with {}",
                                 dir, identity.cluster_id.to_string(),
                                 format_size(identity.block_size), cluster_id_.to_string(),
                                 format_size(block_size_)));
    }
  }
  if (cluster_id_.is_nil() || block_size_ == 0) {
    co_return fail(Errc::invalid_argument,
                   "without a --data-dir to learn them from, --cluster-id and --block-size are needed; "
                   "'agro --without-metadata' prints them for a store");
  }
  co_return Result<void>();
}

Result<void> RebuildPeers::add(SearchedPeer peer, std::uint64_t weight) {
  const PeerId id = peer.peer->id();
  for (const SearchedPeer& other : peers_) {
    if (other.peer->id() != id) continue;
    return fail(Errc::already_exists, fmt::format("{} and {} are the same peer, {}", other.place,
                                                  peer.place, id.to_string()));
  }
  peers_.push_back(std::move(peer));
  members_.push_back({.id = id, .weight = weight});
  return {};
}

Task<void> RebuildPeers::open_store(std::string directory) {
  AGRO_CO_TRY(StoreOptions options, co_await store_place(directory));
  AGRO_CO_TRY(const StoreIdentity identity, co_await read_store_identity(env_.disk, options));
  const bool on_device = !options.device.empty();
  if (!on_device) {
    AGRO_CO_TRY(const std::unique_ptr<File> file, co_await env_.disk.open(store_path(options), OpenOptions{}));
    options.size = file->size() + std::uint64_t{kRoomBlocks} * block_size_;
    co_await file->close();
  }
  options.block_size = block_size_;
  options.cluster_id = cluster_id_;
  options.peer_id = identity.peer_id;
  Task<std::unique_ptr<BlockStore>> opening =
      on_device ? open_disk_store(env_, options) : open_mmap_store(env_, options);
  Result<std::unique_ptr<BlockStore>> store = co_await std::move(opening);
  if (!store.has_value()) {
    if (store.code() != Errc::locked) co_return fail(std::move(store).error());
    co_return fail(Errc::locked, fmt::format("{}: its peer is running; stop it, or give --peer "
                                             "{}@ADDRESS instead",
                                             directory, identity.peer_id.to_string()));
  }
  stores_.push_back(std::move(*store));
  BlockStore& opened = *stores_.back();
  auto service = std::make_shared<PeerService>(identity.peer_id, opened, env_.metrics);
  auto peer = std::make_shared<LocalPeer>(std::move(service));
  co_return add({std::move(peer), directory, &opened}, 1);
}

Task<void> RebuildPeers::connect(std::string text) {
  const std::size_t at = text.find('@');
  if (at == std::string::npos) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("--peer takes UUID@ADDRESS, as the peer printed them at its start, not "
                               "'{}'",
                               text));
  }
  RemotePeerOptions options;
  AGRO_CO_TRY(options.peer, parse_uuid(text.substr(0, at)));
  AGRO_CO_TRY(const PeerAddress address, parse_peer_address(text.substr(at + 1)));
  options.cluster = cluster_id_;
  options.block_size = block_size_;
  options.address = address.address;
  std::shared_ptr<RemotePeer> peer = make_remote_peer(env_, address.protocol, std::move(options));
  remotes_.push_back(peer);
  const TimePoint deadline = env_.clock.now() + kConnectLimit;
  const bool connected = co_await peer->wait_connected(deadline);
  if (!connected) {
    co_return fail(Errc::unavailable, fmt::format("peer {}: {}", text, peer->problem()));
  }
  AGRO_CO_TRY(const PeerStat stat, co_await peer->stat(deadline));
  PeerRecord record;
  record.size = stat.store.size;
  co_return add({peer, text, nullptr}, ring_member_of(record).weight);
}

Task<void> RebuildPeers::open(RebuildSources sources) {
  std::vector<std::string> dirs;
  for (const std::string& named : sources.data_dirs) {
    AGRO_CO_TRY(const std::vector<std::string> found, co_await store_dirs(named));
    dirs.insert(dirs.end(), found.begin(), found.end());
  }
  AGRO_CO_TRY_OK(co_await learn(dirs, sources));
  for (const std::string& dir : dirs) AGRO_CO_TRY_OK(co_await open_store(dir));
  for (const std::string& text : sources.peers) AGRO_CO_TRY_OK(co_await connect(text));
  if (!weighted()) {
    for (RingMember& member : members_) member.weight = 1;
  }
  co_return Result<void>();
}

Task<void> RebuildPeers::close() {
  Result<void> first;
  for (const std::shared_ptr<RemotePeer>& remote : remotes_) co_await remote->stop();
  for (const std::unique_ptr<BlockStore>& store : stores_) {
    Result<void> closed = co_await store->close();
    if (first.has_value()) first = std::move(closed);
  }
  co_return first;
}

}  // namespace agro
