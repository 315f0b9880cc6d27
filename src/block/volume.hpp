// Volume: a log of segments, the map over it, and the device that front ends see.
//
// A write goes into the open segment and is acknowledged; sealing gives the segment the next sequence
// number and sends it to its peers; flush() seals and waits until every block up to there is durable.
// Invariants:
//  - durable_sequence_ is the highest s such that every block with sequence <= s is durable; nothing
//    else lets a flush return. Hence recovery finds every flushed write before the first gap.
//  - The map changes and the segment takes the data in one step of the loop, in one order; replay of
//    segments in sequence order ends with the same map.
//  - No block that the committed INode or its log needs is deleted before a newer one is committed.
//  - After a `fenced` answer, or when the lock is lost, nothing is acknowledged any more.
// Threading: one loop. Source: DESIGN.md sections 3 to 5.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "block/block_device.hpp"
#include "block/inode.hpp"
#include "block/map_memory.hpp"
#include "block/read_ahead.hpp"
#include "block/read_cache.hpp"
#include "block/segment.hpp"
#include "block/snapshot_note.hpp"
#include "block/volume_map.hpp"
#include "blockset/blockset.hpp"
#include "gc/collect.hpp"

namespace agro {

/// Where a volume starts from and what its log continues (VolumeHead without the rest).
struct LogHead {
  Epoch epoch;             // whose log continues the checkpoint
  Epoch checkpoint_epoch;  // of the root; 0: there is no checkpoint
  std::uint64_t root_index = 0;
  std::uint64_t sequence = 0;  // covered by the checkpoint
  std::uint64_t log_end = 0;   // one past the last block of the log; 0: where its blocks end
  std::uint64_t note_index = 0;  // of a snapshot's note, an inode block of `epoch`; 0: there is none
  bool operator==(const LogHead&) const = default;
};

/// The volume's lock in the MDS, held by this process for one epoch.
class VolumeLease {
 public:
  virtual ~VolumeLease() = default;
  virtual Epoch epoch() const = 0;
  /// Whether the lock is surely still ours; when not, acknowledgments wait.
  virtual bool valid() const = 0;
  /// Whether it is lost for good: another writer may be at work.
  virtual bool lost() const = 0;
  /// Signalled whenever valid() or lost() may have changed.
  virtual Event& changed() = 0;
  /// Moves the INode pointer. Errors: fenced; unavailable and others: try again.
  virtual Task<void> commit(LogHead head) = 0;
  /// Records how few copies acknowledged blocks may have from now on; 0: all of them have all.
  /// Errors as commit().
  virtual Task<void> set_degraded(std::uint32_t copies) = 0;
};

struct VolumeOptions {
  std::size_t read_cache_size = 64 * 1024 * 1024;      // bytes
  /// Shared by volumes of one loop; none: kMapMemoryDefault of its own.
  std::shared_ptr<MapMemory> map_memory = {};
  std::size_t in_flight_size_max = 64 * 1024 * 1024;   // bytes of buffers on their way to peers
  Duration seal_after = std::chrono::seconds(1);       // an open segment nobody adds to
  std::uint64_t checkpoint_after_bytes = 256 * 1024 * 1024;  // of log
  std::uint64_t checkpoint_after_blocks = 4096;
  std::uint64_t dead_bytes_max = 128 * 1024 * 1024;    // waiting for a checkpoint to be deleted
  Duration retry_after = std::chrono::milliseconds(100);
  Duration close_deadline = std::chrono::seconds(10);
  bool cleaner = true;
  /// Fewest copies to go on with when peers are missing; 0: 1 of 2, else one less than all.
  std::uint32_t min_copies = 0;
  std::uint64_t restore_rate = 128 * 1024 * 1024;  // bytes a second of copies that are made again
  /// Copies that blocks of the last writer are sure to have, when it recorded fewer than all; 0: all.
  std::uint32_t degraded_copies = 0;
  /// For the roots of its INodes, so that the volume can be found without the MDS. Its ancestors are those
  /// of the volume.
  VolumeDescription description = {};
  bool read_only = false;  // for front ends
  /// The volume's size at its last checkpoint, when it may have been made smaller since; 0: it was not.
  std::uint64_t checkpoint_size_bytes = 0;
  /// Of the volume's snapshots, and of clones that started from them.
  std::vector<LogHead> pinned_heads = {};
  /// Open the volume although peers are missing that may hold flushed data.
  bool force_recovery = false;
};

/// What a status line and `agroctl status` show.
struct VolumeStatus {
  std::uint64_t mapped_bytes = 0;
  std::uint64_t stored_bytes = 0;   // in blocks, live or not, one copy
  std::uint64_t block_count = 0;
  std::uint64_t map_memory_bytes = 0;
  std::uint64_t log_bytes = 0;      // since the last checkpoint
  std::uint64_t cleaned_bytes = 0;  // relocated by the cleaner, since the volume was opened
  std::uint32_t copies = 0;         // that every block is sure to have
  std::uint32_t copies_wanted = 0;  // more than `copies`: it goes on with fewer, degraded
  std::string suspended;            // why writes wait; empty: they do not
  /// What is not as it should be, in words that stay the same for as long as it lasts.
  std::string health;
  std::string failed;               // why the device failed; empty: it did not
};

class Volume final : public BlockDevice {
 public:
  /// Opens a volume: fences older writers, reads the checkpoint, replays the log, restores missing
  /// copies of what it replayed, and commits a checkpoint under its own epoch. Of a volume that was made
  /// smaller, what lies beyond its end goes with that checkpoint.
  /// Shape: `size_bytes` is a multiple of 4096; all references outlive the volume.
  /// Errors: no_quorum (too few members reachable to be sure of the log's end); fenced; corrupt;
  /// unavailable; out_of_space: what this opening and earlier ones left behind has been deleted, so that
  /// another under a new epoch may succeed.
  static Task<std::unique_ptr<Volume>> open(Env& env, BlockBackend& backend, BlocksetSpec spec,
                                            VolumeId id, std::uint64_t size_bytes, LogHead head,
                                            VolumeLease& lease, VolumeOptions options);
  ~Volume() override;

