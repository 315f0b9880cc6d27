#include "agroctl/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/units.hpp"

namespace agro {
namespace {

constexpr Duration kTerminalInterval = std::chrono::milliseconds(200);
constexpr Duration kPlainInterval = std::chrono::seconds(1);
constexpr std::size_t kBarWidth = 24;

double share_of(std::uint64_t done, std::uint64_t total) {
  if (total == 0) return 1.0;
  return std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::uint64_t>(std::min(seconds, 359999.0));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

std::string progress_text(std::uint64_t done, std::uint64_t total, double seconds) {
  std::string text = fmt::format("{:5.1f} %  {} of {}", 100.0 * share_of(done, total),
                                 format_size(done), format_size(total));
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  if (rate < 1) return text;
  text += fmt::format("  {}/s", format_size(static_cast<std::uint64_t>(rate)));
  if (done >= total) return text + fmt::format("  in {}", duration_text(seconds));
  return text + fmt::format("  {} left", duration_text(static_cast<double>(total - done) / rate));
}

Progress::Progress(Clock& clock, std::uint64_t total, bool forced)
    : clock_(clock),
      total_(total),
      terminal_(isatty(STDERR_FILENO) != 0),
      visible_(terminal_ || forced),
      started_(clock.now()),
      next_(started_ + kTerminalInterval) {}

void Progress::draw(double seconds) {
  const std::string text = progress_text(done_, total_, seconds);
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", text.c_str());
    return;
  }
  const auto filled = static_cast<std::size_t>(share_of(done_, total_) * kBarWidth);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  std::fprintf(stderr, "\r\033[K[%s] %s", bar.c_str(), text.c_str());
  std::fflush(stderr);
}

void Progress::show() {
  const TimePoint now = clock_.now();
  if (!visible_ || now < next_) return;
  next_ = now + (terminal_ ? kTerminalInterval : kPlainInterval);
  draw(std::chrono::duration<double>(now - started_).count());
}

void Progress::finish() {
  if (!visible_) return;
  draw(std::chrono::duration<double>(clock_.now() - started_).count());
  if (terminal_) std::fprintf(stderr, "\n");
}

}  // namespace agro
