// agroctl's frame: what a command gets, and how the command line hands over to it.
//
// A group of commands adds its part of the CLI11 tree; a command that was parsed sets
// Program::action, which main() then runs on the loop.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agroctl/table.hpp"
#include "common/program.hpp"
#include "metadata/metadata.hpp"
#include "node/ring_change.hpp"
#include "node/cluster_report.hpp"

namespace agro {

/// A command at work, with the metadata store open.
struct Session {
  SystemEnv& system;
  Env& env;
  Kv& kv;
  Metadata metadata;
  bool verbose = false;  // everything is logged already
};

/// What the command line asked for.
struct Program {
  MetadataChoice metadata;
  bool verbose = false;
  bool makes_store = false;                        // init: the store need not exist yet
  bool needs_no_store = false;                     // the session gets an empty one in memory
  std::function<Task<void>(Session&)> action;      // with the store open
  std::function<Result<void>()> immediate_action;  // without it
};

/// Adds a command: `help`, its options left to the caller.
CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& help);

/// Adds --json and --csv.
void add_format_options(CLI::App& command, Format& format);

/// Makes `run(session, *options)` the action when `command` was given. `options` live as long as
/// the program; `run` is a coroutine function that takes them by value.
template <class Options, class Run>
void on_command(Program& program, CLI::App& command, std::shared_ptr<Options> options, Run run) {
  command.final_callback([&program, options, run] {
    program.action = [options, run](Session& session) { return run(session, *options); };
  });
}

/// Everything about the cluster at one revision. Errors: not_found, before init.
Task<ClusterView> cluster_view(Metadata& metadata);

/// Changes the ring and prints "DONE; the ring is version N with M members", and that blocks move.
Task<void> change_and_tell(Metadata& metadata, RingChange change, std::string done);

/// The peer that `text` names, by UUID or by one of its addresses.
/// Errors: invalid_argument (neither, or several have that address); not_found.
Result<PeerView> find_peer(const ClusterView& view, const std::string& text);

/// Makes a snapshot of a volume, open somewhere or not. Errors: already_exists; what the volume's writer, or
/// opening it, says; timed_out, when its writer does not answer. `origin`: the state that it was loaded from.
Task<SnapshotRecord> make_snapshot(Session& session, VolumeRecord volume, std::string name,
                                   std::optional<StateId> origin = {});

/// Options of `volume create-block`, and of `block load` for a new volume. Returns what was made.
/// Errors: invalid_argument, saying what to use; already_exists.
struct CreateOptions {
  std::string name;
  std::uint64_t size = 0;
  std::uint32_t replication = 0;
  std::string block_spec;
};
Task<VolumeRecord> create_volume(Metadata& metadata, CreateOptions options);
/// NAME SIZE --replication --block-spec, as both `volume create-block` and `block create` take
/// them.
void add_create_command(CLI::App& parent, Program& program, const std::string& name);

void add_cluster_commands(CLI::App& app, Program& program);  // init, wipe
void add_volume_commands(CLI::App& app, Program& program);
void add_block_commands(CLI::App& app, Program& program);
void add_snapshot_commands(CLI::App& block, Program& program);
void add_difference_command(CLI::App& block, Program& program);
/// clone, resize, rename and set.
void add_volume_change_commands(CLI::App& volume, Program& program);
void add_peer_commands(CLI::App& app, Program& program);
void add_work_commands(CLI::App& app, Program& program);  // scrub, gc
void add_ring_commands(CLI::App& app, Program& program);
void add_metadata_commands(CLI::App& app, Program& program);  // dump, restore, rebuild
void add_rebuild_command(CLI::App& metadata, Program& program);
void add_status_command(CLI::App& app, Program& program);
void add_completion_command(CLI::App& app, Program& program);

}  // namespace agro
