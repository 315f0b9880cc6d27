// The cleaner: relocates what is live in sparse and small blocks, so that they can be deleted.
//
// Greedy by garbage with a bias to old blocks; many small blocks count as garbage too. It gives way
// to users: while they write, it starts later and works a quarter of the time, unless space is short.
// Invariants: a sector is moved only if the map still points at its old place in the very step in
// which its new block gets a sequence number; what it copies was verified just before.
#include <algorithm>

#include "base/log.hpp"
#include "base/parallel.hpp"
#include "block/volume.hpp"

namespace agro {
namespace {

constexpr double kRatioIdle = 1.25;     // stored / live, above which an idle volume is cleaned
constexpr double kRatioBusy = 2.0;      // the same while users write
constexpr double kRatioUrgent = 1.05;   // when the peers run out of space
constexpr double kCleanedShare = 0.04;  // of the peers' space that this keeps free
constexpr std::uint64_t kSmallBlocksIdle = 256;   // blocks beyond what the data needs
constexpr std::uint64_t kSmallBlocksBusy = 65536;  // some 20 s of writes with a flush after each
constexpr std::uint64_t kSlackBlocks = 16;        // garbage that is not worth a look
constexpr std::uint32_t kBlocksAtOnce = 4;        // full output blocks per round
constexpr std::uint32_t kBlocksAtOnceShort = 2;   // the same when only the reserve is left
constexpr std::uint64_t kLeastGain = 16;           // of a block, by which a round must gain one part
constexpr std::uint64_t kLeastGainOfMoved = 32;    // of what it moves, likewise
constexpr std::size_t kVictimsAtOnce = 256;
constexpr std::size_t kReadsAtOnce = 8;
constexpr Duration kLookAgain = std::chrono::milliseconds(200);

}  // namespace

/// What peers say is free, or will be soon: once what is dead or being deleted is gone.
double Volume::free_share(bool soon) const {
  const Space space = backend_.space();
  if (space.size == 0) return 1;
  const std::uint64_t coming = (dead_bytes() + doomed_bytes_ + removing_bytes_) * blockset_->copy_count();
  return static_cast<double>(space.available + (soon ? coming : 0)) / static_cast<double>(space.size);
}

bool Volume::is_space_scarce() const { return short_of_space_ || free_share(false) < kScarceShare; }

/// Cleaning as late as can be moves the least: blocks go on getting emptier until their space is needed. What
/// waits for a checkpoint only is no reason to move more.
double Volume::garbage_ratio_limit() const {
  if (short_of_space_ || free_share(true) < kCleanedShare) return kRatioUrgent;
  return is_busy() ? kRatioBusy : kRatioIdle;
}

bool Volume::cleans_from_reserve() const {
  return short_of_space_ || !has_space_for_in_flight(space_of(kBlocksAtOnce + 1));
}

bool Volume::cleaning_gains() const {
  const std::uint64_t sectors_per_block = blockset_->payload_capacity() / kSectorSize;
  std::uint64_t stored = 0;
  std::uint64_t live = 0;
  const std::vector<BlockId> victims = choose_victims();
  for (const BlockId id : victims) {
    stored += map_.table()[id].sector_count + 1;  // a block takes something itself
    live += map_.table()[id].live_count;
  }
  const std::uint64_t after = live + (live + sectors_per_block - 1) / sectors_per_block;
  return stored >= after + std::max<std::uint64_t>(1, sectors_per_block / kLeastGain) &&
         stored >= after + after / kLeastGainOfMoved;
}

bool Volume::cleaning_is_needed() const {
  // Users wait: to the last that can be had, however much of the space that is.
  if (short_of_space_) return cleaning_gains();
  const std::uint64_t sectors_per_block = blockset_->payload_capacity() / kSectorSize;
  const std::uint64_t live = map_.live_sector_count() - map_.pinned_live_sector_count();
  const std::uint64_t stored =
      map_.stored_sector_count() - map_.dead_sector_count() - map_.pinned_stored_sector_count();
  const double limit = static_cast<double>(live) * garbage_ratio_limit();
  if (static_cast<double>(stored) > limit + static_cast<double>(kSlackBlocks * sectors_per_block)) {
    return true;
  }
  const std::uint64_t small_allowed = is_busy() && !is_space_scarce() ? kSmallBlocksBusy : kSmallBlocksIdle;
  const std::uint64_t block_count = map_.block_count() - map_.dead_count() - map_.pinned_block_count();
  return block_count > 2 * stored / sectors_per_block + small_allowed;
}

std::vector<BlockId> Volume::choose_victims() const {
  struct Candidate {
    double score;
    BlockId id;
    std::uint32_t live_count;
  };
  std::vector<Candidate> candidates;
  const BlockTable& table = map_.table();
  const std::uint32_t sectors_per_block = blockset_->payload_capacity() / kSectorSize;
  for (BlockId id = 0; id < table.id_limit(); ++id) {
    const BlockEntry& entry = table[id];
    if (entry.state != BlockState::durable || entry.live_count == 0) continue;
    if (unreadable_.contains(entry.sequence)) continue;
    if (map_.is_pinned(entry)) continue;  // the block would stay
    // Gain: garbage, and half a sector's worth for the block itself, against the data to move.
    const double garbage = entry.sector_count - entry.live_count + 0.5;
    const bool worthwhile = garbage >= 0.05 * entry.sector_count || entry.sector_count < sectors_per_block / 2;
    if (!worthwhile) continue;
    const double age = static_cast<double>(last_sequence_ - entry.sequence) + 1;
    candidates.push_back({garbage / (entry.live_count + 0.5) * (1.0 + age / (age + 1000.0)), id,
                          entry.live_count});
  }
  const std::size_t considered = std::min(candidates.size(), kVictimsAtOnce);
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(considered),
                    candidates.end(), [](const Candidate& left, const Candidate& right) {
                      return left.score > right.score;
                    });
  std::vector<BlockId> victims;
  const bool from_reserve = cleans_from_reserve();
  const std::uint64_t live_max = std::uint64_t{from_reserve ? kBlocksAtOnceShort : kBlocksAtOnce} * sectors_per_block;
  std::uint64_t live = 0;
  for (std::size_t index = 0; index < considered && live < live_max; ++index) {
    live += candidates[index].live_count;
    if (from_reserve && !victims.empty() && live > live_max) break;
    victims.push_back(candidates[index].id);
  }
  return victims;
}

