#include "storage/mmap_store.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/crc32c.hpp"
#include "base/log.hpp"
#include "base/mutant.hpp"
#include "storage/mmap_store_impl.hpp"

namespace agro {

namespace {

Histogram& operation_latency(Metrics& metrics, const char* op) {
  return metrics.histogram("agro_store_operation_seconds",
                           "Time that stores took to put blocks, and to write and sync groups",
                           {{"op", op}});
}

}  // namespace

MmapStore::MmapStore(Env& env, StoreOptions options, std::unique_ptr<File> file,
                     RecoveredStore recovered, SlotTable slots)
    : env_(env),
      options_(std::move(options)),
      file_(std::move(file)),
      session_(env.random.next()),
      index_(std::move(recovered.index)),
      slots_(std::move(slots)),
      superblock_(recovered.superblock),
      checkpoint_slots_(std::move(recovered.checkpoint_slots)),
      position_(recovered.position),
      applied_position_(recovered.position),
      log_slots_(recovered.log_slots.begin(), recovered.log_slots.end()),
      log_size_(recovered.log_size),
      put_latency_(operation_latency(env.metrics, "put")),
      sync_latency_(operation_latency(env.metrics, "sync")),
      tasks_(env.executor) {
  if (AGRO_MUTANT(kFenceForgotten)) return;
  for (const auto& [volume, epoch] : recovered.fences) fences_[volume] = {epoch, epoch};
}

MmapStore::~MmapStore() { AGRO_ASSERT(tasks_.count() == 0); }

Task<void> MmapStore::start(std::vector<StoreRecord> restated, bool rewrite_superblocks) {
  // What recovery read may be in a volatile cache only; from here on others are told of it.
  if (Result<void> synced = co_await file_->sync(); !synced.has_value()) {
    co_return fail(poison(std::move(synced).error()));
  }
  ++sync_count_;
  if (rewrite_superblocks) AGRO_CO_TRY_OK(co_await write_superblocks(superblock_));
  // All of it or none may be in the log, so it must be one frame; more than fits goes by way of a
  // checkpoint, after which the log that needed restating is not read again.
  if (restated.size() > kFrameRecordsMax) {
    AGRO_CO_TRY_OK(co_await write_checkpoint());
  } else if (!restated.empty()) {
    auto completion = std::make_shared<Completion>();
    for (const StoreRecord& record : restated) {
      enqueue({.record = record, .data = {}, .completion = completion});
    }
    const std::uint64_t sequence = position_.sequence;
    AGRO_CO_TRY_OK(co_await await_completion(completion));
    AGRO_ASSERT(position_.sequence == sequence + 1);
  }
  sealed_ = log_size_ == 0;
  seal_when_idle();
  after_change();
  co_return Result<void>();
}

Result<void> MmapStore::check_writable() const {
  if (closing_) return fail(Errc::closed, "the store is closed");
  if (failed_.has_value()) {
    return fail(Errc::io_error, "the store takes no writes since: " + failed_->message);
  }
  return {};
}

Error MmapStore::poison(Error error) {
  if (!failed_.has_value()) {
    failed_ = error;
    log_error("{}: {}; no more writes until it is opened again", file_name(), error.message);
    progress_.notify_all();
  }
  if (error.code != Errc::closed) error.code = Errc::io_error;
  return error;
}

Result<void> MmapStore::check_fence(const BlockRef& ref, bool repair) const {
  if (AGRO_MUTANT(kEpochUnchecked)) return {};
  const auto found = fences_.find(ref.volume);
  if (found == fences_.end() || ref.epoch >= found->second.wanted) return {};
  // Copies of what was acknowledged long ago are welcome, unless the volume is deleted.
  if (repair && found->second.wanted.value != UINT64_MAX) return {};
  return fail(Errc::fenced, fmt::format("{}: epochs below {} are fenced", ref.to_string(),
                                        found->second.wanted.value));
}

Task<void> MmapStore::put(BlockRef ref, SharedBytes bytes, PutOptions options) {
  return store_block(ref, std::move(bytes), options, false);
}

Task<void> MmapStore::repair(BlockRef ref, SharedBytes bytes, PutOptions options) {
  options.reserve = options.reserve || index_.find(ref).has_value();
  return store_block(ref, std::move(bytes), options, true);
}

Task<void> MmapStore::store_block(BlockRef ref, SharedBytes bytes, PutOptions options,
                                   bool repair) {
  const Call call(*this);
  const ScopedLatency latency(env_.clock, put_latency_);
  if (bytes.size() == 0) co_return fail(Errc::invalid_argument, "an empty block");
  if (bytes.size() > options_.block_size) {
    co_return fail(Errc::too_large, fmt::format("{} has {} bytes, a block at most {}",
                                                ref.to_string(), bytes.size(), options_.block_size));
  }
  AGRO_ASSERT(reinterpret_cast<std::uintptr_t>(bytes.bytes.data()) % kPageSize == 0);
  while (true) {
    AGRO_CO_TRY_OK(check_writable());
    AGRO_CO_TRY_OK(check_fence(ref, repair));
    if (!busy_.contains(ref)) break;
    co_await progress_.wait();
  }
  if (const auto there = index_.find(ref); there.has_value() && !repair) {
    if (there->size == bytes.size()) co_return Result<void>();
    co_return fail(Errc::already_exists, fmt::format("{} is here with {} bytes, not {}",
                                                     ref.to_string(), there->size, bytes.size()));
  }
  const BusyRef busy(*this, ref);
  if (is_inline_size(bytes.size())) {
    co_return co_await store_inline(ref, std::move(bytes), options, repair);
  }
  co_return co_await store_own_slot(ref, std::move(bytes), options, repair);
}

Task<void> MmapStore::store_inline(BlockRef ref, SharedBytes bytes, PutOptions options,
                                    bool repair) {
  AGRO_CO_TRY_OK(co_await wait_for_space(0, pages_of(bytes.size()), options.reserve));
  Entry entry;
  entry.record.kind = RecordKind::put_inline;
  entry.record.size = static_cast<std::uint32_t>(bytes.size());
  entry.record.data_crc = crc32c(bytes.bytes);
  entry.record.set_ref(ref);
  entry.data = std::move(bytes);
  entry.fenceable = !repair;
  entry.keep = options.keep;
  entry.completion = std::make_shared<Completion>();
  const std::shared_ptr<Completion> completion = entry.completion;
  enqueue(std::move(entry));
  co_return co_await await_completion(completion);
}

Task<void> MmapStore::store_own_slot(BlockRef ref, SharedBytes bytes, PutOptions options,
                                      bool repair) {
  AGRO_CO_TRY_OK(co_await wait_for_space(1, 0, options.reserve));
  const std::optional<std::uint32_t> slot = slots_.take(SlotUse::block);
  AGRO_ASSERT(slot.has_value());
  after_change();
  // The data goes ahead of its record, while other groups sync; the group's sync covers both.
  std::vector<std::shared_ptr<AlignedBuffer>> tail;
  const FileWrite write{offset_of(*slot), whole_pages(bytes, page_pool_, tail), options.keep};
  bytes_written_ += round_up(bytes.size(), kPageSize);
  Result<void> written;
  if (!AGRO_MUTANT(kIndexBeforeData)) written = co_await file_->write(write);
  if (!written.has_value()) co_return fail(poison(std::move(written).error()));
  Entry entry;
  entry.record.kind = RecordKind::put_slot;
  entry.record.slot = *slot;
  entry.record.size = static_cast<std::uint32_t>(bytes.size());
  entry.record.data_crc = crc32c(bytes.bytes);
  entry.record.set_ref(ref);
  entry.fenceable = !repair;
  entry.completion = std::make_shared<Completion>();
  const std::shared_ptr<Completion> completion = entry.completion;
  enqueue(std::move(entry));
  Result<void> result = co_await await_completion(completion);
  if (result.has_value() && bytes.size() == options_.block_size) slots_.set_written(*slot);
  if (AGRO_MUTANT(kIndexBeforeData) && result) result = co_await file_->write(write);
  // Refused by a fence: no record names the slot. After an I/O error one may.
  if (!result.has_value() && !failed_.has_value()) slots_.set_use(*slot, SlotUse::free);
  co_return result;
}

std::optional<std::uint32_t> MmapStore::find(const BlockRef& ref) const {
  const auto location = index_.find(ref);
  if (!location.has_value()) return std::nullopt;
  return location->size;
}

Result<BlockLocation> MmapStore::locate(const BlockRef& ref, std::uint32_t offset,
                                        std::size_t size) const {
  const auto location = index_.find(ref);
  if (!location.has_value()) return fail(Errc::not_found, ref.to_string() + " is not here");
  if (offset > location->size || size > location->size - offset) {
    return fail(Errc::invalid_argument, fmt::format("{}: bytes {} to {} of {}", ref.to_string(),
                                                    offset, offset + size, location->size));
  }
  return *location;
}

Task<void> MmapStore::read(BlockRef ref, std::uint32_t offset, MutableBytes out) {
  const Call call(*this);
  if (closing_) co_return fail(Errc::closed, "the store is closed");
  AGRO_CO_TRY(const BlockLocation location, locate(ref, offset, out.size()));
  if (out.empty()) co_return Result<void>();
  const SlotPin pin(slots_, location.slot);
  const FileExtent extent = extent_of(location, options_.block_size);
  const BlockPieces pieces(location, options_.block_size, offset, out);
  const std::uint64_t extent_size = extent.end - extent.begin;
  if (location.tail.is_some() && extent_size <= kColdReadSize && (!options_.direct || pieces.count() > 1)) {
    // One operation for all pieces: each alone would wait for a worker.
    const std::shared_ptr<AlignedBuffer> window = cold_reads_.take();
    AGRO_CO_TRY_OK(co_await file_->read(extent.begin, window->bytes().first(extent_size)));
    for (const BlockPieces::Piece& piece : pieces) {
      std::memcpy(piece.out.data(), window->data() + (piece.offset - extent.begin), piece.out.size());
    }
    co_return Result<void>();
  }
  for (const BlockPieces::Piece& piece : pieces) AGRO_CO_TRY_OK(co_await read_piece(piece, extent));
  co_return Result<void>();
}

Task<void> MmapStore::read_piece(BlockPieces::Piece piece, FileExtent around) {
  const MutableBytes out = piece.out;
  // A cold read costs the disk an operation, not a page: the neighbours within the block come along
  // into the page cache, if there is one, where the next read finds them at once.
  const std::uint64_t begin = std::max(round_down(piece.offset, kColdReadSize), around.begin);
  const std::uint64_t end = std::min(round_up(piece.offset + out.size(), kColdReadSize), around.end);
  if (options_.direct || end - begin > kColdReadSize || end - begin == out.size()) {
    co_return co_await file_->read(piece.offset, out);
  }
  const std::shared_ptr<AlignedBuffer> window = cold_reads_.take();
  AGRO_CO_TRY_OK(co_await file_->read(begin, window->bytes().first(end - begin)));
  std::memcpy(out.data(), window->data() + (piece.offset - begin), out.size());
  co_return Result<void>();
}

Task<void> MmapStore::read_stored(BlockRef ref, MutableBytes out) {
  const Call call(*this);
  if (closing_) co_return fail(Errc::closed, "the store is closed");
  const auto location = index_.find(ref);
  if (!location.has_value()) co_return fail(Errc::not_found, ref.to_string() + " is not here");
  if (out.size() != round_up(location->size, kPageSize)) {
    co_return fail(Errc::invalid_argument, ref.to_string() + " has another size");
  }
  const SlotPin pin(slots_, location->slot);
  const std::uint64_t begin = offset_of(location->slot, location->page);
  if (!location->tail.is_some()) co_return co_await file_->read_stored(begin, out);
  // Whole pages only, so the frame's header comes first, into memory of its own.
  const MutableBytes body = out.first(out.size() - kPageSize);
  const std::shared_ptr<AlignedBuffer> header = page_pool_.take();
  AGRO_CO_TRY_OK(co_await file_->read_stored(begin - kPageSize, header->bytes()));
  AGRO_CO_TRY_OK(co_await file_->read_stored(begin, body));
  unpack_tail(location->tail, header->bytes(), out.last(kPageSize));
  co_return Result<void>();
}

std::optional<Result<void>> MmapStore::try_read(const BlockRef& ref, std::uint32_t offset,
                                                MutableBytes out) {
  if (closing_) return Result<void>(fail(Errc::closed, "the store is closed"));
  Result<BlockLocation> location = locate(ref, offset, out.size());
  if (!location.has_value()) return Result<void>(fail(std::move(location).error()));
  for (const BlockPieces::Piece& piece : BlockPieces(*location, options_.block_size, offset, out)) {
    std::optional<Result<void>> read = file_->try_read(piece.offset, piece.out);
    if (!read.has_value() || !read->has_value()) return read;
  }
  return Result<void>();
}

Task<std::size_t> MmapStore::remove(std::vector<BlockRef> refs) {
  const Call call(*this);
  std::size_t removed_count = 0;
  std::sort(refs.begin(), refs.end());
  refs.erase(std::unique(refs.begin(), refs.end()), refs.end());
  while (!refs.empty()) {
    AGRO_CO_TRY_OK(check_writable());
    // Never wait for a busy ref while others are busy because of us: two removes could wait for
    // each other.
    auto completion = std::make_shared<Completion>();
    std::deque<BusyRef> ours;
    std::erase_if(refs, [&](const BlockRef& ref) {
      if (busy_.contains(ref)) return false;
      if (!index_.find(ref).has_value()) return true;
      ours.emplace_back(*this, ref);
      Entry entry;
      entry.record.kind = RecordKind::remove;
      entry.record.set_ref(ref);
      entry.completion = completion;
      enqueue(std::move(entry));
      return true;
    });
    if (!ours.empty()) {
      AGRO_CO_TRY_OK(co_await await_completion(completion));
      removed_count += ours.size();
    } else if (!refs.empty()) {
      co_await progress_.wait();
    }
  }
  co_return removed_count;
}

std::vector<BlockInfo> MmapStore::list(const BlockFilter& filter) const {
  return index_.list(filter);
}

Task<void> MmapStore::fence(VolumeId volume, Epoch epoch) {
  const Call call(*this);
  AGRO_CO_TRY_OK(check_writable());
  Fence& fence = fences_[volume];
  if (epoch <= fence.durable) co_return Result<void>();
  // From now on lower puts are refused, those that wait for a group too; the one being written
  // ends before ours.
  fence.wanted = std::max(fence.wanted, epoch);
  Entry entry;
  entry.record.kind = RecordKind::fence;
  entry.record.set_ref({.volume = volume, .epoch = epoch, .index = 0, .type = BlockType{}});
  entry.completion = std::make_shared<Completion>();
  const std::shared_ptr<Completion> completion = entry.completion;
  enqueue(std::move(entry));
  co_return co_await await_completion(completion);
}

Epoch MmapStore::fence_of(VolumeId volume) const {
  const auto found = fences_.find(volume);
  return found == fences_.end() ? Epoch{} : found->second.durable;
}

StoreStats MmapStore::stats() const {
  const std::uint64_t block_size = options_.block_size;
  const std::uint32_t free = slots_.free_count();
  const std::uint32_t kept = floor(false) + inline_slots_needed(0);
  StoreStats stats;
  stats.size = options_.size;
  stats.used = kSlotsOffset + slots_.live_page_count() * kPageSize +
               (slots_.count(SlotUse::block) + slots_.count(SlotUse::checkpoint)) * block_size;
  stats.available = free > kept ? (free - kept) * block_size : 0;
  stats.block_count = index_.size();
  stats.index_bytes = index_.memory() + slots_.memory();
  stats.sync_count = sync_count_;
  stats.bytes_written = bytes_written_;
  return stats;
}

Task<void> MmapStore::close() {
  closing_ = true;
  progress_.notify_all();
  closing_event_.notify_all();
  while (call_count_ > 0) co_await progress_.wait();
  co_await tasks_.join();
  Result<void> result;
  if (failed_.has_value()) {
    result = fail(*failed_);
  } else if (log_size_ > 0) {
    result = co_await write_checkpoint();
    co_await tasks_.join();
    // A full store opens from its log as well.
    if (result.code() == Errc::out_of_space) result = Result<void>();
  }
  co_await file_->close();
  co_return result;
}

namespace {

/// Foreign labels lie in the first bytes of a device or in the last: partition tables, RAID members.
constexpr std::uint64_t kFirstBytes = 16 * kMiB;
constexpr std::uint64_t kLastBytes = kMiB;
/// Space that is written before the log needs it: of a store in use, and once, when it is made.
constexpr std::uint64_t kLogAhead = 8 * kMiB;
constexpr std::uint64_t kFirstLogMax = 128 * kMiB;
constexpr std::uint32_t kFirstLogShare = 16;      // of the store's slots, one in so many
constexpr std::uint32_t kFirstLogFreeShare = 64;  // of what the file system has free, which others may want, too
constexpr std::uint32_t kFirstSlots = 8;          // a file no longer than these without superblocks is no store yet

/// Nothing may take the device for what it was.
Task<void> wipe_the_end(File& file) {
  const std::uint64_t end = round_down(file.size(), kPageSize);
  AlignedBuffer zeros(std::min(kLastBytes, end));
  std::memset(zeros.data(), 0, zeros.size());
  std::vector<ConstBytes> parts = {zeros.bytes()};
  AGRO_CO_TRY_OK(co_await file.write(end - zeros.size(), std::move(parts)));
  co_return co_await file.sync();
}

/// Slots that are written when a store is made and kept for its log.
std::uint32_t first_log_slots(const StoreOptions& options) {
  const std::uint32_t share = slots_in(options.size, options.block_size) / kFirstLogShare;
  return std::min(share, static_cast<std::uint32_t>(kFirstLogMax / options.block_size));
}

/// Writes the log's first space, behind what create_store() wrote: a crash in the middle costs only speed. Where the file
/// system has no room for it, blocks shall have what there is. The slots that are written then.
Task<std::uint32_t> write_first_log(File& file, StoreOptions options, std::uint64_t free_space) {
  AlignedBuffer zeros(options.block_size);
  std::memset(zeros.data(), 0, zeros.size());
  const std::uint64_t free_share = free_space / kFirstLogFreeShare / options.block_size;
  const auto count = static_cast<std::uint32_t>(std::min<std::uint64_t>(first_log_slots(options), free_share));
  Result<void> written;
  for (std::uint32_t slot = kFirstSlots; slot < count && written.has_value(); slot += kFirstSlots) {
    const std::uint32_t end = std::min(count, slot + kFirstSlots);
    written = co_await file.write(slot_offset(slot, options.block_size), std::vector<ConstBytes>(end - slot, zeros.bytes()));
  }
  if (written.code() == Errc::out_of_space) {
    AGRO_CO_TRY_OK(co_await file.resize(slot_offset(kFirstSlots, options.block_size)));
  } else if (!written.has_value()) {
    co_return fail(std::move(written).error());
  }
  AGRO_CO_TRY_OK(co_await file.sync());
  co_return slots_in(file.size(), options.block_size);
}

/// Makes an empty store: a first stretch written ahead, then the superblocks, which make it one.
Task<Superblock> create_store(Env& env, File& file, StoreOptions options) {
  if (options.peer_id.is_nil() || options.cluster_id.is_nil()) {
    co_return fail(Errc::invalid_argument, store_path(options) + ": a new store needs a peer and a cluster id");
  }
  std::uint64_t free_space = 0;
  if (options.device.empty()) {
    AGRO_CO_TRY(free_space, co_await env.disk.free_space(options.directory));
  }
  const std::uint32_t slot_count = std::min(slots_in(options.size, options.block_size), kFirstSlots);
  AlignedBuffer zeros(options.block_size);
  std::memset(zeros.data(), 0, zeros.size());
  std::vector<ConstBytes> parts = {zeros.bytes().first(kSlotsOffset)};
  parts.insert(parts.end(), slot_count, zeros.bytes());
  AGRO_CO_TRY_OK(co_await file.write(0, std::move(parts)));
  AGRO_CO_TRY_OK(co_await file.sync());
  Superblock superblock;
  superblock.block_size = options.block_size;
  superblock.generation = 1;
  // Frames of an earlier store may lie on a device: they must not pass for later ones of this. No store writes
  // a frame a nanosecond, so those of stores made before have lower numbers.
  if (!options.device.empty()) {
    superblock.log_sequence = static_cast<std::uint64_t>(env.clock.unix_time_ms()) * 1'000'000;
  }
  superblock.cluster_id = options.cluster_id;
  superblock.peer_id = options.peer_id;
  if (!options.device.empty()) AGRO_CO_TRY_OK(co_await wipe_the_end(file));
  AlignedBuffer page(kPageSize);
  encode_superblock(superblock, page.bytes());
  std::vector<ConstBytes> twice = {page.bytes(), page.bytes()};
  AGRO_CO_TRY_OK(co_await file.write(0, std::move(twice)));
  AGRO_CO_TRY_OK(co_await file.sync());
  if (options.device.empty()) {
    AGRO_CO_TRY(superblock.written_slots, co_await write_first_log(file, options, free_space));
  }
  co_return superblock;
}

Result<void> check_options(const StoreOptions& options) {
  if (!std::has_single_bit(options.block_size) || options.block_size < kBlockSizeMin ||
      options.block_size > kBlockSizeMax) {
    return fail(Errc::invalid_argument,
                fmt::format("block size {}: give a power of two from 64KiB to 16MiB",
                            format_size(options.block_size)));
  }
  constexpr std::uint32_t kSlotCountMin = 16;
  if (slots_in(options.size, options.block_size) < kSlotCountMin) {
    return fail(Errc::invalid_argument,
                fmt::format("{}{}: a store with blocks of {} needs at least {}",
                            options.device.empty() ? "store size " : options.device + " with ",
                            format_size(options.size), format_size(options.block_size),
                            format_size((kSlotCountMin + 1) * std::uint64_t{options.block_size})));
  }
  return {};
}

/// A store is never overwritten: its owner has to say in another way that it may go.
std::string how_to_wipe(const StoreOptions& options) {
  if (options.device.empty()) return "";
  return fmt::format(", or if its blocks may be lost, 'dd if=/dev/zero of={} bs=1M count=1' and start with "
                     "--format",
                     options.device);
}

Result<void> check_identity(const Superblock& superblock, const StoreOptions& options) {
  const char* place = options.device.empty() ? "directory" : "device";
  if (superblock.cluster_id != options.cluster_id) {
    return fail(Errc::cluster_mismatch,
                fmt::format("{} belongs to cluster {}, this is {}; use another {}{}",
                            store_path(options), superblock.cluster_id.to_string(),
                            options.cluster_id.to_string(), place, how_to_wipe(options)));
  }
  if (!options.peer_id.is_nil() && superblock.peer_id != options.peer_id) {
    return fail(Errc::invalid_argument,
                fmt::format("{} belongs to peer {}, this is {}; use another {}{}",
                            store_path(options), superblock.peer_id.to_string(),
                            options.peer_id.to_string(), place, how_to_wipe(options)));
  }
  if (superblock.block_size != options.block_size) {
    return fail(Errc::invalid_argument,
                fmt::format("{} has blocks of {}, the cluster of {}", store_path(options),
                            format_size(superblock.block_size), format_size(options.block_size)));
  }
  return {};
}

/// Whether one of the two superblock pages starts as one does.
Task<bool> begins_as_store(File& file) {
  if (file.size() < kSlotsOffset) co_return false;
  AlignedBuffer pages(kSlotsOffset);
  AGRO_CO_TRY_OK(co_await file.read(0, pages.bytes()));
  co_return load<std::uint64_t>(pages.bytes()) == kSuperblockMagic ||
      load<std::uint64_t>(pages.bytes().subspan(kPageSize)) == kSuperblockMagic;
}

/// Whether there is something else than zeros where labels and the first blocks would be.
Task<bool> holds_something(File& file) {
  const std::uint64_t end = round_down(file.size(), kPageSize);
  AlignedBuffer window(std::min(kMiB, end));
  std::uint64_t at = 0;
  while (at < end) {
    const MutableBytes bytes = window.bytes().first(std::min<std::uint64_t>(window.size(), end - at));
    AGRO_CO_TRY_OK(co_await file.read(at, bytes));
    const bool empty = std::all_of(bytes.begin(), bytes.end(), [](std::byte each) { return each == std::byte{}; });
    if (!empty) co_return true;
    at += bytes.size();
    if (at >= kFirstBytes) at = std::max(at, end - std::min(end, kLastBytes));
  }
  co_return false;
}

/// The superblock of a device, or none: it is to become a store.
Task<Superblocks> read_device(File& file, StoreOptions options) {
  Result<Superblocks> found = co_await read_superblocks(file, options.device);
  if (found.has_value() && !found->blank) co_return found;
  if (!found.has_value() && found.code() != Errc::corrupt) co_return found;
  AGRO_CO_TRY(const bool was_store, co_await begins_as_store(file));
  if (was_store) {
    co_return fail(Errc::corrupt, fmt::format("{} was a store and has lost both superblocks; use another device{}, so "
                                              "that the cluster copies its blocks again",
                                              options.device, how_to_wipe(options)));
  }
  AGRO_CO_TRY(const bool taken, co_await holds_something(file));
  if (taken && !options.format) {
    co_return fail(Errc::already_exists,
                   fmt::format("{} holds something that is no store of agro; look at it with 'wipefs {}', and if it "
                               "may be overwritten, give --format",
                               options.device, options.device));
  }
  Superblocks blank;
  blank.blank = true;
  co_return blank;
}

/// The superblock of the file of a directory, or none: it is to become a store.
Task<Superblocks> read_own_file(File& file, StoreOptions options) {
  const std::string name = store_path(options);
  AGRO_CO_TRY(const Superblocks found, co_await read_superblocks(file, name));
  // A crash while making one leaves no more than this; anything larger has lost its superblocks.
  if (found.blank && file.size() > slot_offset(kFirstSlots, options.block_size)) {
    co_return fail(Errc::corrupt, name + " has lost both superblocks; remove it and let the cluster copy its blocks again");
  }
  co_return found;
}

Task<std::unique_ptr<BlockStore>> open_in(Env& env, StoreOptions options,
                                          std::unique_ptr<File>& file) {
  AGRO_CO_TRY_OK(check_options(options));
  const std::string name = store_path(options);
  Task<Superblocks> reading = options.device.empty() ? read_own_file(*file, options) : read_device(*file, options);
  AGRO_CO_TRY(Superblocks superblocks, co_await std::move(reading));
  if (superblocks.blank) {
    AGRO_CO_TRY(superblocks.best, co_await create_store(env, *file, options));
  }
  AGRO_CO_TRY_OK(check_identity(superblocks.best, options));
  AGRO_CO_TRY(RecoveredStore recovered, co_await recover_store(*file, superblocks, name));
  SlotCounts counts;
  counts.grown = slots_in(file->size(), options.block_size);
  counts.max = slots_in(options.size, options.block_size);
  // A device has no space that was never written, as far as we know.
  counts.written = options.device.empty() ? superblocks.best.written_slots : counts.grown;
  counts.log_kept = std::min(first_log_slots(options), superblocks.best.written_slots);
  counts.log_ahead = static_cast<std::uint32_t>(
      std::max<std::uint64_t>(2, std::min(kLogAhead, options.grow_step_max / 16) / options.block_size));
  AGRO_CO_TRY(SlotTable slots, recover_slots(recovered, counts, name));
  std::vector<StoreRecord> restated = std::move(recovered.restated);
  const bool rewrite = !recovered.superblocks_equal;
  auto store = std::make_unique<MmapStore>(env, options, std::move(file), std::move(recovered),
                                           std::move(slots));
  Result<void> started = co_await store->start(std::move(restated), rewrite);
  if (!started.has_value()) {
    const Result<void> closed = co_await store->close();  // it has failed already: same reason
    co_return fail(closed.has_value() ? std::move(started).error() : closed.error());
  }
  co_return std::unique_ptr<BlockStore>(std::move(store));
}

Task<std::unique_ptr<BlockStore>> open_file(Env& env, StoreOptions options, std::unique_ptr<File> file) {
  Result<std::unique_ptr<BlockStore>> store = co_await open_in(env, std::move(options), file);
  if (!store.has_value() && file != nullptr) co_await file->close();
  co_return std::move(store);
}

}  // namespace

Task<std::unique_ptr<BlockStore>> open_mmap_store(Env& env, StoreOptions options) {
  AGRO_ASSERT(options.device.empty());
  AGRO_CO_TRY_OK(check_options(options));
  AGRO_CO_TRY_OK(co_await env.disk.make_directories(options.directory));
  const OpenOptions open_options{.create = true, .exclusive = true};
  AGRO_CO_TRY(std::unique_ptr<File> file, co_await env.disk.open(store_path(options), open_options));
  co_return co_await open_file(env, std::move(options), std::move(file));
}

Task<std::unique_ptr<BlockStore>> open_disk_store(Env& env, StoreOptions options) {
  options.direct = true;
  const bool own_file = options.device.empty();
  if (own_file) {
    AGRO_CO_TRY_OK(check_options(options));
    AGRO_CO_TRY_OK(co_await env.disk.make_directories(options.directory));
  }
  const OpenOptions open_options{.create = own_file, .exclusive = true, .direct = true};
  AGRO_CO_TRY(std::unique_ptr<File> file, co_await env.disk.open(store_path(options), open_options));
  // It is as large as it is; nothing is written ahead of use.
  if (!own_file) options.size = options.size == 0 ? file->size() : std::min(options.size, file->size());
  co_return co_await open_file(env, std::move(options), std::move(file));
}

std::string store_path(const StoreOptions& options) {
  return options.device.empty() ? options.directory + "/blocks" : options.device;
}

Task<StoreIdentity> read_store_identity(Disk& disk, StoreOptions options) {
  const std::string name = store_path(options);
  const OpenOptions open_options{.direct = !options.device.empty()};
  AGRO_CO_TRY(std::unique_ptr<File> file, co_await disk.open(name, open_options));
  Result<Superblocks> superblocks = co_await read_superblocks(*file, name);
  co_await file->close();
  if (!superblocks.has_value()) co_return fail(std::move(superblocks).error());
  if (superblocks->blank) co_return fail(Errc::not_found, name + " holds no store yet");
  const Superblock& best = superblocks->best;
  co_return StoreIdentity{best.cluster_id, best.peer_id, best.block_size};
}

}  // namespace agro
