#include "block/volume.hpp"

#include <fmt/format.h>

#include "base/log.hpp"

namespace agro {
namespace {

constexpr std::size_t kIdleBufferCountMax = 96;

Histogram& operation_latency(Metrics& metrics, const char* op) {
  return metrics.histogram("agro_volume_operation_seconds",
                           "Time that operations of users on volumes took", {{"op", op}});
}

}  // namespace

Volume::Volume(Env& env, BlockBackend& backend, const BlocksetSpec& spec, VolumeId id,
               std::uint64_t size_bytes, VolumeLease& lease, VolumeOptions options)
    : env_(env),
      backend_(backend),
      blockset_(make_blockset(spec, backend)),
      id_(id),
      lineage_(id, options.description.ancestors),
      size_bytes_(size_bytes),
      lease_(lease),
      options_(options),
      buffers_(backend.block_size(), kIdleBufferCountMax),
      cache_(options.read_cache_size),
      read_ahead_(options.read_cache_size / kSectorSize),
      map_(size_bytes / kSectorSize),
      map_share_(options.map_memory != nullptr ? options.map_memory
                                               : std::make_shared<MapMemory>(kMapMemoryDefault),
                 map_),
      inode_(lineage_, *blockset_, buffers_,
             [this](BlockRef ref, SharedBytes block) {
               WriteOptions write_options;
               write_options.reserve = true;
               return store_block(ref, std::move(block), write_options);
             }),
      jobs_(env.executor),
      metric_written_bytes_(env.metrics.get("agro_volume_written_bytes_total", "bytes users wrote")),
      metric_read_bytes_(env.metrics.get("agro_volume_read_bytes_total", "bytes users read")),
      metric_ahead_bytes_(env.metrics.get("agro_volume_read_ahead_bytes_total",
                                          "bytes fetched before they were asked for")),
      metric_flushes_(env.metrics.get("agro_volume_flushes_total", "flushes asked for")),
      metric_cleaned_bytes_(
          env.metrics.get("agro_volume_cleaned_bytes_total", "bytes the cleaner relocated")),
      metric_loaded_pages_(env.metrics.get("agro_volume_map_pages_loaded_total",
                                           "map pages read because they were not in memory")),
      metric_checkpoint_bytes_(
          env.metrics.get("agro_volume_checkpoint_bytes_total", "bytes of checkpoints written, one copy")),
      read_latency_(operation_latency(env.metrics, "read")),
      write_latency_(operation_latency(env.metrics, "write")),
      flush_latency_(operation_latency(env.metrics, "flush")),
      trim_latency_(operation_latency(env.metrics, "trim")) {}

Volume::~Volume() = default;

Task<std::unique_ptr<Volume>> Volume::open(Env& env, BlockBackend& backend, BlocksetSpec spec,
                                           VolumeId id, std::uint64_t size_bytes, LogHead head,
                                           VolumeLease& lease, VolumeOptions options) {
  AGRO_ASSERT(size_bytes % kSectorSize == 0);
  std::unique_ptr<Volume> volume(new Volume(env, backend, spec, id, size_bytes, lease, options));
  volume->jobs_.spawn(volume->follow_lease());
  Result<void> recovered = co_await volume->recover(head);
  if (!recovered.has_value()) {
    volume->stop_jobs();
    co_await volume->jobs_.join();
    co_return fail(with_context(std::move(recovered).error(), fmt::format("volume {}", id.value)));
  }
  volume->start_jobs();
  co_return std::move(volume);
}

void Volume::start_jobs() {
  is_open_ = true;
  jobs_.spawn(seal_when_idle());
  jobs_.spawn(checkpoint_when_due());
  jobs_.spawn(sweep());
  jobs_.spawn(restore_when_possible());
  if (options_.cleaner) jobs_.spawn(clean_when_needed());
}

Result<void> Volume::check_usable() const {
  if (failed_) return fail(*failed_);
  if (stopping_jobs_) return fail(Errc::closed, "the volume is closed");
  return {};
}

Result<void> Volume::check_range(std::uint64_t offset, std::uint64_t size) const {
  if (offset <= size_bytes_ && size <= size_bytes_ - offset) return {};
  return fail(Errc::invalid_argument,
              fmt::format("bytes {}+{} are beyond the volume's {}", offset, size, size_bytes_));
}

Task<void> Volume::trim(std::uint64_t offset, std::uint64_t size) {
  const ScopedLatency latency(env_.clock, trim_latency_);
  AGRO_CO_TRY_OK(check_range(offset, size));
  const std::uint64_t begin = round_up(offset, kSectorSize);
  const std::uint64_t end = round_down(offset + size, kSectorSize);
  if (begin >= end) co_return co_await confirm_lease();
  co_return co_await mark_sectors(begin / kSectorSize, (end - begin) / kSectorSize,
                                  ExtentKind::hole);
}

Task<void> Volume::write_zeroes(std::uint64_t offset, std::uint64_t size, bool may_punch_hole) {
  static constexpr std::array<std::byte, kSectorSize> kZeros{};
  AGRO_CO_TRY_OK(check_range(offset, size));
  const std::uint64_t end = offset + size;
  const std::uint64_t whole_begin = std::min(round_up(offset, kSectorSize), end);
  const std::uint64_t whole_end = std::max(round_down(end, kSectorSize), whole_begin);
  if (offset < whole_begin) {
    AGRO_CO_TRY_OK(co_await write(offset, ConstBytes(kZeros).first(whole_begin - offset)));
  }
  if (whole_begin < whole_end) {
    const ExtentKind kind = may_punch_hole ? ExtentKind::hole : ExtentKind::zero;
    AGRO_CO_TRY_OK(co_await mark_sectors(whole_begin / kSectorSize,
                                         (whole_end - whole_begin) / kSectorSize, kind));
  }
  if (whole_end < end) {
    AGRO_CO_TRY_OK(co_await write(whole_end, ConstBytes(kZeros).first(end - whole_end)));
  }
  co_return co_await confirm_lease();
}

/// Wakes everything that waits here, so that it sees that it is to stop.
void Volume::stop_jobs() {
  stopping_jobs_ = true;
  for (Event* event : {&stopping_, &progress_, &opened_, &checkpoint_wanted_, &clean_wanted_,
                       &record_changed_, &lease_.changed(), &backend_.peers_changed()}) {
    event->notify_all();
  }
}

/// What waits in a suspended volume gives up when the deadline comes.
Job Volume::stop_at(TimePoint deadline, std::shared_ptr<bool> done) {
  while (!*done && env_.clock.now() < deadline) {
    const TimePoint look_again = env_.clock.now() + std::chrono::milliseconds(20);
    co_await sleep_until(env_.clock, std::min(deadline, look_again));
  }
  if (!*done) stop_jobs();
}

Task<void> Volume::close() {
  auto done = std::make_shared<bool>(false);
  jobs_.spawn(stop_at(env_.clock.now() + options_.close_deadline, done));
  Result<void> result = co_await flush();
  if (!result.has_value()) {
    const std::string why = suspended_ ? suspended_->to_string() : result.error().message;
    result = fail(result.code(), fmt::format("volume {}: closed without its last writes, which were "
                                             "not flushed and are lost: {}", id_.value, why));
  } else if (map_.is_dirty() || map_.dead_count() > 0 || log_blocks_ > 0) {
    result = co_await checkpoint();
    if (!result.has_value()) {
      result = fail(with_context(std::move(result).error(),
                                 fmt::format("volume {}: closed without a checkpoint, but with all "
                                             "its data", id_.value)));
    }
  }
  *done = true;
  stop_jobs();
  co_await jobs_.join();
  co_return result;
}

VolumeStatus Volume::info() const {
  VolumeStatus status;
  status.mapped_bytes = map_.live_sector_count() * kSectorSize;
  status.stored_bytes = map_.stored_sector_count() * kSectorSize;
  status.block_count = map_.block_count();
  status.map_memory_bytes = map_.map().memory_bytes();
  status.log_bytes = log_bytes_;
  status.cleaned_bytes = cleaned_bytes_;
  status.copies_wanted = blockset_->copy_count();
  status.copies = recorded_copies_ != 0 ? std::min(recorded_copies_, status.copies_wanted)
                                        : status.copies_wanted;
  if (suspended_) status.suspended = suspended_->to_string();
  if (!suspended_ && short_of_space_) status.suspended = "the peers are full";
  if (!lease_.valid()) status.suspended = "its lease in the metadata store is not confirmed";
  status.health = health();
  if (failed_) status.failed = failed_->to_string();
  return status;
}

}  // namespace agro
