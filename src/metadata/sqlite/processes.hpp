// Processes of this machine: who am I, and is another one surely gone?
//
// Leases of SqliteKv end with their process, so that a restart after kill -9 need not wait. That is
// only safe when "gone" is certain: pid, start time, boot and pid namespace together name a
// process. Threading: one thread at a time. Source: proc(5).
#pragma once

#include <cstdint>
#include <string>

#include "base/result.hpp"

namespace agro {

struct ProcessIdentity {
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks after boot, /proc/PID/stat field 22
  std::string boot_id;           // /proc/sys/kernel/random/boot_id
  std::string pid_namespace;     // "pid:[4026531836]"

  bool operator==(const ProcessIdentity&) const = default;
};

class Processes {
 public:
  virtual ~Processes() = default;
  virtual Result<ProcessIdentity> self() = 0;
  /// True only when it certainly does not run any more (a zombie does not run).
  virtual bool surely_gone(const ProcessIdentity& process) = 0;
};

class SystemProcesses final : public Processes {
 public:
  Result<ProcessIdentity> self() override;
  bool surely_gone(const ProcessIdentity& process) override;

 private:
  void learn();
  std::string boot_id_;  // these two stay the same while we run
  std::string pid_namespace_;
};

}  // namespace agro