  std::uint64_t size_bytes() const override { return size_bytes_; }
  bool read_only() const override { return options_.read_only; }
  Task<void> read(std::uint64_t offset, MutableBytes out) override;
  Task<void> write(std::uint64_t offset, ConstBytes data) override;
  std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) override;
  std::optional<Result<void>> try_write(std::uint64_t offset, ConstBytes data) override;
  Task<void> flush() override;
  Task<void> trim(std::uint64_t offset, std::uint64_t size) override;
  Task<void> write_zeroes(std::uint64_t offset, std::uint64_t size, bool may_punch_hole) override;
  Task<void> cache(std::uint64_t offset, std::uint64_t size) override;
  Task<std::vector<StatusExtent>> status(std::uint64_t offset, std::uint64_t size) override;

  /// Persists an INode of the present state and deletes what no longer is needed.
  Task<void> checkpoint();
  /// Flushes, writes a checkpoint and stops. Errors: what kept it from doing so within
  /// close_deadline; the volume is stopped all the same and unflushed writes may be lost.
  Task<void> close();

  /// A state that contains all that was acknowledged before the call, durable: the committed checkpoint and
  /// the log up to an end. Nothing that it needs is deleted from now on, until set_pinned_heads() says so.
  /// When a newer checkpoint is committed before it was recorded, it is to be taken again.
  Task<LogHead> take_snapshot();
  /// Writes what is to be known of a snapshot when the metadata are lost; returns the block's index.
  /// Errors: as take_snapshot().
  Task<std::uint64_t> note_snapshot(SnapshotNote note);
  /// What must not be deleted. Shape: has all that was recorded since take_snapshot() returned it.
  void set_pinned_heads(const std::vector<LogHead>& heads);
  bool has_pinned_heads() const { return pinned_data_.epoch.value != 0; }
  /// Makes the device larger. Shape: a multiple of 4096, not smaller.
  void grow(std::uint64_t size_bytes);

  VolumeStatus info() const;
  VolumeId id() const { return id_; }

 private:
  /// Peers are asked for it every second.
  static constexpr Duration kSpaceIsTold = std::chrono::seconds(2);
  static constexpr double kScarceShare = 0.0625;  // of the peers' space left: users are slowed down

