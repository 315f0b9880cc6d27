// Snapshot device: a state of a volume that stays, to be read.
//
// The checkpoint is read as a volume's is, a map page when it is first needed, and what the snapshot has of
// the log is replayed in memory. It takes no lock, fences nobody and writes nothing, so any number may be
// open beside the volume's writer.
// Threading: one loop. Source: DESIGN.md sections 3 and 9.
#pragma once

#include <memory>

#include "block/block_device.hpp"
#include "block/inode.hpp"
#include "block/volume.hpp"

namespace agro {

class SnapshotDevice final : public BlockDevice {
 public:
  /// Shape: `head` has a checkpoint and a log_end; `size_bytes` is the volume's at that time; `backend`
  /// outlives the device.
  /// Errors: not_found (the snapshot was deleted), corrupt, unavailable.
  static Task<std::shared_ptr<SnapshotDevice>> open(BlockBackend& backend, BlocksetSpec spec, Lineage lineage,
                                                    LogHead head, std::uint64_t size_bytes);

  std::uint64_t size_bytes() const override { return size_bytes_; }
  bool read_only() const override { return true; }
  Task<void> read(std::uint64_t offset, MutableBytes out) override;
  std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) override;
  Task<void> flush() override;
  Task<void> cache(std::uint64_t offset, std::uint64_t size) override;
  Task<std::vector<StatusExtent>> status(std::uint64_t offset, std::uint64_t size) override;

  // Errors: not_supported, always.
  Task<void> write(std::uint64_t offset, ConstBytes data) override;
  std::optional<Result<void>> try_write(std::uint64_t offset, ConstBytes data) override;
  Task<void> trim(std::uint64_t offset, std::uint64_t size) override;
  Task<void> write_zeroes(std::uint64_t offset, std::uint64_t size, bool may_punch_hole) override;

  /// What a run of the map points at, by names that mean the same in every snapshot of the volume and in its
  /// clones. A hole and zeros have no ref (epoch 0).
  struct Extent {
    std::uint64_t lba = 0;
    std::uint32_t count = 0;   // sectors of 4 KiB
    std::uint32_t sector = 0;  // within the block
    BlockRef ref;
    bool zero = false;
  };
  /// The extents of a map page, in order and without gaps.
  Task<std::vector<Extent>> extents_of_page(std::uint32_t page);
  std::uint32_t page_count() const { return map_->map().page_count(); }
  /// Whether a map page is known to have neither data nor zeros.
  bool is_page_empty(std::uint32_t page) const;
  /// Where in the INode a map page lies that neither the log nor anybody else has looked at.
  std::optional<Inode::PageAt> unread_page_at(std::uint32_t page) const;

  /// What map pages may take that are as the INode has them; those that the log changed stay.
  void set_map_memory(std::size_t bytes_max) { map_memory_max_ = bytes_max; }
  std::size_t map_memory_bytes() const { return map_->map().memory_bytes(); }

 private:
  SnapshotDevice(BlockBackend& backend, const BlocksetSpec& spec, Lineage lineage);
  Task<void> load(LogHead head, std::uint64_t size_bytes);
  Task<void> replay_log(LogHead head);
  Task<void> read_block(BlockRef ref, SharedBytes& block);
  /// Shape: pinned, as long as it is looked at.
  Task<void> load_page(std::uint32_t page);
  PagePin pin_range(std::uint64_t lba, std::uint64_t count);
  Task<void> load_range(std::uint64_t lba, std::uint64_t count);
  Task<void> read_sectors(std::uint64_t lba, MutableBytes out);
  Result<void> check_range(std::uint64_t offset, std::uint64_t size) const;
  BlockRef ref_of(const MapRun& run) const;

  std::unique_ptr<Blockset> blockset_;
  BufferPool unused_;
  Lineage lineage_;
  Inode inode_;
  std::unique_ptr<VolumeMap> map_;
  std::uint64_t size_bytes_ = 0;
  std::size_t map_memory_max_ = 64 * 1024 * 1024;
};

}  // namespace agro
