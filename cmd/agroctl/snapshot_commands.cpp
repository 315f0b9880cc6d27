// agroctl block snapshot: create, list, delete and restore.
//
// Whoever has a volume open makes its snapshots; when nobody has, agroctl opens it for that.
#include <fmt/format.h>

#include "agroctl/attached.hpp"

namespace agro {
namespace {

constexpr Duration kAnswerLimit = std::chrono::seconds(30);
constexpr Duration kAskAgain = std::chrono::milliseconds(5);

struct SnapshotOptions {
  std::string volume;
  std::string snapshot;
};

struct ListOptions {
  std::string volume;
  Format format = Format::text;
};

/// Polls until there is an answer; nothing, when nobody has the volume open any more who could give it.
/// Errors: the writer's; timed_out.
Task<std::optional<SnapshotRecord>> await_answer(Session& session, VolumeId volume, std::string name,
                                                 std::uint64_t token, TimePoint deadline) {
  Clock& clock = session.env.clock;
  while (true) {
    AGRO_CO_TRY(const std::optional<VolumeLock> lock, co_await session.metadata.lock_of(volume));
    AGRO_CO_TRY(const std::optional<SnapshotRecord> made,
                co_await session.metadata.poll_snapshot(volume, name, token));
    if (made.has_value() || !lock.has_value()) co_return made;
    if (clock.now() >= deadline || session.system.stop_requested()) break;
    co_await sleep_for(clock, kAskAgain);
  }
  AGRO_CO_TRY_OK(co_await session.metadata.withdraw_snapshot(volume, name, token));
  const Result<std::optional<SnapshotRecord>> late =
      co_await session.metadata.poll_snapshot(volume, name, token);
  if (late.has_value() && late->has_value()) co_return **late;
  co_return fail(
      Errc::timed_out,
      "whoever has the volume open does not answer; is it suspended? See 'agroctl status'");
}

/// Whoever had the volume open may have closed it before it saw that it was asked; then we open it.
Task<SnapshotRecord> ask(Session& session, VolumeRecord volume, std::string name,
                         std::uint64_t token) {
  const TimePoint deadline = session.env.clock.now() + kAnswerLimit;
  while (true) {
    AGRO_CO_TRY(std::optional<SnapshotRecord> answer,
                co_await await_answer(session, volume.id, name, token, deadline));
    if (answer.has_value()) co_return std::move(*answer);
    Result<std::unique_ptr<Attached>> attached = co_await attach(session, volume.name);
    if (attached.code() == Errc::locked) continue;  // somebody was quicker: then that one answers
    if (!attached.has_value()) co_return fail(attached.error());
    Result<std::optional<SnapshotRecord>> made =
        co_await await_answer(session, volume.id, name, token, deadline);
    const Result<void> detached = co_await detach(**attached);
    if (!made.has_value()) co_return fail(made.error());
    if (!detached.has_value()) co_return fail(detached.error());
    if (made->has_value()) co_return std::move(**made);
    co_return fail(Errc::unavailable, "the volume's lock was lost before its snapshot was made; try again");
  }
}

Task<void> create(Session& session, SnapshotOptions options) {
  AGRO_CO_TRY(const VolumeRecord volume, co_await session.metadata.find_volume(options.volume));
  AGRO_CO_TRY([[maybe_unused]] const SnapshotRecord made,
              co_await make_snapshot(session, volume, options.snapshot));
  co_return print(fmt::format("made snapshot {}@{}\n", options.volume, options.snapshot));
}

Task<void> list(Session& session, ListOptions options) {
  AGRO_CO_TRY(const VolumeRecord volume, co_await session.metadata.find_volume(options.volume));
  AGRO_CO_TRY(const std::vector<SnapshotRecord> all,
              co_await session.metadata.snapshots(volume.id));
  Table table({{"name", "NAME"}, {"size_bytes", "SIZE", true}, {"created", "CREATED"}});
  for (const SnapshotRecord& one : all) {
    table.add({Cell(one.name), size_cell(one.head.size), time_cell(one.created_unix_ms)});
  }
  co_return print(table.render(
      options.format, fmt::format("no snapshots; 'agroctl block snapshot create {}@NAME' makes one",
                                  options.volume)));
}

Task<void> remove(Session& session, SnapshotOptions options) {
  AGRO_CO_TRY(const VolumeRecord volume, co_await session.metadata.find_volume(options.volume));
  AGRO_CO_TRY_OK(co_await session.metadata.delete_snapshot(volume, options.snapshot));
  co_return print(fmt::format("deleted snapshot {}@{}; gc frees what only it needed\n",
                              options.volume, options.snapshot));
}

Task<void> restore(Session& session, SnapshotOptions options) {
  AGRO_CO_TRY(const VolumeRecord volume, co_await session.metadata.find_volume(options.volume));
  AGRO_CO_TRY_OK(co_await session.metadata.restore_snapshot(volume, options.snapshot));
  co_return print(
      fmt::format("volume {} is as it was at snapshot {}\n", options.volume, options.snapshot));
}

void add_snapshot_option(CLI::App& command, const std::shared_ptr<SnapshotOptions>& options) {
  command
      .add_option_function<std::string>(
          "snapshot",
          [options](const std::string& text) {
            const std::size_t at = text.find('@');
            if (at == std::string::npos || at == 0 || at + 1 == text.size()) {
              throw CLI::ValidationError(
                  fmt::format("'{}' is no snapshot; write VOLUME@NAME", text));
            }
            options->volume = text.substr(0, at);
            options->snapshot = text.substr(at + 1);
          },
          "VOLUME@NAME")
      ->required();
}

}  // namespace

Task<SnapshotRecord> make_snapshot(Session& session, VolumeRecord volume, std::string name,
                                   std::optional<StateId> origin) {
  AGRO_CO_TRY(const std::uint64_t token,
              co_await session.metadata.request_snapshot(volume.id, name, origin));
  Result<SnapshotRecord> made = co_await ask(session, volume, name, token);
  if (made.has_value()) co_return made;
  const Result<void> withdrawn =
      co_await session.metadata.withdraw_snapshot(volume.id, name, token);
  Error error = std::move(made).error();
  if (!withdrawn.has_value())
    error.message += "; and its request stays: " + withdrawn.error().message;
  co_return fail(std::move(error));
}

void add_snapshot_commands(CLI::App& block, Program& program) {
  CLI::App* snapshot =
      add_command(block, "snapshot", "make, list, delete and restore snapshots of volumes");
  snapshot->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, auto run) {
    auto options = std::make_shared<SnapshotOptions>();
    CLI::App* command = add_command(*snapshot, name, help);
    add_snapshot_option(*command, options);
    on_command(program, *command, options, run);
  };
  add("create", "make a snapshot of a volume, which may be in use", create);
  add("delete", "delete a snapshot; clones of it stay", remove);
  add("restore", "set a volume that nobody has open back to a snapshot", restore);
  auto options = std::make_shared<ListOptions>();
  CLI::App* command = add_command(*snapshot, "list", "list the snapshots of a volume");
  command->add_option("volume", options->volume, "the volume")->required();
  add_format_options(*command, options->format);
  on_command(program, *command, options, list);
}

}  // namespace agro
