#include "block/snapshot_difference.hpp"

#include <algorithm>

namespace agro {
namespace {

using Extent = SnapshotDevice::Extent;

bool has_data(const Extent& extent) { return extent.ref.epoch.value != 0; }

bool is_same_at(const Extent& old, const Extent& fresh, std::uint64_t lba) {
  if (!has_data(old) || !has_data(fresh)) return has_data(old) == has_data(fresh);
  return old.ref == fresh.ref && old.sector + (lba - old.lba) == fresh.sector + (lba - fresh.lba);
}

}  // namespace

Task<std::optional<ChangedRange>> SnapshotDifference::next() {
  constexpr std::uint32_t kPagesAtOnce = 1024;
  while (found_.size() < 2 && page_ < to_->page_count()) {
    if (!is_same_page(page_)) AGRO_CO_TRY_OK(co_await compare_page(page_));
    if (++page_ % kPagesAtOnce == 0) co_await yield_to_loop();
  }
  if (found_.empty()) co_return std::nullopt;
  const ChangedRange range = found_.front();
  found_.pop_front();
  co_return range;
}

bool SnapshotDifference::is_same_page(std::uint32_t page) const {
  const bool had_page = from_ != nullptr && page < from_->page_count();
  if (to_->is_page_empty(page) && (!had_page || from_->is_page_empty(page))) return true;
  if (!had_page) return false;
  const std::optional<Inode::PageAt> place = to_->unread_page_at(page);
  return place.has_value() && place == from_->unread_page_at(page);
}

Task<void> SnapshotDifference::compare_page(std::uint32_t page) {
  ++compared_page_count_;
  std::vector<Extent> old;
  if (from_ != nullptr && page < from_->page_count()) {
    AGRO_CO_TRY(old, co_await from_->extents_of_page(page));
  }
  AGRO_CO_TRY(const std::vector<Extent> extents, co_await to_->extents_of_page(page));
  std::size_t index = 0;
  for (const Extent& extent : extents) compare_extent(old, index, extent);
  co_return Result<void>();
}

/// `index`: of the first old extent that is not wholly before `extent`. Beyond the old ones all was zeros.
void SnapshotDifference::compare_extent(const std::vector<Extent>& old, std::size_t& index,
                                        const Extent& extent) {
  const std::uint64_t end = extent.lba + extent.count;
  for (std::uint64_t lba = extent.lba; lba < end;) {
    while (index < old.size() && old[index].lba + old[index].count <= lba) ++index;
    const Extent before = index < old.size() ? old[index] : Extent{};
    const std::uint64_t step_end = index < old.size() ? std::min(end, before.lba + before.count) : end;
    if (!is_same_at(before, extent, lba)) add(lba, step_end - lba, !has_data(extent));
    lba = step_end;
  }
}

void SnapshotDifference::add(std::uint64_t lba, std::uint64_t count, bool zero) {
  const ChangedRange range{lba * kSectorSize, count * kSectorSize, zero};
  if (!found_.empty()) {
    ChangedRange& last = found_.back();
    if (last.zero == zero && last.offset + last.size == range.offset) {
      last.size += range.size;
      return;
    }
  }
  found_.push_back(range);
}

}  // namespace agro
