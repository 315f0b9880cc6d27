#include "block/volume_map.hpp"

#include <algorithm>

namespace agro {

VolumeMap::PageState& VolumeMap::state_of(PageKey key) {
  std::vector<PageState>& states = key.kind == PageKind::map ? map_states_ : table_states_;
  if (states.size() <= key.index) states.resize(key.index + 1, PageState::clean);
  return states[key.index];
}

void VolumeMap::encode(PageKey key, std::vector<std::byte>& out) const {
  out.clear();
  if (key.kind == PageKind::map) {
    map_.encode_page(key.index, out);
  } else {
    table_.encode_page(key.index, out);
  }
}

void VolumeMap::touch(PageKey key) {
  PageState& state = state_of(key);
  if (state == PageState::dirty) return;
  if (state == PageState::pending) {
    captured_.emplace_back(key, std::vector<std::byte>());
    encode(key, captured_.back().second);
  }
  state = PageState::dirty;
  dirty_.push_back(key);
  ++dirty_count_;
  if (key.kind == PageKind::map) ++dirty_map_page_count_;
}

void VolumeMap::mark_dirty(PageKey key) { touch(key); }

/// Pages that are no more need no place in the next checkpoint: Inode::cut_map() gives theirs up.
void VolumeMap::shrink(std::uint64_t sector_count) {
  AGRO_ASSERT(pending_.empty());
  AGRO_ASSERT(captured_.empty());
  map_.shrink(sector_count);
  const std::size_t gone = std::erase_if(dirty_, [this](const PageKey& key) {
    return key.kind == PageKind::map && key.index >= map_.page_count();
  });
  dirty_count_ -= gone;
  dirty_map_page_count_ -= gone;
  if (map_states_.size() > map_.page_count()) map_states_.resize(map_.page_count());
}

void VolumeMap::note_if_dead(BlockId id) {
  const BlockEntry& entry = table_[id];
  if (entry.state != BlockState::durable || entry.live_count > 0) return;
  dead_.push_back({id, 0});  // once in a block's life: from here on it cannot change
  date_dead();
  dead_sector_count_ += entry.sector_count;
  if (!is_pinned(entry)) return;
  pinned_stored_sector_count_ -= entry.sector_count;
  --pinned_block_count_;
}

/// What took the place of its sectors may be in a block that has no place in the log yet.
void VolumeMap::date_dead() {
  if (open_count_ > 0) return;
  for (; dated_dead_count_ < dead_.size(); ++dated_dead_count_) dead_[dated_dead_count_].since = newest_sealed_.second;
}

void VolumeMap::set_pinned(Epoch epoch, std::uint64_t sequence) {
  const std::pair pinned_to{epoch, sequence};
  if (pinned_to == pinned_to_) return;
  pinned_to_ = pinned_to;
  if (open_count_ > 0 || pinned_to_ < newest_sealed_) {
    recount_pinned();
    return;
  }
  pinned_stored_sector_count_ = stored_sector_count_ - dead_sector_count_;
  pinned_live_sector_count_ = live_sector_count_;
  pinned_block_count_ = block_count_ - dead_.size();
}

void VolumeMap::recount_pinned() {
  pinned_stored_sector_count_ = pinned_live_sector_count_ = pinned_block_count_ = 0;
  for (BlockId id = 0; id < table_.id_limit(); ++id) {
    const BlockEntry& entry = table_[id];
    const bool is_counted =
        entry.state == BlockState::in_flight || (entry.state == BlockState::durable && entry.live_count > 0);
    if (!is_counted || !is_pinned(entry)) continue;
    pinned_stored_sector_count_ += entry.sector_count;
    pinned_live_sector_count_ += entry.live_count;
    ++pinned_block_count_;
  }
}

void VolumeMap::assign(std::uint64_t lba, std::uint64_t count, BlockId block,
                       std::uint32_t sector) {
  while (count > 0) {
    const auto step =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(count, ExtentMap::left_in_page(lba)));
    touch({PageKind::map, ExtentMap::page_of(lba)});
    replaced_.clear();
    map_.assign(lba, step, block, sector, replaced_);
    if (block < kBlockIdLimit) {
      touch({PageKind::table, BlockTable::page_of(block)});
      table_[block].live_count += step;
      live_sector_count_ += step;
      sector += step;
    }
    for (const MapRun& old : replaced_) {
      touch({PageKind::table, BlockTable::page_of(old.block)});
      AGRO_ASSERT(table_[old.block].live_count >= old.count);
      table_[old.block].live_count -= old.count;
      live_sector_count_ -= old.count;
      if (is_pinned(table_[old.block])) pinned_live_sector_count_ -= old.count;
      if (table_[old.block].live_count == 0) note_if_dead(old.block);
    }
    lba += step;
    count -= step;
  }
}

