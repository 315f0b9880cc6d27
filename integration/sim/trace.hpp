// The trace of a simulated run: one line an event, with the simulated time and the host.
//
// Invariants: a line depends on the seed alone: no addresses, no wall time. Threading: one loop.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/log.hpp"

namespace agro {

class Trace {
 public:
  enum class Level : std::uint8_t {
    none,
    events,  // faults, repairs, who opens what, warnings
    all,     // each read and write, and all that the programs log
  };

  /// Shape: `out` and `clock` outlive the trace, which takes the log lines of the process.
  Trace(std::FILE* out, Level level, const Clock& clock);
  ~Trace();
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  bool wants(Level level) const { return level_ >= level; }
  template <class... Args>
  void event(std::string_view host, fmt::format_string<Args...> format, Args&&... args) {
    if (wants(Level::events)) line(host, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void detail(std::string_view host, fmt::format_string<Args...> format, Args&&... args) {
    if (wants(Level::all)) line(host, fmt::format(format, std::forward<Args>(args)...));
  }
  /// What still happens is of no interest.
  void stop() { level_ = Level::none; }
  /// The last warning that somebody waits for something, whatever the level.
  const std::string& last_wait() const { return last_wait_; }
  void line(std::string_view host, std::string_view text);

 private:
  std::FILE* out_;
  Level level_;
  const Clock& clock_;
  std::string last_wait_ = "nobody waits";
};

}  // namespace agro
