// How a store is made and opened: what a file or device holds, whether it may become a store, the first superblocks, the
// log's first space, and recovery. Nothing that could be another's is written over unless options.format says so.
#include "storage/mmap_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "storage/mmap_store_impl.hpp"
#include "storage/recovery.hpp"

namespace agro {

namespace {

/// Foreign labels lie in the first bytes of a device or in the last: partition tables, RAID members.
constexpr std::uint64_t kFirstBytes = 16 * kMiB;
constexpr std::uint64_t kLastBytes = kMiB;
/// Space that is written before the log needs it: of a store in use, and once, when it is made.
constexpr std::uint64_t kLogAhead = 8 * kMiB;
constexpr std::uint64_t kFirstLogMax = 64 * kMiB;
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
