#include "common/program.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <toml++/toml.h>
#include <utility>

#include "base/busy_poll.hpp"
#include "base/log.hpp"
#include "base/units.hpp"
#include "common/completion.hpp"
#include "common/man_page.hpp"

namespace agro {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// The config file to read; empty when there is none.
Result<std::string> config_path(const MetadataChoice& choice) {
  std::string named = choice.config.empty() ? environment("AGRO_CONFIG") : choice.config;
  std::error_code ignored;
  if (!named.empty()) {
    if (std::filesystem::exists(named, ignored)) return named;
    return fail(Errc::not_found, fmt::format("config file {} does not exist", named));
  }
  for (const std::string& path :
       {environment("HOME") + "/.config/agro/config.toml", std::string("/etc/agro/config.toml")}) {
    if (std::filesystem::exists(path, ignored)) return path;
  }
  return std::string();
}

Result<std::string> uri_of_profile(const std::string& path, std::string profile) {
  toml::table config;
  try {
    config = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    return fail(Errc::invalid_argument,
                fmt::format("config file {}, line {}: {}", path, error.source().begin.line,
                            error.description()));
  }
  if (profile.empty()) profile = config["default_profile"].value_or(std::string("default"));
  const auto uri = config["profiles"][profile]["metadata"].value<std::string>();
  if (uri) return *uri;
  return fail(Errc::not_found,
              fmt::format("config file {} has no 'metadata' under [profiles.{}]", path, profile));
}

}  // namespace

void add_metadata_options(CLI::App& app, MetadataChoice& choice) {
  CLI::Option* uri = app.add_option(
      "-C,--metadata", choice.uri,
      "metadata store: etcd://HOST:PORT,..., sqlite:PATH or temp: (or AGRO_METADATA, or a profile)");
  CLI::Option* etcd =
      app.add_option("--etcd", choice.etcd, "metadata in etcd at HOST:PORT,HOST:PORT,...")
          ->excludes(uri);
  app.add_option("--etcd-prefix", choice.etcd_prefix, "keys in etcd begin with this")->needs(etcd);
  app.add_option("--etcd-ca", choice.etcd_ca, "authority that signed etcd's certificates; TLS")
      ->needs(etcd);
  app.add_option("--etcd-cert", choice.etcd_certificate, "our certificate for etcd; TLS")
      ->needs(etcd);
  app.add_option("--etcd-key", choice.etcd_key, "the key of our certificate")->needs(etcd);
  app.add_option("--etcd-user", choice.etcd_user, "user of etcd; password by file, or in AGRO_ETCD_PASSWORD")
      ->needs(etcd);
  app.add_option("--etcd-password-file", choice.etcd_password_file, "file with the user's password")
      ->needs(etcd);
  app.add_option("--profile", choice.profile, "profile of the config file to use");
  app.add_option("--config", choice.config,
                 "config file (or AGRO_CONFIG; default ~/.config/agro/config.toml, then "
                 "/etc/agro/config.toml)");
}

namespace {

std::string etcd_uri(const MetadataChoice& choice) {
  const std::string_view slash = choice.etcd_prefix.starts_with('/') ? "" : "/";
  std::string uri = fmt::format("etcd://{}{}{}", choice.etcd, slash, choice.etcd_prefix);
  char separator = '?';
  for (const auto& [name, value] : {std::pair{"ca", choice.etcd_ca},
                                    {"cert", choice.etcd_certificate},
                                    {"key", choice.etcd_key},
                                    {"user", choice.etcd_user},
                                    {"password-file", choice.etcd_password_file}}) {
    if (value.empty()) continue;
    uri += fmt::format("{}{}={}", std::exchange(separator, '&'), name, value);
  }
  return uri;
}

}  // namespace

Result<std::string> metadata_uri(const MetadataChoice& choice) {
  if (!choice.etcd.empty()) return etcd_uri(choice);
  if (!choice.uri.empty()) return choice.uri;
  if (choice.profile.empty()) {
    if (std::string uri = environment("AGRO_METADATA"); !uri.empty()) return uri;
  }
  AGRO_TRY(const std::string path, config_path(choice));
  if (!path.empty()) return uri_of_profile(path, choice.profile);
  return fail(Errc::invalid_argument,
              "no metadata store given: use --etcd HOST:PORT or --metadata sqlite:PATH, set "
              "AGRO_METADATA, or write "
              "~/.config/agro/config.toml");
}

