// agroctl metadata: copies of the metadata for bad days.
#include <fmt/format.h>

#include "agroctl/program.hpp"
#include "metadata/dump.hpp"

namespace agro {
namespace {

struct DumpOptions {
  std::string file;
};

struct RestoreOptions {
  std::string file;
  bool force = false;
};

Task<void> dump(Session& session, DumpOptions options) {
  AGRO_CO_TRY(std::string text, co_await dump_metadata(session.kv));
  if (options.file.empty() || options.file == "-") co_return print(text);
  co_return co_await session.env.disk.write_file(options.file, std::move(text));
}

Task<void> restore(Session& session, RestoreOptions options) {
  AGRO_CO_TRY(std::string text, co_await session.env.disk.read_file(options.file));
  const auto count =
      co_await restore_metadata(session.kv, std::move(text), options.force);
  if (!count.has_value()) co_return fail(with_context(count.error(), options.file));
  co_return print(fmt::format("restored {} keys; peers and clients may start\n", *count));
}

}  // namespace

void add_metadata_commands(CLI::App& app, Program& program) {
  CLI::App* metadata = add_command(app, "metadata", "save the metadata, and bring it back");
  metadata->require_subcommand(1);
  auto dump_options = std::make_shared<DumpOptions>();
  CLI::App* dump_command =
      add_command(*metadata, "dump", "write everything but locks and signs of life to a file");
  dump_command->add_option("file", dump_options->file, "where to (default: standard output)");
  on_command(program, *dump_command, dump_options, dump);
  auto restore_options = std::make_shared<RestoreOptions>();
  CLI::App* restore_command = add_command(
      *metadata, "restore",
      "read a dump into an empty store; what was written to volumes since the dump is lost");
  restore_command->add_option("file", restore_options->file, "a dump")->required();
  restore_command->add_flag("--force", restore_options->force, "replace what the store holds");
  restore_command->final_callback([&program, restore_options] {
    program.makes_store = true;
    program.action = [restore_options](Session& session) {
      return restore(session, *restore_options);
    };
  });
  add_rebuild_command(*metadata, program);
}

}  // namespace agro
