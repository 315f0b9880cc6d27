#include "storage/slot_table.hpp"

#include <algorithm>
#include <bit>

namespace agro {

void SlotTable::grow_to(std::uint32_t count) {
  const std::uint32_t old_count = grown_count();
  if (count <= old_count) return;
  slots_.resize(count);
  free_bits_.resize((count + 63) / 64);
  for (std::uint32_t slot = old_count; slot < count; ++slot) {
    ++counts_[static_cast<std::size_t>(SlotUse::free)];
    mark_free(slot);
  }
}

void SlotTable::mark_free(std::uint32_t slot) {
  free_bits_[slot / 64] |= std::uint64_t{1} << (slot % 64);
  free_hint_ = std::min<std::size_t>(free_hint_, slot / 64);
  ++free_grown_count_;
}

void SlotTable::claim(std::uint32_t slot, SlotUse use) {
  AGRO_ASSERT(slots_[slot].use == SlotUse::free);
  AGRO_ASSERT(!slots_[slot].leaving);
  free_bits_[slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
  --free_grown_count_;
  --counts_[static_cast<std::size_t>(SlotUse::free)];
  ++counts_[static_cast<std::size_t>(use)];
  slots_[slot].use = use;
}

std::optional<std::uint32_t> SlotTable::take(SlotUse use) {
  while (free_hint_ < free_bits_.size() && free_bits_[free_hint_] == 0) ++free_hint_;
  if (free_hint_ == free_bits_.size()) return std::nullopt;
  const auto slot = static_cast<std::uint32_t>(
      free_hint_ * 64 + static_cast<unsigned>(std::countr_zero(free_bits_[free_hint_])));
  claim(slot, use);
  return slot;
}

void SlotTable::set_use(std::uint32_t slot, SlotUse use) {
  AGRO_ASSERT(slots_[slot].use != SlotUse::free);
  if (use == SlotUse::free) {
    AGRO_ASSERT(slots_[slot].live_pages == 0);
    if (pins_.contains(slot)) {
      slots_[slot].leaving = true;
      return;
    }
    mark_free(slot);
  }
  --counts_[static_cast<std::size_t>(slots_[slot].use)];
  ++counts_[static_cast<std::size_t>(use)];
  slots_[slot].use = use;
}

void SlotTable::drop_live(std::uint32_t slot, std::uint32_t pages) {
  AGRO_ASSERT(slots_[slot].live_pages >= pages);
  slots_[slot].live_pages = static_cast<std::uint16_t>(slots_[slot].live_pages - pages);
  live_page_count_ -= pages;
  if (slots_[slot].live_pages == 0 && slots_[slot].use == SlotUse::segment) {
    set_use(slot, SlotUse::free);
  }
}

void SlotTable::unpin(std::uint32_t slot) {
  const auto found = pins_.find(slot);
  AGRO_ASSERT(found != pins_.end());
  if (--found->second > 0) return;
  pins_.erase(found);
  if (!slots_[slot].leaving) return;
  slots_[slot].leaving = false;
  set_use(slot, SlotUse::free);
}

std::uint64_t SlotTable::memory() const {
  return slots_.capacity() * sizeof(Slot) + free_bits_.capacity() * sizeof(std::uint64_t);
}

}  // namespace agro