BlockId VolumeMap::add_open_block(Epoch epoch) {
  BlockEntry entry;
  entry.epoch = epoch;
  entry.state = BlockState::open;
  const BlockId id = table_.add(entry);
  ++open_count_;
  // Should the page wait for a running checkpoint, it is encoded now, with the entry in it already:
  // encode_page() passes over open blocks, as it did over the free entry.
  touch({PageKind::table, BlockTable::page_of(id)});
  return id;
}

void VolumeMap::seal_block(BlockId id, std::uint64_t sequence, std::uint32_t sector_count,
                           std::uint32_t size) {
  touch({PageKind::table, BlockTable::page_of(id)});
  BlockEntry& entry = table_[id];
  AGRO_ASSERT(entry.state == BlockState::open);
  --open_count_;
  entry.state = BlockState::in_flight;
  entry.sequence = sequence;
  newest_sealed_ = std::max(newest_sealed_, {entry.epoch, sequence});
  date_dead();
  entry.sector_count = sector_count;
  entry.size = size;
  ++block_count_;
  stored_sector_count_ += sector_count;
}

void VolumeMap::set_durable(BlockId id) {
  touch({PageKind::table, BlockTable::page_of(id)});
  AGRO_ASSERT(table_[id].state == BlockState::in_flight);
  table_[id].state = BlockState::durable;
  note_if_dead(id);
}

void VolumeMap::drop_open_block(BlockId id) {
  AGRO_ASSERT(table_[id].state == BlockState::open);
  --open_count_;
  date_dead();
  table_.free(id);
}

std::vector<BlockRef> VolumeMap::take_dead(const Lineage& lineage) {
  AGRO_ASSERT(open_count_ == 0);
  return take_dead(lineage, {Epoch{UINT64_MAX}, UINT64_MAX}, UINT64_MAX);
}

std::vector<BlockRef> VolumeMap::take_dead(const Lineage& lineage, std::pair<Epoch, std::uint64_t> covered,
                                           std::uint64_t durable_sequence) {
  std::vector<BlockRef> refs;
  const auto dated_end = dead_.begin() + static_cast<std::ptrdiff_t>(dated_dead_count_);
  const auto kept_end = std::remove_if(dead_.begin(), dated_end, [&](const DeadBlock& dead) {
    const BlockEntry& entry = table_[dead.id];
    AGRO_ASSERT(entry.live_count == 0);
    AGRO_ASSERT(entry.state == BlockState::durable);
    if (dead.since > durable_sequence || std::pair(entry.epoch, entry.sequence) > covered) return false;
    touch({PageKind::table, BlockTable::page_of(dead.id)});
    refs.push_back({lineage.owner_of(entry.epoch), entry.epoch, entry.sequence, BlockType::data});
    stored_sector_count_ -= entry.sector_count;
    dead_sector_count_ -= entry.sector_count;
    --block_count_;
    table_.free(dead.id);
    return true;
  });
  dated_dead_count_ -= refs.size();
  dead_.erase(kept_end, dated_end);
  return refs;
}

void VolumeMap::begin_checkpoint() {
  AGRO_ASSERT(pending_.empty());
  AGRO_ASSERT(captured_.empty());
  pending_.swap(dirty_);
  dirty_count_ = 0;
  dirty_map_page_count_ = 0;
  // Taken from the back: in ascending order, so that neighbours lie together in the INode.
  std::sort(pending_.begin(), pending_.end(), std::greater<>());
  for (const PageKey key : pending_) state_of(key) = PageState::pending;
}

