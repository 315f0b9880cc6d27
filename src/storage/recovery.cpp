#include "storage/recovery.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "base/units.hpp"
#include "storage/log_group.hpp"

namespace agro {
namespace {

Error damaged(const std::string& name, const std::string& what) {
  return {Errc::corrupt,
          name + " is damaged or truncated: " + what +
              "; restore it, or remove it and let the cluster copy its blocks again"};
}

bool is_zero(ConstBytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte each) { return each == std::byte{}; });
}

/// Follows the log and applies what it says.
class Replay {
 public:
  Replay(File& file, RecoveredStore& store, StoreShape shape, std::string name)
      : file_(file),
        store_(store),
        shape_(shape),
        name_(std::move(name)),
        here_(shape.block_size),
        there_(shape.block_size) {}

  Task<void> run() {
    const LogPosition start = store_.superblock.log_start();
    if (start.slot >= shape_.slot_count || start.next_slot >= shape_.slot_count) {
      co_return fail(damaged(name_, "the log starts beyond the end"));
    }
    store_.position = start;
    store_.log_slots = {start.slot};
    AGRO_CO_TRY_OK(co_await read_slot(start.slot, here_));
    std::uint32_t loaded_next = kNoSlot;
    while (true) {
      const Found found = find_frame(here_, store_.position.slot, store_.position.page);
      if (found == Found::damaged) co_return fail(damaged(name_, "a log frame"));
      if (found == Found::yes) {
        take_frame();
        continue;
      }
      const std::uint32_t next = store_.position.next_slot;
      if (loaded_next != next) {
        AGRO_CO_TRY_OK(co_await read_slot(next, there_));
        loaded_next = next;
        co_await yield_to_loop();
      }
      const Found beyond = find_frame(there_, next, 0);
      if (beyond == Found::damaged) co_return fail(damaged(name_, "a log frame"));
      if (beyond == Found::no) break;
      std::swap(here_, there_);
      loaded_next = kNoSlot;
      store_.log_slots.push_back(next);
      store_.position.slot = next;
      store_.position.page = 0;
      take_frame();
    }
    AGRO_CO_TRY_OK(check_nothing_follows());
    co_return co_await settle_last_group();
  }

 private:
  enum class Found { no, yes, damaged };
  struct Replayed {
    StoreRecord record;
    PackedTail tail;  // of its frame
  };

  Task<void> read_slot(std::uint32_t slot, AlignedBuffer& buffer) {
    return file_.read(slot_offset(slot, shape_.block_size), buffer.bytes());
  }

  static ConstBytes page_of(const AlignedBuffer& buffer, std::uint32_t page) {
    return buffer.bytes().subspan(std::size_t{page} * kPageSize, kPageSize);
  }

  /// Whether the next frame of the chain lies there; then it is in frame_.
  Found find_frame(const AlignedBuffer& buffer, std::uint32_t slot, std::uint32_t page) {
    if (page >= shape_.pages_per_slot()) return Found::no;
    const Result<FrameHeader> header = decode_frame_header(page_of(buffer, page), slot, page);
    if (!header.has_value() || header->sequence != store_.position.sequence ||
        header->previous_crc != store_.position.previous_crc) {
      return Found::no;
    }
    Result<Frame> frame = decode_frame(page_of(buffer, page), slot, page, shape_);
    if (!frame.has_value()) return Found::damaged;
    const bool same_group = header->group_sequence == group_sequence_;
    if (!same_group && header->group_sequence != header->sequence) return Found::damaged;
    frame_ = std::move(*frame);
    return Found::yes;
  }

  /// Moves past frame_. Its group is the last one so far: those before it are proven durable,
  /// because a group is written only after the one before it is synced.
  void take_frame() {
    const FrameHeader& header = frame_.header;
    if (header.group_sequence != group_sequence_) {
      for (const Replayed& each : group_) apply(each);
      group_.clear();
      group_sequence_ = header.group_sequence;
    }
    for (const StoreRecord& record : frame_.records) group_.push_back({record, header.tail()});
    const std::uint32_t page_count = 1U + header.inline_page_count;
    LogPosition& position = store_.position;
    position.page += page_count;
    position.previous_crc = header.self_crc;
    position.next_slot = header.next_slot;
    ++position.sequence;
    store_.log_size += std::uint64_t{page_count} * kPageSize;
  }

