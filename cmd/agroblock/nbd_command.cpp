#include "agroblock/nbd_command.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>

#include "agroctl/table.hpp"
#include "base/log.hpp"
#include "base/offload.hpp"
#include "base/units.hpp"
#include "common/serving.hpp"
#include "internal/nbd_kernel/attachment.hpp"
#include "metadata/measured_kv.hpp"

namespace agro {
namespace {

using nbd_kernel::Attachment;
using nbd_kernel::AttachOptions;
using nbd_kernel::KernelDevice;

constexpr Duration kLook = std::chrono::milliseconds(250);
constexpr Duration kTakeOverAgain = std::chrono::seconds(1);

/// A folder for the socket between this process and the kernel, which nobody else may enter.
class PrivateFolder {
 public:
  static Result<std::unique_ptr<PrivateFolder>> make() {
    std::error_code problem;
    const bool has_run = std::filesystem::is_directory("/run", problem);
    std::string pattern = has_run ? "/run/agroblock-XXXXXX" : "/tmp/agroblock-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr)
      return fail(Errc::io_error, fmt::format("{}: {}", pattern, std::generic_category().message(errno)));
    return std::make_unique<PrivateFolder>(pattern);
  }
  explicit PrivateFolder(std::string path) : path_(std::move(path)) {}
  ~PrivateFolder() {
    std::error_code ignored;  // nothing is lost with an empty folder that stays
    std::filesystem::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;
  Address socket() const {
    Address address;
    address.path = path_ + "/nbd.sock";
    return address;
  }

 private:
  std::string path_;
};

Result<AttachOptions> attach_options(const NbdOptions& options) {
  AttachOptions attach;
  attach.volume = options.volume;
  attach.connection_count = options.connections;
  attach.block_size = options.block_size;
  attach.dead_connection_timeout = options.dead_timeout;
  attach.request_timeout = options.request_timeout;
  for (const std::string& text : options.servers) {
    AGRO_TRY(const Address server, parse_address(text));
    attach.servers.push_back(server);
  }
  if (!options.device.empty()) {
    AGRO_TRY(attach.index, nbd_kernel::parse_device_path(options.device));
  }
  return attach;
}

/// One that was left behind waits for us, while the lock of its last server runs out.
bool is_left_behind(const AttachOptions& attach) {
  for (const KernelDevice& device : nbd_kernel::connected_devices())
    if (device.volume() == attach.volume) return true;
  return false;
}

using AttachmentPtr = std::shared_ptr<Attachment>;

Task<AttachmentPtr> attach_patiently(SystemEnv& system, AttachOptions options) {
  Env& env = system.env();
  const TimePoint give_up = env.clock.now() + options.dead_connection_timeout;
  while (true) {
    auto attach = [options] { return Attachment::attach(options); };
    Result<std::unique_ptr<Attachment>> made = co_await run_blocking(env.offload, std::move(attach));
    if (made.has_value()) co_return AttachmentPtr(std::move(*made));
    const bool waits = is_left_behind(options) && made.code() != Errc::already_exists;
    if (!waits || env.clock.now() >= give_up || system.stop_requested()) co_return fail(made.error());
    log_warning("the device waits, trying again: {}", made.error().to_string());
    co_await wait_until(system.stop_event(), env.clock, env.clock.now() + kTakeOverAgain);
  }
}

/// Until a signal comes or somebody detaches the device.
Task<void> keep_attached(SystemEnv& system, AttachmentPtr attachment) {
  Offload& offload = system.env().offload;
  std::string told;
  while (!system.stop_requested()) {
    auto look = [attachment] { return attachment->look(kLook); };
    AGRO_CO_TRY(const bool is_attached, co_await run_blocking(offload, std::move(look)));
    if (!is_attached) {
      std::fprintf(stderr, "agroblock: %s was detached\n", attachment->path().c_str());
      co_return Result<void>();
    }
    if (attachment->problem() != told && !attachment->problem().empty())
      log_warning("{}: {}", attachment->path(), attachment->problem());
    told = attachment->problem();
  }
  auto detach_it = [attachment] { return attachment->detach(); };
  Result<void> detached = co_await run_blocking(offload, std::move(detach_it));
  if (detached.code() == Errc::locked) {
    std::fprintf(stderr,
                 "agroblock: %s is in use and stays: its requests wait for the next 'agroblock nbd'; to end it, unmount it "
                 "and run 'agroblock nbd -d %s'\n",
                 attachment->path().c_str(), attachment->path().c_str());
    co_return Result<void>();
  }
  co_return detached;
}

Task<void> attach_and_keep(SystemEnv& system, AttachOptions options) {
  AGRO_CO_TRY(const AttachmentPtr attachment, co_await attach_patiently(system, std::move(options)));
  std::printf("%s\n", attachment->path().c_str());
  std::fflush(stdout);
  log_info("{}: {}{}", attachment->path(), format_size(attachment->size_bytes()),
           attachment->taken_over() ? ", taken over from a process that ended" : "");
  co_return co_await keep_attached(system, attachment);
}

/// With a server of its own.
Task<void> serve_and_attach(SystemEnv& system, Kv& kv, NbdOptions options, AttachOptions attach) {
  AGRO_CO_TRY(const std::unique_ptr<PrivateFolder> folder, PrivateFolder::make());
  const Address address = folder->socket();
  ServingOptions serving_options;
  VolumeManagerOptions& manager = serving_options.manager;
  manager.holder = holder_name("agroblock nbd", options.holder);
  manager.names.insert(options.volume.substr(0, options.volume.find('@')));
  manager.volume.read_cache_size = options.read_cache;
  manager.volume.in_flight_size_max = options.write_buffer;
  serving_options.map_memory = options.map_memory;
  AGRO_CO_TRY(const std::unique_ptr<Serving> serving,
              co_await Serving::start(system.env(), kv, std::move(serving_options)));
  std::vector<Address> listen;
  listen.push_back(address);
  Result<void> outcome = co_await serving->listen_nbd(std::move(listen));
  attach.servers.push_back(address);
  if (outcome.has_value()) outcome = co_await attach_and_keep(system, std::move(attach));
  Result<void> stopped = co_await serving->stop();
  co_return outcome.has_value() ? stopped : outcome;
}

Result<void> detach(const std::string& what) {
  std::optional<KernelDevice> found;
  if (what.starts_with("/dev/")) {
    AGRO_TRY(const std::uint32_t index, nbd_kernel::parse_device_path(what));
    found = nbd_kernel::connected_device(index);
  } else {
    for (const KernelDevice& device : nbd_kernel::connected_devices())
      if (device.volume() == what) found = device;
  }
  if (!found.has_value()) return fail(Errc::not_found, fmt::format("'{}' is not attached here", what));
  AGRO_TRY(const bool in_use, nbd_kernel::is_in_use(found->path()));
  if (in_use) return fail(Errc::locked, found->path() + " is in use: unmount it first");
  AGRO_TRY(nbd_kernel::Netlink netlink, nbd_kernel::Netlink::open());
  return netlink.disconnect(found->index);
}

}  // namespace

CLI::App* add_nbd_command(CLI::App& app, NbdOptions& options) {
  CLI::App* command = app.add_subcommand(
      "nbd", "attach a volume to this machine's kernel as /dev/nbdN, and keep it attached; prints the device");
  command->fallthrough();
  command->add_option("volume", options.volume, "VOLUME or VOLUME@SNAPSHOT; with -d: a device or volume")
      ->required();
  command->add_option("device", options.device, "such as /dev/nbd0 (default: a free one)");
  command->add_flag("-d,--detach", options.detach, "detach it, wherever its agroblock is; refused while it is mounted");
  command
      ->add_option("--server", options.servers,
                   "attach through an 'agroblock nbdserve' at unix:PATH or tcp:HOST:PORT; several are tried in turn "
                   "(default: this process serves the volume itself)")
      ->allow_extra_args(false);
  command->add_option("-c,--connections", options.connections, "connections of the kernel, used side by side (default 4)")
      ->check(CLI::Range(1, 64));
  command->add_option("--holder", options.holder, kHolderHelp);
  command->add_option("--block-size", options.block_size, "logical sector of the device, 512 or 4096 (default 4096)")
      ->check(CLI::IsMember({512U, 4096U}));
  add_duration_option(*command, "--dead-timeout", options.dead_timeout,
                      "how long requests wait for a server that went away before they fail (default 60s)");
  add_duration_option(*command, "--request-timeout", options.request_timeout,
                      "how long the kernel waits for an answer before it sends a request again, on another connection (default "
                      "10s; 0: the kernel's own 30s)");
  return command;
}

Task<void> run_nbd(SystemEnv& system, MetadataChoice metadata, NbdOptions options) {
  if (options.detach) co_return detach(options.volume);
  AGRO_CO_TRY(AttachOptions attach, attach_options(options));
  if (!attach.servers.empty()) co_return co_await attach_and_keep(system, std::move(attach));
  // Before anything that takes time.
  AGRO_CO_TRY([[maybe_unused]] const nbd_kernel::Netlink netlink, nbd_kernel::Netlink::open());
  AGRO_CO_TRY(const std::string uri, metadata_uri(metadata));
  AGRO_CO_TRY(const std::unique_ptr<Kv> kv, co_await open_measured_kv(system.env(), uri, false));
  Result<void> done = co_await serve_and_attach(system, *kv, std::move(options), std::move(attach));
  Result<void> closed = co_await kv->close();
  co_return done.has_value() ? closed : done;
}

CLI::App* add_list_command(CLI::App& app, bool& json) {
  CLI::App* command = app.add_subcommand("list", "list the NBD devices that are attached to this machine's kernel");
  command->fallthrough();
  command->add_flag("--json", json, "for programs");
  return command;
}

int run_list(bool json) {
  Table table({{"device", "DEVICE"},
               {"volume", "VOLUME"},
               {"size", "SIZE", true},
               {"read_only", "READ-ONLY"},
               {"pid", "PID", true}});
  for (const KernelDevice& device : nbd_kernel::connected_devices()) {
    table.add({device.path(), device.volume(), size_cell(device.size_bytes), flag_cell(device.read_only),
               number_cell(device.pid)});
  }
  const Result<void> printed =
      print(table.render(json ? Format::json : Format::text, "no NBD device is attached here\n"));
  return printed.has_value() ? 0 : 1;
}

}  // namespace agro