/// A block that is not full takes a whole slot at the peers, so what would not fill one stays in the last victims, which are
/// the first of the next round. From the reserve everything is moved: there it matters that victims are emptied.
void Volume::keep_full_blocks(std::vector<Moved>& moved) const {
  const std::size_t block = (blockset_->payload_capacity() - sizeof(SegmentFooter)) / (kSectorSize + sizeof(SegmentExtent));
  if (cleans_from_reserve() || moved.size() < block) return;
  moved.resize(moved.size() / block * block);
}

Task<void> Volume::read_victim(Victim& victim) {
  const BlockRef ref = ref_of(victim.id);
  Result<SharedBytes> block = co_await blockset_->read_block(ref, {});
  if (block.has_value()) {
    Result<SharedBytes> payload = blockset_->payload(ref, *block);
    if (payload.has_value()) {
      victim.payload = std::move(*payload);
      co_return Result<void>();
    }
    block = fail(std::move(payload).error());
  }
  // Deleted meanwhile or out of reach: another round. A corrupt block is left alone for good: its
  // data is not ours to drop, and readers get the error.
  if (block.code() == Errc::corrupt) {
    unreadable_.insert(victim.sequence);
    log_warning("volume {}: the cleaner passes over a block: {}", id_.value,
                block.error().to_string());
  }
  co_return Result<void>();
}

