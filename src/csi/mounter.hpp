// File systems and mounts of this machine, for the node half: the system's own tools behind an interface.
//
// Threading: everything blocks; any number of threads.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "csi/node_state.hpp"

namespace agro::csi {

class Mounter {
 public:
  virtual ~Mounter() = default;
  virtual Result<std::vector<MountEntry>> mounts() = 0;
  /// What is on the device: "ext4", "xfs", "unknown" for anything else; nothing, when it is empty.
  virtual Result<std::optional<std::string>> file_system_of(const std::string& device) = 0;
  virtual Result<void> format(const std::string& device, const std::string& fs_type) = 0;
  virtual Result<void> mount(const std::string& device, const std::string& path, const std::string& fs_type,
                             const std::vector<std::string>& flags) = 0;
  virtual Result<void> bind(const std::string& source, const std::string& path, bool read_only) = 0;
  virtual Result<void> unmount(const std::string& path) = 0;
  /// Fills the device; nothing, when it does already. Shape: mounted at `path`, writable.
  virtual Result<void> grow(const std::string& device, const std::string& path, const std::string& fs_type) = 0;
  virtual Result<void> set_read_only(const std::string& device) = 0;
};

/// blkid, mkfs, mount, umount, resize2fs, xfs_growfs and blockdev.
std::unique_ptr<Mounter> make_tool_mounter();
/// For tests: only writes down what would be done, in folder/mounts.json.
std::unique_ptr<Mounter> make_fake_mounter(std::string folder);

}  // namespace agro::csi
