// The controller, the part that tells, and that says where volumes may be used.
#include <fmt/format.h>

#include "base/log.hpp"
#include "base/units.hpp"
#include "csi/controller.hpp"
#include "csi/devices.hpp"
#include "csi/names.hpp"

namespace agro::csi {
namespace {

constexpr std::size_t kPageMax = 1000;
constexpr std::uint64_t kSizeMin = 4096;

template <class Status>
void fill_status(const VolumeUse& use, Status& status) {
  for (const Publication& one : use.publications) status.add_published_node_ids(one.node);
  status.mutable_volume_condition()->set_abnormal(!use.health.empty());
  status.mutable_volume_condition()->set_message(use.health.empty() ? "the volume is well" : use.health);
}

std::uint32_t copies_of(const CreateParameters& parameters, const RingSpec& ring) {
  return std::max<std::uint32_t>(parameters.replication != 0 ? parameters.replication : ring.replication, 1);
}

}  // namespace

Task<void> Controller::publish(const v1::ControllerPublishVolumeRequest& request,
                               v1::ControllerPublishVolumeResponse& response) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  AGRO_CO_TRY_OK(check_given(request.node_id(), "node_id"));
  if (!request.has_volume_capability()) co_return fail(Errc::invalid_argument, "volume_capability is missing");
  AGRO_CO_TRY_OK(check_capability(request.volume_capability()));
  AGRO_CO_TRY(const VolumeRecord volume, co_await find(request.volume_id()));
  AGRO_CO_TRY([[maybe_unused]] const NodeRecord node, co_await metadata().find_node(request.node_id()));
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  const bool read_only = request.readonly() || is_read_only(request.volume_capability());
  const auto mode = static_cast<std::uint32_t>(request.volume_capability().access_mode().mode());
  Publication publication{request.node_id(), read_only, mode};
  AGRO_CO_TRY_OK(co_await metadata().publish_volume(volume.id, std::move(publication)));
  (*response.mutable_publish_context())["readonly"] = read_only ? "true" : "false";
  co_return Result<void>();
}

Task<void> Controller::unpublish(const v1::ControllerUnpublishVolumeRequest& request,
                                 v1::ControllerUnpublishVolumeResponse& /*response*/) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  const Result<VolumeId> id = parse_volume_id(request.volume_id());
  if (!id.has_value()) co_return Result<void>();  // it was never published
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("volume " + request.volume_id()));
  AGRO_CO_TRY(const std::vector<Publication> published, co_await metadata().publications(*id));
  for (const Publication& one : published) {
    if (!request.node_id().empty() && one.node != request.node_id()) continue;
    AGRO_CO_TRY(const std::optional<VolumeLock> evicted,
                co_await metadata().unpublish_volume(*id, one.node, volume_holder(one.node) + ", "));
    if (evicted.has_value()) {
      log_warning("volume {} was unpublished from node {} and still open there: {} is shut out", request.volume_id(), one.node,
                  evicted->holder);
    }
  }
  co_return Result<void>();
}

Task<void> Controller::validate(const v1::ValidateVolumeCapabilitiesRequest& request,
                                v1::ValidateVolumeCapabilitiesResponse& response) {
  AGRO_CO_TRY_OK(check_given(request.volume_id(), "volume_id"));
  if (request.volume_capabilities().empty()) co_return fail(Errc::invalid_argument, "volume_capabilities are missing");
  AGRO_CO_TRY([[maybe_unused]] const VolumeRecord volume, co_await find(request.volume_id()));
  Result<void> good = check_capabilities(request.volume_capabilities());
  if (good.has_value()) {
    const Result<CreateParameters> parameters = parse_parameters(to_parameters(request.parameters()));
    if (!parameters.has_value()) good = fail(parameters.error());
  }
  if (good.has_value()) {
    const Result<VolumeChange> limits = parse_mutable_parameters(to_parameters(request.mutable_parameters()));
    if (!limits.has_value()) good = fail(limits.error());
  }
  if (!good.has_value()) {
    response.set_message(good.error().message);
    co_return Result<void>();
  }
  v1::ValidateVolumeCapabilitiesResponse::Confirmed& confirmed = *response.mutable_confirmed();
  *confirmed.mutable_volume_context() = request.volume_context();
  *confirmed.mutable_volume_capabilities() = request.volume_capabilities();
  *confirmed.mutable_parameters() = request.parameters();
  *confirmed.mutable_mutable_parameters() = request.mutable_parameters();
  co_return Result<void>();
}

