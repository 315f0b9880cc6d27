// The controller, the part that makes, changes and deletes volumes.
#include "csi/controller.hpp"

#include <fmt/format.h>

#include "base/log.hpp"
#include "csi/names.hpp"

namespace agro::csi {
namespace {

constexpr Duration kLockPatience = std::chrono::seconds(3);
constexpr Duration kLockAgain = std::chrono::milliseconds(50);

}  // namespace

struct Controller::Wanted {
  std::string name;
  std::uint64_t size = 0;
  CreateParameters parameters;
  VolumeChange limits;
  v1::CapacityRange range;
  std::optional<VolumeRecord> origin;  // of a clone
  std::optional<SnapshotRecord> snapshot;  // of `origin`, when it is a clone of that
};

void fill(const VolumeRecord& record, v1::Volume& volume) {
  volume.set_volume_id(volume_id_text(record.id));
  volume.set_capacity_bytes(static_cast<std::int64_t>(record.size));
  (*volume.mutable_volume_context())["name"] = record.name;
}

Task<VolumeRecord> Controller::find(std::string id) {
  AGRO_CO_TRY_OK(check_given(id, "volume_id"));
  const Result<VolumeId> wanted = parse_volume_id(id);
  if (wanted.has_value()) {
    AGRO_CO_TRY(const std::vector<VolumeRecord> volumes, co_await metadata().list_volumes());
    for (const VolumeRecord& volume : volumes)
      if (volume.id == *wanted) co_return volume;
  }
  co_return fail(Errc::not_found, fmt::format("there is no volume with the id '{}'", id.substr(0, 64)));
}

// --- create -----------------------------------------------------------------------------------

Task<void> Controller::find_source(const v1::VolumeContentSource& source, Wanted& wanted) {
  if (source.has_volume()) {
    AGRO_CO_TRY(wanted.origin, co_await find(source.volume().volume_id()));
    co_return Result<void>();
  }
  if (!source.has_snapshot()) co_return fail(Errc::invalid_argument, "volume_content_source needs a volume or a snapshot");
  const std::string& text = source.snapshot().snapshot_id();
  AGRO_CO_TRY_OK(check_given(text, "snapshot_id"));
  const Result<SnapshotId> id = parse_snapshot_id(text);
  if (!id.has_value()) co_return fail(Errc::not_found, id.error().message);
  AGRO_CO_TRY(wanted.origin, co_await find(volume_id_text(id->volume)));
  AGRO_CO_TRY(wanted.snapshot, co_await metadata().find_snapshot(*wanted.origin, id->name));
  co_return Result<void>();
}

Task<Controller::Wanted> Controller::read_create(const v1::CreateVolumeRequest& request) {
  Wanted wanted;
  AGRO_CO_TRY(wanted.name, our_name(request.name()));
  AGRO_CO_TRY_OK(check_capabilities(request.volume_capabilities()));
  AGRO_CO_TRY(wanted.parameters, parse_parameters(to_parameters(request.parameters())));
  AGRO_CO_TRY(wanted.limits, parse_mutable_parameters(to_parameters(request.mutable_parameters())));
  wanted.range = request.capacity_range();
  if (request.has_volume_content_source()) AGRO_CO_TRY_OK(co_await find_source(request.volume_content_source(), wanted));
  std::uint64_t floor = 0;
  if (wanted.origin.has_value()) floor = wanted.snapshot ? wanted.snapshot->head.size : wanted.origin->size;
  AGRO_CO_TRY(wanted.size, choose_size(wanted.range, floor));
  co_return wanted;
}

/// Whether `volume` is what was asked for, as far as one can still tell.
Task<bool> Controller::is_clone_of(VolumeRecord volume, Wanted wanted) {
  if (!wanted.origin.has_value()) co_return volume.ancestors.empty();
  if (volume.ancestors.empty() || volume.ancestors.back().volume != wanted.origin->id) co_return false;
  if (!wanted.snapshot.has_value()) co_return true;
  AGRO_CO_TRY(const std::vector<SnapshotRecord> kept, co_await metadata().snapshots(wanted.origin->id, true));
  const std::string start = "@" + volume_id_text(volume.id);
  for (const SnapshotRecord& one : kept)
    if (one.name == start) co_return one.head == wanted.snapshot->head;
  co_return false;
}

/// A volume of that name is there: made by the same request before, perhaps not to its end, or by another.
Task<VolumeRecord> Controller::finish_existing(VolumeRecord volume, Wanted wanted) {
  AGRO_CO_TRY(bool same, co_await is_clone_of(volume, wanted));
  const bool is_clone = wanted.origin.has_value();
  if (!is_clone) {
    const CreateParameters& parameters = wanted.parameters;
    same = same && parameters.replication == volume.replication &&
           (parameters.block_spec.empty() || parameters.block_spec == volume.block_spec);
  }
  const bool can_grow = is_clone && wanted.size > volume.size;
  if (!same || (!fits(wanted.range, volume.size) && !can_grow)) {
    co_return fail(Errc::already_exists, fmt::format("volume '{}' exists already and is another: {} bytes, {}", wanted.name,
                                                     volume.size, volume.ancestors.empty() ? "no clone" : "a clone"));
  }
  if (!can_grow) co_return volume;
  VolumeChange growth{.size = wanted.size};
  co_return co_await metadata().change_volume(volume.name, std::move(growth));
}

Task<VolumeRecord> Controller::make_clone(Wanted wanted) {
  NewClone clone{*wanted.origin, "", wanted.name};
  if (wanted.snapshot.has_value()) {
    clone.snapshot = wanted.snapshot->name;
    co_return co_await metadata().clone_volume(std::move(clone));
  }
  clone.snapshot = std::string(kPassing) + wanted.name;
  AGRO_CO_TRY([[maybe_unused]] const SnapshotRecord made, co_await make_snapshot(*wanted.origin, clone.snapshot));
  Result<VolumeRecord> cloned = co_await metadata().clone_volume(clone);
  const Result<void> removed = co_await metadata().delete_snapshot(*wanted.origin, clone.snapshot);
  if (!removed.has_value() && removed.code() != Errc::not_found)
    log_warning("snapshot {} of volume {} stays: {}", clone.snapshot, wanted.origin->name, removed.error().to_string());
  co_return cloned;
}

Task<VolumeRecord> Controller::make(Wanted wanted) {
  const bool is_clone = wanted.origin.has_value();
  Result<VolumeRecord> made = fail(Errc::closed, "not begun");
  if (is_clone) {
    made = co_await make_clone(wanted);
  } else {
    NewVolume plain{wanted.name, wanted.size, wanted.parameters.block_spec, wanted.parameters.replication};
    made = co_await metadata().create_volume(std::move(plain));
  }
  if (!made.has_value()) co_return fail(std::move(made).error());
  VolumeChange change = wanted.limits;
  if (made->size < wanted.size) change.size = wanted.size;
  if (change.size || change.iops_max || change.bandwidth_max) co_return co_await metadata().change_volume(wanted.name, change);
  co_return made;
}

Task<void> Controller::create_volume(const v1::CreateVolumeRequest& request, v1::CreateVolumeResponse& response) {
  AGRO_CO_TRY(const std::string name, our_name(request.name()));
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + name));
  AGRO_CO_TRY(Wanted wanted, co_await read_create(request));
  Result<VolumeRecord> volume = co_await metadata().find_volume(name);
  if (volume.has_value()) {
    volume = co_await finish_existing(*volume, std::move(wanted));
  } else if (volume.code() == Errc::not_found) {
    volume = co_await make(std::move(wanted));
  }
  if (!volume.has_value()) co_return fail(volume.error());
  fill(*volume, *response.mutable_volume());
  if (request.has_volume_content_source())
    *response.mutable_volume()->mutable_content_source() = request.volume_content_source();
  co_return Result<void>();
}

