#include "node/volume_manager.hpp"

#include <fmt/format.h>

#include "base/log.hpp"
#include "base/mutant.hpp"

namespace agro {

/// The lock of one attached volume: a lease, renewed, and resumed under a new one when it ended and
/// nobody took the volume meanwhile.
class VolumeManager::OwnLease final : public VolumeLease {
 public:
  OwnLease(Env& env, Kv& kv, Metadata& metadata, VolumeManagerOptions& options)
      : env_(env), kv_(kv), metadata_(metadata), options_(options), jobs_(env.executor) {}

  Epoch epoch() const override { return epoch_; }
  bool valid() const override {
    if (AGRO_MUTANT(kLeaseExpiryIgnored)) return !lost_;
    return !lost_ && lease_ != nullptr && lease_->valid(env_.clock.now());
  }
  bool lost() const override { return lost_; }
  Event& changed() override { return changed_; }

  Task<void> commit(LogHead head) override {
    Result<void> done =
        co_await metadata_.commit_head(volume_, epoch_, lease_->id(), record_of(head));
    co_return co_await judge(std::move(done));
  }

  Task<void> record_snapshot(SnapshotRequest request, LogHead head) {
    VolumeHead record = record_of(head);
    Result<void> done = co_await metadata_.record_snapshot(epoch_, lease_->id(), std::move(request), record,
                                                           head.note_index);
    co_return co_await judge(std::move(done));
  }
  void set_size(std::uint64_t size_bytes) { size_bytes_ = size_bytes; }

  Task<void> set_degraded(std::uint32_t copies) override {
    // What resume() records again: the fewest that may be in the metadata, or were.
    if (copies != 0)
      degraded_copies_ = degraded_copies_ == 0 ? copies : std::min(degraded_copies_, copies);
    Result<void> done = co_await metadata_.set_degraded(volume_, epoch_, lease_->id(), copies);
    if (done.has_value()) degraded_copies_ = copies;
    co_return co_await judge(std::move(done));
  }

  /// For others to see; goes with the lease. Published again when that changed.
  Awaitable<void> publish_health(std::string text) {
    const bool stable = std::exchange(seen_health_, text) == text;
    const bool known = text == told_health_ && (text.empty() || told_under_ == lease_->id());
    if (!stable || known || !valid()) co_return;
    const std::uint64_t lease = lease_->id();
    told_health_.reset();  // it may be there although the answer is an error
    const Result<void> done = co_await metadata_.set_health(volume_, epoch_, lease, text);
    if (!done.has_value()) co_return;  // the next round tries again
    told_health_ = std::move(text);
    told_under_ = lease;
  }

  /// The lock is given up, whoever waits for it: so that an opening under way ends.
  void abandon() {
    lost_ = true;
    changed_.notify_all();
  }

  Task<AcquiredVolume> acquire(VolumeId volume) {
    volume_ = volume;
    AGRO_CO_TRY(lease_, co_await Lease::grant(env_, kv_, options_.lease_ttl));
    AGRO_CO_TRY(AcquiredVolume acquired,
                co_await metadata_.acquire_volume(volume, lease_->id(), options_.holder));
    epoch_ = acquired.epoch;
    size_bytes_ = acquired.volume.size;
    degraded_copies_ = acquired.degraded_copies.value_or(0);
    jobs_.spawn(follow());
    co_return acquired;
  }

  /// Gives lock and lease back.
  Task<void> release() {
    stopping_ = true;
    stop_event_.notify_all();
    if (lease_ == nullptr) co_return Result<void>();
    lease_->changed().notify_all();
    co_await jobs_.join();
    Result<void> released;
    if (epoch_.value != 0 && !lost_) {
      released = co_await metadata_.release_volume(volume_, epoch_, lease_->id());
    }
    co_await lease_->stop();
    co_return released;
  }

 private:
  VolumeHead record_of(const LogHead& head) const {
    return {head.epoch,    head.checkpoint_epoch, head.root_index,
            head.sequence, size_bytes_,           head.log_end};
  }

