#include "block/map_memory.hpp"

#include <algorithm>

namespace agro {
namespace {

/// Pages looked at for one to evict, before it is another volume's turn.
constexpr std::size_t kLooksAtOnce = 32;

}  // namespace

MapMemory::Share::Share(std::shared_ptr<MapMemory> memory, VolumeMap& map)
    : memory_(std::move(memory)), map_(map) {
  memory_->shares_.push_back(this);
}

MapMemory::Share::~Share() {
  memory_->used_bytes_ -= counted_bytes_;
  std::erase(memory_->shares_, this);
}

void MapMemory::Share::count() {
  memory_->used_bytes_ = memory_->used_bytes_ - counted_bytes_ + map_.map().memory_bytes();
  counted_bytes_ = map_.map().memory_bytes();
}

void MapMemory::Share::settle(std::size_t rounds) {
  count();
  for (; rounds > 0 && is_over(); --rounds) {
    std::size_t& hand = memory_->hand_;
    hand %= memory_->shares_.size();
    Share& next = *memory_->shares_[hand];
    if (!next.map_.evict_one(kLooksAtOnce)) ++hand;
    next.count();
  }
}

PagePin::PagePin(VolumeMap& map, std::uint32_t first, std::uint32_t end)
    : map_(&map), first_(first), end_(end) {
  for (std::uint32_t page = first_; page < end_; ++page) map_->pin(page);
}

PagePin::~PagePin() {
  for (std::uint32_t page = first_; page < end_; ++page) map_->unpin(page);
}

PagePin::PagePin(PagePin&& other) noexcept { *this = std::move(other); }

PagePin& PagePin::operator=(PagePin&& other) noexcept {
  std::swap(map_, other.map_);
  std::swap(first_, other.first_);
  std::swap(end_, other.end_);
  return *this;
}

}  // namespace agro
