// agro-sim: runs seeded scenarios, one or many, and says which fail.
//
// Each seed runs in a child process, so that a crash or a hang of ours is one failing seed, and so that
// seeds cannot influence each other. Source: docs/internals/simulation.md.
#include <fmt/format.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/mutant.hpp"
#include "scenario.hpp"

namespace agro {
namespace {

struct Options {
  std::uint64_t seed = 1;
  std::uint64_t seeds = 1;
  std::uint64_t ticks = 300;
  std::string faults = "all";
  bool trace = false;
  bool quiet = false;
  unsigned jobs = 1;
  double minutes = 0;
  std::string out;
  unsigned seed_seconds = 120;
  bool first_failure = false;
  bool json = false;
  int mutant = 0;
};

/// What all seeds add up to.
struct Totals {
  std::uint64_t seeds = 0;
  double simulated_seconds = 0;
  std::uint64_t operations = 0;
  std::uint64_t flushes = 0;
  std::uint64_t ticks = 0;
  std::uint64_t mixed_ring_ticks = 0;
  std::map<std::string, std::uint64_t> faults;
  std::vector<std::uint64_t> failed;
};

std::set<std::string> parse_faults(const std::string& text) {
  const std::vector<std::string> all = FaultInjector::fault_names();
  std::vector<std::string> known = FaultInjector::opt_in_names();
  known.insert(known.begin(), all.begin(), all.end());
  std::set<std::string> names;
  if (text == "none") return names;
  for (const std::string& name : CLI::detail::split(text, ',')) {
    if (name == "all") names.insert(all.begin(), all.end());
    if (name == "all") continue;
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw CLI::ValidationError(
          "--faults", fmt::format("there is no fault '{}'; there are: all, none, {}", name,
                                  fmt::join(known, ", ")));
    }
    names.insert(name);
  }
  return names;
}

/// Ends this process with SIGPROF after so many seconds of its processor time; 0: never. Not of real
/// time, of which a busy machine, or one that stops us, may let any amount pass.
void limit_processor_time(unsigned seconds) {
  itimerval limit{};
  limit.it_value.tv_sec = seconds;
  setitimer(ITIMER_PROF, &limit, nullptr);
}

ScenarioResult run_seed(const Options& options, std::uint64_t seed, Trace::Level level,
                        std::FILE* out) {
  ScenarioOptions scenario;
  scenario.seed = seed;
  scenario.ticks = options.ticks;
  scenario.faults = parse_faults(options.faults);
  scenario.trace = level;
  scenario.out = out;
  limit_processor_time(options.seed_seconds);
  ScenarioResult result = Scenario(std::move(scenario)).run();
  limit_processor_time(0);
  return result;
}

/// One line a seed from a child to its parent.
std::string encode(std::uint64_t seed, const ScenarioResult& result) {
  std::string line = fmt::format("{} {} {} {} {} {} {}", seed,
                                 result.problem.empty() ? "ok" : "failed", result.simulated.count(),
                                 result.operations, result.flushes, result.ticks,
                                 result.mixed_ring_ticks);
  for (const auto& [name, count] : result.faults) line += fmt::format(" {}={}", name, count);
  return line + "\n";
}

void add_line(const std::string& line, Totals& totals) {
  std::istringstream in(line);
  std::uint64_t seed = 0;
  std::string verdict;
  std::int64_t simulated_ns = 0;
  std::uint64_t operations = 0;
  std::uint64_t flushes = 0;
  std::uint64_t ticks = 0;
  std::uint64_t mixed_ring_ticks = 0;
  in >> seed >> verdict >> simulated_ns >> operations >> flushes >> ticks >> mixed_ring_ticks;
  ++totals.seeds;
  totals.ticks += ticks;
  totals.mixed_ring_ticks += mixed_ring_ticks;
  totals.simulated_seconds += static_cast<double>(simulated_ns) / 1e9;
  totals.operations += operations;
  totals.flushes += flushes;
  for (std::string word; in >> word;) {
    const std::size_t equals = word.find('=');
    totals.faults[word.substr(0, equals)] += std::stoull(word.substr(equals + 1));
  }
  if (verdict != "ok") totals.failed.push_back(seed);
}

/// What is said of single seeds of many; with --json stdout is for the totals.
void tell(const Options& options, const std::string& text) {
  std::FILE* out = options.json ? stderr : stdout;
  fmt::print(out, "{}", text);
  std::fflush(out);
}

/// A failing seed again, in a child, with its trace in a file.
void keep_trace(const Options& options, std::uint64_t seed) {
  if (options.out.empty()) return;
  const std::string path = fmt::format("{}/seed-{}.trace", options.out, seed);
  const pid_t child = fork();
  if (child == 0) {
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) _exit(2);
    std::setvbuf(file, nullptr, _IOLBF, 0);
    (void)run_seed(options, seed, Trace::Level::all, file);
    std::fclose(file);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  tell(options, fmt::format("  its trace: {}\n", path));
}

/// A child that runs seeds one after another and reports each through a pipe.
struct Worker {
  pid_t pid = -1;
  int pipe = -1;
  std::uint64_t next = 0;  // the seed that it has not reported yet
  std::uint64_t end = 0;
  std::string buffer;
};

void work(const Options& options, std::uint64_t begin, std::uint64_t end, int pipe) {
  for (std::uint64_t seed = begin; seed < end; ++seed) {
    const ScenarioResult result = run_seed(options, seed, Trace::Level::none, stdout);
    if (!result.problem.empty()) {
      tell(options, fmt::format("FAILED {}\n", result.problem));
      if (options.first_failure) end = seed + 1;
    }
    const std::string line = encode(seed, result);
    if (write(pipe, line.data(), line.size()) != static_cast<ssize_t>(line.size())) _exit(2);
  }
}

Worker start_worker(const Options& options, std::uint64_t begin, std::uint64_t end) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("no pipe");
  std::fflush(stdout);
  Worker worker{fork(), ends[0], begin, end, {}};
  if (worker.pid == 0) {
    close(ends[0]);
    work(options, begin, end, ends[1]);
    _exit(0);
  }
  close(ends[1]);
  return worker;
}

