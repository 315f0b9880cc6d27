#include "csi/node_service.hpp"

#include <fmt/format.h>

#include "base/log.hpp"
#include "csi/names.hpp"
#include "csi/node_work.hpp"

namespace agro::csi {
namespace {

constexpr Duration kLook = std::chrono::seconds(1);
constexpr Duration kGrowthPatience = std::chrono::seconds(15);  // devices look at their size every five seconds
constexpr Duration kGrowthAgain = std::chrono::milliseconds(100);

std::string text_or(const std::string& text, const std::string& other) { return text.empty() ? other : text; }

void add_usage(v1::NodeGetVolumeStatsResponse& response, v1::VolumeUsage::Unit unit, std::uint64_t total,
               std::uint64_t available, std::uint64_t used) {
  v1::VolumeUsage& usage = *response.add_usage();
  usage.set_unit(unit);
  usage.set_total(static_cast<std::int64_t>(total));
  usage.set_available(static_cast<std::int64_t>(available));
  usage.set_used(static_cast<std::int64_t>(used));
}

}  // namespace

NodeService::NodeService(Env& env, ClusterClient& cluster, std::shared_ptr<NodeDevices> devices,
                         std::shared_ptr<Mounter> mounter, NodeOptions options)
    : env_(env),
      cluster_(cluster),
      devices_(std::move(devices)),
      mounter_(std::move(mounter)),
      options_(std::move(options)),
      jobs_(env.executor) {}

Task<void> NodeService::read_state() {
  auto read_boot = [] { return read_boot_id(); };
  AGRO_CO_TRY(const std::string boot_id, co_await run_blocking(env_.offload, std::move(read_boot)));
  auto read = [path = state_path()] { return read_if_there(path); };
  AGRO_CO_TRY(const std::string text, co_await run_blocking(env_.offload, std::move(read)));
  if (!text.empty()) {
    Result<NodeState> state = decode_node_state(text);
    if (!state.has_value()) {
      co_return fail(Errc::corrupt, fmt::format("{}: {}; unmount what it names and remove it", state_path(), state.error().message));
    }
    state_ = std::move(*state);
  }
  // Devices and mounts went with their kernel, and the volumes may be in use elsewhere by now.
  if (state_.boot_id != boot_id) state_.volumes.clear();
  state_.boot_id = boot_id;
  co_return Result<void>();
}

Task<void> NodeService::save() {
  // One after the other, the last one with all that is known by then.
  const AsyncMutex::Guard guard = co_await saving_.lock();
  auto write = [path = state_path(), text = encode(state_)] { return write_atomically(path, text); };
  co_return co_await run_blocking(env_.offload, std::move(write));
}

Task<void> NodeService::start() {
  AGRO_CO_TRY_OK(co_await env_.disk.make_directories(options_.state_folder));
  AGRO_CO_TRY_OK(co_await read_state());
  AGRO_CO_TRY_OK(co_await cluster_.metadata().register_node(options_.node_id));
  jobs_.spawn(keep_devices_served());
  co_return Result<void>();
}

Awaitable<void> NodeService::stop() {
  stopping_ = true;
  stop_event_.notify_all();
  co_await jobs_.join();
}

/// A device without a server makes everything that uses it wait, and fail after a minute.
Job NodeService::keep_devices_served() {
  while (!stopping_) {
    std::vector<StagedVolume> ready;
    for (const auto& [id, volume] : state_.volumes)
      if (volume.ready) ready.push_back(volume);
    for (const StagedVolume& volume : ready) {
      const Result<Underway::Hold> hold = underway_.begin("volume " + volume_id_text(volume.volume));
      if (!hold.has_value() || stopping_) continue;  // somebody is at it
      auto serve = [devices = devices_, name = volume.name]() -> Result<void> {
        if (devices->is_served(name)) return {};
        AGRO_TRY(const std::uint64_t size, devices->size_of(name));
        AGRO_TRY([[maybe_unused]] const std::string path, devices->attach(name, size));
        return {};
      };
      const Result<void> served = co_await run_blocking(env_.offload, std::move(serve));
      if (!served.has_value()) log_warning("volume {} has no server: {}", volume.name, served.error().to_string());
    }
    co_await wait_until(stop_event_, env_.clock, env_.clock.now() + kLook);
  }
}

Task<VolumeRecord> NodeService::find(VolumeId volume) {
  AGRO_CO_TRY(const std::vector<VolumeRecord> volumes, co_await cluster_.metadata().list_volumes());
  for (const VolumeRecord& one : volumes)
    if (one.id == volume) co_return one;
  co_return fail(Errc::not_found, fmt::format("there is no volume with the id '{}'", volume_id_text(volume)));
}

Result<StagedVolume*> NodeService::staged(const std::string& volume_id) {
  AGRO_TRY_OK(check_given(volume_id, "volume_id"));
  const Result<VolumeId> id = parse_volume_id(volume_id);
  const auto found = id.has_value() ? state_.volumes.find(*id) : state_.volumes.end();
  if (found == state_.volumes.end())
    return fail(Errc::not_found, fmt::format("volume '{}' is not staged on this node", volume_id.substr(0, 64)));
  return &found->second;
}

Task<void> NodeService::stage(const v1::NodeStageVolumeRequest& request, v1::NodeStageVolumeResponse& /*response*/) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  AGRO_CO_TRY_OK(check_path(request.staging_target_path(), "staging_target_path"));
  if (!request.has_volume_capability()) co_return fail(Errc::invalid_argument, "volume_capability is missing");
  AGRO_CO_TRY_OK(check_capability(request.volume_capability()));
  const Result<VolumeId> id = parse_volume_id(request.volume_id());
  if (!id.has_value()) co_return fail(Errc::not_found, id.error().message);
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  AGRO_CO_TRY(const VolumeRecord record, co_await find(*id));
  const v1::VolumeCapability& capability = request.volume_capability();
  StagedVolume volume;
  volume.volume = *id;
  volume.name = record.name;
  volume.staging_path = request.staging_target_path();
  volume.block = capability.has_block();
  volume.read_only = is_read_only(capability) || record.read_only;
  if (const auto found = request.publish_context().find("readonly"); found != request.publish_context().end())
    volume.read_only = volume.read_only || found->second == "true";
  if (!volume.block) {
    volume.fs_type = fs_type_of(capability);
    volume.mount_flags = {capability.mount().mount_flags().begin(), capability.mount().mount_flags().end()};
  }
  const auto present = state_.volumes.find(*id);
  if (present != state_.volumes.end() && present->second.ready) {
    const StagedVolume& other = present->second;
    const bool same = other.staging_path == volume.staging_path && other.block == volume.block &&
                      other.fs_type == volume.fs_type && other.read_only == volume.read_only;
    if (!same) co_return fail(Errc::already_exists, fmt::format("volume {} is staged here already, in another way", request.volume_id()));
    volume = other;
  }
  state_.volumes[*id] = volume;
  AGRO_CO_TRY_OK(co_await save());
  auto work = [devices = devices_, mounter = mounter_, volume, size = record.size]() mutable -> Result<std::string> {
    AGRO_TRY(volume.device, devices->attach(volume.name, size));
    if (!volume.block) AGRO_TRY_OK(stage_file_system(*mounter, volume));
    return volume.device;
  };
  AGRO_CO_TRY(const std::string device, co_await run_blocking(env_.offload, std::move(work)));
  StagedVolume& done = state_.volumes[*id];
  done.device = device;
  done.ready = true;
  co_return co_await save();
}

