#include "metadata/sqlite/processes.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <optional>
#include <sstream>

namespace agro {
namespace {

struct ProcessStat {
  char state = '?';
  std::uint64_t start_time = 0;
};

/// Nothing, when /proc does not say (it is gone, or hidden from us).
std::optional<ProcessStat> read_stat(std::int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  const std::size_t name_end = line.rfind(')');  // the name may hold anything, even ") "
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(name_end + 1));
  ProcessStat stat;
  fields >> stat.state;  // field 3
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> stat.start_time;  // field 22
  if (fields.fail()) return std::nullopt;
  return stat;
}

std::string read_boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

std::string read_pid_namespace() {
  std::array<char, 64> target{};
  const ssize_t size = ::readlink("/proc/self/ns/pid", target.data(), target.size());
  return size <= 0 ? std::string() : std::string(target.data(), static_cast<std::size_t>(size));
}

}  // namespace

void SystemProcesses::learn() {
  if (boot_id_.empty()) boot_id_ = read_boot_id();
  if (pid_namespace_.empty()) pid_namespace_ = read_pid_namespace();
}

Result<ProcessIdentity> SystemProcesses::self() {
  learn();
  const std::int64_t pid = ::getpid();
  const std::optional<ProcessStat> stat = read_stat(pid);
  ProcessIdentity identity{.pid = pid,
                           .start_time = stat ? stat->start_time : 0,
                           .boot_id = boot_id_,
                           .pid_namespace = pid_namespace_};
  if (!stat || identity.boot_id.empty() || identity.pid_namespace.empty()) {
    return fail(Errc::not_supported, "/proc does not say who we are; is it mounted?");
  }
  return identity;
}

bool SystemProcesses::surely_gone(const ProcessIdentity& process) {
  learn();
  if (boot_id_.empty()) return false;
  if (process.boot_id != boot_id_) return true;               // the machine was started anew
  if (process.pid_namespace != pid_namespace_) return false;  // its number means nothing here
  if (process.pid <= 0) return false;
  if (::kill(static_cast<pid_t>(process.pid), 0) != 0 && errno == ESRCH) return true;
  const std::optional<ProcessStat> stat = read_stat(process.pid);
  if (!stat) return false;  // hidden, or gone since: the next look tells
  return stat->start_time != process.start_time || stat->state == 'Z' || stat->state == 'X';
}

}  // namespace agro
