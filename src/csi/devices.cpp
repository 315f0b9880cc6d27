#include "csi/devices.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "csi/process.hpp"
#include "internal/nbd_kernel/kernel_devices.hpp"

namespace agro::csi {
namespace {

namespace fs = std::filesystem;
using nbd_kernel::KernelDevice;

// A device that was left behind waits for the lock of its last server to run out, at most 60 s.
constexpr Duration kAttachLimit = std::chrono::seconds(70);
constexpr Duration kDetachLimit = std::chrono::seconds(40);

/// Our children, by volume.
class Children {
 public:
  bool is_running(const std::string& volume) {
    const std::lock_guard lock(mutex_);
    const auto found = processes_.find(volume);
    return found != processes_.end() && found->second.is_running();
  }
  void add(const std::string& volume, StayingProcess process) {
    const std::lock_guard lock(mutex_);
    processes_.insert_or_assign(volume, process);
  }
  std::optional<StayingProcess> take(const std::string& volume) {
    const std::lock_guard lock(mutex_);
    const auto found = processes_.find(volume);
    if (found == processes_.end()) return std::nullopt;
    const StayingProcess process = found->second;
    processes_.erase(found);
    return process;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, StayingProcess> processes_;
};

std::string log_path(const DevicesOptions& options, const std::string& volume) {
  return options.log_folder + "/" + volume + ".log";
}

/// Whether `pid` is an agroblock; ids of processes are used again.
bool is_agroblock(std::uint64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/comm", pid));
  std::string name;
  return pid != 0 && std::getline(file, name) && name == "agroblock";
}

class KernelDevices final : public NodeDevices {
 public:
  explicit KernelDevices(DevicesOptions options) : options_(std::move(options)) {}

  Result<std::string> attach(const std::string& volume, std::uint64_t /*size_bytes*/) override {
    if (const std::optional<KernelDevice> device = find(volume); device && is_served(volume)) return device->path();
    std::string path;
    AGRO_TRY(const StayingProcess process,
             StayingProcess::start({options_.agroblock, "--metadata", options_.metadata_uri, "nbd", volume, "--holder",
                                    options_.holder},
                                   log_path(options_, volume), kAttachLimit, path));
    children_.add(volume, process);
    if (!path.starts_with("/dev/")) return fail(Errc::protocol_error, fmt::format("agroblock named '{}' as its device", path));
    return path;
  }

  Result<void> detach(const std::string& volume) override {
    const std::optional<KernelDevice> device = find(volume);
    if (device.has_value()) {
      AGRO_TRY(const ToolOutput output, run_tool({options_.agroblock, "nbd", "-d", volume}, kDetachLimit));
      if (output.status != 0 && find(volume).has_value()) {
        const bool in_use = output.text.find("in use") != std::string::npos;
        return fail(in_use ? Errc::locked : Errc::io_error, output.text.substr(0, output.text.find('\n')));
      }
    }
    std::optional<StayingProcess> child = children_.take(volume);
    if (child.has_value()) {
      if (!device.has_value()) child->ask_to_end();
      if (child->wait(kDetachLimit)) return {};
      children_.add(volume, *child);
      return fail(Errc::timed_out, fmt::format("the agroblock of volume '{}' does not end", volume));
    }
    // Of an agrocsi before us.
    for (int looks = 0; device && is_agroblock(device->pid); ++looks) {
      if (looks == 400) return fail(Errc::timed_out, fmt::format("the agroblock of volume '{}' does not end", volume));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return {};
  }

  Result<std::uint64_t> size_of(const std::string& volume) override {
    const std::optional<KernelDevice> device = find(volume);
    if (!device.has_value()) return fail(Errc::not_found, fmt::format("volume '{}' is not attached here", volume));
    return device->size_bytes;
  }

  bool is_served(const std::string& volume) override {
    if (children_.is_running(volume)) return true;
    const std::optional<KernelDevice> device = find(volume);
    return device.has_value() && is_agroblock(device->pid);
  }

 private:
  static std::optional<KernelDevice> find(const std::string& volume) {
    for (const KernelDevice& device : nbd_kernel::connected_devices())
      if (device.volume() == volume) return device;
    return std::nullopt;
  }

  DevicesOptions options_;
  Children children_;
};

class FakeDevices final : public NodeDevices {
 public:
  explicit FakeDevices(DevicesOptions options) : options_(std::move(options)) {
    std::error_code ignored;  // what follows says what is wrong
    fs::create_directories(options_.fake_folder, ignored);
  }
  ~FakeDevices() override {
    for (const std::string& volume : attached_)
      if (std::optional<StayingProcess> child = children_.take(volume)) child->ask_to_end();
  }

  Result<std::string> attach(const std::string& volume, std::uint64_t size_bytes) override {
    const std::string path = image(volume);
    AGRO_TRY_OK(resize(path, size_bytes));
    const std::lock_guard lock(mutex_);
    attached_.push_back(volume);
    if (children_.is_running(volume)) return path;
    std::string line;
    AGRO_TRY(const StayingProcess process,
             StayingProcess::start({options_.agroblock, "--metadata", options_.metadata_uri, "nbdserve", "--holder",
                                    options_.holder, "--listen", "unix:" + socket(volume), volume},
                                   log_path(options_, volume), kAttachLimit, line));
    children_.add(volume, process);
    return path;
  }

  Result<void> detach(const std::string& volume) override {
    std::optional<StayingProcess> child = children_.take(volume);
    if (!child.has_value()) return {};
    child->ask_to_end();
    if (child->wait(kDetachLimit)) return {};
    return fail(Errc::timed_out, fmt::format("the agroblock of volume '{}' does not end", volume));
  }

  Result<std::uint64_t> size_of(const std::string& volume) override {
    std::error_code problem;
    const std::uint64_t size = fs::file_size(image(volume), problem);
    if (problem) return fail(errno_error(image(volume), problem.value()));
    return size;
  }

  bool is_served(const std::string& volume) override { return children_.is_running(volume); }

 private:
  std::string image(const std::string& volume) const { return options_.fake_folder + "/" + volume + ".img"; }
  std::string socket(const std::string& volume) const { return options_.fake_folder + "/" + volume + ".sock"; }

  static Result<void> resize(const std::string& path, std::uint64_t size_bytes) {
    std::ofstream(path, std::ios::app).close();
    std::error_code problem;
    fs::resize_file(path, size_bytes, problem);
    if (problem) return fail(errno_error(path, problem.value()));
    return {};
  }

  DevicesOptions options_;
  Children children_;
  std::mutex mutex_;
  std::vector<std::string> attached_;
};

}  // namespace

std::string volume_holder(const std::string& node) { return "csi node " + node; }

std::unique_ptr<NodeDevices> make_kernel_devices(DevicesOptions options) {
  return std::make_unique<KernelDevices>(std::move(options));
}

std::unique_ptr<NodeDevices> make_fake_devices(DevicesOptions options) {
  return std::make_unique<FakeDevices>(std::move(options));
}

}  // namespace agro::csi
