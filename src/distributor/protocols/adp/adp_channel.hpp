// The two halves of an ADP connection: frames off a stream, and frames onto it.
//
// Invariants: AdpReader never holds more than one input buffer; a payload that is not small goes
// from the stream to its place but for what arrived with its header. AdpWriter keeps the order of
// send() and gives all that was queued in one turn of the loop to one write. Threading: one loop.
// Format: docs/formats/adp.md.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/network.hpp"
#include "distributor/protocols/adp/adp_frame.hpp"

namespace agro {

class AdpReader {
 public:
  /// Shape: `stream` outlives the reader; larger payloads than the limit are refused.
  AdpReader(Stream& stream, std::uint32_t payload_size_max);

  /// The next frame's header, when it and its body are here; nullopt: fill() first. The body is in
  /// body() until the next try_next() or fill(). Shape: the last frame's payload has been taken.
  std::optional<Result<AdpHeader>> try_next();
  ConstBytes body() const { return body_; }
  /// Waits for more bytes. Errors: closed.
  Task<void> fill();

  /// Takes the payload when all of it is here; else read_payload(). Shape: `out` has its size.
  bool try_payload(MutableBytes out);
  /// Invalidates body(). Shape: `out` has the payload's size and outlives the await.
  Task<void> read_payload(MutableBytes out);
  Task<void> skip_payload(std::uint32_t size);

 private:
  std::size_t held() const { return end_ - begin_; }
  std::size_t take_held(MutableBytes out);

  Stream& stream_;
  std::uint32_t payload_size_max_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;  // what is held is [begin_, end_)
  std::size_t end_ = 0;
  std::size_t needed_ = 0;  // at least so many held bytes to get on
  ConstBytes body_;
  bool large_payloads_ = false;
};

class AdpWriter {
 public:
  explicit AdpWriter(Stream& stream) : stream_(stream) {}

  /// Queues a frame: encode_adp_frame()'s bytes and the payload, which is not copied.
  void send(std::vector<std::byte> head, SharedBytes payload);
  /// Sends what is queued until the stream ends or close(); run it once, as a job of the owner.
  Awaitable<void> run();
  /// Returns when nothing is queued any more or the stream has ended.
  Awaitable<void> flush();
  void close();
  /// Bytes of frames queued or on their way.
  std::size_t queued_bytes() const { return queued_bytes_; }
  /// Called when queued_bytes() has become less.
  Event& changed() { return changed_; }

 private:
  struct Frame {
    std::vector<std::byte> head;
    SharedBytes payload;
  };
  Stream& stream_;
  std::vector<Frame> queue_;
  std::size_t queued_bytes_ = 0;
  bool closed_ = false;
  Event wake_;
  Event changed_;
};

}  // namespace agro
