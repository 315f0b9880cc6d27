#include "csi/node_work.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/descriptor.hpp"

namespace agro::csi {
namespace {

namespace fs = std::filesystem;

Result<void> make_folder(const std::string& path) {
  std::error_code problem;
  fs::create_directories(path, problem);
  if (problem) return fail(errno_error("make folder " + path, problem.value()));
  return {};
}

/// What a device is bound to.
Result<void> make_file(const std::string& path) {
  AGRO_TRY_OK(make_folder(fs::path(path).parent_path()));
  const Descriptor file(::open(path.c_str(), O_CREAT | O_CLOEXEC | O_RDONLY, 0660));
  if (!file.is_open()) return fail(errno_error("make file " + path, errno));
  return {};
}

}  // namespace

Result<bool> is_mounted(Mounter& mounter, const std::string& path) {
  AGRO_TRY(const std::vector<MountEntry> mounts, mounter.mounts());
  return std::any_of(mounts.begin(), mounts.end(), [&](const MountEntry& one) { return one.path == path; });
}

Result<void> stage_file_system(Mounter& mounter, const StagedVolume& volume) {
  AGRO_TRY(const bool mounted, is_mounted(mounter, volume.staging_path));
  if (mounted) return {};
  AGRO_TRY(const std::optional<std::string> present, mounter.file_system_of(volume.device));
  if (present.has_value() && *present != volume.fs_type) {
    return fail(Errc::locked, fmt::format("volume '{}' holds {}, not {}; nothing of it was changed", volume.name, *present,
                                          volume.fs_type));
  }
  if (!present.has_value() && volume.read_only)
    return fail(Errc::locked, fmt::format("volume '{}' is empty, and read-only: it must be written first", volume.name));
  if (!present.has_value()) AGRO_TRY_OK(mounter.format(volume.device, volume.fs_type));
  AGRO_TRY_OK(make_folder(volume.staging_path));
  std::vector<std::string> flags = volume.mount_flags;
  if (volume.read_only) flags.emplace_back("ro");
  AGRO_TRY_OK(mounter.mount(volume.device, volume.staging_path, volume.fs_type, flags));
  // A clone may be larger than what it was made of, and a volume may have grown while it was nowhere.
  if (present.has_value() && !volume.read_only) AGRO_TRY_OK(mounter.grow(volume.device, volume.staging_path, volume.fs_type));
  return {};
}

Result<void> unstage_volume(Mounter& mounter, NodeDevices& devices, const StagedVolume& volume) {
  if (!volume.block) {
    AGRO_TRY(const bool mounted, is_mounted(mounter, volume.staging_path));
    if (mounted) AGRO_TRY_OK(mounter.unmount(volume.staging_path));
  }
  return devices.detach(volume.name);
}

Result<void> publish_at(Mounter& mounter, const StagedVolume& volume, const PublishedTarget& target) {
  AGRO_TRY(const bool mounted, is_mounted(mounter, target.path));
  if (mounted) return {};
  AGRO_TRY_OK(volume.block ? make_file(target.path) : make_folder(target.path));
  if (volume.block && target.read_only) AGRO_TRY_OK(mounter.set_read_only(volume.device));
  return mounter.bind(volume.block ? volume.device : volume.staging_path, target.path, target.read_only);
}

Result<void> unpublish_at(Mounter& mounter, const std::string& path) {
  AGRO_TRY(const bool mounted, is_mounted(mounter, path));
  if (mounted) AGRO_TRY_OK(mounter.unmount(path));
  std::error_code problem;
  fs::remove(path, problem);  // a folder only when it is empty: nothing of a volume's is ever removed
  if (problem) return fail(errno_error("remove " + path, problem.value()));
  return {};
}

Result<struct statvfs> usage_of(const std::string& path) {
  struct statvfs usage {};
  if (::statvfs(path.c_str(), &usage) != 0) return fail(errno_error(path, errno));
  return usage;
}

Result<std::string> read_if_there(const std::string& path) {
  std::error_code ignored;  // then it is read, and that says why it cannot be
  if (!fs::exists(path, ignored) && !ignored) return std::string();
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file) return fail(Errc::io_error, path + " cannot be read");
  return text;
}

Result<std::string> read_boot_id() {
  AGRO_TRY(const std::string text, read_if_there("/proc/sys/kernel/random/boot_id"));
  return text.substr(0, text.find('\n'));
}

Result<void> write_atomically(const std::string& path, const std::string& text) {
  const std::string passing = path + ".new";
  const Descriptor file(::open(passing.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  if (!file.is_open()) return fail(errno_error("write " + passing, errno));
  const ssize_t written = ::write(file.get(), text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size()) || ::fsync(file.get()) != 0)
    return fail(errno_error("write " + passing, written < 0 ? errno : ENOSPC));
  if (::rename(passing.c_str(), path.c_str()) != 0) return fail(errno_error("write " + path, errno));
  const Descriptor folder(::open(fs::path(path).parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.is_open() || ::fsync(folder.get()) != 0) return fail(errno_error("sync the folder of " + path, errno));
  return {};
}

}  // namespace agro::csi