std::size_t Volume::move_block(const std::vector<Moved>& moved, std::size_t begin,
                               std::size_t end) {
  const BlockId id = map_.add_open_block(lease_.epoch());
  SegmentBuilder builder(buffers_.take(), blockset_->payload_capacity());
  std::size_t index = begin;
  for (; index < end && builder.has_room(); ++index) {
    const Moved& one = moved[index];
    const MapRun now = map_.lookup(one.lba, 1);
    if (now.block != one.block || now.sector != one.sector) continue;
    map_.assign(one.lba, 1, id, builder.add_data(one.lba, one.bytes));
  }
  if (builder.empty()) {
    map_.drop_open_block(id);
    return index;
  }
  if (resident_.size() <= id) resident_.resize(id + 1, nullptr);
  resident_[id] = builder.buffer().get();
  cleaned_bytes_ += std::uint64_t{builder.sector_count()} * kSectorSize;
  metric_cleaned_bytes_.add(std::uint64_t{builder.sector_count()} * kSectorSize);
  send(builder, id, kSegmentByCleaner, true);
  return index;
}

/// Appends what the map still points at in a block.
Task<void> Volume::find_live(const Victim& victim, std::vector<Moved>& moved) {
  AGRO_CO_TRY(const SegmentView view, decode_segment(victim.payload.bytes));
  std::vector<SectorRange> ranges;
  for (const SegmentExtent& extent : view.extents) {
    if (static_cast<ExtentKind>(extent.kind) == ExtentKind::data) {
      ranges.push_back({extent.lba, extent.count});
    }
  }
  std::vector<PagePin> pins;
  AGRO_CO_TRY_OK(co_await load_ranges(pins, std::move(ranges)));
  // The id may have been given to another block while we read.
  if (victim.id >= map_.table().id_limit()) co_return Result<void>();
  if (map_.table()[victim.id].sequence != victim.sequence) co_return Result<void>();
  for (const SegmentExtent& extent : view.extents) {
    if (static_cast<ExtentKind>(extent.kind) != ExtentKind::data) continue;
    for (std::uint32_t step = 0; step < extent.count; ++step) {
      const MapRun now = map_.lookup(extent.lba + step, 1);
      if (now.block != victim.id || now.sector != extent.sector + step) continue;
      moved.push_back({extent.lba + step, victim.id, now.sector, view.sector(now.sector)});
    }
  }
  co_return Result<void>();
}

bool Volume::drop_freed(const std::vector<Victim>& victims, std::vector<Moved>& moved) const {
  std::size_t dropped = 0;
  for (const Victim& victim : victims) {
    if (map_.table()[victim.id].sequence == victim.sequence) continue;
    dropped += std::erase_if(moved, [&](const Moved& one) { return one.block == victim.id; });
  }
  return dropped > 0;
}

