// agroctl block dump and load of backups: one full, then increments.
//
// A state of a volume has one name everywhere (core/state_id.hpp). A loaded volume gets a snapshot under the
// name of what was loaded, which says whose state it is; an increment starts from such a snapshot, or from the
// very one that it was dumped from, and only when the volume is still as that left it.
#include "agroctl/backup_commands.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "agroctl/attached.hpp"
#include "agroctl/backup_transfer.hpp"
#include "base/units.hpp"

namespace agro {
namespace {

StateId state_id(const ClusterRecord& cluster, VolumeId volume, const VolumeHead& head) {
  return {cluster.id, volume, head.epoch, head.log_end};
}

/// Detaches, unless that was done to end what waited; the first error counts.
Task<void> leave(Attached& attached, Result<void> done) {
  if (attached.device == nullptr) co_return done;
  Result<void> detached = co_await detach(attached);
  co_return done.has_value() ? detached : done;
}

// --- dump ---

/// What a dump will say of itself; the bytes of two are equal when the dumps are of the same.
Task<BackupHeader> describe(Session& session, BackupDumpOptions options) {
  const std::size_t at = options.volume.find('@');
  if (at == std::string::npos) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("a backup is of a snapshot: make one with 'agroctl block snapshot create {0}@NAME', "
                               "then dump {0}@NAME",
                               options.volume));
  }
  AGRO_CO_TRY(const ClusterRecord cluster, co_await session.metadata.cluster());
  AGRO_CO_TRY(const VolumeRecord volume, co_await session.metadata.find_volume(options.volume.substr(0, at)));
  AGRO_CO_TRY(const SnapshotRecord snapshot,
              co_await session.metadata.find_snapshot(volume, options.volume.substr(at + 1)));
  BackupHeader header;
  header.state = state_id(cluster, volume.id, snapshot.head);
  header.size_bytes = snapshot.head.size;
  header.created_unix_ms = snapshot.created_unix_ms;
  header.volume_name = volume.name;
  header.snapshot_name = snapshot.name;
  if (options.from.empty()) co_return header;
  AGRO_CO_TRY(const SnapshotRecord base, co_await session.metadata.find_snapshot(volume, options.from));
  header.base = state_id(cluster, volume.id, base.head);
  header.base_name = base.name;
  co_return header;
}

Task<void> dump_changes(Session& session, Attached& attached, BackupWriter& writer, BackupDumpOptions options,
                        Progress& progress) {
  std::shared_ptr<SnapshotDevice> base;
  if (!options.from.empty()) {
    const std::string name = options.volume.substr(0, options.volume.find('@') + 1) + options.from;
    Result<std::shared_ptr<BlockDevice>> opened = co_await attached.manager->open(name);
    if (!opened.has_value()) co_return fail(opened.error());
    base = std::dynamic_pointer_cast<SnapshotDevice>(*opened);
  }
  SnapshotDifference changes(base, std::dynamic_pointer_cast<SnapshotDevice>(attached.device));
  const std::unique_ptr<Transfer> transfer = make_backup_dump(*attached.device, changes, writer, progress);
  const std::shared_ptr<BlockDevice> device = attached.device;  // outlives the workers
  std::function<Task<void>(bool)> release = [&](bool moved) {
    return moved ? writer.finish() : detach(attached);
  };
  co_return co_await run_transfer(session.system, *transfer, progress, std::move(release));
}

Task<void> dump_attached(Session& session, Attached& attached, BackupHeader header, BackupDumpOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<BackupWriter> writer,
              co_await BackupWriter::open(session.env.offload, options.file, header, options.resume));
  const std::uint64_t resumed_at = writer->progress().offset();
  if (!writer->progress().at_end()) {
    Progress progress(session.env.clock, header.size_bytes, options.progress);
    Result<void> dumped = co_await dump_changes(session, attached, *writer, options, progress);
    if (!dumped.has_value()) {
      Error error = std::move(dumped).error();
      if (options.file != "-") {
        error.message += fmt::format("; {} is incomplete, the same command with --resume goes on with it", options.file);
      }
      co_return fail(std::move(error));
    }
  }
  if (options.file == "-") co_return Result<void>();
  const std::string since = header.base.has_value() ? " since @" + header.base_name : "";
  const std::string resumed = resumed_at > 0 ? fmt::format(", resumed at byte {} of the volume", resumed_at) : "";
  co_return print(fmt::format("dumped {}{} to {}: {} of data, {} of zeros{}\n", options.volume, since, options.file,
                              format_size(writer->progress().data_size()),
                              format_size(writer->progress().zero_size()), resumed));
}