  void apply(const Replayed& replayed) {
    const StoreRecord& record = replayed.record;
    const BlockRef ref = record.ref();
    if (record.is_put()) {
      store_.index.put(ref, location_of(record, replayed.tail));
    } else if (record.kind == RecordKind::remove) {
      store_.index.remove(ref);
    } else {
      Epoch& fence = store_.fences[ref.volume];
      fence = std::max(fence, ref.epoch);
    }
  }

  /// A frame of a later group proves that the one we miss was durable: then it has rotted.
  Result<void> check_nothing_follows() const {
    const auto scan = [&](const AlignedBuffer& buffer, std::uint32_t slot, std::uint32_t from) {
      for (std::uint32_t page = from; page < shape_.pages_per_slot(); ++page) {
        const Result<FrameHeader> header = decode_frame_header(page_of(buffer, page), slot, page);
        if (header.has_value() && header->group_sequence > store_.position.sequence) return true;
      }
      return false;
    };
    if (scan(here_, store_.position.slot, store_.position.page) ||
        scan(there_, store_.position.next_slot, 0)) {
      return fail(damaged(name_, fmt::format("log frame {} is gone though later ones are there",
                                             store_.position.sequence)));
    }
    return {};
  }

  /// The last group may not have been synced: a block in it counts only if its bytes verify.
  Task<void> settle_last_group() {
    std::vector<BlockRef> dropped;
    for (const Replayed& each : group_) {
      const StoreRecord& record = each.record;
      bool good = true;
      if (record.is_put() && !record.is_durable()) {
        const MutableBytes bytes = there_.bytes().first(record.size);
        AGRO_CO_TRY_OK(co_await read_pieces(file_, location_of(record, each.tail), shape_.block_size, 0, bytes));
        good = crc32c(bytes) == record.data_crc;
      }
      if (good) {
        apply(each);
      } else {
        dropped.push_back(record.ref());
      }
    }
    for (const BlockRef& ref : dropped) restate(ref);
    co_return Result<void>();
  }

  void restate(const BlockRef& ref) {
    if (const auto location = store_.index.find(ref)) {
      store_.restated.push_back(durable_record(ref, *location));
      return;
    }
    StoreRecord record;
    record.kind = RecordKind::remove;
    record.set_ref(ref);
    store_.restated.push_back(record);
  }

  File& file_;
  RecoveredStore& store_;
  StoreShape shape_;
  std::string name_;
  AlignedBuffer here_;   // the slot of the position
  AlignedBuffer there_;  // the slot after it
  Frame frame_;
  std::uint64_t group_sequence_ = 0;
  std::vector<Replayed> group_;
};

Task<void> load_checkpoint(File& file, RecoveredStore& store, StoreShape shape, std::string name) {
  AlignedBuffer buffer(shape.block_size);
  std::uint64_t record_count = 0;
  std::uint32_t slot = store.superblock.checkpoint_slot;
  while (slot != kNoSlot) {
    if (slot >= shape.slot_count || store.checkpoint_slots.size() > shape.slot_count) {
      co_return fail(damaged(name, "the index checkpoint lies beyond the end"));
    }
    AGRO_CO_TRY_OK(co_await file.read(slot_offset(slot, shape.block_size), buffer.bytes()));
    const Result<CheckpointPart> part = decode_checkpoint(buffer.bytes(), shape);
    if (!part.has_value()) co_return fail(damaged(name, part.error().message));
    if (part->header.generation != store.superblock.generation ||
        part->header.chain_index != store.checkpoint_slots.size()) {
      co_return fail(damaged(name, "the index checkpoint is of another time"));
    }
    for (const StoreRecord& record : part->records) {
      if (record.is_put()) {
        store.index.put(record.ref(), location_of(record, {}));
      } else {
        store.fences[record.ref().volume] = record.ref().epoch;
      }
    }
    record_count += part->records.size();
    store.checkpoint_slots.push_back(slot);
    slot = part->header.next_slot;
  }
  if (record_count != store.superblock.checkpoint_records) {
    co_return fail(damaged(name, "the index checkpoint is incomplete"));
  }
  co_return Result<void>();
}

}  // namespace

std::uint32_t slots_in(std::uint64_t size, std::uint32_t block_size) {
  if (size < kSlotsOffset) return 0;
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>((size - kSlotsOffset) / block_size, kNoSlot - 1));
}

