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
  read_ahead_of(offset / kSectorSize, out.size() / kSectorSize);
  return Result<void>();
}

Task<void> Volume::read(std::uint64_t offset, MutableBytes out) {
  const ScopedLatency latency(env_.clock, read_latency_);
  AGRO_CO_TRY_OK(check_range(offset, out.size()));
  if (out.empty()) co_return Result<void>();
  AGRO_CO_TRY_OK(co_await confirm_lease());
  metric_read_bytes_.add(out.size());
  ++read_count_;
  if (offset % kSectorSize == 0) read_ahead_of(offset / kSectorSize, out.size() / kSectorSize);
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

/// What memory has not is gathered in `remote`, a run of sectors that are in order in one block each. Shape: the pages
/// are loaded.
void Volume::collect_reads(std::uint64_t lba, MutableBytes out, std::vector<RemoteRead>& remote) {
  while (!out.empty()) {
    const MapRun run = map_.lookup(lba, static_cast<std::uint32_t>(out.size() / kSectorSize));
    const MutableBytes part = out.first(std::size_t{run.count} * kSectorSize);
    lba += run.count;
    out = out.subspan(part.size());
    if (read_local(run, part)) continue;
    // A run of the map ends with its page, the data may go on.
    RemoteRead* last = remote.empty() ? nullptr : &remote.back();
    if (last != nullptr && last->block == run.block && last->lba + last->count == run.lba &&
        last->sector + last->count == run.sector) {
      last->count += run.count;
      last->out = {last->out.data(), last->out.size() + part.size()};
      continue;
    }
    remote.push_back({ref_of(run.block), run.block, run.sector, run.lba, run.count, part});
  }
}

/// The pages that it looks at stay in memory until it is done.
Task<void> Volume::read_sectors(std::uint64_t lba, MutableBytes out) {
  if (out.empty()) co_return Result<void>();
  const std::uint64_t count = out.size() / kSectorSize;
  const PagePin pin = pin_range(lba, count);
  if (!map_.is_loaded(lba, count)) AGRO_CO_TRY_OK(co_await load_range(lba, count));
  std::vector<RemoteRead> remote;
  collect_reads(lba, out, remote);
  if (!remote.empty() && !fetches_.empty() && is_fetched_ahead(remote)) {
    // What is on its way is not asked for twice.
    co_await wait_for_fetches(lba, count);
    remote.clear();
    collect_reads(lba, out, remote);
  }
  if (remote.empty()) co_return Result<void>();
  if (remote.size() == 1) co_return co_await read_remote(remote.front(), ReadCache::Origin::read);
  co_return co_await for_each_parallel(
      remote.size(), kReadsAtOnce, [this, &remote](std::size_t index) {
        return read_remote(remote[index], ReadCache::Origin::read);
      });
}

bool Volume::still_there(const RemoteRead& piece) const {
  if (!(ref_of(piece.block) == piece.ref)) return false;
  for (std::uint32_t done = 0; done < piece.count;) {
    const MapRun now = map_.lookup(piece.lba + done, piece.count - done);
    if (now.block != piece.block || now.sector != piece.sector + done) return false;
    done += now.count;
  }
  return true;
}

void Volume::keep_in_cache(const RemoteRead& piece, ReadCache::Origin origin) {
  if (origin == ReadCache::Origin::read && piece.count > kCachedRunMax) return;
  if (origin == ReadCache::Origin::ahead) metric_ahead_bytes_.add(piece.out.size());
  for (std::uint32_t index = 0; index < piece.count; ++index) {
    cache_.put(piece.ref.index, piece.sector + index,
               piece.out.subspan(std::size_t{index} * kSectorSize, kSectorSize), origin);
  }
}

Task<void> Volume::read_remote(RemoteRead piece, ReadCache::Origin origin) {
  Result<void> answer =
      co_await blockset_->read(piece.ref, piece.sector * kSectorSize, piece.out, {});
  // Reads wait as writes do while nobody who may have the block can be reached.
  bool waited = origin == ReadCache::Origin::ahead;
  while (answer.code() == Errc::unavailable && origin == ReadCache::Origin::read && !failed_ && !stopping_jobs_) {
    if (!std::exchange(waited, true)) {
      log_warning("volume {}: a read waits: {}", id_.value, answer.error().to_string());
    }
    co_await wait_until(stopping_, env_.clock, env_.clock.now() + options_.retry_after);
    if (!still_there(piece)) co_return co_await read_sectors(piece.lba, piece.out);
    answer = co_await blockset_->read(piece.ref, piece.sector * kSectorSize, piece.out, {});
  }
  if (answer.has_value()) {
    keep_in_cache(piece, origin);
    co_return answer;
  }
  // The cleaner may have moved the data, and a checkpoint deleted the block, while we waited.
  const bool moved = answer.code() == Errc::not_found && !still_there(piece);
  if (moved && origin == ReadCache::Origin::read) co_return co_await read_sectors(piece.lba, piece.out);
  co_return answer;
}

// --- ahead of who reads in order
// ----------------------------------------------------------------------

void Volume::read_ahead_of(std::uint64_t lba, std::uint64_t count) {
  if (count == 0 || count > ReadAhead::kReadMax) return;
  const ReadAhead::Range range =
      read_ahead_.note(lba, static_cast<std::uint32_t>(count), size_bytes_ / kSectorSize);
  if (range.count == 0 || fetches_.size() >= kFetchesAtOnce || stopping_jobs_) return;
  auto fetch = std::make_shared<Fetch>(range.lba, range.count);
  fetches_.push_back(fetch);
  jobs_.spawn(fetch_ahead(std::move(fetch)));
}

/// An error is nobody's yet: who comes to read this asks again, and hears of it.
Job Volume::fetch_ahead(std::shared_ptr<Fetch> fetch) {
  AlignedBuffer bytes(std::size_t{fetch->count} * kSectorSize);
  const Result<void> done = co_await fetch_sectors(fetch->lba, bytes.bytes());
  if (!done.has_value()) log_debug("volume {}: reading ahead: {}", id_.value, done.error().to_string());
  std::erase(fetches_, fetch);
  fetch->done.notify_all();
}

Task<void> Volume::fetch_sectors(std::uint64_t lba, MutableBytes out) {
  const std::uint64_t count = out.size() / kSectorSize;
  const PagePin pin = pin_range(lba, count);
  if (!map_.is_loaded(lba, count)) AGRO_CO_TRY_OK(co_await load_range(lba, count));
  std::vector<RemoteRead> remote;
  collect_reads(lba, out, remote);
  co_return co_await for_each_parallel(
      remote.size(), kFetchesAtOnce, [this, &remote](std::size_t index) {
        return read_remote(remote[index], ReadCache::Origin::ahead);
      });
}

bool Volume::is_fetched_ahead(const std::vector<RemoteRead>& remote) const {
  for (const RemoteRead& piece : remote) {
    for (const std::shared_ptr<Fetch>& fetch : fetches_) {
      if (piece.lba < fetch->lba + fetch->count && fetch->lba < piece.lba + piece.count) return true;
    }
  }
  return false;
}

/// Of those that overlap the range now.
Awaitable<void> Volume::wait_for_fetches(std::uint64_t lba, std::uint64_t count) {
  const std::vector<std::shared_ptr<Fetch>> present = fetches_;
  for (const std::shared_ptr<Fetch>& fetch : present) {
    const bool overlaps = lba < fetch->lba + fetch->count && fetch->lba < lba + count;
    while (overlaps && std::find(fetches_.begin(), fetches_.end(), fetch) != fetches_.end() && !stopping_jobs_) {
      co_await fetch->done.wait();
    }
  }
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