  struct OpenSegment {
    SegmentBuilder builder;
    BlockId id;
    TimePoint opened_at;
  };
  struct InFlight {
    std::uint64_t sequence = 0;
    BlockId id = 0;
    std::shared_ptr<AlignedBuffer> buffer;
    std::uint32_t size = 0;
    bool durable = false;
  };
  /// A piece of a read that must come from the peers.
  struct RemoteRead {
    BlockRef ref;
    BlockId block;
    std::uint32_t sector;  // of the block
    std::uint64_t lba;
    std::uint32_t count;
    MutableBytes out;
  };
  /// A piece that is read ahead, on its way into the cache.
  struct Fetch {
    Fetch(std::uint64_t begin, std::uint32_t sector_count) : lba(begin), count(sector_count) {}
    std::uint64_t lba;
    std::uint32_t count;
    Event done;
  };
  /// A sector that the cleaner moves.
  struct Moved {
    std::uint64_t lba;
    BlockId block;
    std::uint32_t sector;
    ConstBytes bytes;
  };
  struct Victim {
    BlockId id;
    std::uint64_t sequence;
    SharedBytes payload;
  };

  Volume(Env& env, BlockBackend& backend, const BlocksetSpec& spec, VolumeId id,
         std::uint64_t size_bytes, VolumeLease& lease, VolumeOptions options);

  // volume.cpp
  Result<void> check_usable() const;
  /// Waits until the lease is sure: what is answered in the same step is answered by its holder.
  Task<void> confirm_lease();
  Result<void> check_range(std::uint64_t offset, std::uint64_t size) const;
  void start_jobs();
  void stop_jobs();
  Job stop_at(TimePoint deadline, std::shared_ptr<bool> done);

  // volume_log.cpp: the way of a write
  std::optional<Result<void>> try_write_now(std::uint64_t offset, ConstBytes data);
  bool has_write_room(std::size_t size) const;
  bool fits_open_segment(std::size_t size) const;
  Duration pace_per_segment() const;
  /// Whether the peers surely can take what is in flight and `more`, without their reserve: what is
  /// acknowledged must find room, or the checkpoint that makes room would wait for it.
  bool has_space_for_in_flight(std::uint64_t more) const;
  bool has_space_for_write(std::size_t size) const;
  /// What so many blocks take at most, with all their copies.
  std::uint64_t space_of(std::uint64_t block_count) const;
  bool is_usable() const;
  bool has_buffer_room() const;
  void evict_when_due();
  Awaitable<void> wait_for_write_room(std::size_t size);
  Awaitable<void> wait_for_buffer_room();
  OpenSegment& writable_segment();
  void write_sectors(std::uint64_t lba, ConstBytes data);
  Task<void> write_part(std::uint64_t offset, ConstBytes data);
  Task<void> mark_sectors(std::uint64_t lba, std::uint64_t count, ExtentKind kind);
  void seal();
  void send(SegmentBuilder& builder, BlockId id, std::uint16_t flags, bool reserve);
  Job write_block(std::uint64_t sequence, SharedBytes block, WriteOptions write_options);
  void block_is_durable(std::uint64_t sequence);
  Task<void> wait_durable(std::uint64_t sequence);
  void fail_device(const Error& error);
  Job seal_when_idle();
  Job follow_lease();

  // volume_read.cpp
  std::optional<Result<void>> try_read_now(std::uint64_t offset, MutableBytes out);
  BlockRef ref_of(BlockId id) const;
  bool read_local(const MapRun& run, MutableBytes out);
  bool still_there(const RemoteRead& piece) const;
  void collect_reads(std::uint64_t lba, MutableBytes out, std::vector<RemoteRead>& remote);
  Task<void> read_sectors(std::uint64_t lba, MutableBytes out);
  Task<void> read_remote(RemoteRead piece, ReadCache::Origin origin);
  void keep_in_cache(const RemoteRead& piece, ReadCache::Origin origin);
  void read_ahead_of(std::uint64_t lba, std::uint64_t count);
  Job fetch_ahead(std::shared_ptr<Fetch> fetch);
  Task<void> fetch_sectors(std::uint64_t lba, MutableBytes out);
  bool is_fetched_ahead(const std::vector<RemoteRead>& remote) const;
  Awaitable<void> wait_for_fetches(std::uint64_t lba, std::uint64_t count);

