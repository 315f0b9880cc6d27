// agrocsi: the Container Storage Interface driver. Volumes of the cluster for Kubernetes and other orchestrators.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>

#include "common/program.hpp"
#include "csi/names.hpp"
#include "csi/server.hpp"
#include "metadata/measured_kv.hpp"

namespace agro {
namespace {

struct CsiOptions {
  MetadataChoice metadata;
  std::string endpoint;
  std::string node_id;
  std::string mode = "all";
  std::string driver_name = csi::kDriverName;
  std::string state_folder = "/var/lib/agro/csi";
  std::string agroblock;
  std::string fake_devices;
  std::uint32_t volumes_max = 0;
};

/// The one beside us, else the one of the search path.
std::string find_agroblock() {
  std::error_code problem;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", problem);
  const std::filesystem::path beside = self.parent_path() / "agroblock";
  return !problem && std::filesystem::exists(beside, problem) ? beside.string() : "agroblock";
}

/// What both halves stand on, and they; stopped in the opposite order.
struct Driver {
  std::unique_ptr<ClusterClient> cluster;
  std::unique_ptr<VolumeManager> manager;
  std::unique_ptr<csi::Controller> controller;
  std::unique_ptr<csi::NodeService> node;
  std::unique_ptr<csi::Server> server;
};

void make_controller(Env& env, Kv& kv, Driver& driver) {
  VolumeManagerOptions options;
  options.holder = holder_name("agrocsi");
  options.linger = Duration::zero();
  options.stop_patience = Duration::zero();
  driver.manager = std::make_unique<VolumeManager>(env, kv, *driver.cluster, std::move(options));
  driver.controller = std::make_unique<csi::Controller>(env, *driver.cluster, *driver.manager, holder_name("agrocsi"));
}

Task<void> make_node(Env& env, Driver& driver, CsiOptions options, std::string uri) {
  csi::DevicesOptions devices;
  devices.agroblock = options.agroblock.empty() ? find_agroblock() : options.agroblock;
  devices.metadata_uri = std::move(uri);
  devices.holder = csi::volume_holder(options.node_id);
  devices.log_folder = options.state_folder;
  devices.fake_folder = options.fake_devices;
  const bool fake = !options.fake_devices.empty();
  std::shared_ptr<csi::NodeDevices> made = fake ? csi::make_fake_devices(devices) : csi::make_kernel_devices(devices);
  std::shared_ptr<csi::Mounter> mounter = fake ? csi::make_fake_mounter(options.fake_devices) : csi::make_tool_mounter();
  csi::NodeOptions node;
  node.node_id = options.node_id;
  node.state_folder = options.state_folder;
  node.topology_prefix = "topology." + options.driver_name;
  node.volumes_max = options.volumes_max;
  driver.node = std::make_unique<csi::NodeService>(env, *driver.cluster, std::move(made), std::move(mounter), std::move(node));
  co_return co_await driver.node->start();
}

Task<void> start(SystemEnv& system, Kv& kv, Driver& driver, CsiOptions options, std::string uri) {
  Env& env = system.env();
  AGRO_CO_TRY(const std::string path, csi::parse_endpoint(options.endpoint));
  AGRO_CO_TRY(driver.cluster, co_await ClusterClient::start(env, kv));
  if (options.mode != "node") make_controller(env, kv, driver);
  if (options.mode != "controller") AGRO_CO_TRY_OK(co_await make_node(env, driver, options, std::move(uri)));
  driver.server = std::make_unique<csi::Server>(env, *driver.cluster, options.driver_name, driver.controller.get(), driver.node.get());
  AGRO_CO_TRY_OK(co_await driver.server->listen(path));
  std::printf("agrocsi %s: %s serves %s on unix:%s\n", AGRO_VERSION, options.driver_name.c_str(), options.mode.c_str(), path.c_str());
  std::fflush(stdout);
  co_return Result<void>();
}

Task<void> stop(Driver& driver) {
  if (driver.controller != nullptr) driver.controller->stop();
  if (driver.server != nullptr) co_await driver.server->stop();
  if (driver.node != nullptr) co_await driver.node->stop();
  Result<void> stopped;
  if (driver.manager != nullptr) stopped = co_await driver.manager->stop();
  if (driver.cluster != nullptr) co_await driver.cluster->stop();
  co_return stopped;
}

Task<void> serve(SystemEnv& system, CsiOptions options) {
  AGRO_CO_TRY(const std::string uri, metadata_uri(options.metadata));
  if (uri.starts_with("temp:")) co_return fail(Errc::invalid_argument, "a temp: metadata store ends with its process; use etcd://");
  AGRO_CO_TRY(const std::unique_ptr<Kv> kv, co_await open_measured_kv(system.env(), uri, false));
  Driver driver;
  Result<void> outcome = co_await start(system, *kv, driver, options, uri);
  Clock& clock = system.env().clock;
  while (outcome.has_value() && !system.stop_requested())
    co_await wait_until(system.stop_event(), clock, clock.now() + std::chrono::seconds(1));
  const Result<void> stopped = co_await stop(driver);
  const Result<void> closed = co_await kv->close();
  if (!outcome.has_value()) co_return outcome;
  co_return stopped.has_value() ? closed : stopped;
}

std::string host_name() {
  std::array<char, 256> host{};
  return gethostname(host.data(), host.size() - 1) == 0 ? host.data() : "";
}

void add_options(CLI::App& app, CsiOptions& options) {
  add_metadata_options(app, options.metadata);
  app.add_option("--mds", options.metadata.uri, "the metadata store, as --metadata says it: etcd://HOST:PORT,...");
  app.add_option("--endpoint", options.endpoint, "unix:///PATH of the socket to serve on (default: the environment's CSI_ENDPOINT)")
      ->envname("CSI_ENDPOINT")
      ->required();
  app.add_option("--node-id", options.node_id,
                 "this machine's name, the same at every start; a peer with that host label gives its zone and rack (default: the "
                 "host's name)");
  app.add_option("--mode", options.mode,
                 "controller: volumes and snapshots, one for a cluster; node: devices and mounts, one on each machine, as root; "
                 "all: both (default all)")
      ->check(CLI::IsMember({"controller", "node", "all"}));
  app.add_option("--driver-name", options.driver_name,
                 "the driver's name; topology keys are topology.NAME/host, /rack and /zone (default csi.agro.storage)");
  app.add_option("--state-dir", options.state_folder,
                 "node: where it keeps what is attached, to go on after a restart (default /var/lib/agro/csi)");
  app.add_option("--max-volumes", options.volumes_max, "node: most volumes at a time that it asks for (default 0: no limit)");
  app.add_option("--agroblock", options.agroblock, "node: the program that attaches volumes (default: the one beside agrocsi)");
  app.add_option("--fake-devices", options.fake_devices,
                 "node, for tests only: nothing is attached or mounted; empty files in this folder stand for devices, "
                 "mounts.json there for mounts, and VOLUME.sock serves the volume over NBD")
      ->type_name("DIR");
}

int run(int argc, char** argv) {
  CLI::App app{"agrocsi: volumes of an agro cluster for Kubernetes and other orchestrators (CSI 1.9)", "agrocsi"};
  app.set_version_flag("--version", std::string("agrocsi ") + AGRO_VERSION);
  bool verbose = false;
  app.add_flag("-v,--verbose", verbose, "log more to standard error");
  CsiOptions options;
  add_options(app, options);
  if (const int status = parse_command_line(app, argc, argv); status >= 0) return status;
  if (options.node_id.empty()) options.node_id = host_name();
  log_to_standard_error("agrocsi", verbose);
  SystemEnv system;
  return run_program("agrocsi", system, serve(system, options));
}

}  // namespace
}  // namespace agro

int main(int argc, char** argv) { return agro::run(argc, argv); }