namespace {

/// For packages: `--print-man-page` and `--print-completion SHELL`, alone on the command line. False: something else is there.
bool print_documentation(const CLI::App& app, int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  if (argc == 2 && what == "--print-man-page") {
    std::fputs(man_page(app).c_str(), stdout);
    return true;
  }
  const std::string_view shell = argc == 3 && what == "--print-completion" ? argv[2] : "";
  if (shell != "bash" && shell != "zsh" && shell != "fish") return false;
  std::fputs(completion_script(app, shell).c_str(), stdout);
  return true;
}

}  // namespace

int parse_command_line(CLI::App& app, int argc, char** argv) {
  if (print_documentation(app, argc, argv)) return std::fflush(stdout) == 0 ? 0 : 1;
  try {
    app.parse(argc, argv);
    return -1;
  } catch (const CLI::Success& wanted) {
    return app.exit(wanted);
  } catch (const CLI::ParseError& error) {
    // What was not understood explains better than what is missing for it.
    const std::vector<std::string> extra = app.remaining(true);
    const std::string text =
        extra.empty() ? error.what() : fmt::format("'{}' is no command or option here", extra.front());
    std::fprintf(stderr, "%s: %s (see %s --help)\n", app.get_name().c_str(), text.c_str(),
                 app.get_name().c_str());
    return 1;
  }
}

int run_program(const char* program, SystemEnv& system, Task<void> main) {
  const Result<void> result = system.run(std::move(main));
  if (result.has_value()) return 0;
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", program, result.error().message.c_str());
  return 1;
}

void log_to_standard_error(const char* program, bool verbose) {
  spdlog::drop(program);  // a command may open several volumes, one after the other
  auto logger = spdlog::stderr_color_mt(program);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %n %^%l%$: %v");
  logger->set_level(verbose ? spdlog::level::debug : spdlog::level::warn);
  set_log_sink([logger](LogLevel level, std::string_view line) {
    static constexpr std::array kLevels = {spdlog::level::debug, spdlog::level::info,
                                           spdlog::level::warn, spdlog::level::err};
    logger->log(kLevels[static_cast<std::size_t>(level)], line);
  });
}

CLI::Option* add_size_option(CLI::App& app, const std::string& name, std::uint64_t& size,
                             const std::string& help) {
  CLI::Option* option = app.add_option_function<std::string>(
      name,
      [&size, name](const std::string& text) {
        const Result<std::uint64_t> parsed = parse_size(text);
        if (!parsed.has_value()) throw CLI::ValidationError(name, parsed.error().message);
        size = *parsed;
      },
      help);
  return option->type_name("SIZE");
}

CLI::Option* add_duration_option(CLI::App& app, const std::string& name, Duration& duration,
                                 const std::string& help) {
  CLI::Option* option = app.add_option_function<std::string>(
      name,
      [&duration, name](const std::string& text) {
        if (text == "0" || text == "never") {
          duration = Duration(0);
          return;
        }
        const Result<std::chrono::milliseconds> parsed = parse_duration(text);
        if (!parsed.has_value()) throw CLI::ValidationError(name, parsed.error().message);
        duration = *parsed;
      },
      help);
  return option->type_name("DURATION");
}

void add_busy_poll_option(CLI::App& app, Duration& most) {
  most = kBusyPollDefault;
  app.add_option_function<unsigned>(
         "--busy-poll",
         [&most](unsigned microseconds) { most = std::chrono::microseconds(microseconds); },
         "look for work so long before sleeping, while it comes that often: faster answers for "
         "processor time (default 200; 0: never)")
      ->type_name("MICROSECONDS")
      ->check(CLI::Range(0U, 10'000U));
}

Address absolute_address(Address address) {
  if (address.kind != Address::Kind::unix_socket) return address;
  std::error_code problem;
  const std::string path = std::filesystem::absolute(address.path, problem).lexically_normal();
  if (!problem && path.size() < sizeof(sockaddr_un::sun_path)) address.path = path;
  return address;
}

std::string holder_name(const char* program, const std::string& on_behalf_of) {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host = {"unknown"};
  return fmt::format("{}{}{} on {}, pid {}", on_behalf_of, on_behalf_of.empty() ? "" : ", ", program, host.data(), getpid());
}

}  // namespace agro
