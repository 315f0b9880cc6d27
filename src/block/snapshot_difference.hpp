// Snapshot difference: what of a volume changed from one of its states to another, by their maps alone.
//
// Blocks are immutable, so what points at the same place of the same block is the same, and no data is read.
// What a snapshot needs is never moved, so what differs was written, trimmed or zeroed since, perhaps with
// the bytes that were there.
// A page of both maps that lies at the same place of the same INode block is passed over unread: whichever
// checkpoint wrote it, the ids in it mean the same in all that kept it, because a block that a page points
// at is live and its id not given away.
// Threading: one loop.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "block/snapshot_device.hpp"

namespace agro {

/// Bytes of a device: data, or zeros now.
struct ChangedRange {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  bool zero = false;
  bool operator==(const ChangedRange&) const = default;
};

class SnapshotDifference {
 public:
  /// Without `from`: from a volume that is all zeros. Shape: both are of one volume, or of a clone and
  /// what it came from.
  SnapshotDifference(std::shared_ptr<SnapshotDevice> from, std::shared_ptr<SnapshotDevice> to)
      : from_(std::move(from)), to_(std::move(to)) {}

  /// The next range of `to` that differs, in ascending order, as long as it goes on; none at the end. What
  /// `from` had beyond the end of `to` is not told.
  /// Errors: those of reading map pages; then it is over.
  Task<std::optional<ChangedRange>> next();
  /// Map pages that were looked at, rather than passed over.
  std::uint64_t compared_page_count() const { return compared_page_count_; }

 private:
  bool is_same_page(std::uint32_t page) const;
  Task<void> compare_page(std::uint32_t page);
  void compare_extent(const std::vector<SnapshotDevice::Extent>& old, std::size_t& index,
                      const SnapshotDevice::Extent& extent);
  void add(std::uint64_t lba, std::uint64_t count, bool zero);

  std::shared_ptr<SnapshotDevice> from_;
  std::shared_ptr<SnapshotDevice> to_;
  std::uint32_t page_ = 0;
  std::deque<ChangedRange> found_;  // the last one may go on
  std::uint64_t compared_page_count_ = 0;
};

}  // namespace agro