bool VolumeMap::take_page(PageKey& key, std::vector<std::byte>& bytes) {
  while (!pending_.empty()) {
    const PageKey next = pending_.back();
    pending_.pop_back();
    PageState& state = state_of(next);
    if (state != PageState::pending) continue;  // captured before a change
    state = PageState::taken;
    key = next;
    encode(next, bytes);
    return true;
  }
  if (captured_.empty()) return false;
  key = captured_.back().first;
  bytes = std::move(captured_.back().second);
  captured_.pop_back();
  return true;
}

void VolumeMap::end_checkpoint(const std::vector<PageKey>& taken) {
  for (const PageKey key : taken) {
    PageState& state = state_of(key);
    if (state == PageState::taken) state = PageState::clean;
  }
}

void VolumeMap::abort_checkpoint(const std::vector<PageKey>& taken) {
  captured_.clear();
  for (const PageKey key : pending_) {
    PageState& state = state_of(key);
    if (state != PageState::pending) continue;
    state = PageState::taken;  // no longer to be captured
    touch(key);
  }
  pending_.clear();
  for (const PageKey key : taken) touch(key);
}

void VolumeMap::pin(std::uint32_t page) { ++pins_[page]; }

void VolumeMap::unpin(std::uint32_t page) {
  const auto found = pins_.find(page);
  AGRO_ASSERT(found != pins_.end());
  if (--found->second == 0) pins_.erase(found);
}

bool VolumeMap::evict_one(std::size_t look_max) {
  for (; look_max > 0 && !map_.resident_pages().empty(); --look_max) {
    if (hand_ >= map_.resident_pages().size()) hand_ = 0;
    const std::uint32_t page = map_.resident_pages()[hand_];
    const bool used = map_.take_used(page);
    if (used || pins_.contains(page) || state_of({PageKind::map, page}) != PageState::clean) {
      ++hand_;
      continue;
    }
    map_.evict(page);  // the last one takes its place under the hand
    return true;
  }
  return false;
}

Result<void> VolumeMap::load_page(std::uint32_t page, ConstBytes bytes) {
  AGRO_ASSERT(!map_.is_page_loaded(page));
  AGRO_TRY_OK(map_.decode_page(page, bytes));
  std::vector<MapRun> runs;
  map_.runs_of_page(page, runs);
  for (const MapRun& run : runs) {
    if (run.block == kZeroBlock) continue;
    if (points_into_table(run) && run.count <= table_[run.block].live_count) continue;
    map_.evict(page);
    return fail(Errc::corrupt, "the INode's map points outside its blocks");
  }
  return {};
}

bool VolumeMap::points_into_table(const MapRun& run) const {
  return run.block < table_.id_limit() && table_[run.block].state == BlockState::durable &&
         std::uint64_t{run.sector} + run.count <= table_[run.block].sector_count;
}

Result<void> VolumeMap::check_counts() {
  std::vector<std::uint32_t> counts(table_.id_limit(), 0);
  std::vector<MapRun> runs;
  for (std::uint32_t page = 0; page < map_.page_count(); ++page) {
    runs.clear();
    map_.runs_of_page(page, runs);
    for (const MapRun& run : runs) {
      if (run.block == kZeroBlock) continue;
      if (!points_into_table(run)) return fail(Errc::corrupt, "the INode's map points outside its blocks");
      counts[run.block] += run.count;
    }
  }
  for (BlockId id = 0; id < table_.id_limit(); ++id) {
    const BlockEntry& entry = table_[id];
    if (entry.state == BlockState::free) continue;
    if (counts[id] != entry.live_count) {
      return fail(Errc::corrupt, "the INode's live counts do not match its map");
    }
  }
  count_table();
  return {};
}

void VolumeMap::count_table() {
  for (BlockId id = 0; id < table_.id_limit(); ++id) {
    const BlockEntry& entry = table_[id];
    if (entry.state == BlockState::free) continue;
    ++block_count_;
    stored_sector_count_ += entry.sector_count;
    live_sector_count_ += entry.live_count;
    newest_sealed_ = std::max(newest_sealed_, {entry.epoch, entry.sequence});
    note_if_dead(id);
  }
  recount_pinned();
}

}  // namespace agro
