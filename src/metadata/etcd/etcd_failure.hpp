// What a failed call to etcd means: whether it happened, and what to do next.
//
// Includes gRPC: for src/metadata/etcd/*.cpp only.
#pragma once

#include <grpcpp/support/status.h>

#include "base/result.hpp"

namespace agro::etcd {

struct Failure {
  enum class Next : std::uint8_t {
    give_up,      // etcd has answered: that is how it is
    other,        // ask another endpoint, or this one later
    login,        // the token is too old: get a new one, ask again
    no_password,  // etcd asks for no password: go on without
  };
  Next next = Next::give_up;
  /// The request may have been carried out all the same.
  bool maybe_done = false;
  Error error;
};

/// Shape: `status` is not OK. `where` is the endpoint.
Failure judge(const grpc::Status& status, const std::string& where);

}  // namespace agro::etcd
