// agroctl metadata rebuild: what was lost with the metadata, from the blocks on the peers.
#include <fmt/format.h>

#include "agroctl/program.hpp"
#include "agroctl/rebuild_peers.hpp"
#include "base/units.hpp"
#include "blockset/blockset.hpp"
#include "metadata/dump.hpp"
#include "metadata/keys.hpp"
#include "node/metadata_rebuild.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

struct RebuildOptions {
  RebuildSources sources;
  std::uint32_t replication = 0;  // 0: as most blocks have copies
  std::uint32_t min_copies = 0;
  bool dry_run = false;
  bool force = false;
  bool accept_loss = false;
  Format format = Format::text;
};

/// What was found, and what is made of it.
struct Rebuilt {
  ClusterRecord cluster;
  RingSpec ring;
  FoundCluster found;
  std::vector<VolumeRecord> volumes;
};


bool is_doubtful(const FoundVolume& volume) { return !volume.deleted && !volume.doubts.empty(); }

Table table_of(const Rebuilt& rebuilt) {
  Table table({{"id", "ID"},
               {"name", "NAME"},
               {"size_bytes", "SIZE", true},
               {"blocks", "BLOCKS", true},
               {"log_blocks", "IN LOG", true},
               {"snapshots", "SNAPSHOTS", true},
               {"state", "STATE"},
               {"doubts", "UNCERTAIN"}});
  for (const FoundVolume& volume : rebuilt.found.volumes) {
    std::string name = volume.description.name;
    for (const VolumeRecord& record : rebuilt.volumes) {
      if (record.id == volume.id) name = record.name;
    }
    const char* state = volume.deleted           ? "deleted, stays so"
                        : !volume.has_checkpoint ? "not recovered"
                        : volume.doubts.empty()  ? "whole"
                                                 : "uncertain";
    table.add({Cell(keys::volume_text(volume.id)), Cell(name), size_cell(volume.head.size),
               number_cell(volume.block_count), number_cell(volume.tail_count),
               number_cell(volume.snapshots.size()), Cell(std::string(state)), list_cell(volume.doubts)});
  }
  return table;
}

Result<void> show(const Rebuilt& rebuilt, const RebuildPeers& peers, const RebuildOptions& options,
                  bool written) {
  const Table table = table_of(rebuilt);
  if (options.format == Format::json) {
    Json ids = Json::array();
    for (const RingMember& member : rebuilt.ring.members) ids.push_back(member.id.to_string());
    return print(render_json({{"cluster", rebuilt.cluster.id.to_string()},
                              {"block_size", rebuilt.cluster.block_size},
                              {"replication", rebuilt.ring.replication},
                              {"peers", std::move(ids)},
                              {"volumes", table.to_json()},
                              {"written", written}}));
  }
  if (options.format == Format::csv) return print(table.to_csv());
  AGRO_TRY_OK(print(fmt::format("cluster {}, {} peers, {} copies of each block\n",
                                rebuilt.cluster.id.to_string(), rebuilt.ring.members.size(),
                                rebuilt.ring.replication)));
  AGRO_TRY_OK(print(table.render(Format::text, "no volumes were found")));
  if (!written) return {};
  return print(fmt::format(
      "written; restart the peers, then open the volumes. Settings of 'agroctl init', labels of "
      "failure domains{} are as for a new cluster; volumes that were never opened left no trace\n",
      peers.weighted() ? "" : " and weights (all 1)"));
}

Result<void> check_doubts(const FoundCluster& found, bool accept_loss) {
  std::size_t count = 0;
  for (const FoundVolume& volume : found.volumes) count += is_doubtful(volume) ? 1 : 0;
  if (count == 0 || accept_loss) return {};
  return fail(Errc::corrupt, fmt::format("{} of the volumes are uncertain: name all peers that there "
                                         "are, or go on with --accept-loss (what is not recovered is "
                                         "deleted sooner or later); nothing was written",
                                         count));
}

/// The copies of most blocks, which no ring of fewer peers can have.
std::uint32_t choose_replication(const FoundCluster& found, const RebuildOptions& options,
                                 std::size_t peer_count) {
  if (options.replication != 0) return options.replication;
  const std::uint32_t seen = found.copy_count == 0 ? 2 : found.copy_count;
  return std::min(seen, static_cast<std::uint32_t>(peer_count));
}