/// Reads what a worker says until it says no more; returns false when it died in a seed.
bool read_some(Worker& worker, Totals& totals, const Options& options) {
  char bytes[4096];
  const ssize_t got = read(worker.pipe, bytes, sizeof bytes);
  if (got > 0) {
    worker.buffer.append(bytes, static_cast<std::size_t>(got));
    for (std::size_t end; (end = worker.buffer.find('\n')) != std::string::npos;) {
      const std::size_t failed = totals.failed.size();
      add_line(worker.buffer.substr(0, end), totals);
      worker.buffer.erase(0, end + 1);
      if (totals.failed.size() > failed) keep_trace(options, worker.next);
      ++worker.next;
    }
    return true;
  }
  int status = 0;
  waitpid(worker.pid, &status, 0);
  close(worker.pipe);
  worker.pipe = -1;
  if (worker.next >= worker.end) return true;
  if (options.first_failure && !totals.failed.empty()) return true;  // it stopped at its own
  const bool late = WIFSIGNALED(status) && WTERMSIG(status) == SIGPROF;
  const std::string why = late ? fmt::format("did not end within {} s of processor time", options.seed_seconds)
                               : fmt::format("died (status {})", status);
  tell(options, fmt::format("FAILED seed {}: the simulator {}\n", worker.next, why));
  ++totals.seeds;
  totals.failed.push_back(worker.next);
  keep_trace(options, worker.next);
  ++worker.next;
  return false;
}

/// Gives out seeds in batches until there are no more, or the time is over.
class Dispatcher {
 public:
  Dispatcher(const Options& options, Totals& totals)
      : options_(options), totals_(totals), next_(options.seed) {}

  void run() {
    for (unsigned job = 0; job < options_.jobs; ++job) start_next();
    while (!workers_.empty()) {
      fd_set ready;
      FD_ZERO(&ready);
      int highest = 0;
      for (const Worker& worker : workers_) {
        FD_SET(worker.pipe, &ready);
        highest = std::max(highest, worker.pipe);
      }
      if (select(highest + 1, &ready, nullptr, nullptr, nullptr) < 0) continue;
      for (std::size_t index = 0; index < workers_.size(); ++index) {
        if (!FD_ISSET(workers_[index].pipe, &ready)) continue;
        if (serve(index)) break;
      }
    }
  }

 private:
  static constexpr std::uint64_t kBatch = 10;

  void start_next() {
    const std::uint64_t limit =
        options_.minutes > 0 ? UINT64_MAX : options_.seed + options_.seeds;
    if (options_.first_failure && !totals_.failed.empty()) return;
    const std::chrono::duration<double, std::ratio<60>> minutes =
        std::chrono::steady_clock::now() - begun_;
    if (next_ >= limit || (options_.minutes > 0 && minutes.count() >= options_.minutes)) return;
    const std::uint64_t end = std::min(next_ + kBatch, limit);
    workers_.push_back(start_worker(options_, next_, end));
    next_ = end;
  }

  /// True: the worker is gone, and perhaps another in its place.
  bool serve(std::size_t index) {
    Worker& worker = workers_[index];
    const bool well = read_some(worker, totals_, options_);
    if (worker.pipe >= 0) return false;
    const Worker gone = worker;
    workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(index));
    if (!well && gone.next < gone.end && !options_.first_failure) {
      workers_.push_back(start_worker(options_, gone.next, gone.end));
    } else {
      start_next();
    }
    return true;
  }

  const Options& options_;
  Totals& totals_;
  std::uint64_t next_;
  std::vector<Worker> workers_;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

