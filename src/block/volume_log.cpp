// The way of a write: open segment, sealing, sending, durability, flush.
#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "block/volume.hpp"

namespace agro {
namespace {

constexpr std::size_t kEvictRoundsOfBlock = 64;

/// Whether it was written in long runs. So it will be read, fast enough from the disk; memory is for what is
/// read in small pieces, and filling the page cache costs more than writing past it.
bool is_stream(const SegmentBuilder& segment) {
  constexpr std::size_t kLongRun = 16;
  return segment.sector_count() >= kLongRun * segment.extents().size();
}

}  // namespace

bool Volume::is_usable() const { return !failed_ && !stopping_jobs_ && lease_.valid(); }

bool Volume::has_write_room(std::size_t size) const {
  if (short_of_space_ || !has_buffer_room()) return false;
  if (fits_open_segment(size)) return true;
  return env_.clock.now() >= paced_until_ && has_space_for_write(size);
}

bool Volume::fits_open_segment(std::size_t size) const {
  return open_ && size <= std::size_t{open_->builder.room_sectors()} * kSectorSize;
}

/// How long users wait after a full segment: nothing while there is space, more and more as it runs
/// out, so that they meet the cleaner's pace before they meet the wall.
Duration Volume::pace_per_segment() const {
  constexpr double kSlowestMilliseconds = 64;
  if (!is_space_scarce() || (!cleaning_is_needed() && map_.dead_count() == 0)) return {};
  const Space space = backend_.space();
  const double shortage =
      1.0 - static_cast<double>(space.available) / (static_cast<double>(space.size) * kScarceShare);
  return std::chrono::microseconds(
      static_cast<std::int64_t>(1000 * kSlowestMilliseconds * shortage * shortage));
}

bool Volume::has_buffer_room() const {
  return in_flight_.size() * buffers_.buffer_size() < options_.in_flight_size_max;
}

std::uint64_t Volume::space_of(std::uint64_t block_count) const {
  return block_count * buffers_.buffer_size() * blockset_->copy_count();
}

bool Volume::has_space_for_in_flight(std::uint64_t more) const {
  const Space space = backend_.space();
  return space.size == 0 || space.available >= space_of(in_flight_.size()) + more;
}

/// Whether all of the segments that a write fills or opens surely find room.
bool Volume::has_space_for_write(std::size_t size) const {
  const std::uint64_t segment_count = (open_ ? 1 : 0) + 1 + size / blockset_->payload_capacity();
  return has_space_for_in_flight(space_of(segment_count));
}

Awaitable<void> Volume::wait_for_write_room(std::size_t size) {
  while (!failed_ && !stopping_jobs_ && !(has_write_room(size) && lease_.valid())) {
    const bool fits = fits_open_segment(size);
    if (!fits && env_.clock.now() < paced_until_) {
      co_await wait_until(progress_, env_.clock, paced_until_);
      continue;
    }
    // What is on its way may take less than it could. With nothing on its way, space must be made.
    const bool lacks_space = !fits && in_flight_.empty() && !has_space_for_write(size);
    if (lacks_space && !short_of_space_) note_space_shortage();
    co_await progress_.wait();
  }
}

Awaitable<void> Volume::wait_for_buffer_room() {
  while (!failed_ && !stopping_jobs_ && !(has_buffer_room() && lease_.valid())) {
    co_await progress_.wait();
  }
}

Volume::OpenSegment& Volume::writable_segment() {
  if (open_ && !open_->builder.has_room()) seal();
  if (!open_) {
    const BlockId id = map_.add_open_block(lease_.epoch());
    open_.emplace(OpenSegment{SegmentBuilder(buffers_.take(), blockset_->payload_capacity()), id,
                              env_.clock.now()});
    if (resident_.size() <= id) resident_.resize(id + 1, nullptr);
    resident_[id] = open_->builder.buffer().get();
    opened_.notify_all();
  }
  return *open_;
}

void Volume::write_sectors(std::uint64_t lba, ConstBytes data) {
  metric_written_bytes_.add(data.size());
  written_sectors_ += data.size() / kSectorSize;
  while (!data.empty()) {
    const auto wanted = static_cast<std::uint32_t>(data.size() / kSectorSize);
    const MapRun run = map_.lookup(lba, wanted);
    std::uint32_t count = run.count;
    if (open_ && run.block == open_->id) {
      // Still in the open segment, which counts as a whole or not at all: overwrite in place.
      std::memcpy(open_->builder.sector(run.sector, count).data(), data.data(),
                  std::size_t{count} * kSectorSize);
    } else {
      OpenSegment& segment = writable_segment();
      count = std::min(count, segment.builder.room_sectors());
      const std::uint32_t sector =
          segment.builder.add_data(lba, data.first(std::size_t{count} * kSectorSize));
      map_.assign(lba, count, segment.id, sector);
    }
    lba += count;
    data = data.subspan(std::size_t{count} * kSectorSize);
  }
  if (open_ && !open_->builder.has_room()) seal();
  evict_when_due();
}

/// Once a block, where nobody relies on pages that he looked at before: a block may be sealed in the
/// midst of a write.
void Volume::evict_when_due() {
  if (std::exchange(eviction_is_due_, false)) map_share_.settle(kEvictRoundsOfBlock);
}

std::optional<Result<void>> Volume::try_write(std::uint64_t offset, ConstBytes data) {
  if (++quick_writes_ % kTimedOf != 0) return try_write_now(offset, data);
  const TimePoint begin = env_.clock.now();
  std::optional<Result<void>> answer = try_write_now(offset, data);
  if (answer.has_value()) write_latency_.observe(env_.clock.now() - begin, kTimedOf);
  return answer;
}

std::optional<Result<void>> Volume::try_write_now(std::uint64_t offset, ConstBytes data) {
  if (offset % kSectorSize != 0 || data.size() % kSectorSize != 0) return std::nullopt;
  if (!is_usable() || !has_write_room(data.size())) return std::nullopt;
  if (Result<void> range = check_range(offset, data.size()); !range) return range;
  if (!map_.is_loaded(offset / kSectorSize, data.size() / kSectorSize)) return std::nullopt;
  write_sectors(offset / kSectorSize, data);
  return Result<void>();
}

Task<void> Volume::write(std::uint64_t offset, ConstBytes data) {
  const ScopedLatency latency(env_.clock, write_latency_);
  AGRO_CO_TRY_OK(check_range(offset, data.size()));
  PagePin pin;  // from a load to the write that it is for
  while (!data.empty()) {
    // A partial sector at either end goes by itself; whole ones go together, but no more at a time
    // than leaves the bound on bytes in flight a bound.
    const std::uint64_t skip = offset % kSectorSize;
    std::size_t size = std::min<std::size_t>(data.size(), buffers_.buffer_size());
    co_await wait_for_write_room(size);
    AGRO_CO_TRY_OK(check_usable());
    if (skip != 0 || size < kSectorSize) {
      size = std::min<std::size_t>(kSectorSize - skip, data.size());
      AGRO_CO_TRY_OK(co_await write_part(offset, data.first(size)));
    } else {
      size = round_down(size, kSectorSize);
      if (!map_.is_loaded(offset / kSectorSize, size / kSectorSize)) {
        pin = pin_range(offset / kSectorSize, size / kSectorSize);
        AGRO_CO_TRY_OK(co_await load_range(offset / kSectorSize, size / kSectorSize));
        continue;
      }
      write_sectors(offset / kSectorSize, data.first(size));
    }
    offset += size;
    data = data.subspan(size);
  }
  co_return Result<void>();
}

Task<void> Volume::write_part(std::uint64_t offset, ConstBytes data) {
  const std::uint64_t lba = offset / kSectorSize;
  AlignedBuffer sector(kSectorSize);
  const PagePin pin = pin_range(lba, 1);
  if (!map_.is_loaded(lba, 1)) {
    AGRO_CO_TRY_OK(co_await load_range(lba, 1));
    co_await wait_for_write_room(kSectorSize);
    AGRO_CO_TRY_OK(check_usable());
  }
  while (true) {
    // Read, merge and write must not straddle another write of the sector: what cannot be read at
    // once is read first, and then the map is asked again.
    const MapRun before = map_.lookup(lba, 1);
    if (!read_local(before, sector.bytes())) {
      const BlockRef ref = ref_of(before.block);
      AGRO_CO_TRY_OK(co_await read_sectors(lba, sector.bytes()));
      co_await wait_for_write_room(kSectorSize);
      AGRO_CO_TRY_OK(check_usable());
      const MapRun after = map_.lookup(lba, 1);
      if (after != before || ref_of(after.block) != ref) continue;
    }
    std::memcpy(sector.data() + offset % kSectorSize, data.data(), data.size());
    write_sectors(lba, sector.bytes());
    co_return Result<void>();
  }
}

Task<void> Volume::mark_sectors(std::uint64_t lba, std::uint64_t count, ExtentKind kind) {
  constexpr std::uint64_t kSectorsAtOnce = 65536;  // 256 MiB: some milliseconds when fragmented
  const BlockId mark = kind == ExtentKind::hole ? kHoleBlock : kZeroBlock;
  const std::uint64_t end = lba + count;
  PagePin pin;
  while (lba < end) {
    // Not for space: this is what frees it, and a marker takes next to none.
    co_await wait_for_buffer_room();
    AGRO_CO_TRY_OK(check_usable());
    const std::uint64_t chunk_end = std::min(end, lba + kSectorsAtOnce);
    if (!map_.is_loaded(lba, chunk_end - lba)) {
      pin = pin_range(lba, chunk_end - lba);
      AGRO_CO_TRY_OK(co_await load_range(lba, chunk_end - lba));
      continue;
    }
    // Nothing to do where the map says so already.
    while (lba < chunk_end) {
      const MapRun run = map_.lookup(lba, static_cast<std::uint32_t>(chunk_end - lba));
      if (run.block != mark) break;
      lba += run.count;
    }
    if (lba < chunk_end) {
      const std::uint64_t chunk = chunk_end - lba;
      writable_segment().builder.add_marker(lba, static_cast<std::uint32_t>(chunk), kind);
      map_.assign(lba, chunk, mark, 0);
      lba = chunk_end;
    }
    evict_when_due();
    // Not after the last: between looking at the lease and the answer no time may pass.
    if (lba < end) co_await yield_to_loop();
  }
  co_return Result<void>();
}

void Volume::seal() {
  if (!open_) return;
  OpenSegment segment = std::move(*open_);
  open_.reset();
  const std::uint64_t payload_bytes = segment.builder.sector_count() * kSectorSize;
  paced_until_ = std::max(paced_until_, env_.clock.now()) +
                 pace_per_segment() * payload_bytes / blockset_->payload_capacity();
  send(segment.builder, segment.id, 0, false);
}

void Volume::send(SegmentBuilder& builder, BlockId id, std::uint16_t flags, bool reserve) {
  const std::uint64_t sequence = ++last_sequence_;
  const BlockRef ref{id_, lease_.epoch(), sequence, BlockType::data};
  const std::shared_ptr<AlignedBuffer>& buffer = builder.buffer();
  const std::uint32_t payload_size = builder.finish(flags);
  const std::uint32_t size = blockset_->seal(ref, buffer->bytes(), payload_size);
  map_.seal_block(id, sequence, builder.sector_count(), size);
  in_flight_.push_back({sequence, id, buffer, size, false});
  log_bytes_ += size;
  ++log_blocks_;
  eviction_is_due_ = true;
  WriteOptions write_options;
  write_options.reserve = reserve;
  write_options.keep = (flags & kSegmentByCleaner) != 0 || !is_stream(builder);
  jobs_.spawn(write_block(sequence, {buffer, buffer->bytes().first(size)}, write_options));
  if (checkpoint_is_due()) checkpoint_wanted_.notify_all();
}

Job Volume::write_block(std::uint64_t sequence, SharedBytes block, WriteOptions write_options) {
  const BlockRef ref{id_, lease_.epoch(), sequence, BlockType::data};
  Duration pause = options_.retry_after;
  while (!stopping_jobs_) {
    const Result<void> written = co_await store_block(ref, block, write_options);
    if (written.has_value()) {
      suspended_.reset();
      block_is_durable(sequence);
      co_return;
    }
    const Error& error = written.error();
    if (error.code == Errc::fenced || error.code == Errc::too_large) {
      fail_device(error);
      co_return;
    }
    if (!suspended_) log_warning("volume {}: writes wait: {}", id_.value, error.to_string());
    suspended_ = error;
    if (error.code == Errc::out_of_space && !write_options.reserve) {
      // The checkpoint that frees space must wait for this block: it goes into the reserve, and
      // users wait until there is space again.
      space_known_at_ = env_.clock.now() + kSpaceIsTold;
      note_space_shortage();
      write_options.reserve = true;
      continue;
    }
    co_await wait_until(backend_.peers_changed(), env_.clock, env_.clock.now() + pause);
    pause = std::min<Duration>(pause * 2, std::chrono::seconds(1));
  }
}

void Volume::block_is_durable(std::uint64_t sequence) {
  AGRO_ASSERT(!in_flight_.empty());
  InFlight& block = in_flight_[sequence - in_flight_.front().sequence];
  AGRO_ASSERT(block.sequence == sequence);
  block.durable = true;
  if (AGRO_MUTANT(kAckOutOfOrder)) durable_sequence_ = std::max(durable_sequence_, sequence);
  map_.set_durable(block.id);
  resident_[block.id] = nullptr;
  block.buffer.reset();
  while (!in_flight_.empty() && in_flight_.front().durable) {
    durable_sequence_ = in_flight_.front().sequence;
    in_flight_.pop_front();
  }
  if (freeing_is_due()) free_covered_blocks();
  progress_.notify_all();
}

Task<void> Volume::wait_durable(std::uint64_t sequence) {
  while (durable_sequence_ < sequence || !lease_.valid()) {
    AGRO_CO_TRY_OK(check_usable());
    co_await progress_.wait();
  }
  co_return check_usable();
}

Task<void> Volume::flush() {
  const ScopedLatency latency(env_.clock, flush_latency_);
  metric_flushes_.add();
  AGRO_CO_TRY_OK(check_usable());
  seal();
  evict_when_due();
  co_return co_await wait_durable(last_sequence_);
}

void Volume::fail_device(const Error& error) {
  if (failed_) return;
  failed_ = error;
  log_error("volume {} failed: {}", id_.value, error.to_string());
  progress_.notify_all();
  checkpoint_wanted_.notify_all();
}

Job Volume::seal_when_idle() {
  while (!stopping_jobs_) {
    if (!open_) {
      co_await opened_.wait();
      continue;
    }
    const TimePoint seal_at = open_->opened_at + options_.seal_after;
    if (env_.clock.now() >= seal_at) {
      seal();
    } else {
      co_await wait_until(stopping_, env_.clock, seal_at);
    }
  }
}

Job Volume::follow_lease() {
  while (!stopping_jobs_) {
    if (lease_.lost() && !failed_) {
      fail_device({Errc::fenced, "the volume's lock was lost"});
    }
    progress_.notify_all();
    co_await wait_until(lease_.changed(), env_.clock, env_.clock.now() + std::chrono::seconds(1));
  }
}

}  // namespace agro