Task<std::uint64_t> Volume::clean_some() {
  std::vector<Victim> victims;
  for (const BlockId id : choose_victims()) victims.push_back({id, map_.table()[id].sequence, {}});
  if (victims.empty()) co_return std::uint64_t{0};
  AGRO_CO_TRY_OK(co_await for_each_parallel(
      victims.size(), kReadsAtOnce,
      [this, &victims](std::size_t index) { return read_victim(victims[index]); }));
  std::vector<Moved> moved;
  for (const Victim& victim : victims) {
    if (victim.payload.owner == nullptr) continue;
    const Result<void> found = co_await find_live(victim, moved);
    if (found.code() == Errc::corrupt) {
      unreadable_.insert(victim.sequence);
      log_warning("volume {}: the cleaner passes over a block: {}", id_.value,
                  found.error().to_string());
    } else if (!found.has_value()) {
      co_return fail(found.error());
    }
  }
  keep_full_blocks(moved);
  std::sort(moved.begin(), moved.end(),
            [](const Moved& left, const Moved& right) { return left.lba < right.lba; });
  const std::uint64_t sequence_before = last_sequence_;
  std::size_t next = 0;
  while (next < moved.size() && !stopping_jobs_ && !failed_) {
    // As many as a block takes at most: their pages are here when they move.
    const std::size_t end =
        std::min<std::size_t>(moved.size(), next + blockset_->payload_capacity() / kSectorSize);
    std::vector<SectorRange> ranges;
    for (std::size_t index = next; index < end; ++index) ranges.push_back({moved[index].lba, 1});
    std::vector<PagePin> pins;
    AGRO_CO_TRY_OK(co_await load_ranges(pins, std::move(ranges)));
    if (stopping_jobs_ || failed_) break;
    // Its own bound on bytes in flight, beyond that of the users, who may be waiting for it.
    const std::size_t limit = options_.in_flight_size_max / buffers_.buffer_size() + kBlocksAtOnce;
    if (in_flight_.size() > limit || !lease_.valid()) {
      co_await progress_.wait();
      continue;
    }
    // A checkpoint may have freed a victim and its id may name another block by now.
    if (drop_freed(victims, moved)) {
      next = 0;  // what was moved already no longer matches the map and is passed over
      continue;
    }
    next = move_block(moved, next, end);
    evict_when_due();
  }
  co_return last_sequence_ - sequence_before;
}

/// False: the next round has time, or would do no good.
Task<bool> Volume::clean_once(std::uint64_t& activity_before) {
  const TimePoint begin = env_.clock.now();
  const bool from_reserve = cleans_from_reserve();
  // What is on its way, and the checkpoint that waits for it, have the reserve before us.
  if (map_.dead_count() > 0 ? from_reserve : short_of_space_ && !in_flight_.empty()) {
    AGRO_CO_TRY_OK(co_await free_dead_blocks());
    end_space_shortage();
    if (!cleaning_is_needed()) co_return false;
  }
  AGRO_CO_TRY(const std::uint64_t cleaned, co_await clean_some());
  if (cleaned == 0 && map_.dead_count() == 0) co_return false;
  if (from_reserve) {
    // One round at a time: what it wrote took of the reserve, what it emptied gives back.
    AGRO_CO_TRY_OK(co_await free_dead_blocks());
    end_space_shortage();
    co_return true;
  }
  if (checkpoint_is_due()) checkpoint_wanted_.notify_all();
  if (cleaned == 0) {
    checkpoint_wanted_.notify_all();
    co_return false;
  }
  busy_ = user_activity() != activity_before;
  activity_before = user_activity();
  const bool far_behind =
      map_.stored_sector_count() - map_.pinned_stored_sector_count() > 3 * map_.live_sector_count();
  if (!is_busy() || far_behind || is_space_scarce()) co_return true;
  const TimePoint now = env_.clock.now();
  co_await wait_until(stopping_, env_.clock, now + 3 * (now - begin));
  co_return true;
}

Job Volume::clean_when_needed() {
  std::uint64_t activity_before = user_activity();
  while (!stopping_jobs_) {
    co_await wait_until(clean_wanted_, env_.clock, env_.clock.now() + kLookAgain);
    busy_ = user_activity() != activity_before;
    activity_before = user_activity();
    if (!busy_) buffers_.drop_idle();  // of a thousand volumes few are used at a time
    end_space_shortage();
    if (short_of_space_ && map_.dead_count() > 0) checkpoint_wanted_.notify_all();
    bool more = true;
    while (more && !stopping_jobs_ && !failed_ && cleaning_is_needed()) {
      const Result<bool> cleaned = co_await clean_once(activity_before);
      more = cleaned.has_value() && *cleaned;
      if (!cleaned.has_value() && !stopping_jobs_) {
        log_warning("volume {}: cleaning failed, will try again: {}", id_.value,
                    cleaned.error().to_string());
      }
    }
  }
}

}  // namespace agro
