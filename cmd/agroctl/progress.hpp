// A progress bar on standard error, or plain lines where there is no terminal.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.hpp"

namespace agro {

class Progress {
 public:
  /// Shows itself on a terminal, and elsewhere only when `forced`. `clock` outlives it.
  Progress(Clock& clock, std::uint64_t total, bool forced);

  void add(std::uint64_t size) { done_ += size; }
  void set(std::uint64_t done, std::uint64_t total) {
    done_ = done;
    total_ = total;
  }
  std::uint64_t done() const { return done_; }
  /// Draws when it is time to.
  void show();
  /// Draws a last time and ends the line.
  void finish();

 private:
  void draw(double seconds);

  Clock& clock_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  bool terminal_;
  bool visible_;
  TimePoint started_;
  TimePoint next_;
};

/// "  25.0 %  256.0 MiB of 1.0 GiB  128.0 MiB/s  6 s left"; "1:02:03 left" from a minute on.
std::string progress_text(std::uint64_t done, std::uint64_t total, double seconds);

}  // namespace agro