void print_totals(const Totals& totals, double wall_seconds) {
  fmt::print("{} seeds, {} failed; {:.2f} simulated hours in {:.1f} s: {:.0f} per wall hour; {} "
             "operations, {} flushes\n",
             totals.seeds, totals.failed.size(), totals.simulated_seconds / 3600, wall_seconds,
             totals.simulated_seconds / wall_seconds, totals.operations, totals.flushes);
  std::uint64_t sum = 0;
  std::string faults;
  for (const auto& [name, count] : totals.faults) {
    faults += fmt::format(" {} {}", name, count);
    sum += count;
  }
  fmt::print("{} faults:{}\n", sum, faults.empty() ? " none" : faults);
  fmt::print("processes knew different rings at the end of {} of {} ticks\n", totals.mixed_ring_ticks,
             totals.ticks);
  if (!totals.failed.empty()) fmt::print("failing seeds: {}\n", fmt::join(totals.failed, " "));
}

void print_json(const Totals& totals, double wall_seconds) {
  const nlohmann::ordered_json json = {
      {"seeds", totals.seeds},
      {"failed", totals.failed},
      {"simulated_hours", totals.simulated_seconds / 3600},
      {"wall_seconds", wall_seconds},
      {"simulated_hours_per_wall_hour", totals.simulated_seconds / wall_seconds},
      {"operations", totals.operations},
      {"flushes", totals.flushes},
      {"ticks", totals.ticks},
      {"mixed_ring_ticks", totals.mixed_ring_ticks},
      {"faults", totals.faults},
  };
  fmt::print("{}\n", json.dump(2));
}

int run_many(const Options& options) {
  const auto begun = std::chrono::steady_clock::now();
  Totals totals;
  Dispatcher(options, totals).run();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begun;
  std::sort(totals.failed.begin(), totals.failed.end());
  options.json ? print_json(totals, wall.count()) : print_totals(totals, wall.count());
  return totals.failed.empty() ? 0 : 1;
}

int run_one(const Options& options) {
  const Trace::Level level = options.quiet   ? Trace::Level::none
                             : options.trace ? Trace::Level::all
                                             : Trace::Level::events;
  const ScenarioResult result = run_seed(options, options.seed, level, stdout);
  if (!result.problem.empty() && options.quiet) fmt::print("FAILED {}\n", result.problem);
  return result.problem.empty() ? 0 : 1;
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("--seed", options.seed, "the seed, or the first of several (default 1)");
  app.add_option("--seeds", options.seeds, "so many seeds, one after another (default 1)")
      ->check(CLI::PositiveNumber);
  app.add_option("--ticks", options.ticks, "how long faults and users go on, in ticks of some 100 ms "
                                           "of simulated time (default 300)");
  app.add_option("--faults", options.faults,
                 fmt::format("all (default), none, or some of: {}; and what only comes when it is named "
                             "(all,NAME): {}",
                             fmt::join(FaultInjector::fault_names(), ","),
                             fmt::join(FaultInjector::opt_in_names(), ",")))
      ->check([](const std::string& text) {
        try {
          (void)parse_faults(text);
        } catch (const CLI::ValidationError& error) {
          return std::string(error.what());
        }
        return std::string();
      });
  auto* trace = app.add_flag("--trace", options.trace, "of one seed: each read, write and log line");
  app.add_flag("--quiet", options.quiet, "of one seed: no trace")->excludes(trace);
  app.add_option("--jobs", options.jobs, "seeds that run at once (default: as many as there are CPUs)")
      ->check(CLI::PositiveNumber);
  app.add_option("--minutes", options.minutes, "seeds from a random one on, or --seed, for so long")
      ->check(CLI::PositiveNumber);
  app.add_option("--out", options.out, "a directory for the traces of failing seeds");
  app.add_flag("--json", options.json, "the totals as JSON on stdout, and all else on stderr");
  app.add_flag("--first-failure", options.first_failure, "of several seeds: none after one that failed");
  app.add_option("--mutant", options.mutant,
                 "re-create the failing of this number (docs/internals/mutants.md); needs a build with "
                 "-DAGRO_MUTANTS=ON")
      ->check(CLI::Range(1, static_cast<int>(kMutants.size())));
  app.add_option("--seed-seconds", options.seed_seconds,
                 "a seed that takes more processor time has failed (default 120)")
      ->check(CLI::PositiveNumber);
}

int main_program(int argc, char** argv) {
  Options options;
  options.jobs = std::max(1U, std::thread::hardware_concurrency());
  CLI::App app{"runs a whole agro cluster on simulated time, with faults, and checks what it promises; "
               "the same seed gives the same run"};
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  if (options.mutant != 0 && !kHasMutants) {
    throw std::runtime_error("this build has no mutants: make mutants, or cmake -DAGRO_MUTANTS=ON");
  }
  choose_mutant(static_cast<Mutant>(options.mutant));
  if (options.minutes > 0 && app.count("--seed") == 0) {
    options.seed = Random::from_os().below(1'000'000'000);
    tell(options, fmt::format("from seed {} on\n", options.seed));
  }
  if (!options.out.empty()) std::filesystem::create_directories(options.out);
  const bool many = options.seeds > 1 || options.minutes > 0 || options.json;
  return many ? run_many(options) : run_one(options);
}

}  // namespace
}  // namespace agro

int main(int argc, char** argv) {
  try {
    return agro::main_program(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "agro-sim: {}\n", error.what());
    return 2;
  }
}
