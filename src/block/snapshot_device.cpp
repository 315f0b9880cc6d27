#include "block/snapshot_device.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/parallel.hpp"
#include "block/replay.hpp"

namespace agro {
namespace {

constexpr std::size_t kReadsAtOnce = 16;

tl::unexpected<Error> fail_read_only() {
  return fail(Errc::not_supported, "a snapshot can only be read");
}

}  // namespace

SnapshotDevice::SnapshotDevice(BlockBackend& backend, const BlocksetSpec& spec, Lineage lineage)
    : blockset_(make_blockset(spec, backend)),
      unused_(backend.block_size(), 1),
      lineage_(std::move(lineage)),
      inode_(lineage_, *blockset_, unused_) {}

Task<std::shared_ptr<SnapshotDevice>> SnapshotDevice::open(BlockBackend& backend, BlocksetSpec spec,
                                                           Lineage lineage, LogHead head,
                                                           std::uint64_t size_bytes) {
  std::shared_ptr<SnapshotDevice> device(new SnapshotDevice(backend, spec, std::move(lineage)));
  AGRO_CO_TRY_OK(co_await device->load(head, size_bytes));
  co_return device;
}

Task<void> SnapshotDevice::load(LogHead head, std::uint64_t size_bytes) {
  const BlockRef root{lineage_.owner_of(head.checkpoint_epoch), head.checkpoint_epoch,
                      head.root_index, BlockType::inode};
  AGRO_CO_TRY(const InodeMeta meta, co_await inode_.load_root(root));
  if (meta.covered_sequence != head.sequence || meta.size_bytes % kSectorSize != 0) {
    co_return fail(Errc::corrupt, "the snapshot's INode does not fit its head");
  }
  // It may have grown after its checkpoint.
  size_bytes_ = std::max(meta.size_bytes, size_bytes);
  map_ = std::make_unique<VolumeMap>(size_bytes_ / kSectorSize);
  AGRO_CO_TRY_OK(co_await inode_.load_directories(*map_));
  co_return co_await replay_log(head);
}

Task<void> SnapshotDevice::replay_log(LogHead head) {
  for (std::uint64_t begin = head.sequence + 1; begin < head.log_end; begin += kReadsAtOnce) {
    const std::size_t count = std::min<std::uint64_t>(kReadsAtOnce, head.log_end - begin);
    std::vector<SharedBytes> blocks(count);
    std::vector<BlockRef> refs;
    for (std::size_t index = 0; index < count; ++index) {
      refs.push_back({lineage_.owner_of(head.epoch), head.epoch, begin + index, BlockType::data});
    }
    const auto read = [this, &refs, &blocks](std::size_t index) -> Task<void> {
      return read_block(refs[index], blocks[index]);
    };
    AGRO_CO_TRY_OK(co_await for_each_parallel(count, kReadsAtOnce, read));
    for (std::size_t index = 0; index < count; ++index) {
      const auto size = static_cast<std::uint32_t>(blocks[index].size());
      AGRO_CO_TRY(const SharedBytes payload, blockset_->payload(refs[index], blocks[index]));
      AGRO_CO_TRY(const std::vector<SectorRange> ranges, ranges_of_segment(payload.bytes));
      std::vector<PagePin> pins;
      for (const SectorRange& range : ranges) {
        pins.push_back(pin_range(range.lba, range.count));
        AGRO_CO_TRY_OK(co_await load_range(range.lba, range.count));
      }
      AGRO_CO_TRY_OK(replay_segment(*map_, refs[index], size, payload.bytes));
    }
  }
  co_return Result<void>();
}

Task<void> SnapshotDevice::read_block(BlockRef ref, SharedBytes& block) {
  AGRO_CO_TRY(block, co_await blockset_->read_block(ref, {}));
  co_return Result<void>();
}

Task<void> SnapshotDevice::load_page(std::uint32_t page) {
  if (map_->is_page_loaded(page)) co_return Result<void>();
  AGRO_CO_TRY(const std::vector<std::byte> bytes,
              co_await inode_.read_page(inode_.page_at({PageKind::map, page})));
  if (map_->is_page_loaded(page)) co_return Result<void>();  // by somebody else
  AGRO_CO_TRY_OK(map_->load_page(page, bytes));
  constexpr std::size_t kLookMax = 64;
  while (map_->map().memory_bytes() > map_memory_max_ && map_->evict_one(kLookMax)) {
  }
  co_return Result<void>();
}

/// Of what is within the volume.
PagePin SnapshotDevice::pin_range(std::uint64_t lba, std::uint64_t count) {
  const std::uint64_t sector_count = map_->map().sector_count();
  if (lba >= sector_count || count == 0) return {};
  const std::uint64_t end = lba + std::min(count, sector_count - lba);
  return {*map_, ExtentMap::page_of(lba), ExtentMap::page_of(end - 1) + 1};
}

/// Passes over what is beyond the end: replay says so.
Task<void> SnapshotDevice::load_range(std::uint64_t lba, std::uint64_t count) {
  const std::uint64_t end = std::min(lba + count, map_->map().sector_count());
  for (std::uint64_t at = lba; at < end; at += ExtentMap::left_in_page(at)) {
    AGRO_CO_TRY_OK(co_await load_page(ExtentMap::page_of(at)));
  }
  co_return Result<void>();
}

Result<void> SnapshotDevice::check_range(std::uint64_t offset, std::uint64_t size) const {
  if (offset <= size_bytes_ && size <= size_bytes_ - offset) return {};
  return fail(Errc::invalid_argument,
              fmt::format("bytes {}+{} are beyond the snapshot's {}", offset, size, size_bytes_));
}

BlockRef SnapshotDevice::ref_of(const MapRun& run) const {
  if (run.block >= kBlockIdLimit) return {};
  const BlockEntry& entry = map_->table()[run.block];
  return {lineage_.owner_of(entry.epoch), entry.epoch, entry.sequence, BlockType::data};
}

Task<void> SnapshotDevice::read(std::uint64_t offset, MutableBytes out) {
  AGRO_CO_TRY_OK(check_range(offset, out.size()));
  if (out.empty()) co_return Result<void>();
  if (offset % kSectorSize == 0 && out.size() % kSectorSize == 0) {
    co_return co_await read_sectors(offset / kSectorSize, out);
  }
  const std::uint64_t begin = round_down(offset, kSectorSize);
  const std::uint64_t end = round_up(offset + out.size(), kSectorSize);
  AlignedBuffer covering(end - begin);
  AGRO_CO_TRY_OK(co_await read_sectors(begin / kSectorSize, covering.bytes()));
  std::memcpy(out.data(), covering.data() + (offset - begin), out.size());
  co_return Result<void>();
}

Task<void> SnapshotDevice::read_sectors(std::uint64_t lba, MutableBytes out) {
  struct Piece {
    BlockRef ref;
    std::uint32_t offset;
    MutableBytes out;
  };
  const PagePin pin = pin_range(lba, out.size() / kSectorSize);
  AGRO_CO_TRY_OK(co_await load_range(lba, out.size() / kSectorSize));
  std::vector<Piece> pieces;
  while (!out.empty()) {
    const MapRun run = map_->lookup(lba, static_cast<std::uint32_t>(out.size() / kSectorSize));
    const MutableBytes part = out.first(std::size_t{run.count} * kSectorSize);
    if (run.block >= kBlockIdLimit) {
      std::memset(part.data(), 0, part.size());
    } else {
      pieces.push_back({ref_of(run), static_cast<std::uint32_t>(run.sector * kSectorSize), part});
    }
    lba += run.count;
    out = out.subspan(part.size());
  }
  const auto read = [this, &pieces](std::size_t index) {
    return blockset_->read(pieces[index].ref, pieces[index].offset, pieces[index].out, {});
  };
  co_return co_await for_each_parallel(pieces.size(), kReadsAtOnce, read);
}

std::optional<Result<void>> SnapshotDevice::try_read(std::uint64_t /*offset*/,
                                                     MutableBytes /*out*/) {
  return std::nullopt;
}

Task<void> SnapshotDevice::flush() { co_return Result<void>(); }

Task<void> SnapshotDevice::cache(std::uint64_t offset, std::uint64_t size) {
  co_return check_range(offset, size);
}

Task<std::vector<SnapshotDevice::Extent>> SnapshotDevice::extents_of_page(std::uint32_t page) {
  const PagePin pin(*map_, page, page + 1);
  AGRO_CO_TRY_OK(co_await load_page(page));
  std::uint64_t lba = std::uint64_t{page} * ExtentMap::kSectorsPerPage;
  const std::uint64_t end =
      std::min<std::uint64_t>(lba + ExtentMap::kSectorsPerPage, map_->map().sector_count());
  std::vector<Extent> extents;
  while (lba < end) {
    const MapRun run = map_->lookup(lba, static_cast<std::uint32_t>(end - lba));
    extents.push_back({run.lba, run.count, run.sector, ref_of(run), run.block == kZeroBlock});
    lba += run.count;
  }
  co_return extents;
}

bool SnapshotDevice::is_page_empty(std::uint32_t page) const {
  if (!map_->is_page_loaded(page)) return false;
  const std::uint64_t lba = std::uint64_t{page} * ExtentMap::kSectorsPerPage;
  const std::uint64_t left = map_->map().sector_count() - lba;
  const MapRun run = map_->lookup(lba, ExtentMap::kSectorsPerPage);
  return run.block == kHoleBlock && run.count == std::min<std::uint64_t>(left, ExtentMap::kSectorsPerPage);
}

std::optional<Inode::PageAt> SnapshotDevice::unread_page_at(std::uint32_t page) const {
  if (map_->is_page_loaded(page)) return std::nullopt;
  return inode_.page_at({PageKind::map, page});
}

Task<std::vector<StatusExtent>> SnapshotDevice::status(std::uint64_t offset, std::uint64_t size) {
  AGRO_CO_TRY_OK(check_range(offset, size));
  constexpr std::size_t kExtentCountMax = 4096;
  std::vector<StatusExtent> extents;
  const std::uint64_t end = offset + size;
  while (offset < end) {
    const PagePin pin = pin_range(offset / kSectorSize, 1);
    AGRO_CO_TRY_OK(co_await load_page(ExtentMap::page_of(offset / kSectorSize)));
    const MapRun run = map_->lookup(offset / kSectorSize, ExtentMap::kSectorsPerPage);
    const std::uint64_t part = std::min((run.lba + run.count) * kSectorSize, end) - offset;
    const bool hole = run.block == kHoleBlock;
    const bool zero = hole || run.block == kZeroBlock;
    if (!extents.empty() && extents.back().hole == hole && extents.back().zero == zero) {
      extents.back().size += part;
    } else {
      if (extents.size() == kExtentCountMax) break;
      extents.push_back({part, hole, zero});
    }
    offset += part;
  }
  co_return extents;
}

Task<void> SnapshotDevice::write(std::uint64_t /*offset*/, ConstBytes /*data*/) {
  co_return fail_read_only();
}

std::optional<Result<void>> SnapshotDevice::try_write(std::uint64_t /*offset*/,
                                                      ConstBytes /*data*/) {
  return fail_read_only();
}

Task<void> SnapshotDevice::trim(std::uint64_t /*offset*/, std::uint64_t /*size*/) {
  co_return fail_read_only();
}

Task<void> SnapshotDevice::write_zeroes(std::uint64_t /*offset*/, std::uint64_t /*size*/,
                                        bool /*may_punch*/) {
  co_return fail_read_only();
}

}  // namespace agro