Task<void> NodeService::unstage(const v1::NodeUnstageVolumeRequest& request, v1::NodeUnstageVolumeResponse& /*response*/) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  AGRO_CO_TRY_OK(check_path(request.staging_target_path(), "staging_target_path"));
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  const Result<StagedVolume*> volume = staged(request.volume_id());
  // Not known, as after a reboot: then it is not there.
  if (!volume.has_value()) co_return Result<void>();
  if (!(*volume)->targets.empty()) {
    co_return fail(Errc::locked, fmt::format("volume {} is published at {}; unpublish it there first", request.volume_id(),
                                             (*volume)->targets.front().path));
  }
  (*volume)->ready = false;
  auto work = [devices = devices_, mounter = mounter_, copy = **volume] { return unstage_volume(*mounter, *devices, copy); };
  AGRO_CO_TRY_OK(co_await run_blocking(env_.offload, std::move(work)));
  AGRO_CO_TRY(const VolumeId id, parse_volume_id(request.volume_id()));
  state_.volumes.erase(id);
  co_return co_await save();
}

Task<void> NodeService::publish(const v1::NodePublishVolumeRequest& request, v1::NodePublishVolumeResponse& /*response*/) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  AGRO_CO_TRY_OK(check_path(request.target_path(), "target_path"));
  if (!request.has_volume_capability()) co_return fail(Errc::invalid_argument, "volume_capability is missing");
  AGRO_CO_TRY_OK(check_capability(request.volume_capability()));
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  const Result<VolumeId> id = parse_volume_id(request.volume_id());
  if (!id.has_value()) co_return fail(Errc::not_found, id.error().message);
  if (!state_.volumes.contains(*id)) {
    AGRO_CO_TRY([[maybe_unused]] const VolumeRecord record, co_await find(*id));
    co_return fail(Errc::locked, fmt::format("volume {} is not staged on this node", request.volume_id()));
  }
  AGRO_CO_TRY(StagedVolume * volume, staged(request.volume_id()));
  if (!volume->ready) co_return fail(Errc::locked, fmt::format("volume {} is not staged on this node", request.volume_id()));
  if (request.staging_target_path() != volume->staging_path)
    co_return fail(Errc::locked, fmt::format("staging_target_path: volume {} is staged at {}", request.volume_id(), volume->staging_path));
  if (request.volume_capability().has_block() != volume->block)
    co_return fail(Errc::already_exists, fmt::format("volume {} is staged {} a file system", request.volume_id(), volume->block ? "without" : "with"));
  const PublishedTarget target{request.target_path(), request.readonly() || volume->read_only};
  bool known = false;
  for (const PublishedTarget& one : volume->targets) {
    if (one.path == target.path && one.read_only != target.read_only)
      co_return fail(Errc::already_exists, fmt::format("it is published at {} already, {}", one.path, one.read_only ? "read-only" : "writable"));
    known = known || one.path == target.path;
  }
  if (!known && request.volume_capability().access_mode().mode() == v1::VolumeCapability::AccessMode::SINGLE_NODE_SINGLE_WRITER &&
      !volume->targets.empty()) {
    co_return fail(Errc::locked, fmt::format("it may be published once only, and is at {}", volume->targets.front().path));
  }
  if (!known) volume->targets.push_back(target);
  AGRO_CO_TRY_OK(co_await save());
  auto work = [mounter = mounter_, copy = state_.volumes[*id], target] { return publish_at(*mounter, copy, target); };
  co_return co_await run_blocking(env_.offload, std::move(work));
}

