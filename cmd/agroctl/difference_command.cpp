// agroctl block diff: what changed from one snapshot to another, or to what the volume is now.
#include <fmt/format.h>

#include <algorithm>

#include "agroctl/attached.hpp"
#include "block/snapshot_difference.hpp"

namespace agro {
namespace {

struct DiffOptions {
  std::string from;  // VOLUME@SNAPSHOT
  std::string to;    // the same, or VOLUME
  Format format = Format::text;
};

std::string volume_name(const std::string& text) { return text.substr(0, text.find('@')); }

bool is_snapshot(const std::string& text) { return text.find('@') != std::string::npos; }

bool comes_from(const VolumeRecord& volume, VolumeId origin) {
  return std::any_of(volume.ancestors.begin(), volume.ancestors.end(),
                     [origin](const VolumeAncestor& one) { return one.volume == origin; });
}

Task<void> check_related(Session& session, DiffOptions options) {
  AGRO_CO_TRY(const VolumeRecord from, co_await session.metadata.find_volume(volume_name(options.from)));
  AGRO_CO_TRY(const VolumeRecord to, co_await session.metadata.find_volume(volume_name(options.to)));
  const bool share_ancestor =
      std::any_of(from.ancestors.begin(), from.ancestors.end(),
                  [&to](const VolumeAncestor& one) { return comes_from(to, one.volume); });
  if (from.id == to.id || comes_from(from, to.id) || comes_from(to, from.id) || share_ancestor) {
    co_return Result<void>();
  }
  co_return fail(Errc::invalid_argument,
                 fmt::format("volumes {} and {} have nothing in common: compare snapshots of one volume, or of "
                             "a clone and what it came from",
                             from.name, to.name));
}

Task<void> collect(std::shared_ptr<SnapshotDevice> from, std::shared_ptr<SnapshotDevice> to, Table& table) {
  SnapshotDifference changes(std::move(from), std::move(to));
  while (true) {
    AGRO_CO_TRY(const std::optional<ChangedRange> range, co_await changes.next());
    if (!range.has_value()) co_return Result<void>();
    table.add({number_cell(range->offset), number_cell(range->size),
               Cell(std::string(range->zero ? "zero" : "data"))});
  }
}

Task<void> compare(Session& session, DiffOptions options, Table& table) {
  AGRO_CO_TRY(const std::unique_ptr<Attached> attached, co_await attach(session, options.from));
  Result<void> done;
  {
    const auto from = std::dynamic_pointer_cast<SnapshotDevice>(attached->device);
    const auto to = co_await attached->manager->open(options.to);
    if (to.has_value()) {
      done = co_await collect(from, std::dynamic_pointer_cast<SnapshotDevice>(*to), table);
    } else {
      done = fail(to.error());
    }
  }
  const Result<void> detached = co_await detach(*attached);
  co_return done.has_value() ? detached : done;
}

Task<void> diff(Session& session, DiffOptions options) {
  if (!is_snapshot(options.from)) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("'{}' is no snapshot; write VOLUME@NAME: what changed is told from a snapshot on",
                               options.from));
  }
  AGRO_CO_TRY_OK(co_await check_related(session, options));
  Table table({{"offset", "OFFSET", true}, {"length", "LENGTH", true}, {"kind", "KIND"}});
  const std::string now = is_snapshot(options.to) ? "" : fmt::format("diff-{:016x}", session.env.random.next());
  if (now.empty()) {
    AGRO_CO_TRY_OK(co_await compare(session, options, table));
  } else {
    AGRO_CO_TRY(const VolumeRecord volume, co_await session.metadata.find_volume(options.to));
    AGRO_CO_TRY([[maybe_unused]] const SnapshotRecord made, co_await make_snapshot(session, volume, now));
    options.to += '@' + now;
    const Result<void> compared = co_await compare(session, options, table);
    AGRO_CO_TRY_OK(co_await session.metadata.delete_snapshot(volume, now));
    AGRO_CO_TRY_OK(compared);
  }
  co_return print(table.render(options.format, "nothing changed"));
}

}  // namespace

void add_difference_command(CLI::App& block, Program& program) {
  auto options = std::make_shared<DiffOptions>();
  CLI::App* command =
      add_command(block, "diff", "list what changed from a snapshot to another, by the maps, without reading data");
  command->add_option("from", options->from, "VOLUME@SNAPSHOT")->required();
  command->add_option("to", options->to, "VOLUME@SNAPSHOT, or VOLUME as it is now, in use or not")->required();
  add_format_options(*command, options->format);
  on_command(program, *command, options, diff);
}

}  // namespace agro
