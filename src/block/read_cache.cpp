#include "block/read_cache.hpp"

#include <utility>

namespace agro {

bool ReadCache::get(std::uint64_t sequence, std::uint32_t sector, MutableBytes out) {
  if (slot_limit_ == 0) return false;
  const std::uint64_t key = key_of(sequence, sector);
  const auto found = index_.find(key);
  if (found == index_.end()) {
    ++miss_count_;
    return false;
  }
  ++hit_count_;
  Slot& slot = slots_[found->second];
  // A sector that is read in pieces, one after the other, is read once.
  const bool again = std::exchange(last_key_, key) != key;
  if (!std::exchange(slot.ahead, false) && again) slot.used_since = true;
  std::memcpy(out.data(), bytes_of(found->second).data(), kPageSize);
  return true;
}

void ReadCache::put(std::uint64_t sequence, std::uint32_t sector, ConstBytes bytes, Origin origin) {
  AGRO_ASSERT(bytes.size() == kPageSize);
  const std::uint64_t key = key_of(sequence, sector);
  if (slot_limit_ == 0 || index_.contains(key)) return;
  const std::uint32_t slot = take_slot();
  slots_[slot] = {key, false, origin == Origin::ahead};
  index_.emplace(key, slot);
  if (origin == Origin::read) last_key_ = key;
  (is_back(key) ? second_ : first_).push_back(slot);
  std::memcpy(bytes_of(slot).data(), bytes.data(), kPageSize);
}

std::uint64_t& ReadCache::gone_place(std::uint64_t key) {
  if (gone_.empty()) gone_.assign(slot_limit_, kNoKey);
  return gone_[(key * 0x9E3779B97F4A7C15ULL >> 32) % slot_limit_];
}

bool ReadCache::is_back(std::uint64_t key) {
  if (gone_.empty() || gone_place(key) != key) return false;
  gone_place(key) = kNoKey;
  return true;
}

std::uint32_t ReadCache::take_slot() {
  if (slots_.size() < slot_limit_) {
    if (slots_.size() % kSlotsPerChunk == 0) chunks_.emplace_back(kSlotsPerChunk * kPageSize);
    slots_.push_back({});
    return static_cast<std::uint32_t>(slots_.size() - 1);
  }
  while (true) {
    const bool from_first = first_.size() > slot_limit_ / kFirstShare;
    std::deque<std::uint32_t>& queue = from_first ? first_ : second_;
    const std::uint32_t slot = queue.front();
    queue.pop_front();
    if (std::exchange(slots_[slot].used_since, false)) {
      second_.push_back(slot);
      continue;
    }
    const std::uint64_t key = slots_[slot].key;
    index_.erase(key);
    if (from_first) gone_place(key) = key;
    return slot;
  }
}

}  // namespace agro