Task<void> NodeService::unpublish(const v1::NodeUnpublishVolumeRequest& request,
                                  v1::NodeUnpublishVolumeResponse& /*response*/) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  AGRO_CO_TRY_OK(check_path(request.target_path(), "target_path"));
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  const Result<StagedVolume*> volume = staged(request.volume_id());
  if (!volume.has_value()) co_return Result<void>();
  // Nothing but our own is unmounted and removed.
  const VolumeId id = (*volume)->volume;
  const auto is_it = [&](const PublishedTarget& one) { return one.path == request.target_path(); };
  const std::vector<PublishedTarget>& targets = (*volume)->targets;
  if (std::none_of(targets.begin(), targets.end(), is_it)) co_return Result<void>();
  auto work = [mounter = mounter_, path = request.target_path()] { return unpublish_at(*mounter, path); };
  AGRO_CO_TRY_OK(co_await run_blocking(env_.offload, std::move(work)));
  std::erase_if(state_.volumes[id].targets, is_it);
  co_return co_await save();
}

Task<void> NodeService::get_stats(const v1::NodeGetVolumeStatsRequest& request, v1::NodeGetVolumeStatsResponse& response) {
  AGRO_CO_TRY_OK(check_path(request.volume_path(), "volume_path"));
  AGRO_CO_TRY(const StagedVolume* found, staged(request.volume_id()));
  const StagedVolume volume = *found;
  const bool here = request.volume_path() == volume.staging_path ||
                    std::any_of(volume.targets.begin(), volume.targets.end(),
                                [&](const PublishedTarget& one) { return one.path == request.volume_path(); });
  if (!here) co_return fail(Errc::not_found, fmt::format("volume {} is not at {}", request.volume_id(), request.volume_path()));
  auto is_served = [devices = devices_, name = volume.name]() -> Result<bool> { return devices->is_served(name); };
  AGRO_CO_TRY(const bool served, co_await run_blocking(env_.offload, std::move(is_served)));
  const Result<std::string> health = co_await cluster_.metadata().health_of(volume.volume);
  std::string problem = served ? "" : "its device has no server, and waits";
  if (problem.empty() && health.has_value()) problem = *health;
  response.mutable_volume_condition()->set_abnormal(!problem.empty());
  response.mutable_volume_condition()->set_message(text_or(problem, "the volume is well"));
  if (volume.block) {
    auto get_size = [devices = devices_, name = volume.name] { return devices->size_of(name); };
    AGRO_CO_TRY(const std::uint64_t size, co_await run_blocking(env_.offload, std::move(get_size)));
    response.add_usage()->set_unit(v1::VolumeUsage::BYTES);
    response.mutable_usage(0)->set_total(static_cast<std::int64_t>(size));
    co_return Result<void>();
  }
  // A device that waits would make this wait, too.
  if (!served) co_return Result<void>();
  auto get_usage = [path = request.volume_path()] { return usage_of(path); };
  AGRO_CO_TRY(const struct statvfs usage, co_await run_blocking(env_.offload, std::move(get_usage)));
  add_usage(response, v1::VolumeUsage::BYTES, usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize,
            (usage.f_blocks - usage.f_bfree) * usage.f_frsize);
  add_usage(response, v1::VolumeUsage::INODES, usage.f_files, usage.f_ffree, usage.f_files - usage.f_ffree);
  co_return Result<void>();
}

