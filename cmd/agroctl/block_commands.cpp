// agroctl block: create, dump and load.
//
// dump and load are clients of the cluster: they lock the volume as a server would, and give it
// back clean at the end, also after an error or Ctrl-C.
#include <fmt/format.h>

#include "agroctl/attached.hpp"
#include "agroctl/backup_commands.hpp"
#include "agroctl/backup_file.hpp"
#include "agroctl/image_file.hpp"
#include "agroctl/program.hpp"
#include "agroctl/transfer.hpp"
#include "base/units.hpp"

namespace agro {
namespace {

struct DumpOptions {
  std::string volume;
  std::string file;
  std::string format;  // "raw", "backup"; empty: raw, unless it is an increment
  std::string from;    // a snapshot's name; empty: not an increment
  bool resume = false;
  bool progress = false;
};

struct LoadOptions {
  std::string file;
  std::string volume;
  std::string format;  // "raw", "backup"; empty: as it begins
  std::optional<std::uint64_t> size;
  bool resume = false;
  bool progress = false;
};

Task<void> flush_and_detach(Attached& attached, bool moved) {
  Result<void> flushed;
  if (moved) flushed = co_await attached.device->flush();
  const Result<void> detached = co_await detach(attached);
  co_return flushed.has_value() ? detached : flushed;
}

Task<void> finish_and_detach(Attached& attached, ImageSink& sink, bool moved) {
  Result<void> finished;
  if (moved) finished = co_await sink.finish();
  const Result<void> detached = co_await detach(attached);
  co_return finished.has_value() ? detached : finished;
}

Task<void> dump_volume(Session& session, DumpOptions options) {
  const bool is_backup = options.format == "backup" || !options.from.empty();
  if (options.format == "raw" && is_backup) {
    co_return fail(Errc::invalid_argument, "a raw image has no increments; leave --format out");
  }
  if (options.resume && (!is_backup || options.file == "-")) {
    co_return fail(Errc::invalid_argument, "only a backup that is dumped to a file can be resumed");
  }
  if (is_backup) {
    const BackupDumpOptions wanted{options.volume, options.file, options.from, options.resume, options.progress};
    co_return co_await dump_backup(session, wanted);
  }
  AGRO_CO_TRY(const std::unique_ptr<Attached> attached, co_await attach(session, options.volume));
  const std::uint64_t size = attached->device->size_bytes();
  // Only now: a volume that cannot be read must not cost the user the file that was there.
  const Result<std::unique_ptr<ImageSink>> sink =
      ImageSink::open(session.env.offload, options.file, size);
  if (!sink.has_value()) {
    const Result<void> detached = co_await detach(*attached);
    co_return fail(detached.has_value() ? sink.error() : detached.error());
  }
  Progress progress(session.env.clock, size, options.progress);
  const std::unique_ptr<Transfer> transfer = make_dump(*attached->device, **sink, progress);
  std::function<Task<void>(bool)> release = [&](bool moved) {
    return finish_and_detach(*attached, **sink, moved);
  };
  AGRO_CO_TRY_OK(co_await run_transfer(session.system, *transfer, progress, std::move(release)));
  if (options.file == "-") co_return Result<void>();
  co_return print(fmt::format("dumped volume {} to {}: {}, {} of it data\n", options.volume,
                              options.file, format_size(size), format_size(transfer->data_size())));
}

/// Errors: invalid_argument, when what is to be loaded does not fit.
Result<void> check_fits(const ImageSource& source, std::uint64_t size, const std::string& volume) {
  if (source.is_stream() || source.size() <= size) return {};
  return fail(Errc::invalid_argument,
              fmt::format("{} has {} bytes and volume {} {}; it does not fit", source.name(),
                          source.size(), volume, size));
}

/// Makes the volume unless it is there. Returns whether it was made.
Task<bool> prepare_volume(Session& session, const ImageSource& source, LoadOptions options) {
  const Result<VolumeRecord> present = co_await session.metadata.find_volume(options.volume);
  if (present.has_value()) {
    if (options.size.has_value() && *options.size != present->size) {
      co_return fail(Errc::already_exists,
                     fmt::format("volume {} exists with {} bytes, not {}; leave SIZE out to load "
                                 "into it",
                                 options.volume, present->size, *options.size));
    }
    AGRO_CO_TRY_OK(check_fits(source, present->size, options.volume));
    co_return false;
  }
  if (present.code() != Errc::not_found) co_return fail(present.error());
  AGRO_CO_TRY(const ClusterView view, co_await cluster_view(session.metadata));
  if (ring_peers(view.ring).empty()) {
    co_return fail(Errc::no_quorum, "the ring has no members yet; 'agroctl peer add' adds some");
  }
  const bool unsized_source = source.is_stream() || source.size() == 0;
  if (!options.size.has_value() && unsized_source) {
    co_return fail(
        Errc::invalid_argument,
        fmt::format("there is no volume {} yet, and {}; give the new volume's SIZE", options.volume,
                    source.is_stream() ? source.name() + " does not say its size"
                                       : source.name() + " is empty"));
  }
  CreateOptions create;
  create.name = options.volume;
  create.size = options.size.value_or(round_up(source.size(), kPageSize));
  AGRO_CO_TRY_OK(check_fits(source, create.size, options.volume));
  AGRO_CO_TRY([[maybe_unused]] const VolumeRecord made,
              co_await create_volume(session.metadata, create));
  co_return true;
}

Task<void> load_into(Session& session, ImageSource& source, LoadOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<Attached> attached, co_await attach(session, options.volume));
  const Result<bool> blank = co_await is_blank(*attached->device);
  if (!blank.has_value()) {
    const Result<void> detached = co_await detach(*attached);
    co_return fail(detached.has_value() ? blank.error() : detached.error());
  }
  const std::uint64_t total = source.is_stream() ? attached->device->size_bytes() : source.size();
  Progress progress(session.env.clock, total, options.progress);
  const std::unique_ptr<Transfer> transfer = make_load(*attached->device, source, *blank, progress);
  std::function<Task<void>(bool)> release = [&](bool moved) {
    return flush_and_detach(*attached, moved);
  };
  AGRO_CO_TRY_OK(co_await run_transfer(session.system, *transfer, progress, std::move(release)));
  co_return print(fmt::format("loaded {} into volume {}: {}, {} of it data\n", source.name(),
                              options.volume, format_size(progress.done()),
                              format_size(transfer->data_size())));
}

Task<void> load_image(Session& session, LoadOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<ImageSource> source,
              ImageSource::open(session.env.offload, options.file));
  bool is_backup = options.format == "backup";
  if (options.format.empty()) {
    AGRO_CO_TRY(is_backup, co_await BackupReader::probe(*source));
  }
  if (is_backup) {
    const BackupLoadOptions wanted{options.volume, options.size, options.resume, options.progress};
    co_return co_await load_backup(session, *source, wanted);
  }
  AGRO_CO_TRY(const bool made, co_await prepare_volume(session, *source, options));
  Result<void> loaded = co_await load_into(session, *source, options);
  if (loaded.has_value() || !made) co_return loaded;
  Error error = std::move(loaded).error();
  error.message += fmt::format("; the new volume {} is incomplete", options.volume);
  co_return fail(std::move(error));
}

}  // namespace