// --- delete, change ---------------------------------------------------------------------------

Task<void> Controller::delete_volume(const v1::DeleteVolumeRequest& request, v1::DeleteVolumeResponse& /*response*/) {
  const Result<VolumeRecord> volume = co_await find(request.volume_id());
  if (volume.code() == Errc::not_found) co_return Result<void>();
  if (!volume.has_value()) co_return fail(volume.error());
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  AGRO_CO_TRY(const std::vector<Publication> published, co_await metadata().publications(volume->id));
  if (!published.empty()) {
    co_return fail(Errc::locked, fmt::format("volume {} is published to node '{}'; unpublish it first", request.volume_id(),
                                             published.front().node));
  }
  // What a clone left behind that was never finished must not be in the way.
  AGRO_CO_TRY(const std::vector<SnapshotRecord> snapshots, co_await metadata().snapshots(volume->id));
  for (const SnapshotRecord& one : snapshots) {
    if (!one.name.starts_with(kPassing)) continue;
    const Result<void> removed = co_await metadata().delete_snapshot(*volume, one.name);
    if (!removed.has_value() && removed.code() != Errc::not_found) co_return removed;
  }
  const TimePoint give_up = env_.clock.now() + kLockPatience;
  while (true) {
    const Result<Tombstone> deleted = co_await metadata().delete_volume(volume->name);
    if (deleted.has_value() || deleted.code() == Errc::not_found) co_return Result<void>();
    // We ourselves may have it open for a moment, after its snapshot.
    const bool again = deleted.code() == Errc::locked && env_.clock.now() < give_up && !stopping_;
    if (!again && deleted.code() == Errc::conflict) co_return fail(Errc::locked, deleted.error().message);  // snapshots
    if (!again) co_return fail(deleted.error());
    co_await sleep_for(env_.clock, kLockAgain);
  }
}

Task<void> Controller::modify_volume(const v1::ControllerModifyVolumeRequest& request,
                                     v1::ControllerModifyVolumeResponse& /*response*/) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  AGRO_CO_TRY(const VolumeChange change, parse_mutable_parameters(to_parameters(request.mutable_parameters())));
  AGRO_CO_TRY(const VolumeRecord volume, co_await find(request.volume_id()));
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  AGRO_CO_TRY([[maybe_unused]] const VolumeRecord changed, co_await metadata().change_volume(volume.name, change));
  co_return Result<void>();
}

Task<void> Controller::expand_volume(const v1::ControllerExpandVolumeRequest& request,
                                     v1::ControllerExpandVolumeResponse& response) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  if (!request.has_capacity_range()) co_return fail(Errc::invalid_argument, "capacity_range is missing");
  if (request.has_volume_capability()) AGRO_CO_TRY_OK(check_capability(request.volume_capability()));
  AGRO_CO_TRY(VolumeRecord volume, co_await find(request.volume_id()));
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  AGRO_CO_TRY(const std::uint64_t size, choose_size(request.capacity_range(), volume.size));
  if (size > volume.size) {
    VolumeChange growth{.size = size};
    AGRO_CO_TRY(volume, co_await metadata().change_volume(volume.name, std::move(growth)));
  }
  response.set_capacity_bytes(static_cast<std::int64_t>(volume.size));
  // A device follows its volume; file systems do not, and whether there is one only the node knows, unless we are told.
  response.set_node_expansion_required(!request.volume_capability().has_block());
  co_return Result<void>();
}

}  // namespace agro::csi
