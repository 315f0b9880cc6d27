// ringtool: compares rings, and says what a change of one moves. Needs no cluster.
#include <cerrno>
#include <cstdio>
#include <fstream>

#include "agroctl/table.hpp"
#include "common/program.hpp"
#include "ringtool/load_plot.hpp"
#include "ringtool/report.hpp"

namespace agro {
namespace {

Result<void> write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (file) file << text;
  if (file) file.close();
  if (!file) return fail(errno_error("writing " + path, errno));
  return {};
}

Result<void> run_tool(const RingtoolOptions& options) {
  AGRO_TRY(const RingtoolPlan plan, make_plan(options));
  SystemEnv system;
  const Clock* const clock = options.no_times ? nullptr : &system.env().clock;
  std::vector<RingReport> reports;
  for (const RingChoice& choice : plan.rings) {
    AGRO_TRY(RingReport report, study_ring(plan, choice, clock));
    reports.push_back(std::move(report));
  }
  if (!options.plot_path.empty()) {
    AGRO_TRY_OK(write_file(options.plot_path, load_plot(plan, reports)));
  }
  return print(options.json ? json_report(plan, reports, options.peers)
                            : text_report(plan, reports, options.peers));
}

int run(int argc, char** argv) {
  CLI::App app{
      "ringtool: how evenly rings spread blocks over nodes, what adding or removing nodes moves, and what losing\n"
      "nodes costs. It simulates; no cluster is needed or touched. docs/placement.md explains the figures.\n"
      "Example: ringtool --ring all --nodes 30 --delta 1 --rep 3",
      "ringtool"};
  RingtoolOptions options;
  add_options(app, options);
  if (const int status = parse_command_line(app, argc, argv); status >= 0) return status;
  const Result<void> done = run_tool(options);
  if (done.has_value()) return 0;
  std::fprintf(stderr, "ringtool: %s\n", done.error().message.c_str());
  return 1;
}

}  // namespace
}  // namespace agro

int main(int argc, char** argv) { return agro::run(argc, argv); }
