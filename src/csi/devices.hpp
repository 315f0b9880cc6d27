// Volumes as devices of this machine, for the node half: a child process each, which outlives a restart of the driver.
//
// Invariants: a volume is attached once; its process opens it in the name of this node (volume_holder), by which the
// controller knows whom to evict when the node is gone.
// Threading: everything blocks; any number of threads, one at a time for each volume.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace agro::csi {

class NodeDevices {
 public:
  virtual ~NodeDevices() = default;
  /// Attaches the volume, or gives the device of one that is attached a server again, if it has none. Returns the path.
  /// Errors: locked and others of `agroblock nbd`, with its words; timed_out.
  virtual Result<std::string> attach(const std::string& volume, std::uint64_t size_bytes) = 0;
  /// Returns when it is gone and nobody here holds the volume; a success, when it was not attached. Errors: locked (in use).
  virtual Result<void> detach(const std::string& volume) = 0;
  /// What the device has now; it grows some time after its volume. Errors: not_found.
  virtual Result<std::uint64_t> size_of(const std::string& volume) = 0;
  /// Whether a server runs for the device.
  virtual bool is_served(const std::string& volume) = 0;
};

struct DevicesOptions {
  std::string agroblock;        // the program
  std::string metadata_uri;
  std::string holder;           // volume_holder()
  std::string log_folder;       // of what the processes say
  std::string fake_folder;      // of make_fake_devices()
};

/// "csi node NODE": what a writer's VolumeLock::holder starts with, followed by ", ".
std::string volume_holder(const std::string& node);

/// `agroblock nbd` and the kernel.
std::unique_ptr<NodeDevices> make_kernel_devices(DevicesOptions options);
/// For tests, without the kernel: `agroblock nbdserve` on fake_folder/VOLUME.sock, and an empty file of the volume's size as
/// its device, fake_folder/VOLUME.img.
std::unique_ptr<NodeDevices> make_fake_devices(DevicesOptions options);

}  // namespace agro::csi
