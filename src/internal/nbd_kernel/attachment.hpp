// One export as a device of the kernel: attached, kept attached while its server goes away and comes back.
//
// Invariants: requests that find no connection wait in the kernel until one is back, at most for the dead-connection
// timeout; they fail only then. An attachment that its process left behind is taken over by the next of the same volume.
// Threading: everything blocks; on a worker thread only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "internal/nbd_kernel/export_client.hpp"
#include "internal/nbd_kernel/kernel_devices.hpp"
#include "internal/nbd_kernel/netlink.hpp"

namespace agro::nbd_kernel {

struct AttachOptions {
  std::string volume;
  std::vector<Address> servers;  // tried in turn; at least one
  std::optional<std::uint32_t> index;
  std::uint32_t connection_count = 4;
  std::uint32_t block_size = 4096;
  Duration dead_connection_timeout = std::chrono::seconds(60);
  /// One that is not answered by then is sent again, on another connection; zero: the kernel's own 30 s.
  Duration request_timeout = std::chrono::seconds(10);
};

class Attachment {
 public:
  /// A new device, or the one that an ended process left behind. Errors: those of Netlink and connect_export;
  /// already_exists, when the device holds something else.
  static Result<std::unique_ptr<Attachment>> attach(AttachOptions options);

  std::string path() const { return device_.path(); }
  std::uint64_t size_bytes() const { return device_.size_bytes; }
  bool taken_over() const { return taken_over_; }

  /// Waits for what there is to do, at most for `patience`: puts new connections in place of dead ones, and follows
  /// the size of the export. False: the device was detached. What fails is tried again at the next look: problem().
  Result<bool> look(Duration patience);
  /// Errors: locked, while it is in use.
  Result<void> detach();

  /// In words, what kept connections from being made anew; empty: nothing does.
  const std::string& problem() const { return problem_; }

 private:
  Attachment(AttachOptions options, Netlink netlink);
  Result<ExportConnection> connect();
  Result<void> make();
  Result<void> take_over();
  Result<void> reconnect();
  Result<void> follow_size();

  AttachOptions options_;
  Netlink netlink_;
  KernelDevice device_;
  bool taken_over_ = false;
  std::size_t next_server_ = 0;
  std::uint32_t dead_count_ = 0;  // connections to be made anew
  int looks_until_size_ = 0;
  std::string problem_;
};

}  // namespace agro::nbd_kernel
