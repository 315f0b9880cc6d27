// The way of a read: map, then segment buffers, cache, or one range read from a replica.
#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "base/parallel.hpp"
#include "block/volume.hpp"

namespace agro {
namespace {

constexpr std::size_t kReadsAtOnce = 16;
/// Longer runs are streams: they would push out of the cache what is read again and again.
constexpr std::uint32_t kCachedRunMax = 16;

}  // namespace

BlockRef Volume::ref_of(BlockId id) const {
  if (id >= kBlockIdLimit) return {};
  const BlockEntry& entry = map_.table()[id];
  return {lineage_.owner_of(entry.epoch), entry.epoch, entry.sequence, BlockType::data};
}

Task<void> Volume::confirm_lease() {
  while (!lease_.valid() && !failed_ && !stopping_jobs_) co_await progress_.wait();
  co_return check_usable();
}

bool Volume::read_local(const MapRun& run, MutableBytes out) {
  if (run.block >= kBlockIdLimit) {
    std::memset(out.data(), 0, out.size());
    return true;
  }
  if (run.block < resident_.size() && resident_[run.block] != nullptr) {
    std::memcpy(out.data(), resident_[run.block]->data() + std::size_t{run.sector} * kSectorSize,
                out.size());
    return true;
  }
  const std::uint64_t sequence = map_.table()[run.block].sequence;
  for (std::uint32_t index = 0; index < run.count; ++index) {
    if (!cache_.get(sequence, run.sector + index,
                    out.subspan(std::size_t{index} * kSectorSize, kSectorSize))) {
      return false;
    }
  }
  return true;
}

std::optional<Result<void>> Volume::try_read(std::uint64_t offset, MutableBytes out) {
  if (++quick_reads_ % kTimedOf != 0) return try_read_now(offset, out);
  const TimePoint begin = env_.clock.now();
  std::optional<Result<void>> answer = try_read_now(offset, out);
  if (answer.has_value()) read_latency_.observe(env_.clock.now() - begin, kTimedOf);
  return answer;
}

std::optional<Result<void>> Volume::try_read_now(std::uint64_t offset, MutableBytes out) {
  if (offset % kSectorSize != 0 || out.size() % kSectorSize != 0) return std::nullopt;
  if (!is_usable()) return std::nullopt;
  if (Result<void> range = check_range(offset, out.size()); !range) return range;
  std::uint64_t lba = offset / kSectorSize;
  if (!map_.is_loaded(lba, out.size() / kSectorSize)) return std::nullopt;
  MutableBytes rest = out;
  while (!rest.empty()) {
    const MapRun run = map_.lookup(lba, static_cast<std::uint32_t>(rest.size() / kSectorSize));
    const MutableBytes part = rest.first(std::size_t{run.count} * kSectorSize);
    if (!read_local(run, part)) {
      const std::optional<Result<void>> answer =
          blockset_->try_read(ref_of(run.block), run.sector * kSectorSize, part, {});
      // An error is for the long way to look into: it knows other replicas.
      if (!answer || !answer->has_value()) return std::nullopt;
    }
    lba += run.count;
    rest = rest.subspan(part.size());
  }
  metric_read_bytes_.add(out.size());
  ++read_count_;
  return Result<void>();
}

Task<void> Volume::read(std::uint64_t offset, MutableBytes out) {
  const ScopedLatency latency(env_.clock, read_latency_);
  AGRO_CO_TRY_OK(check_range(offset, out.size()));
  if (out.empty()) co_return Result<void>();
  AGRO_CO_TRY_OK(co_await confirm_lease());
  metric_read_bytes_.add(out.size());
  ++read_count_;
  if (offset % kSectorSize == 0 && out.size() % kSectorSize == 0) {
    AGRO_CO_TRY_OK(co_await read_sectors(offset / kSectorSize, out));
    // What was read may be old when somebody else has the volume by now.
    co_return co_await confirm_lease();
  }
  const std::uint64_t begin = round_down(offset, kSectorSize);
  const std::uint64_t end = round_up(offset + out.size(), kSectorSize);
  AlignedBuffer covering(end - begin);
  AGRO_CO_TRY_OK(co_await read_sectors(begin / kSectorSize, covering.bytes()));
  AGRO_CO_TRY_OK(co_await confirm_lease());
  std::memcpy(out.data(), covering.data() + (offset - begin), out.size());
  co_return Result<void>();
}

/// The pages that it looks at stay in memory until it is done.
Task<void> Volume::read_sectors(std::uint64_t lba, MutableBytes out) {
  if (out.empty()) co_return Result<void>();
  const std::uint64_t count = out.size() / kSectorSize;
  const PagePin pin = pin_range(lba, count);
  if (!map_.is_loaded(lba, count)) AGRO_CO_TRY_OK(co_await load_range(lba, count));
  std::vector<RemoteRead> remote;
  while (!out.empty()) {
    const MapRun run = map_.lookup(lba, static_cast<std::uint32_t>(out.size() / kSectorSize));
    const MutableBytes part = out.first(std::size_t{run.count} * kSectorSize);
    if (!read_local(run, part)) remote.push_back({ref_of(run.block), run.sector, run, part});
    lba += run.count;
    out = out.subspan(part.size());
  }
  if (remote.empty()) co_return Result<void>();
  if (remote.size() == 1) co_return co_await read_remote(remote.front());
  co_return co_await for_each_parallel(
      remote.size(), kReadsAtOnce,
      [this, &remote](std::size_t index) { return read_remote(remote[index]); });
}

bool Volume::still_there(const RemoteRead& piece) const {
  const MapRun now = map_.lookup(piece.run.lba, piece.run.count);
  return now == piece.run && ref_of(now.block) == piece.ref;
}

Task<void> Volume::read_remote(RemoteRead piece) {
  Result<void> answer =
      co_await blockset_->read(piece.ref, piece.sector * kSectorSize, piece.out, {});
  // Reads wait as writes do while nobody who may have the block can be reached.
  bool waited = false;
  while (answer.code() == Errc::unavailable && !failed_ && !stopping_jobs_) {
    if (!std::exchange(waited, true)) {
      log_warning("volume {}: a read waits: {}", id_.value, answer.error().to_string());
    }
    co_await wait_until(stopping_, env_.clock, env_.clock.now() + options_.retry_after);
    if (!still_there(piece)) co_return co_await read_sectors(piece.run.lba, piece.out);
    answer = co_await blockset_->read(piece.ref, piece.sector * kSectorSize, piece.out, {});
  }
  if (answer.has_value()) {
    for (std::uint32_t index = 0; index < piece.run.count && piece.run.count <= kCachedRunMax; ++index) {
      cache_.put(piece.ref.index, piece.sector + index,
                 piece.out.subspan(std::size_t{index} * kSectorSize, kSectorSize));
    }
    co_return answer;
  }
  // The cleaner may have moved the data, and a checkpoint deleted the block, while we waited.
  if (answer.code() == Errc::not_found && !still_there(piece)) {
    co_return co_await read_sectors(piece.run.lba, piece.out);
  }
  co_return answer;
}

Task<void> Volume::cache(std::uint64_t offset, std::uint64_t size) {
  AGRO_CO_TRY_OK(check_range(offset, size));
  constexpr std::uint64_t kBytesAtOnce = kCachedRunMax * kSectorSize;
  const std::uint64_t end = round_up(offset + size, kSectorSize);
  AlignedBuffer scratch(kBytesAtOnce);
  for (offset = round_down(offset, kSectorSize); offset < end; offset += kBytesAtOnce) {
    const std::uint64_t part = std::min(kBytesAtOnce, end - offset);
    AGRO_CO_TRY_OK(co_await read_sectors(offset / kSectorSize, scratch.bytes().first(part)));
  }
  co_return Result<void>();
}

Task<std::vector<StatusExtent>> Volume::status(std::uint64_t offset, std::uint64_t size) {
  AGRO_CO_TRY_OK(check_range(offset, size));
  AGRO_CO_TRY_OK(co_await confirm_lease());
  constexpr std::size_t kExtentCountMax = 4096;
  std::vector<StatusExtent> extents;
  const std::uint64_t end = offset + size;
  while (offset < end) {
    const std::uint32_t page = ExtentMap::page_of(offset / kSectorSize);
    const PagePin pin(map_, page, page + 1);
    AGRO_CO_TRY_OK(co_await load_page(page));
    const MapRun run = map_.lookup(offset / kSectorSize, ExtentMap::kSectorsPerPage);
    const std::uint64_t run_end = (run.lba + run.count) * kSectorSize;
    const std::uint64_t part = std::min(run_end, end) - offset;
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
  AGRO_CO_TRY_OK(co_await confirm_lease());
  co_return extents;
}

}  // namespace agro
