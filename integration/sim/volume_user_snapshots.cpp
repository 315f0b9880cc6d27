// The part of a volume's user that makes snapshots of it and looks whether they stay.
#include <algorithm>

#include "volume_user.hpp"

namespace agro {
namespace {

constexpr std::size_t kSnapshotsMax = 4;
constexpr Duration kPatience = std::chrono::seconds(2);
constexpr Duration kAskAgain = std::chrono::milliseconds(20);

}  // namespace

/// In the metadata store as it is, whatever its connections suffer.
Task<void> VolumeUser::take_snapshot() {
  Metadata& metadata = cluster_.metadata();
  AGRO_CO_TRY(const VolumeRecord volume, co_await metadata.find_volume(name_));
  if (snapshots_.size() >= kSnapshotsMax) {
    const std::string old = snapshots_.front()->name;
    snapshots_.erase(snapshots_.begin());
    trace_.event("-", "{}: snapshot {} is deleted", name_, old);
    AGRO_CO_TRY_OK(co_await metadata.delete_snapshot(volume, old));
  }
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->name = fmt::format("s{}", next_snapshot_++);
  AGRO_CO_TRY(const Epoch epoch, co_await last_epoch());
  const bool is_known = verified_ == epoch;
  const std::uint64_t flushed = oracle_.flushed_mark();
  snapshot->begun = oracle_.begin_read();
  AGRO_CO_TRY(const std::uint64_t token,
              co_await metadata.request_snapshot(volume.id, snapshot->name));
  Result<std::optional<SnapshotRecord>> made;
  const TimePoint deadline = cluster_.loop.clock().now() + kPatience;
  while (true) {
    made = co_await metadata.poll_snapshot(volume.id, snapshot->name, token);
    const bool waits = made.has_value() && !made->has_value();
    if (!waits) break;
    if (cluster_.loop.clock().now() >= deadline) {
      AGRO_CO_TRY_OK(co_await metadata.withdraw_snapshot(volume.id, snapshot->name, token));
    }
    co_await sleep_for(cluster_.loop.clock(), kAskAgain);
  }
  const Result<Epoch> epoch_after = co_await last_epoch();
  if (made.has_value() && is_known && epoch_after.has_value() && *epoch_after == epoch) {
    snapshot->oracle = std::make_unique<SectorOracle>(oracle_.as_of(flushed));
  }
  oracle_.end_read(snapshot->begun);
  trace_.event("-", "{}: snapshot {}: {}", name_, snapshot->name, errc_name(made.code()));
  if (!made.has_value()) co_return fail(made.error());
  snapshots_.push_back(std::move(snapshot));
  co_return Result<void>();
}

void VolumeUser::check_snapshots(std::size_t client) {
  for (const std::shared_ptr<Snapshot>& one : snapshots_) {
    if (one->checked || one->under_way) continue;
    one->under_way = true;
    cluster_.client_users(client).spawn(check_snapshot(client, one));
  }
}

Job VolumeUser::check_snapshot(std::size_t client, std::shared_ptr<Snapshot> snapshot) {
  std::vector<std::byte> bytes(size_bytes());
  Result<std::shared_ptr<BlockDevice>> device =
      co_await cluster_.client_manager(client).open(name_ + "@" + snapshot->name);
  Result<void> done;
  if (device.has_value()) {
    done = co_await (*device)->read(0, bytes);
  } else {
    done = fail(device.error());
  }
  device = fail(Errc::closed, "gone");
  snapshot->under_way = false;
  snapshot->last_error = done.has_value() ? "" : done.error().to_string();
  trace_.event(SimCluster::client_name(client), "{}: reading snapshot {}: {}", name_,
               snapshot->name, done.has_value() ? "ok" : snapshot->last_error);
  if (done.has_value()) judge(*snapshot, std::move(bytes));
}

void VolumeUser::judge(Snapshot& snapshot, std::vector<std::byte> bytes) {
  snapshot.checked = true;
  if (!snapshot.seen.empty() && snapshot.seen != bytes) {
    return complain(fmt::format("snapshot {} is not what it was", snapshot.name));
  }
  if (snapshot.oracle != nullptr) {
    std::string problem = snapshot.oracle->check_read(0, bytes, snapshot.begun);
    if (problem.empty()) problem = snapshot.oracle->check_recovered(bytes);
    if (!problem.empty()) complain(fmt::format("snapshot {}: {}", snapshot.name, problem));
  }
  snapshot.oracle.reset();
  snapshot.seen = std::move(bytes);
}

void VolumeUser::recheck_snapshots() {
  for (const std::shared_ptr<Snapshot>& one : snapshots_) one->checked = false;
}

bool VolumeUser::reads_snapshots() const {
  return std::any_of(snapshots_.begin(), snapshots_.end(),
                     [](const std::shared_ptr<Snapshot>& one) { return one->under_way; });
}

std::string VolumeUser::unchecked_snapshot() const {
  for (const std::shared_ptr<Snapshot>& one : snapshots_) {
    if (!one->checked) return fmt::format("{}@{}: {}", name_, one->name, one->last_error);
  }
  return "";
}

Task<void> VolumeUser::delete_snapshots() {
  AGRO_CO_TRY(const VolumeRecord volume, co_await cluster_.metadata().find_volume(name_));
  for (const std::shared_ptr<Snapshot>& one : std::exchange(snapshots_, {})) {
    AGRO_CO_TRY_OK(co_await cluster_.metadata().delete_snapshot(volume, one->name));
  }
  co_return Result<void>();
}

}  // namespace agro
