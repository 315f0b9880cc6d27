// agroctl volume: clone, resize, rename and set.
#include <fmt/format.h>

#include "agroctl/attached.hpp"
#include "base/units.hpp"

namespace agro {
namespace {

struct CloneOptions {
  std::string origin;  // VOLUME or VOLUME@SNAPSHOT
  std::string name;
};

struct ResizeOptions {
  std::string name;
  std::uint64_t size = 0;
  bool force = false;
};

struct RenameOptions {
  std::string name;
  std::string new_name;
};

struct SetOptions {
  std::string name;
  std::string read_only;  // "on", "off"; empty: as it is
  std::string iops;       // a number or "none"; empty: as it is
  std::string bandwidth;  // a size or "none"; empty: as it is
};

/// Without a snapshot, of one that is made for it and goes again.
Task<void> clone(Session& session, CloneOptions options) {
  const std::size_t at = options.origin.find('@');
  NewClone wanted;
  AGRO_CO_TRY(wanted.origin, co_await session.metadata.find_volume(options.origin.substr(0, at)));
  wanted.name = options.name;
  AGRO_CO_TRY_OK(check_volume_name(wanted.name));
  const bool is_made_for_it = at == std::string::npos;
  wanted.snapshot = is_made_for_it ? "clone-" + options.name : options.origin.substr(at + 1);
  if (is_made_for_it) {
    AGRO_CO_TRY([[maybe_unused]] const SnapshotRecord made,
                co_await make_snapshot(session, wanted.origin, wanted.snapshot));
  }
  const Result<VolumeRecord> made = co_await session.metadata.clone_volume(wanted);
  if (is_made_for_it) {
    const Result<void> removed =
        co_await session.metadata.delete_snapshot(wanted.origin, wanted.snapshot);
    if (made.has_value() && !removed.has_value()) co_return fail(removed.error());
  }
  if (!made.has_value()) co_return fail(made.error());
  co_return print(fmt::format("cloned {} as volume {}, {}\n", options.origin, made->name,
                              format_size(made->size)));
}

/// What a smaller volume would lose.
Task<std::uint64_t> data_beyond(BlockDevice& device, std::uint64_t size) {
  std::uint64_t data_size = 0;
  for (std::uint64_t offset = size; offset < device.size_bytes();) {
    AGRO_CO_TRY(const std::vector<StatusExtent> extents,
                co_await device.status(offset, device.size_bytes() - offset));
    for (const StatusExtent& extent : extents) {
      if (!extent.zero) data_size += extent.size;
      offset += extent.size;
    }
  }
  co_return data_size;
}

Task<void> check_loss(BlockDevice& device, ResizeOptions options) {
  AGRO_CO_TRY(const std::uint64_t lost, co_await data_beyond(device, options.size));
  if (options.force) co_return Result<void>();
  co_return fail(Errc::invalid_argument,
                 fmt::format("volume {} has {}; what is beyond {} would be lost, {} of data{}. --force says that it may",
                             options.name, format_size(device.size_bytes()), format_size(options.size),
                             format_size(lost), lost > 0 ? ", unless a snapshot has it" : ""));
}

/// Opens a volume, and closes it with a checkpoint that has all of its log. Returns the epoch of that.
Task<Epoch> open_and_close(Session& session, VolumeRecord volume, ResizeOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<Attached> attached, co_await attach(session, volume.name));
  Result<void> checked;
  if (attached->device->size_bytes() > options.size) checked = co_await check_loss(*attached->device, options);
  const Result<VolumePosition> position = co_await session.metadata.position(volume.id);
  const Result<void> detached = co_await detach(*attached);
  AGRO_CO_TRY_OK(std::move(checked));
  AGRO_CO_TRY_OK(detached);
  if (!position.has_value()) co_return fail(position.error());
  co_return position->epoch;
}

Task<VolumeRecord> shrink(Session& session, VolumeRecord volume, ResizeOptions options) {
  VolumeChange change;
  change.size = options.size;
  AGRO_CO_TRY(change.shrink_after, co_await open_and_close(session, volume, options));
  AGRO_CO_TRY(const VolumeRecord changed, co_await session.metadata.change_volume(options.name, change));
  // It is cut now, so that its space comes back; should that fail, the next opening cuts it.
  AGRO_CO_TRY([[maybe_unused]] const Epoch epoch, co_await open_and_close(session, changed, options));
  co_return changed;
}

Task<void> resize(Session& session, ResizeOptions options) {
  VolumeChange change;
  change.size = options.size;
  AGRO_CO_TRY(const VolumeRecord volume, co_await session.metadata.find_volume(options.name));
  Task<VolumeRecord> changing = options.size < volume.size
                                    ? shrink(session, volume, options)
                                    : session.metadata.change_volume(options.name, change);
  AGRO_CO_TRY(const VolumeRecord changed, co_await std::move(changing));
  co_return print(fmt::format("volume {} has {} now\n", options.name, format_size(changed.size)));
}

Task<void> rename(Session& session, RenameOptions options) {
  AGRO_CO_TRY_OK(co_await session.metadata.rename_volume(options.name, options.new_name));
  co_return print(fmt::format("volume {} is called {} now\n", options.name, options.new_name));
}

Result<std::optional<std::uint64_t>> parse_limit(const std::string& text, const char* option) {
  if (text.empty()) return std::optional<std::uint64_t>();
  if (text == "none") return std::optional<std::uint64_t>(0);
  const Result<std::uint64_t> number = parse_size(text);
  if (number.has_value() && *number > 0) return std::optional<std::uint64_t>(*number);
  return fail(Errc::invalid_argument, fmt::format("{}: '{}' is no limit: give a number above zero, or none", option, text));
}

std::string limit_text(std::uint64_t limit, const std::string& text) { return limit == 0 ? "without limit" : text; }

Task<void> set(Session& session, SetOptions options) {
  VolumeChange change;
  if (!options.read_only.empty()) change.read_only = options.read_only == "on";
  AGRO_CO_TRY(change.iops_max, parse_limit(options.iops, "--iops"));
  AGRO_CO_TRY(change.bandwidth_max, parse_limit(options.bandwidth, "--bandwidth"));
  if (!change.read_only.has_value() && !change.iops_max.has_value() && !change.bandwidth_max.has_value())
    co_return fail(Errc::invalid_argument, "nothing to change: give --read-only, --iops or --bandwidth");
  AGRO_CO_TRY(const VolumeRecord changed, co_await session.metadata.change_volume(options.name, change));
  std::string text;
  if (change.read_only.has_value()) {
    text += fmt::format("volume {} is {} from its next opening on\n", options.name,
                        changed.read_only ? "read-only" : "writable");
  }
  if (change.iops_max.has_value()) {
    text += fmt::format("volume {}: requests: {}\n", options.name,
                        limit_text(changed.iops_max, fmt::format("{} a second", changed.iops_max)));
  }
  if (change.bandwidth_max.has_value()) {
    text += fmt::format("volume {}: bytes: {}\n", options.name,
                        limit_text(changed.bandwidth_max, format_size(changed.bandwidth_max) + " a second"));
  }
  co_return print(text);
}

}  // namespace

