// What the node half does to devices and paths for one call; blocks, on a worker thread.
#pragma once

#include <sys/statvfs.h>

#include "csi/devices.hpp"
#include "csi/mounter.hpp"
#include "csi/node_state.hpp"

namespace agro::csi {

/// Whether something is mounted at `path`.
Result<bool> is_mounted(Mounter& mounter, const std::string& path);
/// Makes the file system, unless there is one, mounts it at the staging path, unless it is, and lets it fill the device.
/// Errors: locked, when the device holds something else.
Result<void> stage_file_system(Mounter& mounter, const StagedVolume& volume);
/// Unmounts and detaches; a success, where there is nothing.
Result<void> unstage_volume(Mounter& mounter, NodeDevices& devices, const StagedVolume& volume);
Result<void> publish_at(Mounter& mounter, const StagedVolume& volume, const PublishedTarget& target);
/// Unmounts, and removes the folder or file.
Result<void> unpublish_at(Mounter& mounter, const std::string& path);
/// Errors: not_found.
Result<struct statvfs> usage_of(const std::string& path);
/// The first line of /proc/sys/kernel/random/boot_id.
Result<std::string> read_boot_id();
/// The file's text; empty, when there is none. Errors: io_error.
Result<std::string> read_if_there(const std::string& path);
/// Durable, all or nothing. Errors: io_error, out_of_space.
Result<void> write_atomically(const std::string& path, const std::string& text);

}  // namespace agro::csi
