#include "block/read_cache.hpp"

namespace agro {

bool ReadCache::get(std::uint64_t sequence, std::uint32_t sector, MutableBytes out) {
  if (slot_limit_ == 0) return false;
  const auto found = index_.find(key_of(sequence, sector));
  if (found == index_.end()) {
    ++miss_count_;
    return false;
  }
  ++hit_count_;
  slots_[found->second].used_since = true;
  std::memcpy(out.data(), bytes_of(found->second).data(), kPageSize);
  return true;
}

void ReadCache::put(std::uint64_t sequence, std::uint32_t sector, ConstBytes bytes) {
  AGRO_ASSERT(bytes.size() == kPageSize);
  const std::uint64_t key = key_of(sequence, sector);
  if (slot_limit_ == 0 || index_.contains(key)) return;
  const std::uint32_t slot = take_slot();
  slots_[slot] = {key, false};
  index_.emplace(key, slot);
  std::memcpy(bytes_of(slot).data(), bytes.data(), kPageSize);
}

std::uint32_t ReadCache::take_slot() {
  if (slots_.size() < slot_limit_) {
    if (slots_.size() % kSlotsPerChunk == 0) chunks_.emplace_back(kSlotsPerChunk * kPageSize);
    slots_.push_back({});
    return static_cast<std::uint32_t>(slots_.size() - 1);
  }
  while (slots_[hand_].used_since) {
    slots_[hand_].used_since = false;
    hand_ = (hand_ + 1) % slot_limit_;
  }
  const std::uint32_t slot = hand_;
  hand_ = (hand_ + 1) % slot_limit_;
  index_.erase(slots_[slot].key);
  return slot;
}

}  // namespace agro