void add_volume_change_commands(CLI::App& volume, Program& program) {
  auto clone_options = std::make_shared<CloneOptions>();
  CLI::App* clone_command =
      add_command(volume, "clone", "make a volume that starts as another, or as a snapshot");
  clone_command->add_option("origin", clone_options->origin, "VOLUME or VOLUME@SNAPSHOT")
      ->required();
  clone_command->add_option("name", clone_options->name, "the new volume's name")->required();
  on_command(program, *clone_command, clone_options, clone);

  auto resize_options = std::make_shared<ResizeOptions>();
  CLI::App* resize_command =
      add_command(volume, "resize", "make a volume larger, while it is in use too, or smaller");
  resize_command->add_option("name", resize_options->name, "the volume")->required();
  add_size_option(*resize_command, "size", resize_options->size, "its new size, as in 20GiB")
      ->required();
  resize_command->add_flag("--force", resize_options->force,
                           "make it smaller, too, while nobody has it open; what is beyond its end is lost");
  on_command(program, *resize_command, resize_options, resize);

  auto rename_options = std::make_shared<RenameOptions>();
  CLI::App* rename_command =
      add_command(volume, "rename", "give a volume that nobody has open another name");
  rename_command->add_option("name", rename_options->name, "the volume")->required();
  rename_command->add_option("new-name", rename_options->new_name, "its new name")->required();
  on_command(program, *rename_command, rename_options, rename);

  auto set_options = std::make_shared<SetOptions>();
  CLI::App* set_command = add_command(volume, "set", "change what a volume allows");
  set_command->add_option("name", set_options->name, "the volume")->required();
  set_command
      ->add_option("--read-only", set_options->read_only, "whether front ends may only read it")
      ->check(CLI::IsMember({"on", "off"}));
  set_command->add_option("--iops", set_options->iops, "most requests a second, or none; at once, also where it is open");
  set_command->add_option("--bandwidth", set_options->bandwidth,
                          "most bytes a second, as in 100MiB, or none; at once, also where it is open");
  on_command(program, *set_command, set_options, set);
}

}  // namespace agro
