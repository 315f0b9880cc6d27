#include "fence_oracle.hpp"

#include <fmt/format.h>

namespace agro {
namespace {

/// Scenarios make few volumes, and ids are given away in order.
constexpr std::uint64_t kVolumesLookedAt = 64;
/// Beyond every log.
constexpr std::uint64_t kProbeIndex = std::uint64_t{1} << 40;

}  // namespace

std::string FenceOracle::check() {
  for (std::size_t index = 0; index < cluster_.host_count() && problem_.empty(); ++index) {
    if (cluster_.peer_runs(index)) problem_ = check_peer(index);
  }
  return problem_;
}

std::string FenceOracle::check_peer(std::size_t index) {
  const std::shared_ptr<PeerService>& service = cluster_.node(index).service();
  for (std::uint64_t volume = 1; volume <= kVolumesLookedAt; ++volume) {
    const Epoch present = service->store().fence_of(VolumeId{volume});
    Epoch& highest = fences_[{service->id(), VolumeId{volume}}];
    if (present < highest) {
      return fmt::format("{} fenced volume {} below epoch {} and forgot it: now {}",
                         SimCluster::peer_name(index), volume, highest.value, present.value);
    }
    highest = present;
  }
  return "";
}

void FenceOracle::forget(const PeerId& peer) {
  std::erase_if(fences_, [&peer](const auto& entry) { return entry.first.first == peer; });
}

void FenceOracle::probe(Random& random) {
  const std::size_t index = random.below(cluster_.host_count());
  if (!cluster_.peer_runs(index) || cluster_.peer_is_frozen(index)) return;
  const std::shared_ptr<PeerService> service = cluster_.node(index).service();
  const VolumeId volume{1 + random.below(4)};
  const Epoch fence = service->store().fence_of(volume);
  if (fence.value < 2 || fence.value == UINT64_MAX) return;
  const BlockRef ref{volume, Epoch{fence.value - 1}, kProbeIndex + random.below(1000),
                     BlockType::data};
  cluster_.peer_group(index).spawn(probe_job(index, service, ref));
}

Job FenceOracle::probe_job(std::size_t peer, std::shared_ptr<PeerService> service, BlockRef ref) {
  PeerWrite request;
  request.ref = ref;
  auto buffer = std::make_shared<AlignedBuffer>(kPageSize);
  std::memset(buffer->data(), 0, buffer->size());
  request.block = {buffer, buffer->bytes()};
  request.ring_version = service->report().ring_version;
  const Result<void> written = co_await service->write(std::move(request));
  if (!written.has_value()) co_return;
  problem_ = fmt::format("{} took a block of epoch {} of volume {}, which is fenced",
                         SimCluster::peer_name(peer), ref.epoch.value, ref.volume.value);
}

}  // namespace agro