  /// "Fenced" may only mean that our lease had ended: then the lock is taken again, and the caller
  /// may try again. Only when somebody else has, or had, the volume, all is lost.
  Task<void> judge(Result<void> done) {
    if (done.code() != Errc::fenced || lost_) co_return done;
    const AsyncMutex::Guard guard = co_await mutex_.lock();
    if (!lost_ && !lease_->lost() && !stopping_) {
      note(co_await metadata_.resume_volume(volume_, epoch_, lease_->id(), options_.holder,
                                            degraded_copies_));
    }
    if (lost_) co_return done;
    co_return fail(Errc::unavailable, "the volume's lock had ended: " + done.error().message);
  }

  void note(const Result<void>& resumed) {
    if (resumed.code() == Errc::fenced) lost_ = true;
    changed_.notify_all();
  }

  Job follow() {
    while (!stopping_ && !lost_) {
      if (lease_->lost()) {
        const bool again = co_await resume();
        if (again) co_await wait_until(stop_event_, env_.clock, env_.clock.now() + kResumeAgain);
        continue;
      }
      co_await wait_until(lease_->changed(), env_.clock,
                          env_.clock.now() + std::chrono::seconds(1));
      changed_.notify_all();
    }
  }

  /// A new lease and the old epoch, if nobody took the volume meanwhile. The new lease counts from
  /// when the lock is confirmed to be under it. True: try again.
  Awaitable<bool> resume() {
    const AsyncMutex::Guard guard = co_await mutex_.lock();
    co_await lease_->stop();
    if (stopping_) co_return false;
    Result<std::unique_ptr<Lease>> fresh = co_await Lease::grant(env_, kv_, options_.lease_ttl);
    if (!fresh.has_value()) co_return true;
    const Result<void> resumed = co_await metadata_.resume_volume(
        volume_, epoch_, (*fresh)->id(), options_.holder, degraded_copies_);
    if (!resumed.has_value()) {
      co_await (*fresh)->stop();
      note(resumed);
      co_return !lost_;
    }
    lease_ = std::move(*fresh);
    log_warning("volume {}: its lease had ended, nobody took it: going on", volume_.value);
    changed_.notify_all();
    co_return false;
  }

  static constexpr Duration kResumeAgain = std::chrono::milliseconds(500);

