#include "node/volume_search.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "block/segment.hpp"
#include "block/volume_map.hpp"
#include "metadata/metadata.hpp"

namespace agro {
namespace {

constexpr Duration kListLimit = std::chrono::minutes(2);
constexpr Duration kFenceLimit = std::chrono::seconds(10);
constexpr Epoch kDeleted{UINT64_MAX};

constexpr auto kByRef = [](const auto& seen, const BlockRef& ref) { return seen.ref < ref; };

}  // namespace

VolumeSearch::VolumeSearch(Env& env, std::uint32_t block_size, std::shared_ptr<const Ring> ring,
                           std::vector<SearchedPeer> peers)
    : env_(env),
      peers_(std::move(peers)),
      distributor_(env, block_size),
      buffers_(block_size, 1),
      with_crc_(make_blockset(*parse_blockset_spec("crc,base"), distributor_)),
      plain_(make_blockset(*parse_blockset_spec("base"), distributor_)) {
  std::map<PeerId, std::shared_ptr<Peer>> by_id;
  for (const SearchedPeer& one : peers_) by_id[one.peer->id()] = one.peer;
  distributor_.set_peers(std::move(by_id));
  distributor_.set_ring(std::move(ring));
}

Task<void> VolumeSearch::list_all() {
  std::vector<BlockRef> refs;
  for (const SearchedPeer& one : peers_) {
    Result<std::vector<BlockInfo>> blocks =
        co_await one.peer->list(BlockFilter{}, env_.clock.now() + kListLimit);
    if (!blocks.has_value()) co_return fail(with_context(blocks.error(), one.place));
    refs.reserve(refs.size() + blocks->size());
    for (const BlockInfo& block : *blocks) refs.push_back(block.ref);
    co_await yield_to_loop();
  }
  std::sort(refs.begin(), refs.end());
  seen_.clear();
  for (const BlockRef& ref : refs) {
    if (seen_.empty() || seen_.back().ref != ref) seen_.push_back({ref, 0});
    ++seen_.back().copy_count;
  }
  co_return Result<void>();
}

Task<FoundCluster> VolumeSearch::search() {
  AGRO_CO_TRY_OK(co_await list_all());
  FoundCluster found;
  std::map<std::uint32_t, std::uint64_t> by_copies;
  for (const Seen& seen : seen_) {
    if (seen.ref.type == BlockType::data) ++by_copies[seen.copy_count];
  }
  std::uint64_t most = 0;
  for (const auto& [copies, count] : by_copies) {
    if (count >= most) found.copy_count = copies;
    most = std::max(most, count);
  }
  for (auto begin = seen_.begin(); begin != seen_.end();) {
    const VolumeId id = begin->ref.volume;
    const auto end = std::find_if(begin, seen_.end(),
                                  [id](const Seen& seen) { return seen.ref.volume != id; });
    AGRO_CO_TRY(FoundVolume volume, co_await examine(SeenRange(begin, end)));
    found.volumes.push_back(std::move(volume));
    found.last_volume = id;
    begin = end;
  }
  co_return std::move(found);
}

Task<FoundVolume> VolumeSearch::examine(SeenRange blocks) {
  FoundVolume volume;
  volume.id = blocks.front().ref.volume;
  volume.block_count = blocks.size();
  volume.epoch = blocks.back().ref.epoch;
  note_fences(volume);
  volume.epoch.value += kTracelessMax;
  if (!volume.deleted) {
    AGRO_CO_TRY_OK(co_await find_checkpoint(blocks, volume));
    if (volume.has_checkpoint) follow_log(blocks, volume);
    if (volume.has_checkpoint) AGRO_CO_TRY_OK(co_await find_snapshots(blocks, volume));
  }
  co_return std::move(volume);
}

void VolumeSearch::note_fences(FoundVolume& volume) const {
  for (const SearchedPeer& one : peers_) {
    if (one.store == nullptr) continue;
    const Epoch fence = one.store->fence_of(volume.id);
    if (fence == kDeleted) {
      volume.deleted = true;
    } else {
      volume.epoch = std::max(volume.epoch, fence);
    }
  }
}

/// The newest that can be read whole. Blocks of a checkpoint go only when a newer one was committed,
/// so the newest is there unless peers are missing or copies are damaged.
Task<void> VolumeSearch::find_checkpoint(SeenRange blocks, FoundVolume& volume) {
  for (std::size_t index = blocks.size(); index-- > 0;) {
    if (blocks[index].ref.type != BlockType::inode) continue;
    AGRO_CO_TRY(volume.has_checkpoint,
                co_await try_checkpoint(blocks[index].ref, blocks, volume));
    if (volume.has_checkpoint) co_return Result<void>();
  }
  volume.doubts.push_back("no checkpoint can be read: the volume is not recovered");
  co_return Result<void>();
}

/// Whether this block is the root of a checkpoint that can be read whole. What is none is passed over.
Task<bool> VolumeSearch::try_checkpoint(BlockRef ref, SeenRange blocks, FoundVolume& volume) {
  Error problem;
  for (Blockset* blockset : {with_crc_.get(), plain_.get()}) {
    Result<SharedBytes> block = co_await blockset->read_block(ref, {});
    if (!block.has_value()) {
      if (problem.message.empty()) problem = std::move(block).error();
      continue;
    }
    const Result<SharedBytes> payload = blockset->payload(ref, std::move(*block));
    if (!payload.has_value()) {
      if (problem.message.empty()) problem = payload.error();
      continue;
    }
    if (is_snapshot_note(payload->bytes)) co_return false;
    if (!Inode::is_root(payload->bytes)) {
      // Pages have no magic: those of a volume with checksums are not asked for without.
      if (blockset == with_crc_.get()) co_return false;
      continue;
    }
    Result<bool> loaded = co_await load_checkpoint(ref, *blockset, blocks, volume);
    if (loaded.has_value()) co_return true;
    problem = std::move(loaded).error();
    break;
  }
  volume.doubts.push_back(fmt::format("{} cannot be read ({}): what was written last may be lost",
                                      ref.to_string(), problem.message));
  co_return false;
}

Task<bool> VolumeSearch::load_checkpoint(BlockRef ref, Blockset& blockset, SeenRange blocks,
                                         FoundVolume& volume) {
  Inode inode(volume.id, blockset, buffers_);
  AGRO_CO_TRY(InodeMeta meta, co_await inode.load_root(ref));
  if (meta.epoch != ref.epoch || meta.size_bytes % kSectorSize != 0) {
    co_return fail(Errc::corrupt, "INode: root of another epoch or of an odd size");
  }
  VolumeMap map(meta.size_bytes / kSectorSize);
  AGRO_CO_TRY_OK(co_await inode.load_pages(map));
  std::uint64_t missing_count = 0;
  for (BlockId id = 0; id < map.table().id_limit(); ++id) {
    const BlockEntry& entry = map.table()[id];
    if (entry.state == BlockState::free || entry.live_count == 0) continue;
    if (inode.lineage().owner_of(entry.epoch) != volume.id) continue;  // an ancestor's
    const BlockRef data{volume.id, entry.epoch, entry.sequence, BlockType::data};
    const auto seen = std::lower_bound(blocks.begin(), blocks.end(), data, kByRef);
    if (seen == blocks.end() || seen->ref != data) ++missing_count;
  }
  if (missing_count > 0) {
    volume.doubts.push_back(
        fmt::format("{} blocks that hold data are on no peer: reads of them fail", missing_count));
  }
  volume.head = {meta.epoch, ref.epoch, ref.index, meta.covered_sequence, meta.size_bytes};
  volume.description = std::move(meta.description);
  if (volume.description.block_spec.empty()) {
    volume.description.block_spec = &blockset == with_crc_.get() ? "crc,base" : "base";
  }
  co_return true;
}

/// A note tells of a snapshot that was recorded, refused or deleted: those come back of which everything is there.
/// Of two of a name the later one.
Task<void> VolumeSearch::find_snapshots(SeenRange blocks, FoundVolume& volume) {
  Blockset& blockset = volume.description.block_spec.find("crc") == std::string::npos ? *plain_ : *with_crc_;
  std::map<std::string, SnapshotRecord> by_name;
  for (const Seen& seen : blocks) {
    if (seen.ref.type != BlockType::inode) continue;
    AGRO_CO_TRY(const std::optional<SnapshotNote> note, co_await read_note(seen.ref, blockset));
    if (!note.has_value()) continue;
    AGRO_CO_TRY(const bool is_whole, co_await has_all_of(*note, volume, blockset, blocks));
    if (!is_whole) continue;
    const VolumeHead head{note->epoch,    note->checkpoint_epoch, note->root_index,
                          note->sequence, note->size_bytes,       note->log_end};
    by_name[note->name] = {note->name, head, note->created_unix_ms, note->origin, seen.ref.index};
  }
  for (auto& [name, snapshot] : by_name) volume.snapshots.push_back(std::move(snapshot));
  co_return Result<void>();
}

/// Nothing, when the block is no note or cannot be read: what a volume needs, its checkpoint says.
Task<std::optional<SnapshotNote>> VolumeSearch::read_note(BlockRef ref, Blockset& blockset) {
  Result<SharedBytes> block = co_await blockset.read_block(ref, {});
  if (!block.has_value()) co_return std::nullopt;
  const Result<SharedBytes> payload = blockset.payload(ref, std::move(*block));
  if (!payload.has_value()) co_return std::nullopt;
  Result<SnapshotNote> note = decode_snapshot_note(payload->bytes);
  const bool is_sound = note.has_value() && note->volume == ref.volume && note->epoch == ref.epoch &&
                        check_volume_name(note->name).has_value();
  if (!is_sound) co_return std::nullopt;
  co_return std::optional<SnapshotNote>(std::move(*note));
}

/// Whether every block of this volume that a snapshot needs was seen; of ancestors nobody knows here.
Task<bool> VolumeSearch::has_all_of(SnapshotNote note, const FoundVolume& volume, Blockset& blockset,
                                    SeenRange blocks) {
  const Lineage lineage(volume.id, volume.description.ancestors);
  Inode inode(lineage, blockset, buffers_);
  const BlockRef root{lineage.owner_of(note.checkpoint_epoch), note.checkpoint_epoch, note.root_index,
                      BlockType::inode};
  const Result<InodeMeta> meta = co_await inode.load_root(root);
  if (!meta.has_value() || meta->covered_sequence != note.sequence) co_return false;
  Result<std::vector<BlockRef>> needed = co_await inode.load_needed_blocks();
  if (!needed.has_value() || note.log_end - note.sequence > blocks.size() + 1) co_return false;
  for (std::uint64_t index = note.sequence + 1; index < note.log_end; ++index) {
    needed->push_back({lineage.owner_of(note.epoch), note.epoch, index, BlockType::data});
  }
  co_return std::all_of(needed->begin(), needed->end(), [&](const BlockRef& ref) {
    const auto seen = std::lower_bound(blocks.begin(), blocks.end(), ref, kByRef);
    return ref.volume != volume.id || (seen != blocks.end() && seen->ref == ref);
  });
}

void VolumeSearch::follow_log(SeenRange blocks, FoundVolume& volume) {
  const Epoch newest = blocks.back().ref.epoch;
  for (const Seen& seen : blocks) {
    const bool in_tail = seen.ref.type == BlockType::data && seen.ref.epoch == volume.head.epoch &&
                         seen.ref.index == volume.head.sequence + 1 + volume.tail_count;
    if (in_tail) ++volume.tail_count;
  }
  // With all peers named those were on their way when the writer died; with some missing anybody's.
  const auto beyond = std::count_if(blocks.begin(), blocks.end(), [&volume](const Seen& seen) {
    return seen.ref.type == BlockType::data && seen.ref.epoch == volume.head.epoch &&
           seen.ref.index > volume.head.sequence + volume.tail_count;
  });
  if (beyond > 0) {
    volume.doubts.push_back(fmt::format("{} blocks lie beyond a gap in the log and are lost: unless all "
                                        "peers are named, flushed writes may be among them",
                                        beyond));
  }
  // An opening writes its checkpoint before anything else, so those blocks had one.
  const bool newer_data = std::any_of(blocks.begin(), blocks.end(), [&volume](const Seen& seen) {
    return seen.ref.type == BlockType::data && seen.ref.epoch > volume.head.epoch;
  });
  if (newer_data) {
    volume.doubts.push_back(fmt::format("there is data up to epoch {}, but no checkpoint newer than "
                                        "epoch {} can be read: what was written since is lost",
                                        newest.value, volume.head.epoch.value));
  }
}

Task<void> VolumeSearch::fence_volumes(FoundCluster& found) {
  for (FoundVolume& volume : found.volumes) {
    for (std::size_t index = 0; index < peers_.size() && !volume.deleted; ++index) {
      const TimePoint deadline = env_.clock.now() + kFenceLimit;
      const Result<void> done =
          co_await peers_[index].peer->fence(volume.id, volume.epoch, deadline);
      if (done.code() == Errc::fenced) {
        volume.deleted = true;
      } else if (!done.has_value()) {
        co_return fail(with_context(done.error(), peers_[index].place));
      }
    }
  }
  co_return Result<void>();
}

}  // namespace agro
