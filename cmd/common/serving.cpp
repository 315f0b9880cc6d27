#include "common/serving.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "base/units.hpp"
#include "common/program.hpp"

namespace agro {

void add_tls_options(CLI::App& app, TlsOptions& options) {
  CLI::Option* certificates =
      app.add_option("--tls-certificates", options.certificates,
                     "NBD clients must use TLS; this folder has server-cert.pem and server-key.pem, and ca-cert.pem for --tls-verify-peer")
          ->type_name("DIR");
  app.add_flag("--tls-verify-peer", options.verify_clients, "NBD clients must show a certificate that ca-cert.pem signed")
      ->needs(certificates);
}

Task<std::unique_ptr<Serving>> Serving::start(Env& env, Kv& kv, ServingOptions options) {
  std::unique_ptr<Serving> serving(new Serving(env));
  AGRO_CO_TRY(serving->loops_, co_await ServingLoops::start(env, kv, std::move(options)));
  serving->source_ = std::make_unique<ClusterSource>(env, serving->cluster());
  serving->source_->set_loops(*serving->loops_);
  serving->http_server_ = std::make_unique<http::Server>(env, *serving->source_);
  co_return std::move(serving);
}

Result<void> Serving::use_tls(const TlsOptions& options) {
  if (options.certificates.empty()) return {};
  AGRO_TRY(std::shared_ptr<const nbd::TlsContext> tls,
           nbd::TlsContext::for_server(options.certificates, options.verify_clients));
  loops_->use_tls(std::move(tls));
  return {};
}

Task<void> Serving::listen_nbd(std::vector<Address> addresses) {
  for (const Address& address : addresses) {
    AGRO_CO_TRY([[maybe_unused]] const Address bound, co_await loops_->first().server().listen(env_.network, address));
  }
  co_return Result<void>();
}

Task<void> Serving::listen_http(std::vector<Address> addresses) {
  for (const Address& address : addresses) {
    AGRO_CO_TRY([[maybe_unused]] const Address bound, co_await http_server_->listen(address));
  }
  co_return Result<void>();
}

Task<void> Serving::stop() {
  Result<void> result = co_await loops_->stop();
  co_await http_server_->stop();
  co_return result;
}

Awaitable<std::string> Serving::status_line(double seconds) {
  const LoopReport report = co_await loops_->report();
  const auto total = [&](const char* name) { return static_cast<double>(env_.metrics.value(name)) + report.metrics.value(name); };
  const double read = total("agro_volume_read_bytes_total");
  const double written = total("agro_volume_written_bytes_total");
  const auto rate = [seconds](double now, double before) { return format_size(static_cast<std::uint64_t>((now - before) / seconds)); };
  const Space space = cluster().distributor().space();
  std::string line = fmt::format(
      "{} volumes | {} attached | read {}/s | write {}/s | stores {} of {}",
      cluster().view().volumes.size(), report.attached.size(), rate(read, read_before_),
      rate(written, written_before_), format_size(space.used), format_size(space.size));
  for (const VolumeManager::Attached& one : report.attached) {
    if (!one.status.failed.empty()) line += fmt::format(" | {} FAILED: {}", one.name, one.status.failed);
    else if (!one.status.suspended.empty()) line += fmt::format(" | {} waits: {}", one.name, one.status.suspended);
    else if (!one.status.health.empty()) line += fmt::format(" | {} {}", one.name, one.status.health);
  }
  read_before_ = read;
  written_before_ = written;
  co_return line;
}

void add_map_memory_option(CLI::App& app, std::uint64_t& size) {
  // With next to none, every few writes would need a checkpoint.
  constexpr std::uint64_t kLeast = kMiB;
  add_size_option(app, "--map-memory", size,
                  "memory for the maps of all open volumes together, whose pages are loaded when they "
                  "are needed (default 256MiB, at least 1MiB)")
      ->check([](const std::string& text) {
        const Result<std::uint64_t> parsed = parse_size(text);
        return parsed.has_value() && *parsed < kLeast ? std::string("give at least 1MiB") : std::string();
      });
}

Awaitable<void> serve_until_stopped(SystemEnv& system, Serving& serving) {
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  Clock& clock = system.env().clock;
  while (!system.stop_requested()) {
    co_await wait_until(system.stop_event(), clock, clock.now() + std::chrono::seconds(1));
    if (!terminal) continue;
    const std::string line = co_await serving.status_line(1.0);
    std::printf("\r\033[K%s", line.c_str());
    std::fflush(stdout);
  }
  if (terminal) std::printf("\n");
}

}  // namespace agro
