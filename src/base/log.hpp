// Log lines: to standard error in programs, into the trace in the simulator.
//
// A line tells an operator what happened; it is never instead of handling the error.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string_view>

namespace agro {

enum class LogLevel : unsigned char { debug, info, warning, error };
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Replaces the sink; an empty one drops everything. Default: warnings and errors to standard error.
void set_log_sink(LogSink sink);
void log_line(LogLevel level, std::string_view line);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace agro
