// Other programs: run to their end, or started to stay.
//
// Threading: everything blocks; any number of threads.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace agro::csi {

struct ToolOutput {
  int status = 0;    // its exit status; 128 and the signal's number, when one ended it
  std::string text;  // what it wrote to standard output and error, the first 64 KiB
};

/// Runs a program, found as a shell finds it, to its end. Errors: not_found (no such program; says what to install);
/// timed_out, after which it is killed; io_error.
Result<ToolOutput> run_tool(const std::vector<std::string>& words, Duration limit);
/// The same, and another exit status than 0 is io_error with what it said.
Result<std::string> must_run(const std::vector<std::string>& words, Duration limit);

/// A process in a session of its own, which goes on when we end. Its standard error goes to `log_path`.
class StayingProcess {
 public:
  /// Returns when it wrote its first line, which `first_line` gets. Errors: io_error, with the end of its log, when it ended
  /// before; timed_out, after which it is killed.
  static Result<StayingProcess> start(const std::vector<std::string>& words, const std::string& log_path, Duration limit,
                                      std::string& first_line);
  pid_t pid() const { return pid_; }
  bool is_running();
  void ask_to_end();
  /// Whether it ended within `limit`.
  bool wait(Duration limit);

 private:
  explicit StayingProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
  bool ended_ = false;
};

}  // namespace agro::csi
