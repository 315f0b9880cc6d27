// The Ethernet seam: frames of one interface.
//
// Implementations: PacketSocket (packet_socket.hpp), FakeEther (tests). Threading: one loop.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"

namespace agro::aoe {

using MacAddress = std::array<std::byte, 6>;

inline constexpr std::size_t kEthernetHeaderSize = 14;  // not counted by the MTU

/// One interface. Frames are whole, from the destination's address on, without checksum.
class Ether {
 public:
  virtual ~Ether() = default;
  virtual MacAddress address() const = 0;
  /// Largest payload of a frame, in bytes. May change while it is used.
  virtual std::size_t mtu() const = 0;
  /// At least one frame, as many as are there. The views hold until the next call.
  /// Errors: closed; io_error (the interface is gone).
  virtual Task<std::vector<ConstBytes>> receive() = 0;
  /// Queues a frame; as on any Ethernet it may be lost. send_queued() sends them together.
  virtual void send(std::vector<std::byte> frame) = 0;
  virtual void send_queued() = 0;
  virtual void close() = 0;
};

}  // namespace agro::aoe