/// Until the device has grown with its volume. Errors: timed_out.
Task<std::uint64_t> NodeService::wait_for_size(std::string name, std::uint64_t wanted) {
  const TimePoint give_up = env_.clock.now() + kGrowthPatience;
  while (true) {
    // Attaching what is attached tells devices without a kernel their new size.
    auto look = [devices = devices_, name, wanted]() -> Result<std::uint64_t> {
      AGRO_TRY([[maybe_unused]] const std::string path, devices->attach(name, wanted));
      return devices->size_of(name);
    };
    AGRO_CO_TRY(const std::uint64_t size, co_await run_blocking(env_.offload, std::move(look)));
    if (size >= wanted) co_return size;
    if (stopping_ || env_.clock.now() >= give_up)
      co_return fail(Errc::timed_out, fmt::format("the device has {} bytes and should have {}", size, wanted));
    co_await sleep_for(env_.clock, kGrowthAgain);
  }
}

Task<void> NodeService::expand(const v1::NodeExpandVolumeRequest& request, v1::NodeExpandVolumeResponse& response) {
  AGRO_CO_TRY_OK(check_path(request.volume_path(), "volume_path"));
  AGRO_CO_TRY(const StagedVolume* found, staged(request.volume_id()));
  const StagedVolume volume = *found;
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  AGRO_CO_TRY(const VolumeRecord record, co_await find(volume.volume));
  if (request.has_capacity_range() && !fits(request.capacity_range(), record.size)) {
    co_return fail(Errc::too_large, fmt::format("the volume has {} bytes, which is not what was asked for; expand it with the "
                                                "controller first", record.size));
  }
  AGRO_CO_TRY(const std::uint64_t size, co_await wait_for_size(volume.name, record.size));
  if (!volume.block && !volume.read_only) {
    auto grow = [mounter = mounter_, volume] { return mounter->grow(volume.device, volume.staging_path, volume.fs_type); };
    AGRO_CO_TRY_OK(co_await run_blocking(env_.offload, std::move(grow)));
  }
  response.set_capacity_bytes(static_cast<std::int64_t>(size));
  co_return Result<void>();
}

Task<void> NodeService::get_capabilities(const v1::NodeGetCapabilitiesRequest& /*request*/,
                                         v1::NodeGetCapabilitiesResponse& response) {
  using RPC = v1::NodeServiceCapability::RPC;
  for (const RPC::Type type : {RPC::STAGE_UNSTAGE_VOLUME, RPC::GET_VOLUME_STATS, RPC::EXPAND_VOLUME, RPC::VOLUME_CONDITION,
                               RPC::SINGLE_NODE_MULTI_WRITER}) {
    response.add_capabilities()->mutable_rpc()->set_type(type);
  }
  co_return Result<void>();
}

Task<void> NodeService::get_info(const v1::NodeGetInfoRequest& /*request*/, v1::NodeGetInfoResponse& response) {
  response.set_node_id(options_.node_id);
  response.set_max_volumes_per_node(options_.volumes_max);
  auto& segments = *response.mutable_accessible_topology()->mutable_segments();
  segments[options_.topology_prefix + "/host"] = options_.node_id;
  // Zone and rack as the peer of this host says them.
  AGRO_CO_TRY(const std::vector<PeerView> peers, co_await cluster_.metadata().list_peers());
  for (const PeerView& peer : peers) {
    const PeerLabels& labels = peer.record.labels;
    if (labels.host != options_.node_id) continue;
    if (!labels.zone.empty()) segments[options_.topology_prefix + "/zone"] = labels.zone;
    if (!labels.rack.empty()) segments[options_.topology_prefix + "/rack"] = labels.rack;
  }
  co_return Result<void>();
}

}  // namespace agro::csi
