// Snapshots, as the writer of a volume makes them, and growth.
//
// A snapshot is the committed checkpoint and the log that follows it up to an end, so taking one
// costs a seal and a wait for what is in flight, whatever the volume's size. What it needs are
// blocks that exist already: those made up to then are pinned, and neither deleted here nor moved
// by the cleaner; when the last snapshot that needs one is gone, gc deletes it.
#include "block/volume.hpp"

namespace agro {

Task<LogHead> Volume::take_snapshot() {
  AGRO_CO_TRY_OK(check_usable());
  seal();
  const std::uint64_t sequence = last_sequence_;
  // Before the wait: a checkpoint that is committed meanwhile must not delete what this one names.
  LogHead head = committed_head_;
  head.log_end = sequence + 1;
  pin_head(head);
  AGRO_CO_TRY_OK(co_await wait_durable(sequence));
  head = committed_head_;
  head.log_end = std::max(sequence, head.sequence) + 1;
  pin_head(head);
  AGRO_CO_TRY_OK(co_await confirm_lease());
  co_return head;
}

void Volume::note_pinned(const LogHead& head) {
  const BlockRef data{id_, head.epoch, head.log_end - 1, BlockType::data};
  const BlockRef inode{id_, head.checkpoint_epoch, head.root_index, BlockType::inode};
  pinned_data_ = std::max(pinned_data_, data);
  pinned_inode_ = std::max(pinned_inode_, inode);
  if (head.note_index == 0) return;
  pinned_inode_ = std::max(pinned_inode_, {id_, head.epoch, head.note_index, BlockType::inode});
}

/// The note is newer than the checkpoint that the snapshot starts from, so nothing judges it before the snapshot
/// is recorded; it is pinned before it is written, so that its missing copies are made.
Task<std::uint64_t> Volume::note_snapshot(SnapshotNote note) {
  AGRO_CO_TRY_OK(check_usable());
  note.volume = id_;
  const BlockRef ref = inode_.take_note_ref(note.epoch);
  pinned_inode_ = std::max(pinned_inode_, ref);
  AGRO_CO_TRY_OK(co_await inode_.write_note(ref, encode_snapshot_note(note)));
  co_return ref.index;
}

void Volume::pin_head(const LogHead& head) {
  note_pinned(head);
  pin_map();
}

/// An ancestor's blocks are older than all of ours.
void Volume::pin_map() {
  std::pair<Epoch, std::uint64_t> newest{pinned_data_.epoch, pinned_data_.index};
  if (!lineage_.ancestors().empty()) {
    newest = std::max(newest, {lineage_.ancestors().back().last_epoch, UINT64_MAX});
  }
  map_.set_pinned(newest.first, newest.second);
}

void Volume::set_pinned_heads(const std::vector<LogHead>& heads) {
  pinned_data_ = pinned_inode_ = {};
  for (const LogHead& head : heads) note_pinned(head);
  pin_map();
}

bool Volume::is_pinned(const BlockRef& ref) const {
  if (ref.volume != id_) return true;  // an ancestor's
  const BlockRef& newest = ref.type == BlockType::data ? pinned_data_ : pinned_inode_;
  return newest.epoch.value != 0 &&
         std::pair(ref.epoch, ref.index) <= std::pair(newest.epoch, newest.index);
}

void Volume::grow(std::uint64_t size_bytes) {
  AGRO_ASSERT(size_bytes % kSectorSize == 0);
  AGRO_ASSERT(size_bytes >= size_bytes_);
  map_.grow(size_bytes / kSectorSize);
  size_bytes_ = size_bytes;
}

}  // namespace agro