Task<void> write(Session& session, const RebuildPeers& peers, VolumeSearch& search,
                 Rebuilt& rebuilt, const RebuildOptions& options) {
  const Result<void> sure = check_doubts(rebuilt.found, options.accept_loss);
  if (!sure.has_value()) {
    AGRO_CO_TRY_OK(show(rebuilt, peers, options, false));
    co_return sure;
  }
  AGRO_CO_TRY_OK(co_await search.fence_volumes(rebuilt.found));
  rebuilt.volumes = rebuilt_volumes(rebuilt.found, rebuilt.cluster.created_unix_ms);
  std::vector<KvOp> ops =
      rebuilt_keys(rebuilt.cluster, rebuilt.ring, rebuilt.found, rebuilt.volumes);
  AGRO_CO_TRY_OK(co_await fill_metadata(session.kv, std::move(ops), options.force));
  co_return show(rebuilt, peers, options, true);
}

Task<void> rebuild_from(Session& session, const RebuildPeers& peers, VolumeSearch& search,
                        const RebuildOptions& options) {
  Rebuilt rebuilt;
  AGRO_CO_TRY(rebuilt.found, co_await search.search());
  const std::uint32_t copies = choose_replication(rebuilt.found, options, peers.members().size());
  AGRO_CO_TRY(rebuilt.ring, rebuilt_ring(peers.members(), copies));
  rebuilt.cluster.id = peers.cluster_id();
  rebuilt.cluster.block_size = peers.block_size();
  rebuilt.cluster.block_spec = kBlocksetSpecDefault;
  rebuilt.cluster.min_copies = options.min_copies;
  rebuilt.cluster.created_unix_ms = session.env.clock.unix_time_ms();
  rebuilt.volumes = rebuilt_volumes(rebuilt.found, rebuilt.cluster.created_unix_ms);
  if (options.dry_run) co_return show(rebuilt, peers, options, false);
  co_return co_await write(session, peers, search, rebuilt, options);
}

Task<void> search_and_rebuild(Session& session, const RebuildPeers& peers,
                              const RebuildOptions& options) {
  AGRO_CO_TRY(const RingSpec ring, rebuilt_ring(peers.members(), 1));
  AGRO_CO_TRY(const std::shared_ptr<const Ring> any_ring, make_ring(ring));
  VolumeSearch search(session.env, peers.block_size(), any_ring, peers.peers());
  Result<void> done = co_await rebuild_from(session, peers, search, options);
  co_await search.stop();
  co_return done;
}

Task<void> rebuild(Session& session, RebuildOptions options) {
  // Before the long work; asked again in the transaction.
  if (!options.dry_run) AGRO_CO_TRY_OK(co_await check_fillable(session.kv, options.force));
  RebuildPeers peers(session.env);
  Result<void> done = co_await peers.open(options.sources);
  if (done.has_value()) done = co_await search_and_rebuild(session, peers, options);
  const Result<void> closed = co_await peers.close();
  co_return done.has_value() ? closed : done;
}

}  // namespace

void add_rebuild_command(CLI::App& metadata, Program& program) {
  auto options = std::make_shared<RebuildOptions>();
  CLI::App* command = add_command(
      metadata, "rebuild",
      "make the metadata anew from the blocks on the peers, when they are lost and there is no dump. "
      "Stop all clients; then name every peer, by its directory (the peer must be stopped) or by its "
      "address (it must run: as it is, or as 'agro --without-metadata'); afterwards restart the peers. "
      "Volumes come back as their newest checkpoint and the log past it say, snapshots as their notes in "
      "the volume do, deleted ones too as long as gc left everything of them");
  command->add_option("--data-dir", options->sources.data_dirs,
                      "data directory of a stopped peer, or of 'agro standalone'; any number of them");
  command->add_option("--peer", options->sources.peers,
                      "UUID@ADDRESS of a running peer, as it printed them; any number of them");
  command->add_option("--cluster-id", options->sources.cluster_id,
                      "with --peer only: the cluster's id");
  add_size_option(*command, "--block-size", options->sources.block_size,
                  "with --peer only: the cluster's block size");
  command
      ->add_option("--replication", options->replication,
                   "copies of each block (default: as many as most blocks have)")
      ->check(CLI::Range(1, 16));
  command
      ->add_option("--min-copies", options->min_copies,
                   "as for 'agroctl init' (default 1 of 2, else one less than all)")
      ->check(CLI::Range(1, 16));
  command->add_flag("--dry-run", options->dry_run,
                    "only show what would come back; needs no metadata store");
  command->add_flag("--force", options->force, "replace what the store holds");
  command->add_flag("--accept-loss", options->accept_loss, "also when volumes are uncertain");
  add_format_options(*command, options->format);
  command->final_callback([&program, options] {
    if (options->sources.data_dirs.empty() && options->sources.peers.empty()) {
      throw CLI::ValidationError("--data-dir", "name the peers, by --data-dir or --peer");
    }
    program.makes_store = true;
    program.needs_no_store = options->dry_run;
    program.action = [options](Session& session) { return rebuild(session, *options); };
  });
}

}  // namespace agro
