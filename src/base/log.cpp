#include "base/log.hpp"

#include <cstdio>

namespace agro {
namespace {

void to_standard_error(LogLevel level, std::string_view line) {
  if (level < LogLevel::warning) return;
  std::fprintf(stderr, "agro: %s%.*s\n", level == LogLevel::error ? "error: " : "",
               static_cast<int>(line.size()), line.data());
}

LogSink& sink() {
  static LogSink current = to_standard_error;
  return current;
}

}  // namespace

void set_log_sink(LogSink replacement) { sink() = std::move(replacement); }

void log_line(LogLevel level, std::string_view line) {
  if (sink()) sink()(level, line);
}

}  // namespace agro