void add_block_commands(CLI::App& app, Program& program) {
  CLI::App* block = add_command(app, "block", "make block volumes, move images in and out");
  block->require_subcommand(1);
  add_create_command(*block, program, "create");
  add_snapshot_commands(*block, program);
  add_difference_command(*block, program);
  auto dump_options = std::make_shared<DumpOptions>();
  CLI::App* dump_command =
      add_command(*block, "dump", "copy a volume, or a snapshot, into a file, a device or a pipe");
  dump_command->add_option("volume", dump_options->volume, "VOLUME, or VOLUME@SNAPSHOT, which may be in use")->required();
  dump_command->add_option("file", dump_options->file, "file to write; '-': standard output")
      ->required();
  dump_command->add_flag("-p,--progress", dump_options->progress,
                         "show progress also without a terminal");
  dump_command->add_option("--format", dump_options->format,
                           "raw, the volume's bytes, or backup, which can be resumed and incremented (default: raw)")
      ->check(CLI::IsMember({"raw", "backup"}));
  dump_command->add_option("--from", dump_options->from,
                           "a backup of only what changed since this snapshot of the volume")
      ->type_name("SNAPSHOT");
  dump_command->add_flag("--resume", dump_options->resume, "go on with a backup in FILE that was interrupted");
  on_command(program, *dump_command, dump_options, dump_volume);
  auto load_options = std::make_shared<LoadOptions>();
  CLI::App* load_command = add_command(
      *block, "load", "copy a file, a device or a pipe into a volume, made when there is none");
  load_command->add_option("file", load_options->file, "file to read; '-': standard input")
      ->required();
  load_command->add_option("volume", load_options->volume, "the volume")->required();
  load_command
      ->add_option_function<std::string>(
          "size",
          [load_options](const std::string& text) {
            const Result<std::uint64_t> size = parse_size(text);
            if (!size.has_value()) throw CLI::ValidationError("size", size.error().message);
            load_options->size = *size;
          },
          "size of a new volume (default: the file's, rounded up to 4096)")
      ->type_name("SIZE");
  load_command->add_flag("-p,--progress", load_options->progress,
                         "show progress also without a terminal");
  load_command->add_option("--format", load_options->format, "raw or backup (default: as the file begins)")
      ->check(CLI::IsMember({"raw", "backup"}));
  load_command->add_flag("--resume", load_options->resume,
                         "of an increment: first set the volume back to where it starts, after an interrupted load");
  on_command(program, *load_command, load_options, load_image);
}

}  // namespace agro
