// agroctl scrub, agroctl gc: start background work at peers, and see how far it is.
#include <fmt/format.h>

#include <algorithm>

#include "agroctl/program.hpp"
#include "agroctl/progress.hpp"
#include "base/parallel.hpp"
#include "base/units.hpp"
#include "node/cluster_client.hpp"

namespace agro {
namespace {

constexpr Duration kAnswerLimit = std::chrono::seconds(5);
constexpr Duration kLookEvery = std::chrono::milliseconds(250);

struct WorkOptions {
  WorkKind kind = WorkKind::scrub;
  std::vector<std::string> peers;  // none: all that run
  Format format = Format::text;
  bool wait = false;
  bool progress = false;
};

/// What one peer said, or why it did not.
struct Answer {
  PeerId id;
  Result<PeerReport> report = fail(Errc::unavailable, "not asked");
  bool dead = false;  // listed, so that nobody takes the others for all; not asked
};

Result<std::vector<Answer>> chosen_peers(const ClusterView& view, const WorkOptions& options) {
  std::vector<Answer> chosen;
  for (const std::string& text : options.peers) {
    AGRO_TRY(const PeerView peer, find_peer(view, text));
    chosen.push_back({.id = peer.record.id});
  }
  if (!options.peers.empty()) return chosen;
  bool any_alive = false;
  for (const PeerView& peer : view.peers) {
    Answer answer{.id = peer.record.id, .dead = !peer.alive};
    if (answer.dead) answer.report = fail(Errc::unavailable, "it does not run");
    any_alive = any_alive || peer.alive;
    chosen.push_back(std::move(answer));
  }
  if (!any_alive) return fail(Errc::not_found, "no peer of this cluster runs");
  return chosen;
}

Task<std::shared_ptr<Peer>> connected_peer(Clock& clock, ClusterClient& client, PeerId id,
                                           TimePoint deadline) {
  const std::shared_ptr<Peer> peer = client.peer(id);
  if (peer == nullptr) co_return fail(Errc::unavailable, "it has no address that agroctl knows");
  while (!peer->connected() && clock.now() < deadline) {
    co_await sleep_for(clock, std::chrono::milliseconds(5));
  }
  co_return peer;
}

/// Never an error: that is in the answer.
Task<void> ask(Clock& clock, ClusterClient& client, Answer& answer) {
  if (answer.dead) co_return Result<void>();
  const TimePoint deadline = clock.now() + kAnswerLimit;
  const Result<std::shared_ptr<Peer>> peer =
      co_await connected_peer(clock, client, answer.id, deadline);
  if (peer.has_value())
    answer.report = co_await (*peer)->report(deadline);
  else
    answer.report = fail(peer.error());
  co_return Result<void>();
}

Task<void> ask_all(Clock& clock, ClusterClient& client, std::vector<Answer>& answers) {
  return for_each_parallel(answers.size(), answers.size(),
                           [&](std::size_t index) { return ask(clock, client, answers[index]); });
}

bool is_running(const Answer& answer, WorkKind kind) {
  if (!answer.report.has_value()) return false;
  return kind == WorkKind::scrub ? answer.report->scrub.running : answer.report->gc.running;
}

/// Asks again and again until nothing runs.
Task<void> wait_for_end(Clock& clock, ClusterClient& client, WorkOptions options,
                        std::vector<Answer>& answers) {
  Progress progress(clock, 0, options.progress);
  while (true) {
    AGRO_CO_TRY_OK(co_await ask_all(clock, client, answers));
    std::uint64_t done = 0;
    std::uint64_t total = 0;
    bool running = false;
    for (const Answer& answer : answers) {
      running = running || is_running(answer, options.kind);
      if (!answer.report.has_value()) continue;
      done += answer.report->scrub.bytes_done;
      total += answer.report->scrub.bytes_total;
    }
    const bool shows = options.kind == WorkKind::scrub;
    if (shows) progress.set(done, total);
    if (shows && running) progress.show();
    if (!running) {
      if (shows) progress.finish();
      co_return Result<void>();
    }
    co_await sleep_for(clock, kLookEvery);
  }
}

Table scrub_table(const std::vector<Answer>& answers) {
  Table table({{"id", "PEER"},
               {"state", "STATE"},
               {"bytes_done", "VERIFIED", true},
               {"bytes_total", "OF", true},
               {"bad_blocks", "BAD", true},
               {"repaired_blocks", "REPAIRED", true},
               {"lost_blocks", "LOST", true},
               {"started", ""},
               {"finished", "LAST FINISHED"},
               {"problem", "PROBLEM"}});
  for (const Answer& answer : answers) {
    const ScrubReport scrub = answer.report.has_value() ? answer.report->scrub : ScrubReport{};
    const std::string state = answer.dead                   ? "dead"
                              : !answer.report.has_value()  ? "unreachable"
                              : scrub.running               ? "running"
                              : scrub.finished_unix_ms == 0 ? "never"
                                                            : "idle";
    table.add({Cell(answer.id.to_string()), Cell(state), size_cell(scrub.bytes_done),
               size_cell(scrub.bytes_total), number_cell(scrub.bad_blocks),
               number_cell(scrub.repaired_blocks), number_cell(scrub.lost_blocks),
               time_cell(scrub.started_unix_ms), time_cell(scrub.finished_unix_ms),
               Cell(answer.report.has_value() ? scrub.problem : answer.report.error().message)});
  }
  return table;
}

Table gc_table(const std::vector<Answer>& answers) {
  Table table({{"id", "PEER"},
               {"state", "STATE"},
               {"condemned_blocks", "CONDEMNED", true},
               {"deleted_blocks", "DELETED", true},
               {"deleted_bytes", "BYTES", true},
               {"finished", "LAST FINISHED"},
               {"problem", "PROBLEM"}});
  for (const Answer& answer : answers) {
    const GcReport gc = answer.report.has_value() ? answer.report->gc : GcReport{};
    const std::string state = answer.dead                ? "dead"
                              : !answer.report.has_value() ? "unreachable"
                              : gc.running               ? "running"
                              : gc.finished_unix_ms == 0 ? "never"
                                                         : "idle";
    table.add({Cell(answer.id.to_string()), Cell(state), number_cell(gc.condemned_blocks),
               number_cell(gc.deleted_blocks), size_cell(gc.deleted_bytes),
               time_cell(gc.finished_unix_ms),
               Cell(answer.report.has_value() ? gc.problem : answer.report.error().message)});
  }
  return table;
}

/// Errors: unavailable (a peer did not answer); corrupt (blocks without a good copy).
Result<void> judge(const std::vector<Answer>& answers) {
  std::uint64_t lost = 0;
  for (const Answer& answer : answers) {
    if (answer.dead) continue;
    if (!answer.report.has_value()) {
      return fail(Errc::unavailable,
                  fmt::format("peer {}: {}", answer.id.to_string(), answer.report.error().message));
    }
    lost += answer.report->scrub.lost_blocks;
  }
  if (lost == 0) return {};
  return fail(Errc::corrupt,
              fmt::format("{} bad copies have no good one that could be reached", lost));
}

Task<void> show_with(Env& env, ClusterClient& client, WorkOptions options) {
  AGRO_CO_TRY(std::vector<Answer> answers, chosen_peers(client.view(), options));
  if (options.wait) {
    AGRO_CO_TRY_OK(co_await wait_for_end(env.clock, client, options, answers));
  } else {
    AGRO_CO_TRY_OK(co_await ask_all(env.clock, client, answers));
  }
  const Table table = options.kind == WorkKind::scrub ? scrub_table(answers) : gc_table(answers);
  AGRO_CO_TRY_OK(print(table.render(options.format, "no peers")));
  co_return options.kind == WorkKind::scrub ? judge(answers) : Result<void>();
}

Task<void> show(Session& session, WorkOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<ClusterClient> client,
              co_await ClusterClient::start(session.env, session.kv));
  const Result<void> shown = co_await show_with(session.env, *client, options);
  co_await client->stop();
  co_return shown;
}

Task<void> start_one(Clock& clock, ClusterClient& client, PeerId id, WorkKind kind) {
  const TimePoint deadline = clock.now() + kAnswerLimit;
  AGRO_CO_TRY(const std::shared_ptr<Peer> peer,
              co_await connected_peer(clock, client, id, deadline));
  co_return co_await peer->start(kind, deadline);
}

Task<void> start_with(Env& env, ClusterClient& client, WorkOptions options) {
  AGRO_CO_TRY(std::vector<Answer> chosen, chosen_peers(client.view(), options));
  std::erase_if(chosen, [](const Answer& one) { return one.dead; });
  Result<void> outcome;
  std::size_t count = 0;
  for (const Answer& one : chosen) {
    const Result<void> started = co_await start_one(env.clock, client, one.id, options.kind);
    if (started.has_value()) ++count;
    if (started.has_value() || !outcome.has_value()) continue;
    outcome = fail(with_context(started.error(), "peer " + one.id.to_string()));
  }
  const char* name = options.kind == WorkKind::scrub ? "scrub" : "gc";
  AGRO_CO_TRY_OK(
      print(fmt::format("{} runs at {} of {} peers; 'agroctl {} status --wait' waits for "
                        "its end\n",
                        name, count, chosen.size(), name)));
  co_return outcome;
}

Task<void> start(Session& session, WorkOptions options) {
  AGRO_CO_TRY(const std::unique_ptr<ClusterClient> client,
              co_await ClusterClient::start(session.env, session.kv));
  const Result<void> started = co_await start_with(session.env, *client, options);
  co_await client->stop();
  co_return started;
}

void add_work(CLI::App& app, Program& program, WorkKind kind, const std::string& name,
              const std::string& help) {
  CLI::App* group = add_command(app, name, help);
  group->require_subcommand(1);
  for (const bool starts : {true, false}) {
    auto options = std::make_shared<WorkOptions>();
    options->kind = kind;
    CLI::App* command = starts
                            ? add_command(*group, "start", "start now, at all peers or those named")
                            : add_command(*group, "status", "how far it is, and what it found");
    command->add_option("peers", options->peers, "UUIDs or addresses (default: all that run)");
    if (!starts) {
      add_format_options(*command, options->format);
      command->add_flag("--wait", options->wait, "until none runs any more");
      command->add_flag("--progress", options->progress, "show progress also without a terminal");
    }
    if (starts)
      on_command(program, *command, options, start);
    else
      on_command(program, *command, options, show);
  }
}

}  // namespace

void add_work_commands(CLI::App& app, Program& program) {
  add_work(app, program, WorkKind::scrub, "scrub",
           "verify all blocks that peers hold, and repair those that rotted");
  add_work(app, program, WorkKind::gc, "gc", "delete blocks that no volume needs");
}

}  // namespace agro
