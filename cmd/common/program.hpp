// What the programs share: exit codes, the metadata URI from flag, environment or profile, logging.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "base/system_env.hpp"

namespace agro {

/// Where the metadata store is, as the user said it.
struct MetadataChoice {
  std::string uri;      // --metadata, -C
  // --etcd ENDPOINTS and what goes with it: sugar for an etcd:// URI.
  std::string etcd;
  std::string etcd_prefix;
  std::string etcd_ca;
  std::string etcd_certificate;
  std::string etcd_key;
  std::string etcd_user;
  std::string etcd_password_file;
  std::string profile;  // --profile
  std::string config;   // --config
};

/// Adds --metadata/-C, --etcd and its options, --profile and --config.
void add_metadata_options(CLI::App& app, MetadataChoice& choice);

/// The URI: --metadata or --etcd, else AGRO_METADATA, else the profile of the config file (--config,
/// AGRO_CONFIG, ~/.config/agro/config.toml, /etc/agro/config.toml), else its default profile.
/// Errors: invalid_argument, with what to do; not_found (no such profile or file).
Result<std::string> metadata_uri(const MetadataChoice& choice);

/// Parses the command line. Returns -1 to go on, else the exit status: 0 after --help, 1 after an
/// error, of which one line was printed.
int parse_command_line(CLI::App& app, int argc, char** argv);

/// Runs the program's task; prints "PROGRAM: error" and returns 1 when it fails.
int run_program(const char* program, SystemEnv& system, Task<void> main);

/// Sends log lines to standard error; warnings and errors only, or everything when verbose.
void log_to_standard_error(const char* program, bool verbose);

/// Options that take sizes: "10GiB". Parsing errors are the command line's.
CLI::Option* add_size_option(CLI::App& app, const std::string& name, std::uint64_t& size,
                             const std::string& help);

/// Options that take durations: "10s", "7d"; "0" and "never" are zero.
CLI::Option* add_duration_option(CLI::App& app, const std::string& name, Duration& duration,
                                 const std::string& help);

/// --busy-poll, in microseconds: SystemEnv::set_busy_poll().
void add_busy_poll_option(CLI::App& app, Duration& most);

/// The same address, a Unix socket by its absolute path: what is registered is used by programs that run
/// in other directories. A path that would be too long for a socket stays as it is.
Address absolute_address(Address address);

/// "agroblock on host7, pid 4711"; with `on_behalf_of` "csi node n1, agroblock on host7, pid 4711".
std::string holder_name(const char* program, const std::string& on_behalf_of = "");
inline constexpr const char* kHolderHelp = "for whom it is open, as others are told who find it open";

}  // namespace agro