// --- load ---

struct Target {
  VolumeRecord volume;
  std::string base;  // the snapshot that an increment starts from
  bool made = false;
};

Task<void> check_no_such_snapshot(Session& session, VolumeRecord volume, BackupHeader header) {
  const Result<SnapshotRecord> present = co_await session.metadata.find_snapshot(volume, header.snapshot_name);
  if (present.code() == Errc::not_found) co_return Result<void>();
  if (!present.has_value()) co_return fail(present.error());
  const bool is_same = present->origin == header.state;
  co_return fail(Errc::already_exists,
                 fmt::format("volume {0} has a snapshot {1} already{2}", volume.name, header.snapshot_name,
                             is_same ? ": this backup was loaded before"
                                     : fmt::format(", and a load makes one; delete or keep it under another name: "
                                                   "'agroctl block snapshot delete {}@{}'",
                                                   volume.name, header.snapshot_name)));
}

/// The snapshot of `volume` that is the state `base`. Errors: conflict, when there is none.
Task<SnapshotRecord> find_base(Session& session, VolumeRecord volume, BackupHeader header) {
  AGRO_CO_TRY(const ClusterRecord cluster, co_await session.metadata.cluster());
  AGRO_CO_TRY(const std::vector<SnapshotRecord> snapshots, co_await session.metadata.snapshots(volume.id));
  for (const SnapshotRecord& one : snapshots) {
    if (one.origin == header.base || state_id(cluster, volume.id, one.head) == *header.base) co_return one;
  }
  co_return fail(Errc::conflict,
                 fmt::format("this increment starts from {}@{}, and volume {} has no snapshot that came from it; load "
                             "the backups before it first",
                             header.volume_name, header.base_name, volume.name));
}

Task<Target> prepare_full(Session& session, BackupHeader header, BackupLoadOptions options) {
  Target target;
  Result<VolumeRecord> present = co_await session.metadata.find_volume(options.volume);
  if (present.code() == Errc::not_found) {
    CreateOptions create;
    create.name = options.volume;
    create.size = options.size.value_or(header.size_bytes);
    if (create.size < header.size_bytes) {
      co_return fail(Errc::invalid_argument, fmt::format("the backup is of a volume of {} bytes; it does not fit {}",
                                                         header.size_bytes, create.size));
    }
    target.made = true;
    AGRO_CO_TRY(target.volume, co_await create_volume(session.metadata, create));
    co_return target;
  }
  AGRO_CO_TRY(target.volume, std::move(present));
  if (options.size.has_value() && *options.size != target.volume.size) {
    co_return fail(Errc::already_exists, fmt::format("volume {} exists with {} bytes, not {}; leave SIZE out to load "
                                                     "into it",
                                                     options.volume, target.volume.size, *options.size));
  }
  if (target.volume.size < header.size_bytes) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("the backup is of a volume of {} bytes and volume {} has {}; make it larger first: "
                               "'agroctl volume resize {} {}'",
                               header.size_bytes, options.volume, target.volume.size, options.volume,
                               header.size_bytes));
  }
  AGRO_CO_TRY_OK(co_await check_no_such_snapshot(session, target.volume, header));
  co_return target;
}

Task<Target> prepare_increment(Session& session, BackupHeader header, BackupLoadOptions options) {
  if (options.size.has_value()) {
    co_return fail(Errc::invalid_argument, "an increment goes into a volume that is there; leave SIZE out");
  }
  Target target;
  AGRO_CO_TRY(target.volume, co_await session.metadata.find_volume(options.volume));
  AGRO_CO_TRY(const SnapshotRecord base, co_await find_base(session, target.volume, header));
  AGRO_CO_TRY_OK(co_await check_no_such_snapshot(session, target.volume, header));
  target.base = base.name;
  if (options.resume) AGRO_CO_TRY_OK(co_await session.metadata.restore_snapshot(target.volume, base.name));
  AGRO_CO_TRY(target.volume, co_await session.metadata.find_volume(options.volume));
  if (target.volume.size < header.size_bytes) {
    VolumeChange larger;
    larger.size = header.size_bytes;
    AGRO_CO_TRY(target.volume, co_await session.metadata.change_volume(options.volume, larger));
  }
  co_return target;
}

Task<std::optional<ChangedRange>> first_change(Attached& attached, std::string from, std::string to) {
  AGRO_CO_TRY(const auto old, co_await attached.manager->open(from));
  AGRO_CO_TRY(const auto now, co_await attached.manager->open(to));
  SnapshotDifference changes(std::dynamic_pointer_cast<SnapshotDevice>(old),
                             std::dynamic_pointer_cast<SnapshotDevice>(now));
  co_return co_await changes.next();
}

