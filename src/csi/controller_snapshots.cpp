// The controller, the part about snapshots.
#include <fmt/format.h>

#include "csi/controller.hpp"
#include "csi/names.hpp"
#include "node/snapshot_request.hpp"

namespace agro::csi {
namespace {

constexpr std::size_t kPageMax = 1000;
constexpr Duration kAttempt = std::chrono::seconds(5);

/// Users' snapshots of all volumes, or of one; sorted by volume and name.
std::vector<std::pair<SnapshotId, SnapshotRecord>> snapshots_in(const std::vector<VolumePosition>& positions) {
  std::vector<std::pair<SnapshotId, SnapshotRecord>> all;
  for (const VolumePosition& volume : positions) {
    for (const SnapshotRecord& one : volume.snapshots)
      if (!one.is_clone_origin() && !one.name.starts_with(kPassing)) all.push_back({{volume.volume, one.name}, one});
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return all;
}

void fill(const SnapshotId& id, const SnapshotRecord& record, v1::Snapshot& snapshot) {
  constexpr std::int64_t kMsPerSecond = 1000;
  snapshot.set_snapshot_id(snapshot_id_text(id));
  snapshot.set_source_volume_id(volume_id_text(id.volume));
  snapshot.set_size_bytes(static_cast<std::int64_t>(record.head.size));
  snapshot.set_ready_to_use(true);
  snapshot.mutable_creation_time()->set_seconds(record.created_unix_ms / kMsPerSecond);
  snapshot.mutable_creation_time()->set_nanos(static_cast<std::int32_t>(record.created_unix_ms % kMsPerSecond) * 1'000'000);
}

}  // namespace

/// The token of a request that a call before this one, or a controller before us, left behind, or of a new one.
Task<std::uint64_t> Controller::ask_for_snapshot(VolumeId volume, std::string name) {
  const Result<std::uint64_t> token = co_await metadata().request_snapshot(volume, name);
  if (token.has_value()) co_return *token;
  if (token.code() != Errc::already_exists) co_return fail(token.error());
  AGRO_CO_TRY(const ClusterView view, co_await metadata().view());
  for (const SnapshotRequest& request : view.snapshot_requests)
    if (request.volume == volume && request.name == name) co_return request.token;
  co_return 0;  // it was made just now
}

/// One attempt: asks, and opens the volume to answer it when nobody has it open, or when that is us, still or again.
Task<SnapshotRecord> Controller::try_snapshot(VolumeRecord volume, std::string name, Duration limit) {
  AGRO_CO_TRY(const std::uint64_t token, co_await ask_for_snapshot(volume.id, name));
  AGRO_CO_TRY(const std::optional<VolumeLock> lock, co_await metadata().lock_of(volume.id));
  Result<std::shared_ptr<BlockDevice>> device = std::shared_ptr<BlockDevice>();
  if (!lock.has_value() || lock->holder == holder_) device = co_await manager_.open(volume.name);
  Result<SnapshotRecord> made = fail(Errc::closed, "not begun");
  if (device.has_value() || device.code() == Errc::locked) {
    auto stopping = [this] { return stopping_; };
    AskedSnapshot asked{volume.id, name, token};
    made = co_await await_snapshot(env_.clock, metadata(), std::move(asked), std::move(stopping), limit);
  } else {
    made = fail(device.error());
  }
  if (made.has_value()) co_return made;
  const Result<void> withdrawn = co_await metadata().withdraw_snapshot(volume.id, name, token);
  Error error = std::move(made).error();
  if (!withdrawn.has_value()) error.message += "; and its request stays: " + withdrawn.error().message;
  co_return fail(std::move(error));
}

Task<SnapshotRecord> Controller::make_snapshot(VolumeRecord volume, std::string name) {
  const TimePoint give_up = env_.clock.now() + kSnapshotAnswerLimit;
  while (true) {
    const Result<SnapshotRecord> present = co_await metadata().find_snapshot(volume, name);
    if (present.has_value() || present.code() != Errc::not_found) co_return present;
    // Who had it open may have been about to close it: so it is looked at again.
    Result<SnapshotRecord> made = co_await try_snapshot(volume, name, kAttempt);
    const bool again = made.code() == Errc::timed_out && env_.clock.now() < give_up && !stopping_;
    if (!again) co_return made;
  }
}

Task<void> Controller::create_snapshot(const v1::CreateSnapshotRequest& request, v1::CreateSnapshotResponse& response) {
  AGRO_CO_TRY_OK(check_given(request.source_volume_id(), "source_volume_id"));
  AGRO_CO_TRY(const std::string name, our_name(request.name()));
  for (const auto& [key, value] : request.parameters()) {
    if (!key.starts_with("csi.storage.k8s.io/"))
      co_return fail(Errc::invalid_argument, fmt::format("there is no parameter '{}' of snapshots", key));
  }
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("snapshot " + name));
  AGRO_CO_TRY(const VolumeRecord volume, co_await find(request.source_volume_id()));
  AGRO_CO_TRY(const std::vector<VolumePosition> positions, co_await metadata().positions());
  for (const auto& [id, record] : snapshots_in(positions)) {
    if (id.name != name || id.volume == volume.id) continue;
    co_return fail(Errc::already_exists, fmt::format("a snapshot '{}' is there already, of volume {}", name, volume_id_text(id.volume)));
  }
  AGRO_CO_TRY(const SnapshotRecord made, co_await make_snapshot(volume, name));
  fill({volume.id, name}, made, *response.mutable_snapshot());
  co_return Result<void>();
}

Task<void> Controller::delete_snapshot(const v1::DeleteSnapshotRequest& request, v1::DeleteSnapshotResponse& /*response*/) {
  AGRO_CO_TRY_OK(check_given(request.snapshot_id(), "snapshot_id"));
  const Result<SnapshotId> id = parse_snapshot_id(request.snapshot_id());
  if (!id.has_value()) co_return Result<void>();  // there never was one
  AGRO_CO_TRY(const Underway::Hold hold, underway_.begin("snapshot " + id->name));
  const Result<VolumeRecord> volume = co_await find(volume_id_text(id->volume));
  if (volume.code() == Errc::not_found) co_return Result<void>();
  if (!volume.has_value()) co_return fail(volume.error());
  Result<void> deleted = co_await metadata().delete_snapshot(*volume, id->name);
  if (deleted.code() == Errc::not_found) co_return Result<void>();
  co_return deleted;
}

Task<void> Controller::list_snapshots(const v1::ListSnapshotsRequest& request, v1::ListSnapshotsResponse& response) {
  if (request.max_entries() < 0) co_return fail(Errc::invalid_argument, "max_entries cannot be negative");
  SnapshotId after;
  if (!request.starting_token().empty()) {
    AGRO_CO_TRY(after, parse_snapshot_token(request.starting_token()));
  }
  // What is asked for and is not there, or is no id, is an empty list.
  AGRO_CO_TRY(const std::vector<VolumePosition> positions, co_await metadata().positions());
  const std::size_t most = request.max_entries() == 0 ? kPageMax : static_cast<std::size_t>(request.max_entries());
  for (const auto& [id, record] : snapshots_in(positions)) {
    if (id <= after) continue;
    if (!request.source_volume_id().empty() && request.source_volume_id() != volume_id_text(id.volume)) continue;
    if (!request.snapshot_id().empty() && request.snapshot_id() != snapshot_id_text(id)) continue;
    if (static_cast<std::size_t>(response.entries_size()) == most) {
      response.set_next_token(snapshot_id_text(after));
      break;
    }
    fill(id, record, *response.add_entries()->mutable_snapshot());
    after = id;
  }
  co_return Result<void>();
}

}  // namespace agro::csi
