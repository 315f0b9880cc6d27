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

}  // namespace agro