Task<void> Controller::list_volumes(const v1::ListVolumesRequest& request, v1::ListVolumesResponse& response) {
  if (request.max_entries() < 0) co_return fail(Errc::invalid_argument, "max_entries cannot be negative");
  VolumeId after;
  if (!request.starting_token().empty()) {
    AGRO_CO_TRY(after, parse_volume_token(request.starting_token()));
  }
  AGRO_CO_TRY(const std::vector<VolumeRecord> volumes, co_await metadata().list_volumes());
  AGRO_CO_TRY(auto uses, co_await metadata().volume_uses());
  const std::size_t most = request.max_entries() == 0 ? kPageMax : static_cast<std::size_t>(request.max_entries());
  for (const VolumeRecord& volume : volumes) {  // sorted by id
    if (volume.id <= after) continue;
    if (static_cast<std::size_t>(response.entries_size()) == most) {
      response.set_next_token(volume_id_text(after));
      break;
    }
    v1::ListVolumesResponse::Entry& entry = *response.add_entries();
    fill(volume, *entry.mutable_volume());
    fill_status(uses[volume.id], *entry.mutable_status());
    after = volume.id;
  }
  co_return Result<void>();
}

Task<void> Controller::get_volume(const v1::ControllerGetVolumeRequest& request, v1::ControllerGetVolumeResponse& response) {
  AGRO_CO_TRY(const VolumeRecord volume, co_await find(request.volume_id()));
  VolumeUse use;
  AGRO_CO_TRY(use.publications, co_await metadata().publications(volume.id));
  AGRO_CO_TRY(use.health, co_await metadata().health_of(volume.id));
  fill(volume, *response.mutable_volume());
  fill_status(use, *response.mutable_status());
  co_return Result<void>();
}

/// Volumes are for every node, so where it is asked for makes no difference.
Task<void> Controller::get_capacity(const v1::GetCapacityRequest& request, v1::GetCapacityResponse& response) {
  response.mutable_maximum_volume_size()->set_value(static_cast<std::int64_t>(1024 * kTiB));
  response.mutable_minimum_volume_size()->set_value(static_cast<std::int64_t>(kSizeMin));
  AGRO_CO_TRY(const CreateParameters parameters, parse_parameters(to_parameters(request.parameters())));
  for (const v1::VolumeCapability& one : request.volume_capabilities())
    if (!check_capability(one).has_value()) co_return Result<void>();  // none of those
  const Space space = cluster_.distributor().space();
  response.set_available_capacity(static_cast<std::int64_t>(space.available / copies_of(parameters, cluster_.view().ring)));
  co_return Result<void>();
}

Task<void> Controller::get_capabilities(const v1::ControllerGetCapabilitiesRequest& /*request*/,
                                        v1::ControllerGetCapabilitiesResponse& response) {
  using RPC = v1::ControllerServiceCapability::RPC;
  for (const RPC::Type type :
       {RPC::CREATE_DELETE_VOLUME, RPC::PUBLISH_UNPUBLISH_VOLUME, RPC::LIST_VOLUMES, RPC::GET_CAPACITY,
        RPC::CREATE_DELETE_SNAPSHOT, RPC::LIST_SNAPSHOTS, RPC::CLONE_VOLUME, RPC::PUBLISH_READONLY, RPC::EXPAND_VOLUME,
        RPC::LIST_VOLUMES_PUBLISHED_NODES, RPC::VOLUME_CONDITION, RPC::GET_VOLUME, RPC::SINGLE_NODE_MULTI_WRITER,
        RPC::MODIFY_VOLUME}) {
    response.add_capabilities()->mutable_rpc()->set_type(type);
  }
  co_return Result<void>();
}

}  // namespace agro::csi