Task<Superblocks> read_superblocks(File& file, std::string name) {
  Superblocks found;
  if (file.size() == 0) {
    found.blank = true;
    co_return found;
  }
  AlignedBuffer pages(kSlotsOffset);
  std::memset(pages.data(), 0, pages.size());
  const MutableBytes there = pages.bytes().first(std::min(file.size(), kSlotsOffset));
  AGRO_CO_TRY_OK(co_await file.read(0, there));
  if (is_zero(pages.bytes())) {
    found.blank = true;
    co_return found;
  }
  const Result<Superblock> first = decode_superblock(pages.bytes().first(kPageSize));
  const Result<Superblock> second = decode_superblock(pages.bytes().subspan(kPageSize, kPageSize));
  for (const Result<Superblock>* each : {&first, &second}) {
    if (each->code() == Errc::not_supported) {
      co_return fail(with_context(each->error(), name));
    }
  }
  if (!first.has_value() && !second.has_value()) {
    co_return fail(damaged(name, first.error().message));
  }
  found.equal = first.has_value() && second.has_value() && first->self_crc == second->self_crc;
  if (!first.has_value() || !second.has_value()) {
    log_warning("{}: one of two superblocks does not verify; using and restoring from the other", name);
  }
  found.best = first.has_value() ? *first : *second;
  if (first.has_value() && second.has_value() && second->generation > first->generation) {
    found.best = *second;
  }
  co_return found;
}

Task<RecoveredStore> recover_store(File& file, Superblocks superblocks, std::string name) {
  RecoveredStore store;
  store.superblock = superblocks.best;
  store.superblocks_equal = superblocks.equal;
  if (store.superblock.version != kStoreVersion) {
    // No frame of the new version may be written before both say so: an older program would misread it.
    log_info("{}: the format becomes version {}, which older programs refuse to open", name, kStoreVersion);
    store.superblock.version = kStoreVersion;
    store.superblocks_equal = false;
  }
  const std::uint32_t block_size = superblocks.best.block_size;
  const StoreShape shape{block_size, slots_in(file.size(), block_size)};
  AGRO_CO_TRY_OK(co_await load_checkpoint(file, store, shape, name));
  Replay replay(file, store, shape, name);
  AGRO_CO_TRY_OK(co_await replay.run());
  co_return std::move(store);
}

Result<SlotTable> recover_slots(const RecoveredStore& store, SlotCounts counts, const std::string& name) {
  std::uint32_t highest = store.position.next_slot;
  for (const std::uint32_t slot : store.checkpoint_slots) highest = std::max(highest, slot);
  for (const std::uint32_t slot : store.log_slots) highest = std::max(highest, slot);
  for (std::size_t shard = 0; shard < BlockIndex::kShardCount; ++shard) {
    store.index.visit_shard(shard, [&](const BlockRef&, const BlockLocation& location) {
      highest = std::max(highest, location.slot);
    });
  }
  if (highest >= counts.max) {
    const std::uint64_t needed = slot_offset(highest + 1, store.superblock.block_size);
    return fail(Errc::invalid_argument,
                fmt::format("{} holds data up to {} bytes: give a size of at least {}", name, needed,
                            format_size(round_up(needed, kMiB))));
  }
  SlotTable slots(counts.max, counts.log_ahead, counts.log_kept);
  slots.grow_to(std::min(counts.grown, counts.max));
  for (std::uint32_t slot = 0; slot < std::min(counts.written, slots.grown_count()); ++slot) slots.set_written(slot);
  const auto claim = [&](std::uint32_t slot, SlotUse use) {
    if (slots.use(slot) != SlotUse::free) return false;
    slots.claim(slot, use);
    if (use == SlotUse::log || use == SlotUse::segment) slots.set_written(slot);
    return true;
  };
  bool good = claim(store.position.next_slot, SlotUse::log);
  for (const std::uint32_t slot : store.checkpoint_slots) good &= claim(slot, SlotUse::checkpoint);
  for (const std::uint32_t slot : store.log_slots) good &= claim(slot, SlotUse::log);
  for (std::size_t shard = 0; shard < BlockIndex::kShardCount; ++shard) {
    store.index.visit_shard(shard, [&](const BlockRef&, const BlockLocation& location) {
      if (!location.is_inline()) {
        good &= claim(location.slot, SlotUse::block);
        return;
      }
      if (slots.use(location.slot) == SlotUse::free) claim(location.slot, SlotUse::segment);
      const SlotUse use = slots.use(location.slot);
      good &= use == SlotUse::log || use == SlotUse::segment;
      slots.add_live(location.slot, pages_of(location.size));
      good &= slots.live_pages(location.slot) <= store.superblock.block_size / kPageSize;
    });
  }
  if (!good) return fail(damaged(name, "two things claim one slot"));
  return slots;
}

}  // namespace agro
