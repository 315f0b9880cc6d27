#include "csi/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <fstream>
#include <optional>
#include <thread>

#include "base/descriptor.hpp"

extern char** environ;

namespace agro::csi {
namespace {

constexpr std::size_t kOutputMax = std::size_t{64} << 10;
constexpr std::size_t kLogTail = 600;
constexpr auto kLook = std::chrono::milliseconds(10);
constexpr auto kLookSoon = std::chrono::milliseconds(1);

using Steady = std::chrono::steady_clock;

/// What a process is started with; all freed in the end.
struct Spawn {
  Spawn() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    sigset_t defaults;
    sigset_t none;
    sigemptyset(&defaults);
    sigemptyset(&none);
    for (const int signal : {SIGPIPE, SIGINT, SIGTERM}) sigaddset(&defaults, signal);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  }
  ~Spawn() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  Spawn(const Spawn&) = delete;
  Spawn& operator=(const Spawn&) = delete;

  Result<pid_t> start(const std::vector<std::string>& words) {
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_t pid = 0;
    const int problem = ::posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments.data(), environ);
    if (problem == ENOENT) return fail(Errc::not_found, fmt::format("there is no program {} here; install it", words[0]));
    if (problem != 0) return fail(errno_error("start " + words[0], problem));
    return pid;
  }

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

struct Pipe {
  Descriptor read{};
  Descriptor write{};
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail(errno_error("pipe", errno));
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

/// Appends what comes; false: the other end is closed. Errors: timed_out.
Result<bool> read_some(const Descriptor& from, Steady::time_point deadline, std::string& text) {
  pollfd wait{from.get(), POLLIN, 0};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Steady::now()).count();
  const int ready = ::poll(&wait, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
  if (ready < 0 && errno == EINTR) return true;
  if (ready <= 0) return fail(Errc::timed_out, "it takes too long");
  std::array<char, 4096> buffer{};
  const ssize_t size = ::read(from.get(), buffer.data(), buffer.size());
  if (size <= 0) return false;
  if (text.size() < kOutputMax) text.append(buffer.data(), static_cast<std::size_t>(size));
  return true;
}

int status_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

/// Waits for the end of a child, which is killed at the deadline; one that not even that ends is left alone.
/// Errors: timed_out.
Result<int> reap(pid_t pid, Steady::time_point deadline) {
  constexpr auto kKillPatience = std::chrono::seconds(5);
  bool killed = false;
  while (true) {
    int wait_status = 0;
    const pid_t found = ::waitpid(pid, &wait_status, WNOHANG);
    if (found == pid && killed) return fail(Errc::timed_out, "it was killed");
    if (found == pid) return wait_status;
    if (found < 0 && errno != EINTR) return fail(errno_error("wait for a process", errno));
    const bool late = Steady::now() >= deadline;
    if (late && killed) return fail(Errc::timed_out, "it cannot be killed");
    if (late) {
      ::kill(pid, SIGKILL);
      killed = true;
      deadline = Steady::now() + kKillPatience;
    }
    std::this_thread::sleep_for(kLookSoon);
  }
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  for (char& letter : text)
    if (letter == '\n') letter = ';';
  return text;
}

std::string log_tail(const std::string& path) {
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (text.size() > kLogTail) text.erase(0, text.size() - kLogTail);
  return trimmed(std::move(text));
}

}  // namespace

Result<ToolOutput> run_tool(const std::vector<std::string>& words, Duration limit) {
  AGRO_TRY(Pipe output, make_pipe());
  Spawn spawn;
  posix_spawn_file_actions_adddup2(&spawn.actions, output.write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&spawn.actions, output.write.get(), STDERR_FILENO);
  AGRO_TRY(const pid_t pid, spawn.start(words));
  output.write = Descriptor();
  const Steady::time_point deadline = Steady::now() + limit;
  ToolOutput result;
  while (true) {
    const Result<bool> more = read_some(output.read, deadline, result.text);
    if (!more.has_value() || !*more) break;  // late, or all was said
  }
  const Result<int> wait_status = reap(pid, deadline);
  if (wait_status.code() == Errc::timed_out) return fail(Errc::timed_out, fmt::format("{} did not end in time", words[0]));
  AGRO_TRY_OK(wait_status);
  result.status = status_of(*wait_status);
  return result;
}

Result<std::string> must_run(const std::vector<std::string>& words, Duration limit) {
  AGRO_TRY(ToolOutput output, run_tool(words, limit));
  if (output.status == 0) return std::move(output.text);
  return fail(Errc::io_error, fmt::format("{} failed ({}): {}", words[0], output.status, trimmed(std::move(output.text))));
}

Result<StayingProcess> StayingProcess::start(const std::vector<std::string>& words, const std::string& log_path, Duration limit,
                                             std::string& first_line) {
  AGRO_TRY(Pipe output, make_pipe());
  Spawn spawn;
  posix_spawn_file_actions_adddup2(&spawn.actions, output.write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&spawn.actions, STDERR_FILENO, log_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  AGRO_TRY(const pid_t pid, spawn.start(words));
  output.write = Descriptor();
  StayingProcess process(pid);
  const Steady::time_point deadline = Steady::now() + limit;
  std::string text;
  while (text.find('\n') == std::string::npos) {
    const Result<bool> more = read_some(output.read, deadline, text);
    if (more.has_value() && *more) continue;
    if (!more.has_value()) ::kill(pid, SIGKILL);
    process.wait(std::chrono::seconds(10));
    return fail(more.has_value() ? Errc::io_error : Errc::timed_out,
                more.has_value() ? fmt::format("{} ended: {}", words[0], log_tail(log_path))
                                 : fmt::format("{} was not ready in time: {}", words[0], log_tail(log_path)));
  }
  first_line = text.substr(0, text.find('\n'));
  return process;
}

bool StayingProcess::is_running() {
  if (ended_) return false;
  const pid_t found = ::waitpid(pid_, nullptr, WNOHANG);
  ended_ = found == pid_ || (found < 0 && errno == ECHILD);
  return !ended_;
}

void StayingProcess::ask_to_end() {
  if (is_running()) ::kill(pid_, SIGTERM);
}

bool StayingProcess::wait(Duration limit) {
  const Steady::time_point deadline = Steady::now() + limit;
  while (is_running() && Steady::now() < deadline) std::this_thread::sleep_for(kLook);
  return !is_running();
}

}  // namespace agro::csi