  // volume_checkpoint.cpp
  std::uint64_t dead_bytes() const;
  bool freeing_is_due() const;
  void free_covered_blocks();
  bool dead_bytes_are_missed() const;
  bool checkpoint_is_due() const;
  bool has_many_dirty_pages() const;
  Task<void> checkpoint_locked();
  Task<void> write_inode(std::vector<PageKey>& taken, std::vector<PageKey> moving,
                         std::uint64_t covered, BlockRef& root);
  /// `size`: bytes of data in them, for free_share().
  void delete_blocks(std::vector<BlockRef> refs, std::uint64_t size = 0);
  bool is_pinned(const BlockRef& ref) const;
  void note_pinned(const LogHead& head);
  void pin_head(const LogHead& head);
  void pin_map();
  Job remove_blocks(std::vector<BlockRef> refs, std::uint64_t size);
  Job checkpoint_when_due();
  void note_space_shortage();
  void end_space_shortage();
  /// Whether all was done that gives space back.
  bool nothing_to_free() const;
  Task<void> free_dead_blocks();

  // volume_copies.cpp: going on with fewer copies, and making the others again
  std::uint32_t min_copies() const;
  std::string health() const;
  Task<void> store_block(BlockRef ref, SharedBytes block, WriteOptions options);
  Task<void> record_copies(std::uint32_t copies);
  Job restore_when_possible();
  Task<bool> restore_copies();
  Task<bool> restore_blocks();
  Task<void> restore_block(BlockRef ref);
  std::vector<BlockRef> needed_refs() const;

  // volume_pages.cpp
  Task<void> load_page(std::uint32_t page);
  PagePin pin_range(std::uint64_t lba, std::uint64_t count);
  Task<void> load_range(std::uint64_t lba, std::uint64_t count);
  Task<void> load_ranges(std::vector<PagePin>& pins, std::vector<SectorRange> ranges);
  Task<void> read_moved_page(PageKey key, std::vector<std::byte>& bytes);
  Task<void> move_pages(std::vector<PageKey> keys);

  // volume_recovery.cpp
  Task<void> recover(LogHead head);
  Awaitable<void> remove_unnamed_inode(std::vector<BlockRef> named);
  std::uint32_t sure_copies() const;
  Result<void> check_missing(const std::vector<PeerId>& missing) const;
  Task<std::vector<BlockRef>> replay_log(LogHead head, Reached fenced);
  Task<void> replay_closed_log(LogHead head);
  Task<void> replay_blocks(std::vector<Listing::Entry> entries);
  Task<void> replay_block(Listing::Entry entry, SharedBytes& block);
  Task<void> load_for_segment(ConstBytes payload, std::vector<PagePin>& pins);
  Result<void> apply_segment(const BlockRef& ref, std::uint32_t size, ConstBytes payload);
  Job sweep();
  Task<void> cut_map();
  void remember_committed_blocks();

  // volume_cleaner.cpp
  Job clean_when_needed();
  bool cleaning_is_needed() const;
  /// Whether another round would surely give back more than it takes.
  bool cleaning_gains() const;
  /// Whether the next round could take of the reserve.
  bool cleans_from_reserve() const;
  std::vector<BlockId> choose_victims() const;
  Task<bool> clean_once(std::uint64_t& activity_before);
  Task<std::uint64_t> clean_some();
  Task<void> read_victim(Victim& victim);
  Task<void> find_live(const Victim& victim, std::vector<Moved>& moved);
  void keep_full_blocks(std::vector<Moved>& moved) const;
  std::size_t move_block(const std::vector<Moved>& moved, std::size_t begin, std::size_t end);
  /// Drops what is to be moved out of blocks that were freed meanwhile; false: nothing was.
  bool drop_freed(const std::vector<Victim>& victims, std::vector<Moved>& moved) const;
  double free_share(bool soon) const;
  bool is_space_scarce() const;
  double garbage_ratio_limit() const;
  bool is_busy() const { return busy_; }
  /// Moves whenever users read or write.
  std::uint64_t user_activity() const { return written_sectors_ + read_count_; }

