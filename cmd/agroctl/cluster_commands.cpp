// agroctl init and wipe: a cluster's beginning and end.
#include <fmt/format.h>

#include <bit>

#include "agroctl/program.hpp"
#include "base/units.hpp"
#include "blockset/blockset.hpp"
#include "ring/placement.hpp"
#include "storage/block_store.hpp"

namespace agro {
namespace {

struct InitOptions {
  std::uint64_t block_size = kBlockSizeDefault;
  std::string block_spec{kBlocksetSpecDefault};
  std::uint32_t replication = 2;
  std::string ring = "placement";
  std::uint32_t group_count = 0;  // 0: kGroupCountDefault, of a placement ring
  std::uint32_t min_copies = 0;
};

struct WipeOptions {
  bool sure = false;
  bool force = false;
};

Task<void> init(Session& session, InitOptions options) {
  AGRO_CO_TRY(const BlocksetSpec spec, parse_blockset_spec(options.block_spec));
  ClusterRecord cluster;
  cluster.id = make_uuid(session.env.random);
  cluster.block_size = static_cast<std::uint32_t>(options.block_size);
  cluster.block_spec = spec.to_string();
  cluster.min_copies = options.min_copies;
  cluster.created_unix_ms = session.env.clock.unix_time_ms();
  RingSpec ring;
  ring.kind = RingKind::empty;
  ring.version = 1;
  ring.replication = options.replication;
  AGRO_CO_TRY(ring.planned_kind, parse_ring_kind(options.ring));
  const bool has_groups = ring.planned_kind == RingKind::placement;
  if (has_groups) ring.group_count = options.group_count == 0 ? kGroupCountDefault : options.group_count;
  const Result<void> made = co_await session.metadata.init_cluster(cluster, std::move(ring));
  if (made.code() == Errc::already_exists) {
    AGRO_CO_TRY(const ClusterRecord present, co_await session.metadata.cluster());
    co_return fail(
        Errc::already_exists,
        fmt::format("the metadata store already holds cluster {}; 'agroctl wipe' removes "
                    "it, or use another store",
                    present.id.to_string()));
  }
  if (!made.has_value()) co_return fail(made.error());
  co_return print(cluster.id.to_string() + "\n");
}

/// Errors: locked, naming who still uses the cluster.
Task<void> check_unused(Session& session) {
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  for (const VolumeRecord& volume : view.volumes) {
    AGRO_CO_TRY(const std::optional<VolumeLock> lock, co_await session.metadata.lock_of(volume.id));
    if (!lock.has_value()) continue;
    co_return fail(Errc::locked, fmt::format("volume '{}' is open by {}; close it there first, or "
                                             "wipe with --force",
                                             volume.name, lock->holder));
  }
  for (const PeerView& peer : view.peers) {
    if (!peer.alive) continue;
    co_return fail(Errc::locked,
                   fmt::format("peer {} is running; stop it first, or wipe with --force",
                               peer.record.id.to_string()));
  }
  co_return Result<void>();
}

Task<void> wipe(Session& session, WipeOptions options) {
  if (!options.sure) {
    co_return fail(Errc::invalid_argument,
                   "wipe removes all metadata of the cluster, its volumes are lost then; say "
                   "--yes-i-am-sure if you want that");
  }
  if (!options.force) AGRO_CO_TRY_OK(co_await check_unused(session));
  AGRO_CO_TRY_OK(co_await session.metadata.wipe());
  co_return print("wiped; the peers' data directories are left as they are\n");
}

}  // namespace

void add_cluster_commands(CLI::App& app, Program& program) {
  auto init_options = std::make_shared<InitOptions>();
  CLI::App* init_command = add_command(app, "init", "make a cluster, and print its id");
  add_size_option(*init_command, "--block-size", init_options->block_size,
                  "largest block, a power of two, 64KiB to 16MiB (default 1MiB)");
  init_command->add_option("--block-spec", init_options->block_spec,
                           "layers of new volumes (default crc,base)");
  init_command
      ->add_option("--replication", init_options->replication,
                   "copies of each block, 1 to 16 (default 2)")
      ->check(CLI::Range(1, 16));
  init_command
      ->add_option("--ring", init_options->ring, "placement (default), ketama, mod or single")
      ->check(CLI::IsMember({"placement", "ketama", "mod", "single"}));
  init_command->add_option("--groups", init_options->group_count,
                           "placement groups, a power of two up to 65536 (default 4096; some 40 a "
                           "peer or more keep the cluster balanced; fixed)");
  init_command
      ->add_option("--min-copies", init_options->min_copies,
                   "copies to go on with while peers are missing; as many as --replication: wait for "
                   "the peers instead (default 1 of 2, else one less than all)")
      ->check(CLI::Range(1, 16));
  init_command->final_callback([&program, init_options] {
    if (init_options->min_copies > init_options->replication) {
      throw CLI::ValidationError("--min-copies", "must not be more than --replication");
    }
    const std::uint64_t size = init_options->block_size;
    if (size < kBlockSizeMin || size > kBlockSizeMax || (size & (size - 1)) != 0) {
      throw CLI::ValidationError("--block-size", "must be a power of two from 64KiB to 16MiB");
    }
    const std::uint32_t groups = init_options->group_count;
    if (groups != 0 && (!std::has_single_bit(groups) || groups > kGroupCountMax)) {
      throw CLI::ValidationError("--groups", "must be a power of two up to 65536");
    }
    if (groups != 0 && init_options->ring != "placement") {
      throw CLI::ValidationError("--groups", "only a placement ring has groups");
    }
    if (init_options->ring == "single" && init_options->replication > 1) {
      throw CLI::ValidationError("--ring", "a single ring holds one copy: say --replication 1");
    }
    const Result<BlocksetSpec> spec = parse_blockset_spec(init_options->block_spec);
    if (!spec.has_value()) throw CLI::ValidationError("--block-spec", spec.error().message);
    program.makes_store = true;
    program.action = [init_options](Session& session) { return init(session, *init_options); };
  });
  auto wipe_options = std::make_shared<WipeOptions>();
  CLI::App* wipe_command = add_command(app, "wipe", "remove all metadata of the cluster");
  wipe_command->add_flag("--yes-i-am-sure", wipe_options->sure, "really do it");
  wipe_command->add_flag("--force", wipe_options->force,
                         "also while peers run and volumes are open, or when records are damaged");
  on_command(program, *wipe_command, wipe_options, wipe);
}

}  // namespace agro
