#include "gc/collect.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace agro {

bool is_covered(const BlockRef& ref, const VolumeProof& proof) {
  if (proof.checkpoint_epoch.value == 0) return false;
  switch (ref.type) {
    case BlockType::data:
      return ref.epoch < proof.epoch || (ref.epoch == proof.epoch && ref.index <= proof.sequence);
    case BlockType::inode:
      return ref.epoch < proof.checkpoint_epoch ||
             (ref.epoch == proof.checkpoint_epoch && ref.index < proof.root_index);
    case BlockType::ecc:
      break;
  }
  return false;  // of a kind that nobody here makes yet
}

bool is_dead(const BlockRef& ref, const VolumeProof& proof) {
  return is_covered(ref, proof) && !std::binary_search(proof.live.begin(), proof.live.end(), ref);
}

bool is_deleted(VolumeId volume, const VolumeCensus& census) {
  if (volume.value == 0 || volume.value >= census.next_volume) return false;
  if (volume.value < census.rebuilt_below) return false;
  return !std::binary_search(census.known.begin(), census.known.end(), volume);
}

std::vector<BlockRef> plan_collect(std::span<const BlockRef> refs, const VolumeCensus& census,
                                   const std::map<VolumeId, VolumeProof>& proofs) {
  AGRO_ASSERT(std::is_sorted(census.known.begin(), census.known.end()));
  for (const auto& [volume, proof] : proofs) {
    AGRO_ASSERT(std::is_sorted(proof.live.begin(), proof.live.end()));
  }
  std::vector<BlockRef> dead;
  for (const BlockRef& ref : refs) {
    const auto proof = proofs.find(ref.volume);
    const bool gone =
        proof != proofs.end() ? is_dead(ref, proof->second) : is_deleted(ref.volume, census);
    if (gone) dead.push_back(ref);
  }
  return dead;
}

}  // namespace agro