  Env& env_;
  BlockBackend& backend_;
  std::unique_ptr<Blockset> blockset_;
  VolumeId id_;
  Lineage lineage_;
  std::uint64_t size_bytes_;
  VolumeLease& lease_;
  VolumeOptions options_;
  BufferPool buffers_;
  ReadCache cache_;
  static constexpr std::size_t kFetchesAtOnce = 4;
  ReadAhead read_ahead_;
  std::vector<std::shared_ptr<Fetch>> fetches_;  // at most so many
  VolumeMap map_;
  MapMemory::Share map_share_;
  Inode inode_;

  std::optional<OpenSegment> open_;
  std::deque<InFlight> in_flight_;            // by sequence, without gaps
  std::vector<AlignedBuffer*> resident_;      // by BlockId: buffers of open and in-flight blocks
  std::uint64_t last_sequence_ = 0;           // given to the last sealed block
  std::uint64_t durable_sequence_ = 0;
  std::uint64_t covered_sequence_ = 0;        // by the committed INode
  LogHead committed_head_;
  BlockRef pinned_data_;                      // the newest that a snapshot may need; epoch 0: none
  BlockRef pinned_inode_;
  bool eviction_is_due_ = false;              // a block was sealed since the last
  std::uint64_t log_bytes_ = 0;               // sealed since the last checkpoint began
  std::uint64_t log_blocks_ = 0;
  std::uint64_t written_sectors_ = 0;         // by users, ever
  std::uint64_t read_count_ = 0;
  std::uint64_t dead_bytes_left_ = 0;         // by the last free_covered_blocks()
  std::vector<BlockRef> doomed_;              // to delete after the next commit
  std::uint64_t doomed_bytes_ = 0;            // of data in them
  std::size_t removal_count_ = 0;             // under way
  std::uint64_t removing_bytes_ = 0;          // of data in them
  std::uint64_t cleaned_bytes_ = 0;
  bool busy_ = false;                         // users read or wrote lately
  TimePoint paced_until_;                     // users open no segment before
  bool short_of_space_ = false;               // users wait; what is in flight may use the reserve
  TimePoint space_known_at_;                  // peers that refused a block have said anew what they have
  std::set<std::uint64_t> unreadable_;        // sequences of blocks that the cleaner could not read
  VolumeProof committed_;                     // the checkpoint of open(), for sweep()

  std::uint32_t recorded_copies_ = 0;         // so few are recorded in the MDS as sure; 0: all
  bool record_may_exist_ = false;             // in the MDS
  std::uint64_t record_serial_ = 0;           // changes with recorded_copies_
  std::uint64_t thin_count_ = 0;              // blocks acknowledged with fewer than all copies
  AsyncMutex record_mutex_;
  Event record_changed_;

  std::optional<Error> failed_;
  std::optional<Error> suspended_;
  bool is_open_ = false;    // its recovery is over: from now on what cannot be reached is waited for
  bool stopping_jobs_ = false;
  Event progress_;          // durable_sequence_ moved, room was made, the device failed
  Event opened_;            // a segment was opened, or stopping
  Event checkpoint_wanted_;
  Event clean_wanted_;
  Event stopping_;
  AsyncMutex checkpoint_mutex_;
  TaskGroup jobs_;

  Metric& metric_written_bytes_;
  Metric& metric_read_bytes_;
  Metric& metric_ahead_bytes_;
  Metric& metric_flushes_;
  Metric& metric_cleaned_bytes_;
  Metric& metric_loaded_pages_;
  Metric& metric_checkpoint_bytes_;
  Histogram& read_latency_;
  Histogram& write_latency_;
  Histogram& flush_latency_;
  Histogram& trim_latency_;
  /// What is answered at once is so quick that reading the clock would show: one of so many is timed.
  static constexpr std::uint32_t kTimedOf = 8;
  std::uint32_t quick_reads_ = 0;
  std::uint32_t quick_writes_ = 0;
};

}  // namespace agro
