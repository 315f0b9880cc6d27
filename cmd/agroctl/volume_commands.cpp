// agroctl volume: create, list, delete.
#include <fmt/format.h>

#include <algorithm>

#include "agroctl/program.hpp"
#include "base/bytes.hpp"
#include "base/units.hpp"
#include "blockset/blockset.hpp"

namespace agro {
namespace {

constexpr Duration kLockPatience = std::chrono::seconds(1);

struct ListOptions {
  Format format = Format::text;
};

struct DeleteOptions {
  std::string name;
  bool with_snapshots = false;
};

Result<void> check_size(std::uint64_t size) {
  if (size > 0 && size % kPageSize == 0) return {};
  const std::uint64_t below = std::min(size, UINT64_MAX - kPageSize);
  const std::uint64_t next = std::max<std::uint64_t>(kPageSize, round_up(below, kPageSize));
  return fail(Errc::invalid_argument,
              fmt::format("a volume of {} bytes is not possible, sizes are positive multiples of "
                          "4096; use {}",
                          size, next));
}

/// The copies that the spec itself asks for; 0: it does not say.
std::uint32_t copies_in(const BlocksetSpec& spec) {
  for (const LayerSpec& layer : spec.layers) {
    if (layer.kind == LayerKind::replication) return layer.argument;
  }
  return 0;
}

Task<void> create(Session& session, CreateOptions options) {
  AGRO_CO_TRY(const VolumeRecord volume, co_await create_volume(session.metadata, options));
  co_return print(fmt::format("created volume {}, {}\n", volume.name, format_size(volume.size)));
}

Task<void> list(Session& session, ListOptions options) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  Table table({{"id", "", true},
               {"name", "NAME"},
               {"size_bytes", "SIZE", true},
               {"copies", "COPIES", true},
               {"block_spec", "SPEC"},
               {"created", "CREATED"},
               {"open_by", "OPEN BY"},
               {"read_only", ""},
               {"iops_max", "", true},
               {"bandwidth_max_bytes", "", true}});
  for (const VolumeRecord& volume : view.volumes) {
    if (volume.state != VolumeState::active) continue;
    const Result<std::optional<VolumeLock>> lock = co_await session.metadata.lock_of(volume.id);
    if (lock.code() == Errc::not_found) continue;  // deleted meanwhile
    if (!lock.has_value()) co_return fail(lock.error());
    const Cell holder = lock->has_value() ? Cell((*lock)->holder) : Cell(nullptr, "-");
    table.add({number_cell(volume.id.value), Cell(volume.name), size_cell(volume.size),
               number_cell(copy_count_of(volume, view.ring)), Cell(volume.block_spec),
               time_cell(volume.created_unix_ms), holder, flag_cell(volume.read_only),
               number_cell(volume.iops_max), size_cell(volume.bandwidth_max)});
  }
  co_return print(table.render(options.format,
                               "no volumes; 'agroctl volume create-block NAME SIZE' makes one"));
}

/// Deletes it, with some patience: a server keeps a volume for a moment after its last client went.
Task<Tombstone> delete_volume(Session& session, DeleteOptions options) {
  Clock& clock = session.env.clock;
  const TimePoint deadline = clock.now() + kLockPatience;
  while (true) {
    Result<Tombstone> deleted = co_await session.metadata.delete_volume(options.name, options.with_snapshots);
    const bool again = deleted.code() == Errc::locked && clock.now() < deadline;
    if (!again || session.system.stop_requested()) co_return deleted;
    co_await sleep_for(clock, std::chrono::milliseconds(100));
  }
}

Task<void> remove(Session& session, DeleteOptions options) {
  AGRO_CO_TRY(const Tombstone tombstone, co_await delete_volume(session, options));
  if (tombstone.peers.empty()) {
    co_return print(fmt::format("deleted volume {}; its blocks stay for as long as clones need them\n", options.name));
  }
  co_return print(fmt::format("deleted volume {}; {} remove its blocks\n", options.name,
                              tombstone.peers.size() == 1
                                  ? std::string("1 peer will")
                                  : fmt::format("{} peers will", tombstone.peers.size())));
}

}  // namespace

Task<VolumeRecord> create_volume(Metadata& metadata, CreateOptions options) {
  AGRO_CO_TRY_OK(check_size(options.size));
  NewVolume wanted;
  wanted.name = options.name;
  wanted.size = options.size;
  wanted.replication = options.replication;
  if (!options.block_spec.empty()) {
    AGRO_CO_TRY(const BlocksetSpec spec, parse_blockset_spec(options.block_spec));
    wanted.block_spec = spec.to_string();
    const std::uint32_t copies = copies_in(spec);
    if (copies > 0 && options.replication > 0 && copies != options.replication) {
      co_return fail(Errc::invalid_argument,
                     fmt::format("--replication {} and the spec's replication={} differ; give one",
                                 options.replication, copies));
    }
    if (copies > 0) wanted.replication = copies;  // so that it is checked against the ring
  }
  co_return co_await metadata.create_volume(std::move(wanted));
}

void add_create_command(CLI::App& parent, Program& program, const std::string& name) {
  auto options = std::make_shared<CreateOptions>();
  CLI::App* command = add_command(parent, name, "make a volume");
  command->add_option("name", options->name, "its name")->required();
  add_size_option(*command, "size", options->size, "its size, as in 10GiB")->required();
  command
      ->add_option("--replication", options->replication,
                   "copies of each block, 1 to 16 (default: the cluster's)")
      ->check(CLI::Range(1, 16));
  command->add_option("--block-spec", options->block_spec, "its layers (default: the cluster's)");
  on_command(program, *command, options, create);
}

void add_volume_commands(CLI::App& app, Program& program) {
  CLI::App* volume = add_command(app, "volume", "create, list and delete volumes");
  volume->require_subcommand(1);
  add_create_command(*volume, program, "create-block");
  auto list_options = std::make_shared<ListOptions>();
  CLI::App* list_command = add_command(*volume, "list", "list the volumes and who has them open");
  add_format_options(*list_command, list_options->format);
  on_command(program, *list_command, list_options, list);
  auto delete_options = std::make_shared<DeleteOptions>();
  CLI::App* delete_command =
      add_command(*volume, "delete", "delete a volume that nobody has open, with all its data");
  delete_command->add_option("name", delete_options->name, "its name")->required();
  delete_command->add_flag("--snapshots", delete_options->with_snapshots, "and its snapshots");
  on_command(program, *delete_command, delete_options, remove);
  add_volume_change_commands(*volume, program);
}

}  // namespace agro