/// Errors: conflict, unless the volume, which we have open, is as its snapshot `base`.
Task<void> check_unchanged(Session& session, Attached& attached, VolumeRecord volume, std::string base) {
  const std::string now = fmt::format("load-{:016x}", session.env.random.next());
  AGRO_CO_TRY([[maybe_unused]] const SnapshotRecord made, co_await make_snapshot(session, volume, now));
  const auto change = co_await first_change(attached, volume.name + '@' + base, volume.name + '@' + now);
  AGRO_CO_TRY_OK(co_await session.metadata.delete_snapshot(volume, now));
  if (!change.has_value()) co_return fail(change.error());
  if (!change->has_value()) co_return Result<void>();
  co_return fail(Errc::conflict,
                 fmt::format("volume {0} is not as its snapshot {1} left it: it was written since, first at byte {2}, or "
                             "a load was interrupted. --resume sets it back to {0}@{1} before it loads; what was "
                             "written since is lost then",
                             volume.name, base, (*change)->offset));
}

Task<void> check_target(Session& session, Attached& attached, Target target, std::uint64_t size_needed) {
  if (!target.base.empty()) AGRO_CO_TRY_OK(co_await check_unchanged(session, attached, target.volume, target.base));
  if (attached.device->size_bytes() >= size_needed) co_return Result<void>();
  co_return fail(Errc::conflict, "the volume became smaller meanwhile");
}

Task<void> load_attached(Session& session, Attached& attached, BackupReader& reader, BackupHeader header,
                         Target target, bool shows_progress) {
  AGRO_CO_TRY_OK(co_await check_target(session, attached, target, header.size_bytes));
  Progress progress(session.env.clock, attached.device->size_bytes(), shows_progress);
  bool fills_gaps = false;
  if (!header.base.has_value()) {
    AGRO_CO_TRY(const bool blank, co_await is_blank(*attached.device));
    fills_gaps = !blank;
  }
  const std::shared_ptr<BlockDevice> device = attached.device;  // outlives the workers
  const std::unique_ptr<Transfer> transfer = make_backup_load(*device, reader, fills_gaps, progress);
  std::function<Task<void>(bool)> release = [&](bool moved) -> Task<void> {
    return moved ? device->flush() : detach(attached);
  };
  AGRO_CO_TRY_OK(co_await run_transfer(session.system, *transfer, progress, std::move(release)));
  AGRO_CO_TRY([[maybe_unused]] const SnapshotRecord made,
              co_await make_snapshot(session, target.volume, header.snapshot_name, header.state));
  co_return Result<void>();
}

Task<void> load_into(Session& session, BackupReader& reader, BackupHeader header, Target target,
                     BackupLoadOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<Attached> attached, co_await attach(session, options.volume));
  Result<void> loaded = co_await load_attached(session, *attached, reader, header, target, options.progress);
  AGRO_CO_TRY_OK(co_await leave(*attached, std::move(loaded)));
  co_return print(fmt::format("loaded {}@{}{} into volume {}, which is {}@{} now: {} of data, {} of zeros\n",
                              header.volume_name, header.snapshot_name,
                              header.base.has_value() ? " since @" + header.base_name : "", options.volume,
                              options.volume, header.snapshot_name, format_size(reader.progress().data_size()),
                              format_size(reader.progress().zero_size())));
}

}  // namespace

Task<void> dump_backup(Session& session, BackupDumpOptions options) {
  AGRO_CO_TRY(BackupHeader header, co_await describe(session, options));
  AGRO_CO_TRY(const std::unique_ptr<Attached> attached, co_await attach(session, options.volume));
  Result<void> dumped = co_await dump_attached(session, *attached, std::move(header), options);
  co_return co_await leave(*attached, std::move(dumped));
}

Task<void> load_backup(Session& session, ImageSource& source, BackupLoadOptions options) {
  BackupReader reader(source);
  AGRO_CO_TRY(const BackupHeader header, co_await reader.read_header());
  Task<Target> preparing =
      header.base.has_value() ? prepare_increment(session, header, options) : prepare_full(session, header, options);
  AGRO_CO_TRY(const Target target, co_await std::move(preparing));
  Result<void> loaded = co_await load_into(session, reader, header, target, options);
  if (loaded.has_value() || !target.made) co_return loaded;
  Error error = std::move(loaded).error();
  error.message += fmt::format("; the new volume {} is incomplete", options.volume);
  co_return fail(std::move(error));
}

}  // namespace agro
