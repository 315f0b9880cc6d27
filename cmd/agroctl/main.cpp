// agroctl: makes clusters, manages volumes, peers and rings, moves images in and out.
#include <cstdio>

#include "agroctl/program.hpp"
#include "base/log.hpp"
#include "blockset/blockset.hpp"
#include "metadata/open.hpp"

namespace agro {

CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& help) {
  CLI::App* command = parent.add_subcommand(name, help);
  command->fallthrough();
  return command;
}

void add_format_options(CLI::App& command, Format& format) {
  CLI::Option* json = command.add_flag_callback(
      "--json", [&format] { format = Format::json; }, "print JSON");
  command
      .add_flag_callback(
          "--csv", [&format] { format = Format::csv; }, "print CSV with a header line")
      ->excludes(json);
}

Task<ClusterView> cluster_view(Metadata& metadata) {
  AGRO_CO_TRY(ClusterView view, co_await metadata.view());
  if (!view.cluster.has_value()) {
    co_return fail(Errc::not_found, "the metadata store holds no cluster; run 'agroctl init'");
  }
  co_return view;
}

namespace {

Task<void> run_action(SystemEnv& system, Kv& kv, const Program& program) {
  Session session{system, system.env(), kv, Metadata(system.env(), kv), program.verbose};
  Task<void> task = program.action(session);
  co_return co_await std::move(task);
}

Result<std::string> store_uri(const Program& program) {
  if (program.needs_no_store) return "temp:";
  return metadata_uri(program.metadata);
}

Task<void> run_with_store(SystemEnv& system, const Program& program) {
  AGRO_CO_TRY(const std::string uri, store_uri(program));
  if (uri.starts_with("temp:") && !program.needs_no_store) {
    co_return fail(Errc::invalid_argument,
                   "a temp: metadata store ends with its process, agroctl can do nothing with it; "
                   "use sqlite:PATH");
  }
  AGRO_CO_TRY(const std::unique_ptr<Kv> kv,
              co_await open_kv(system.env(), uri, program.makes_store));
  const Result<void> done = co_await run_action(system, *kv, program);
  const Result<void> closed = co_await kv->close();
  co_return done.has_value() ? closed : done;
}

int fail_at_once(const Error& error) {
  std::fprintf(stderr, "agroctl: %s\n", error.message.c_str());
  return 1;
}

int run(int argc, char** argv) {
  CLI::App app{"agroctl: manages an agro cluster and its volumes", "agroctl"};
  app.set_version_flag("--version", std::string("agroctl ") + AGRO_VERSION);
  app.require_subcommand(1);
  Program program;
  add_metadata_options(app, program.metadata);
  app.add_flag("-v,--verbose", program.verbose, "log more to standard error");
  add_cluster_commands(app, program);
  add_volume_commands(app, program);
  add_block_commands(app, program);
  add_peer_commands(app, program);
  add_work_commands(app, program);
  add_ring_commands(app, program);
  add_metadata_commands(app, program);
  add_status_command(app, program);
  add_completion_command(app, program);
  add_command(app, "version", "print the version")->final_callback([&program] {
    program.immediate_action = [] { return print(std::string("agroctl ") + AGRO_VERSION + "\n"); };
  });
  if (const int status = parse_command_line(app, argc, argv); status >= 0) return status;
  if (program.immediate_action) {
    const Result<void> done = program.immediate_action();
    return done.has_value() ? 0 : fail_at_once(done.error());
  }
  // Errors are returned and printed once; nothing else is said unless asked for.
  if (program.verbose)
    log_to_standard_error("agroctl", true);
  else
    set_log_sink({});
  SystemEnv system;
  return run_program("agroctl", system, run_with_store(system, program));
}

}  // namespace
}  // namespace agro

int main(int argc, char** argv) { return agro::run(argc, argv); }
