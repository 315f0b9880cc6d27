// The CSI driver's gRPC server: its calls reach the controller and node halves on the loop.
//
// Invariants: a call's error becomes the status code that the specification names for it; requests, which may hold secrets,
// are never logged.
// Threading: gRPC's threads outside, one loop inside.
#pragma once

#include <memory>
#include <string>

#include "csi/controller.hpp"
#include "csi/node_service.hpp"

namespace agro::csi {

inline constexpr const char* kDriverName = "csi.agro.storage";

class Server {
 public:
  /// All outlive the server; `controller` and `node` may be null: then their service is not there.
  Server(Env& env, ClusterClient& cluster, std::string driver_name, Controller* controller, NodeService* node);
  ~Server();

  /// Listens on a Unix socket, in place of one that was left behind.
  /// Errors: already_exists, when somebody listens there; io_error.
  Task<void> listen(std::string path);
  /// Waits for the calls under way.
  Awaitable<void> stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace agro::csi
