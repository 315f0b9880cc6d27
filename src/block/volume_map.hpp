// Volume map: extent map and block table together, with what changed since the last checkpoint.
//
// Invariants: every change goes through here, so live counts are always right. While a checkpoint
// runs, a page that it has not written yet is encoded before its first change: the checkpoint is the
// state of one instant although writes go on.
// Only a page that the INode has as it is here is evicted.
// Threading: one loop. Pure: no I/O. Source: DESIGN.md section 3.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "block/block_table.hpp"
#include "block/extent_map.hpp"
#include "core/lineage.hpp"

namespace agro {

enum class PageKind : std::uint8_t { map = 0, table = 1 };

struct PageKey {
  PageKind kind = PageKind::map;
  std::uint32_t index = 0;
  auto operator<=>(const PageKey&) const = default;
};

struct SectorRange {
  std::uint64_t lba;
  std::uint64_t count;
};

class VolumeMap {
 public:
  explicit VolumeMap(std::uint64_t sector_count) : map_(sector_count) {}

  const ExtentMap& map() const { return map_; }
  const BlockTable& table() const { return table_; }
  /// For decoding an INode only.
  ExtentMap& map_for_decode() { return map_; }
  BlockTable& table_for_decode() { return table_; }
  /// Totals from the table alone, after decoding it: pages are loaded later.
  void count_table();
  /// Puts a page's contents in its place. Errors: corrupt, when it points at blocks that the table
  /// lacks; the page stays absent.
  Result<void> load_page(std::uint32_t page, ConstBytes bytes);
  bool is_loaded(std::uint64_t lba, std::uint64_t count) const { return map_.is_loaded(lba, count); }
  bool is_page_loaded(std::uint32_t page) const { return map_.is_page_loaded(page); }
  /// A pinned page is not evicted. Shape: as many unpins as pins.
  void pin(std::uint32_t page);
  void unpin(std::uint32_t page);
  /// Evicts a page that is clean, not pinned and not used lately, looking at `look_max` at most.
  bool evict_one(std::size_t look_max);
  std::size_t dirty_map_page_count() const { return dirty_map_page_count_; }
  /// Recounts live sectors from the map, after decoding. Errors: corrupt, when the map points at
  /// blocks that the table lacks, or the counts differ.
  Result<void> check_counts();

  void grow(std::uint64_t sector_count) { map_.grow(sector_count); }
  /// Shape: as ExtentMap::shrink(); no checkpoint is running.
  void shrink(std::uint64_t sector_count);

  MapRun lookup(std::uint64_t lba, std::uint32_t count_max) const {
    return map_.lookup(lba, count_max);
  }
  /// Points sectors at a block (or hole, or zeros), over any number of pages.
  void assign(std::uint64_t lba, std::uint64_t count, BlockId block, std::uint32_t sector);

  /// A new block that is being filled.
  BlockId add_open_block(Epoch epoch);
  /// Forgets an open block that was never filled.
  void drop_open_block(BlockId id);
  /// It has its place in the log and is on its way to the peers.
  void seal_block(BlockId id, std::uint64_t sequence, std::uint32_t sector_count,
                  std::uint32_t size);
  /// Its copies are durable.
  void set_durable(BlockId id);

  /// Durable blocks without live sectors: they may be deleted once a checkpoint that starts after this call has been
  /// committed. Their ids are free from now on. Shape: no block is open.
  std::vector<BlockRef> take_dead(const Lineage& lineage);
  /// Of them, those up to `covered` that are dead by the log up to `durable_sequence`.
  std::vector<BlockRef> take_dead(const Lineage& lineage, std::pair<Epoch, std::uint64_t> covered,
                                  std::uint64_t durable_sequence);
  std::uint64_t dead_sector_count() const { return dead_sector_count_; }
  std::size_t dead_count() const { return dead_.size(); }

  /// Blocks up to (epoch, sequence) are pinned: a snapshot may need them, so that nothing is gained when
  /// their data moves. Replaces what was pinned before. Costs nothing when all sealed blocks are pinned, as
  /// a new snapshot does, or nothing changes.
  void set_pinned(Epoch epoch, std::uint64_t sequence);
  /// After blocks were loaded or replayed.
  void recount_pinned();
  bool is_pinned(const BlockEntry& entry) const {
    return entry.sequence != 0 && std::pair(entry.epoch, entry.sequence) <= pinned_to_;
  }
  // Totals over pinned blocks that have live data, or are in flight.
  std::uint64_t pinned_stored_sector_count() const { return pinned_stored_sector_count_; }
  std::uint64_t pinned_live_sector_count() const { return pinned_live_sector_count_; }
  std::uint64_t pinned_block_count() const { return pinned_block_count_; }

  // Totals over durable and in-flight blocks.
  std::uint64_t stored_sector_count() const { return stored_sector_count_; }
  std::uint64_t live_sector_count() const { return live_sector_count_; }
  std::uint64_t block_count() const { return block_count_; }

  // Checkpoints: begin, then take_page until there is none.
  bool is_dirty() const { return dirty_count_ > 0; }
  /// Adds a page to the changed ones, so that the next checkpoint writes it again.
  void mark_dirty(PageKey key);
  /// Starts a checkpoint of the present state. Shape: none is running.
  void begin_checkpoint();
  /// The next page of the running checkpoint with its bytes (none: the page is empty); false when
  /// there is no further one and the checkpoint is no longer running.
  bool take_page(PageKey& key, std::vector<std::byte>& bytes);
  /// The INode has the pages that were taken: they may be evicted.
  void end_checkpoint(const std::vector<PageKey>& taken);
  /// Gives up a running checkpoint: all its pages are dirty again.
  void abort_checkpoint(const std::vector<PageKey>& taken);

 private:
  enum class PageState : std::uint8_t { clean, dirty, pending, taken };

  struct DeadBlock {
    BlockId id;
    std::uint64_t since;  // the log up to there says so; once no block is open any more
  };

  PageState& state_of(PageKey key);
  void touch(PageKey key);
  void note_if_dead(BlockId id);
  void date_dead();
  bool points_into_table(const MapRun& run) const;
  void encode(PageKey key, std::vector<std::byte>& out) const;

  ExtentMap map_;
  BlockTable table_;
  std::vector<PageState> map_states_;
  std::vector<PageState> table_states_;
  std::size_t dirty_count_ = 0;
  std::size_t dirty_map_page_count_ = 0;
  std::unordered_map<std::uint32_t, std::uint32_t> pins_;  // by page; looked up only
  std::size_t hand_ = 0;  // of the CLOCK, in resident_pages()
  std::vector<PageKey> dirty_;    // pages whose state is dirty
  std::vector<PageKey> pending_;  // pages of the running checkpoint, taken from the back
  std::vector<std::pair<PageKey, std::vector<std::byte>>> captured_;  // encoded before a change
  std::vector<DeadBlock> dead_;
  std::size_t dated_dead_count_ = 0;  // of dead_, the first, whose `since` is known
  std::vector<MapRun> replaced_;  // scratch
  std::uint64_t stored_sector_count_ = 0;
  std::uint64_t live_sector_count_ = 0;
  std::uint64_t block_count_ = 0;
  std::uint64_t dead_sector_count_ = 0;
  std::pair<Epoch, std::uint64_t> newest_sealed_;
  std::size_t open_count_ = 0;  // open blocks
  std::pair<Epoch, std::uint64_t> pinned_to_;
  std::uint64_t pinned_stored_sector_count_ = 0;
  std::uint64_t pinned_live_sector_count_ = 0;
  std::uint64_t pinned_block_count_ = 0;
};

}  // namespace agro
