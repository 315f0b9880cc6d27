// Opening a volume: fence, checkpoint, replay, missing copies, a cut where it became smaller, and a checkpoint of our own.
//
// | the log at sequence s              | all members answered | some did not (fewer than copies) |
// |------------------------------------|----------------------|----------------------------------|
// | listed, verifies                   | replay               | replay                           |
// | listed, no copy verifies           | error corrupt        | error corrupt                    |
// | not listed (a gap)                 | the log ends here    | the log ends here                |
// A gap ends the log also when members are missing, because a flushed block has more copies than
// members are missing, so one of those that answered would have listed it.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "base/parallel.hpp"
#include "block/replay.hpp"
#include "block/volume.hpp"

namespace agro {
namespace {

/// Blocks read ahead of the one being applied.
constexpr std::size_t kReplayAtOnce = 16;

}  // namespace

Task<void> Volume::recover(LogHead head) {
  recorded_copies_ = options_.degraded_copies;
  record_may_exist_ = recorded_copies_ != 0;
  const std::uint32_t sure = sure_copies();
  AGRO_CO_TRY(const Reached fenced, co_await backend_.fence(id_, lease_.epoch(), sure - 1));
  AGRO_CO_TRY_OK(check_missing(missing_in(fenced, fenced)));
  set_pinned_heads(options_.pinned_heads);
  if (head.checkpoint_epoch.value != 0) {
    const BlockRef root{lineage_.owner_of(head.checkpoint_epoch), head.checkpoint_epoch, head.root_index, BlockType::inode};
    AGRO_CO_TRY(const InodeMeta meta, co_await inode_.load_root(root));
    if (meta.size_bytes > std::max(size_bytes_, options_.checkpoint_size_bytes)) {
      co_return fail(Errc::corrupt, "the INode is of a larger volume");
    }
    if (meta.size_bytes > size_bytes_) map_.grow(meta.size_bytes / kSectorSize);  // until it is cut
    AGRO_CO_TRY_OK(co_await inode_.load_directories(map_));
    head.sequence = meta.covered_sequence;
  }
  last_sequence_ = durable_sequence_ = covered_sequence_ = head.sequence;
  std::vector<BlockRef> beyond;
  if (head.log_end != 0) {
    AGRO_CO_TRY_OK(co_await replay_closed_log(head));
  } else {
    AGRO_CO_TRY(beyond, co_await replay_log(head, fenced));
  }
  std::vector<BlockRef> named = inode_.live_refs();
  if (inode_.root().index != 0) named.push_back(inode_.root());
  // After `named`, which says what the committed INode needs.
  AGRO_CO_TRY_OK(co_await cut_map());
  map_.recount_pinned();
  Result<void> written = co_await checkpoint();
  if (written.code() == Errc::out_of_space) co_await remove_unnamed_inode(std::move(named));
  AGRO_CO_TRY_OK(std::move(written));
  remember_committed_blocks();
  delete_blocks(beyond);
  co_return Result<void>();
}

/// What is mapped beyond the end of a volume that was made smaller. Until the checkpoint that follows is
/// committed, the volume is as it was, and the next opening does the same.
Task<void> Volume::cut_map() {
  constexpr std::uint32_t kPagesAtOnce = 1024;
  const std::uint64_t end = size_bytes_ / kSectorSize;
  const std::uint64_t old_end = map_.map().sector_count();
  if (old_end == end) co_return Result<void>();
  std::uint32_t step = 0;
  for (std::uint64_t lba = end; lba < old_end; lba += step) {
    step = static_cast<std::uint32_t>(std::min<std::uint64_t>(ExtentMap::left_in_page(lba), old_end - lba));
    const std::uint32_t page = ExtentMap::page_of(lba);
    if (page % kPagesAtOnce == 0) co_await yield_to_loop();
    const PagePin pin = pin_range(lba, step);
    AGRO_CO_TRY_OK(co_await load_page(page));
    const MapRun run = map_.lookup(lba, step);
    if (run.block == kHoleBlock && run.count == step) continue;
    map_.assign(lba, step, kHoleBlock, 0);
  }
  map_.shrink(end);
  inode_.cut_map(map_.map().page_count());
  log_info("volume {}: cut at {} bytes, from {}", id_.value, size_bytes_, old_end * kSectorSize);
  co_return Result<void>();
}

/// After a first checkpoint that found no room: what this opening wrote of it, and what earlier ones
/// left that got no further, goes at once, so that the next has the reserve to itself. The committed INode
/// names none of it, no older writer can commit any more, and this one is not going to.
Awaitable<void> Volume::remove_unnamed_inode(std::vector<BlockRef> named) {
  if (inode_.root().epoch == lease_.epoch()) co_return;  // complete; whether it was committed may be unknown
  std::sort(named.begin(), named.end());
  BlockFilter filter;
  filter.volume = id_;
  filter.type = BlockType::inode;
  const Result<Listing> listing = co_await backend_.list(filter);
  if (!listing.has_value()) co_return;
  std::vector<BlockRef> unnamed;
  for (const Listing::Entry& entry : listing->entries) {
    const bool is_named = std::binary_search(named.begin(), named.end(), entry.ref);
    if (entry.ref.epoch <= lease_.epoch() && !is_named) unnamed.push_back(entry.ref);
  }
  log_warning("volume {}: no room for a checkpoint: deleting {} blocks of unfinished ones", id_.value,
              unnamed.size());
  delete_blocks(std::move(unnamed));
  while (removal_count_ > 0 && !stopping_jobs_) co_await progress_.wait();
}

/// The fewest copies that blocks which were acknowledged are sure to have.
std::uint32_t Volume::sure_copies() const {
  std::uint32_t sure = std::min(blockset_->copy_count(), backend_.sure_copies());
  if (options_.degraded_copies != 0) sure = std::min(sure, options_.degraded_copies);
  return std::max(sure, 1U);
}

/// Refuses to go on when members are missing that may hold all copies of something flushed.
Result<void> Volume::check_missing(const std::vector<PeerId>& missing) const {
  if (missing.size() < sure_copies() || AGRO_MUTANT(kTooManyMissing)) return {};
  std::string names;
  for (const PeerId& id : missing) names += (names.empty() ? "" : ", ") + id.to_string();
  const std::string text = fmt::format(
      "{} peers of the ring cannot be reached ({}), and no more than {} copies of a block are sure{}",
      missing.size(), names, sure_copies(),
      options_.degraded_copies != 0 ? " (fewer than usual peers were alive)" : "");
  if (options_.force_recovery) {
    log_error("volume {}: {}: going on, as --force-recovery said. Writes that were flushed last may "
              "be lost, and what only these peers have cannot be read until they are back",
              id_.value, text);
    return {};
  }
  return fail(Errc::no_quorum,
              text + ": flushed data might be missed; start the peers and try again, or give "
                     "'agroblock nbdserve --force-recovery VOLUME', which may lose what was written last");
}

Task<std::vector<BlockRef>> Volume::replay_log(LogHead head, Reached fenced) {
  BlockFilter filter;
  filter.volume = id_;
  filter.type = BlockType::data;
  filter.epoch = head.epoch;
  filter.index_from = head.sequence + 1;
  AGRO_CO_TRY(const Listing listing, co_await backend_.list(filter, sure_copies() - 1));
  // Only whom an old writer can no longer add to can say where its log ends.
  const std::vector<PeerId> missing = missing_in(fenced, listing.reached);
  AGRO_CO_TRY_OK(check_missing(missing));
  std::size_t run = 0;
  while (run < listing.entries.size() &&
         (listing.entries[run].ref.index == head.sequence + 1 + run ||
          AGRO_MUTANT(kReplayPastGap))) {
    ++run;
  }
  std::vector<BlockRef> beyond;
  for (std::size_t index = run; index < listing.entries.size(); ++index) {
    beyond.push_back(listing.entries[index].ref);
  }
  std::vector<Listing::Entry> entries(listing.entries.begin(),
                                      listing.entries.begin() + static_cast<std::ptrdiff_t>(run));
  AGRO_CO_TRY_OK(co_await replay_blocks(std::move(entries)));
  if (run > 0) {
    log_info("volume {}: replayed {} blocks after the checkpoint{}", id_.value, run,
             missing.empty() ? "" : ", some peers are missing");
  }
  co_return beyond;
}

/// Of a snapshot that is restored or cloned: all of it is there, with all its copies.
Task<void> Volume::replay_closed_log(LogHead head) {
  std::vector<Listing::Entry> entries;
  for (std::uint64_t sequence = head.sequence + 1; sequence < head.log_end; ++sequence) {
    const BlockRef ref{lineage_.owner_of(head.epoch), head.epoch, sequence, BlockType::data};
    entries.push_back({ref, 0, blockset_->copy_count()});
  }
  co_return co_await replay_blocks(std::move(entries));
}

Task<void> Volume::replay_blocks(std::vector<Listing::Entry> entries) {
  for (std::size_t begin = 0; begin < entries.size(); begin += kReplayAtOnce) {
    const std::size_t count = std::min(kReplayAtOnce, entries.size() - begin);
    std::vector<SharedBytes> blocks(count);
    AGRO_CO_TRY_OK(co_await for_each_parallel(
        count, kReplayAtOnce, [this, begin, &entries, &blocks](std::size_t index) {
          return replay_block(entries[begin + index], blocks[index]);
        }));
    for (std::size_t index = 0; index < count; ++index) {
      const BlockRef& ref = entries[begin + index].ref;
      AGRO_CO_TRY(const SharedBytes payload, blockset_->payload(ref, blocks[index]));
      const auto size = static_cast<std::uint32_t>(blocks[index].size());
      std::vector<PagePin> pins;
      AGRO_CO_TRY_OK(co_await load_for_segment(payload.bytes, pins));
      AGRO_CO_TRY_OK(apply_segment(ref, size, payload.bytes));
    }
  }
  co_return Result<void>();
}

Task<void> Volume::replay_block(Listing::Entry entry, SharedBytes& block) {
  AGRO_CO_TRY(block, co_await blockset_->read_block(entry.ref, {}));
  if (entry.copy_count >= blockset_->copy_count()) co_return Result<void>();
  WriteOptions write_options;
  write_options.repair = true;
  const Result<void> stored = co_await store_block(entry.ref, block, write_options);
  if (stored.code() != Errc::out_of_space) co_return stored;
  // The reserve is for the checkpoint, which makes space; the copies come when there is some.
  AGRO_CO_TRY_OK(co_await record_copies(std::max(1U, entry.copy_count)));
  ++thin_count_;
  co_return Result<void>();
}

/// Only pages that the log touches are loaded. What is wrong with a segment, apply_segment() says.
Task<void> Volume::load_for_segment(ConstBytes payload, std::vector<PagePin>& pins) {
  Result<std::vector<SectorRange>> ranges = ranges_of_segment(payload);
  if (!ranges.has_value()) co_return Result<void>();
  map_share_.settle(ranges->size() + 1);
  co_return co_await load_ranges(pins, std::move(*ranges));
}

Result<void> Volume::apply_segment(const BlockRef& ref, std::uint32_t size, ConstBytes payload) {
  AGRO_TRY_OK(replay_segment(map_, ref, size, payload));
  last_sequence_ = durable_sequence_ = ref.index;
  return {};
}

void Volume::remember_committed_blocks() {
  const BlockRef root = inode_.root();
  committed_ = {lease_.epoch(), covered_sequence_, root.epoch, root.index, inode_.live_refs()};
  std::vector<BlockRef>& live = committed_.live;
  for (BlockId id = 0; id < map_.table().id_limit(); ++id) {
    if (map_.table()[id].state != BlockState::free) live.push_back(ref_of(id));
  }
  std::sort(live.begin(), live.end());
}

Job Volume::sweep() {
  BlockFilter filter;
  filter.volume = id_;
  const Result<Listing> listing = co_await backend_.list(filter);
  // A listing that failed proves nothing; the next opening sweeps.
  if (listing.has_value() && !stopping_jobs_ && !failed_) {
    std::vector<BlockRef> dead;
    for (const Listing::Entry& entry : listing->entries) {
      if (is_dead(entry.ref, committed_)) dead.push_back(entry.ref);
    }
    if (!dead.empty()) log_info("volume {}: sweeping {} dead blocks", id_.value, dead.size());
    delete_blocks(std::move(dead));
  }
  committed_ = {};
}

}  // namespace agro
