#include "trace.hpp"

namespace agro {

Trace::Trace(std::FILE* out, Level level, const Clock& clock)
    : out_(out), level_(level), clock_(clock) {
  set_log_sink([this](LogLevel log_level, std::string_view text) {
    if (log_level >= LogLevel::warning && text.find(" waits: ") != text.npos) last_wait_ = text;
    if (wants(log_level >= LogLevel::warning ? Level::events : Level::all)) line("log", text);
  });
}

Trace::~Trace() { set_log_sink({}); }

void Trace::line(std::string_view host, std::string_view text) {
  const std::int64_t ns = clock_.now().time_since_epoch().count();
  fmt::print(out_, "{:5}.{:09} {:8} {}\n", ns / 1'000'000'000, ns % 1'000'000'000, host, text);
}

}  // namespace agro
