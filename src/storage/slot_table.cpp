#include "storage/slot_table.hpp"

#include <bit>

namespace agro {

void SlotSet::add(std::uint32_t slot) {
  bits_[slot / 64] |= std::uint64_t{1} << (slot % 64);
  hint_ = std::min<std::size_t>(hint_, slot / 64);
  ++count_;
}

void SlotSet::remove(std::uint32_t slot) {
  const std::uint64_t bit = std::uint64_t{1} << (slot % 64);
  AGRO_ASSERT((bits_[slot / 64] & bit) != 0);
  bits_[slot / 64] &= ~bit;
  --count_;
}

std::uint32_t SlotSet::lowest() {
  AGRO_ASSERT(count_ > 0);
  while (bits_[hint_] == 0) ++hint_;
  return static_cast<std::uint32_t>(hint_ * 64 + static_cast<unsigned>(std::countr_zero(bits_[hint_])));
}

void SlotTable::grow_to(std::uint32_t count) {
  const std::uint32_t old_count = grown_count();
  if (count <= old_count) return;
  slots_.resize(count);
  raw_.resize(count);
  written_.resize(count);
  for (std::uint32_t slot = old_count; slot < count; ++slot) {
    ++counts_[static_cast<std::size_t>(SlotUse::free)];
    raw_.add(slot);
  }
}

void SlotTable::claim(std::uint32_t slot, SlotUse use) {
  AGRO_ASSERT(slots_[slot].use == SlotUse::free);
  AGRO_ASSERT(!slots_[slot].leaving);
  free_set(slot).remove(slot);
  --counts_[static_cast<std::size_t>(SlotUse::free)];
  ++counts_[static_cast<std::size_t>(use)];
  slots_[slot].use = use;
}

std::optional<std::uint32_t> SlotTable::take(SlotUse use) {
  if (free_grown_count() == 0) return std::nullopt;
  std::uint32_t slot = 0;
  if (raw_.count() == 0 || (use == SlotUse::log && written_.count() > 0)) {
    slot = written_.lowest();
  } else {
    slot = raw_.lowest();
    if (use != SlotUse::log && written_.count() > kept_share()) slot = std::min(slot, written_.lowest());
  }
  claim(slot, use);
  return slot;
}

void SlotTable::set_written(std::uint32_t slot) {
  if (slots_[slot].written) return;
  const bool is_free = slots_[slot].use == SlotUse::free;
  if (is_free) raw_.remove(slot);
  slots_[slot].written = true;
  if (is_free) written_.add(slot);
}

std::optional<std::uint32_t> SlotTable::begin_preparing() {
  if (raw_.count() == 0 || written_.count() + preparing_count_ >= log_share()) return std::nullopt;
  const std::uint32_t slot = raw_.lowest();
  raw_.remove(slot);
  ++preparing_count_;
  return slot;
}

void SlotTable::end_preparing(std::uint32_t slot) {
  --preparing_count_;
  slots_[slot].written = true;
  written_.add(slot);
}

void SlotTable::set_use(std::uint32_t slot, SlotUse use) {
  AGRO_ASSERT(slots_[slot].use != SlotUse::free);
  if (use == SlotUse::free) {
    AGRO_ASSERT(slots_[slot].live_pages == 0);
    if (pins_.contains(slot)) {
      slots_[slot].leaving = true;
      return;
    }
    free_set(slot).add(slot);
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
  return slots_.capacity() * sizeof(Slot) + raw_.memory() + written_.memory();
}

}  // namespace agro