  Env& env_;
  Kv& kv_;
  Metadata& metadata_;
  VolumeManagerOptions& options_;
  VolumeId volume_;
  Epoch epoch_;
  std::uint64_t size_bytes_ = 0;
  std::uint32_t degraded_copies_ = 0;  // recorded; 0: all
  std::unique_ptr<Lease> lease_;
  bool lost_ = false;
  bool stopping_ = false;
  std::string seen_health_;                      // last round
  std::optional<std::string> told_health_ = "";  // in the metadata store; none: nobody knows
  std::uint64_t told_under_ = 0;
  AsyncMutex mutex_;  // one at a time takes the lock again
  Event changed_;
  Event stop_event_;
  TaskGroup jobs_;
};

struct VolumeManager::Attachment {
  enum class State : std::uint8_t { attaching, attached, detaching, gone };
  std::string name;
  State state = State::attaching;
  std::size_t handle_count = 0;
  std::uint64_t generation = 0;  // grows with every handle; a late detach sees that it is late
  VolumeId id;
  std::unique_ptr<OwnLease> lease;
  std::unique_ptr<Volume> volume;
  std::unique_ptr<LimitedDevice> device;  // what users get: the volume, with its limits
  bool looks_for_pins = false;
  AsyncMutex snapshot_mutex;  // one at a time takes a snapshot, or looks which there are
};

namespace {

Result<BlocksetSpec> spec_of(const VolumeRecord& volume) {
  const bool says_copies = volume.block_spec.find("replication=") != std::string::npos;
  if (volume.replication == 0 || says_copies) return parse_blockset_spec(volume.block_spec);
  return parse_blockset_spec(
      fmt::format("replication={},{}", volume.replication, volume.block_spec));
}

LogHead log_head_of(const VolumeHead& head) {
  return {head.epoch, head.checkpoint_epoch, head.root_index, head.sequence, head.log_end, 0};
}

LogHead pinned_head_of(const SnapshotRecord& snapshot) {
  LogHead head = log_head_of(snapshot.head);
  head.note_index = snapshot.note_index;
  return head;
}

}  // namespace

VolumeManager::VolumeManager(Env& env, Kv& kv, ClusterClient& cluster, VolumeManagerOptions options)
    : env_(env),
      kv_(kv),
      cluster_(cluster),
      options_(std::move(options)),
      jobs_(env.executor),
      snapshot_jobs_(env.executor) {
  jobs_.spawn(publish_health());
  jobs_.spawn(follow_cluster());
}

VolumeManager::~VolumeManager() = default;

std::vector<DeviceProvider::Export> VolumeManager::list() {
  std::map<std::string, Export> sorted;
  for (const VolumeRecord& volume : cluster_.view().volumes) {
    if (volume.state != VolumeState::active) continue;
    if (!options_.names.empty() && !options_.names.contains(volume.name)) continue;
    sorted[volume.name] = {volume.name, "agro volume, " + volume.block_spec, volume.size,
                           volume.read_only};
  }
  std::vector<Export> exports;
  for (auto& [name, one] : sorted) exports.push_back(std::move(one));
  return exports;
}

Task<std::shared_ptr<BlockDevice>> VolumeManager::open(std::string name) {
  if (const std::size_t at = name.find('@'); at != std::string::npos) {
    co_return co_await open_snapshot(name.substr(0, at), name.substr(at + 1));
  }
  if (!options_.names.empty() && !options_.names.contains(name)) {
    co_return fail(Errc::not_found, fmt::format("volume '{}' is not served here", name));
  }
  std::shared_ptr<Attachment> attachment;
  while (true) {
    if (stopping_) co_return fail(Errc::closed, "shutting down");
    const auto found = attachments_.find(name);
    if (found == attachments_.end()) break;
    attachment = found->second;
    // A failed device stays failed; a new client gets a new attempt once the old ones are gone.
    if (attachment->state == Attachment::State::attached) break;
    attachment.reset();
    co_await changed_.wait();
  }
  if (attachment == nullptr) {
    attachment = std::make_shared<Attachment>();
    attachment->name = name;
    attachments_[name] = attachment;
    const Result<void> done = co_await attach(attachment);
    if (!done.has_value()) {
      // The client may show its user no more than an error number.
      if (done.code() != Errc::not_found) {
        log_error("volume '{}' cannot be opened: {}", name, done.error().to_string());
      }
      attachment->state = Attachment::State::gone;
      attachments_.erase(name);
      changed_.notify_all();
      co_return fail(done.error());
    }
    attachment->state = Attachment::State::attached;
    changed_.notify_all();
    answer_requests();
  }
  ++attachment->handle_count;
  ++attachment->generation;
  co_return std::shared_ptr<BlockDevice>(
      attachment->device.get(), [this, attachment](BlockDevice*) { release_handle(attachment); });
}

void VolumeManager::release_handle(const std::shared_ptr<Attachment>& attachment) {
  AGRO_ASSERT(attachment->handle_count > 0);
  if (--attachment->handle_count > 0 || stopping_) {
    changed_.notify_all();
    return;
  }
  jobs_.spawn(detach_later(attachment, attachment->generation));
}

Job VolumeManager::detach_later(std::shared_ptr<Attachment> attachment, std::uint64_t generation) {
  co_await wait_until(stop_event_, env_.clock, env_.clock.now() + options_.linger);
  const bool wanted_again = attachment->generation != generation;
  if (wanted_again || attachment->state != Attachment::State::attached) co_return;
  const Result<void> done = co_await detach(attachment);
  if (!done.has_value()) {
    log_error("detaching volume '{}': {}", attachment->name, done.error().to_string());
  }
}

Task<void> VolumeManager::attach(std::shared_ptr<Attachment> attachment) {
  AGRO_CO_TRY(const VolumeRecord volume,
              co_await cluster_.metadata().find_volume(attachment->name));
  const TimePoint deadline = env_.clock.now() + options_.lock_patience;
  bool made_room = false;
  while (true) {
    attachment->lease = std::make_unique<OwnLease>(env_, kv_, cluster_.metadata(), options_);
    Result<void> opened = co_await open_volume(attachment, volume.id);
    if (opened.has_value()) co_return opened;
    const Result<void> released = co_await attachment->lease->release();
    if (!released.has_value()) log_warning("{}", released.error().to_string());
    const bool is_locked = opened.code() == Errc::locked && env_.clock.now() < deadline;
    const bool makes_room = opened.code() == Errc::out_of_space && !made_room;
    if (stopping_ || (!is_locked && !makes_room)) co_return opened;
    made_room = made_room || makes_room;
    co_await wait_until(stop_event_, env_.clock, env_.clock.now() + std::chrono::milliseconds(100));
  }
}

Task<void> VolumeManager::open_volume(std::shared_ptr<Attachment> attachment, VolumeId id) {
  AGRO_CO_TRY(const AcquiredVolume acquired, co_await attachment->lease->acquire(id));
  attachment->id = id;
  AGRO_CO_TRY(const BlocksetSpec spec, spec_of(acquired.volume));
  VolumeOptions volume_options = options_.volume;
  volume_options.description = {acquired.volume.name, acquired.volume.block_spec,
                                acquired.volume.replication, acquired.volume.ancestors};
  volume_options.read_only = acquired.volume.read_only;
  volume_options.checkpoint_size_bytes = acquired.head.size;
  // From here on only we make snapshots of it.
  AGRO_CO_TRY(const std::vector<SnapshotRecord> snapshots,
              co_await cluster_.metadata().snapshots(id, true));
  for (const SnapshotRecord& one : snapshots)
    volume_options.pinned_heads.push_back(pinned_head_of(one));
  volume_options.min_copies = cluster_.cluster().min_copies;
  volume_options.degraded_copies = acquired.degraded_copies.value_or(0);
  volume_options.force_recovery = options_.force_recovery.contains(attachment->name);
  std::uint32_t sure_copies = cluster_.distributor().sure_copies();
  if (volume_options.degraded_copies != 0) {
    sure_copies = std::min(sure_copies, volume_options.degraded_copies);
  }
  co_await cluster_.wait_for_members(sure_copies);
  AGRO_CO_TRY(attachment->volume,
              co_await Volume::open(env_, cluster_.distributor(), spec, acquired.volume.id,
                                    acquired.volume.size, log_head_of(acquired.head),
                                    *attachment->lease, volume_options));
  attachment->device = std::make_unique<LimitedDevice>(env_.clock, *attachment->volume);
  attachment->device->set_limits({acquired.volume.iops_max, acquired.volume.bandwidth_max});
  co_return Result<void>();
}

Task<void> VolumeManager::detach(std::shared_ptr<Attachment> attachment) {
  attachment->state = Attachment::State::detaching;
  // Who waits for his turn is to hear that it is closed.
  attachment->device->set_limits({});
  Result<void> closed = co_await attachment->volume->close();
  const Result<void> released = co_await attachment->lease->release();
  if (closed.has_value() && !released.has_value()) closed = released;
  // The volume itself lives on with the attachment, for handles that are still out.
  attachment->state = Attachment::State::gone;
  attachments_.erase(attachment->name);
  changed_.notify_all();
  co_return closed;
}

std::vector<VolumeManager::Attached> VolumeManager::attached() const {
  std::vector<Attached> all;
  for (const auto& [name, attachment] : attachments_) {
    if (attachment->state == Attachment::State::attached) {
      all.push_back({name, attachment->volume->info()});
    }
  }
  return all;
}

/// What is wrong with a volume, in its key in the metadata; written when it changes, and only when
/// it lasts.
Job VolumeManager::publish_health() {
  while (!stopping_) {
    co_await wait_until(stop_event_, env_.clock, env_.clock.now() + std::chrono::seconds(1));
    std::vector<std::shared_ptr<Attachment>> attached;
    for (const auto& [name, one] : attachments_) attached.push_back(one);
    for (const std::shared_ptr<Attachment>& one : attached) {
      if (stopping_ || one->state != Attachment::State::attached) continue;
      std::string health = one->volume->info().health;
      co_await one->lease->publish_health(std::move(health));
    }
  }
}

Job VolumeManager::detach_and_tell(std::shared_ptr<Attachment> attachment, Result<void>& first) {
  Result<void> done = co_await detach(attachment);
  if (done.has_value()) co_return;
  log_error("detaching volume '{}': {}", attachment->name, done.error().to_string());
  if (first.has_value()) first = std::move(done);
}

Task<void> VolumeManager::stop() {
  stopping_ = true;
  stop_event_.notify_all();
  changed_.notify_all();
  cluster_.changed().notify_all();
  co_await jobs_.join();
  Result<void> first;
  TaskGroup detaching(env_.executor);
  const TimePoint deadline = env_.clock.now() + options_.stop_patience;
  while (!attachments_.empty()) {
    std::vector<std::shared_ptr<Attachment>> ready;
    for (const auto& [name, attachment] : attachments_) {
      // Front ends are giving their handles back; one that waits in a suspended volume never would.
      const bool in_use = attachment->handle_count > 0 && env_.clock.now() < deadline;
      if (attachment->state == Attachment::State::attached && !in_use) ready.push_back(attachment);
      // An opening may wait for a metadata store that never comes back.
      const bool opening = attachment->state == Attachment::State::attaching;
      if (opening && attachment->lease != nullptr && env_.clock.now() >= deadline) {
        attachment->lease->abandon();
      }
    }
    for (const auto& attachment : ready) detaching.spawn(detach_and_tell(attachment, first));
    if (attachments_.empty()) break;
    co_await wait_until(changed_, env_.clock, env_.clock.now() + std::chrono::milliseconds(100));
  }
  co_await detaching.join();
  co_await snapshot_jobs_.join();
  co_return first;
}

// --- snapshots and growth ---

Task<std::shared_ptr<BlockDevice>> VolumeManager::open_snapshot(std::string volume_name,
                                                                std::string name) {
  if (!options_.names.empty() && !options_.names.contains(volume_name)) {
    co_return fail(Errc::not_found, fmt::format("volume '{}' is not served here", volume_name));
  }
  if (stopping_) co_return fail(Errc::closed, "shutting down");
  AGRO_CO_TRY(const VolumeRecord volume, co_await cluster_.metadata().find_volume(volume_name));
  AGRO_CO_TRY(const SnapshotRecord snapshot,
              co_await cluster_.metadata().find_snapshot(volume, name));
  // Not by its name, which may be another snapshot's by now, while clients still have the old one
  // open.
  const VolumeHead& head = snapshot.head;
  const std::string key =
      fmt::format("{} {} {} {} {} {}", volume.id.value, head.epoch.value,
                  head.checkpoint_epoch.value, head.root_index, head.log_end, head.size);
  if (std::shared_ptr<SnapshotDevice> open = snapshots_[key].lock()) co_return open;
  AGRO_CO_TRY(const BlocksetSpec spec, spec_of(volume));
  co_await cluster_.wait_for_members(cluster_.distributor().sure_copies());
  AGRO_CO_TRY(std::shared_ptr<SnapshotDevice> device,
              co_await SnapshotDevice::open(cluster_.distributor(), spec,
                                            Lineage(volume.id, volume.ancestors),
                                            log_head_of(snapshot.head), snapshot.head.size));
  std::erase_if(snapshots_, [](const auto& entry) { return entry.second.expired(); });
  snapshots_[key] = device;
  co_return device;
}

Job VolumeManager::follow_cluster() {
  while (!stopping_) {
    answer_requests();
    for (const VolumeRecord& record : cluster_.view().volumes) {
      for (const auto& [name, attachment] : attachments_) {
        const bool is_attached =
            attachment->state == Attachment::State::attached && attachment->id == record.id;
        if (!is_attached) continue;
        attachment->device->set_limits({record.iops_max, record.bandwidth_max});
        if (record.size <= attachment->volume->size_bytes()) continue;
        attachment->lease->set_size(record.size);
        attachment->volume->grow(record.size);
        log_info("volume '{}' has {} bytes now", name, record.size);
      }
    }
    // Snapshots that were deleted are seen the next time; what they kept is no more to be kept.
    constexpr Duration kLookForDeleted = std::chrono::seconds(10);
    co_await wait_until(cluster_.changed(), env_.clock, env_.clock.now() + kLookForDeleted);
    for (const auto& [name, attachment] : attachments_) {
      const bool is_attached = attachment->state == Attachment::State::attached;
      if (!is_attached || stopping_ || attachment->looks_for_pins ||
          !attachment->volume->has_pinned_heads())
        continue;
      attachment->looks_for_pins = true;
      snapshot_jobs_.spawn(refresh_pins(attachment));
    }
  }
}

Job VolumeManager::refresh_pins(std::shared_ptr<Attachment> attachment) {
  const AsyncMutex::Guard guard = co_await attachment->snapshot_mutex.lock();
  const Result<std::vector<SnapshotRecord>> snapshots =
      co_await cluster_.metadata().snapshots(attachment->id, true);
  attachment->looks_for_pins = false;
  // What cannot be read stays as it is known.
  if (!snapshots.has_value() || attachment->state != Attachment::State::attached) co_return;
  std::vector<LogHead> heads;
  for (const SnapshotRecord& one : *snapshots) heads.push_back(pinned_head_of(one));
  attachment->volume->set_pinned_heads(heads);
}

void VolumeManager::answer_requests() {
  for (const SnapshotRequest& request : cluster_.view().snapshot_requests) {
    if (stopping_ || !request.problem.empty() || answered_.contains(request.token)) continue;
    for (const auto& [name, attachment] : attachments_) {
      if (attachment->state != Attachment::State::attached || attachment->id != request.volume)
        continue;
      answered_.insert(request.token);
      snapshot_jobs_.spawn(make_snapshot(attachment, request));
    }
  }
}

Job VolumeManager::make_snapshot(std::shared_ptr<Attachment> attachment, SnapshotRequest request) {
  const AsyncMutex::Guard guard = co_await attachment->snapshot_mutex.lock();
  const Result<void> made = co_await try_snapshot(attachment, request);
  if (made.has_value()) log_info("volume '{}': snapshot '{}'", attachment->name, request.name);
  // Nobody waits for it any more.
  if (made.has_value() || made.code() == Errc::not_found) co_return;
  log_warning("volume '{}': no snapshot '{}': {}", attachment->name, request.name,
              made.error().to_string());
  const Result<void> told =
      co_await cluster_.metadata().refuse_snapshot(request, made.error().to_string());
  if (told.has_value()) co_return;
  answered_.erase(request.token);  // whoever asked still waits
}

Task<void> VolumeManager::try_snapshot(std::shared_ptr<Attachment> attachment,
                                       SnapshotRequest request) {
  constexpr int kAttempts = 32;  // lost only to checkpoints of the volume
  Result<void> recorded;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    AGRO_CO_TRY(LogHead head, co_await attachment->volume->take_snapshot());
    SnapshotNote note;
    note.epoch = head.epoch;
    note.checkpoint_epoch = head.checkpoint_epoch;
    note.root_index = head.root_index;
    note.sequence = head.sequence;
    note.log_end = head.log_end;
    note.size_bytes = attachment->volume->size_bytes();
    note.created_unix_ms = env_.clock.unix_time_ms();
    note.origin = request.origin;
    note.name = request.name;
    AGRO_CO_TRY(head.note_index, co_await attachment->volume->note_snapshot(note));
    recorded = co_await attachment->lease->record_snapshot(request, head);
    if (recorded.code() != Errc::conflict) co_return recorded;
    co_await wait_until(stop_event_, env_.clock, env_.clock.now() + std::chrono::milliseconds(5));
  }
  co_return recorded;
}

}  // namespace agro
