// The real network: TCP and Unix stream sockets on an io_context.
//
// Invariants: sockets never block the loop; a read or write under way holds the socket alive and
// ends with `closed` when close() is called; running out of descriptors makes accept() wait, not
// spin.
// Threading: one loop, the io_context's; a detached stream's descriptor may be handed to another's. Only
// resolving host names uses a thread (asio's own).
#pragma once

#include "base/network.hpp"

namespace agro {

class SystemNetwork final : public Network {
 public:
  /// Shape: both outlive the network and every stream and listener made by it.
  SystemNetwork(asio::io_context& loop, Clock& clock) : loop_(loop), clock_(clock) {}

  Task<std::unique_ptr<Stream>> connect(Address address, TimePoint deadline) override;
  Task<std::unique_ptr<Listener>> listen(Address address) override;
  Result<std::unique_ptr<Stream>> adopt(DetachedStream detached) override;
  std::optional<Address> machine_address(std::string_view name) const override;

 private:
  asio::io_context& loop_;
  Clock& clock_;
};

}  // namespace agro
