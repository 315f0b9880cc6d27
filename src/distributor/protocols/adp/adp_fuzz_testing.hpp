// What the fuzzers of both ends of an ADP connection share: a stream that plays an input, and
// checksums put right, or no input would get beyond them. Threading: one loop.
#pragma once

#include <algorithm>
#include <cstring>

#include "base/clock.hpp"
#include "base/crc32c.hpp"
#include "base/network.hpp"
#include "distributor/protocols/adp/adp_frame.hpp"

namespace agro {

/// Gives the input in pieces, then ends; throws away what is written.
class AdpInputStream final : public Stream {
 public:
  /// From byte `late_from` on it comes 10 ms later, when the other side has said what it wants.
  /// Shape: `clock` and the input outlive the stream.
  AdpInputStream(Clock& clock, ConstBytes input, std::size_t late_from)
      : clock_(clock), input_(input), early_size_(std::min(late_from, input.size())) {}
  Task<std::size_t> read_some(MutableBytes out) override {
    if (early_size_ == 0 && !std::exchange(waited_, true)) {
      co_await sleep_for(clock_, std::chrono::milliseconds(10));
    }
    if (input_.empty()) co_return fail(Errc::closed, "end of input");
    co_await yield_to_loop();
    std::size_t count = std::min({out.size(), input_.size(), std::size_t{777}});
    if (early_size_ > 0) count = std::min(count, early_size_);
    early_size_ -= std::min(early_size_, count);
    if (count > 0) std::memcpy(out.data(), input_.data(), count);
    input_ = input_.subspan(count);
    if (count == 0) co_return fail(Errc::closed, "closed meanwhile");
    co_return count;
  }
  Task<void> write(std::vector<ConstBytes>) override { co_return Result<void>(); }
  void close() override { input_ = {}; }
  std::string peer_name() const override { return "fuzzer"; }

 private:
  Clock& clock_;
  ConstBytes input_;
  std::size_t early_size_;
  bool waited_ = false;
};

/// Makes frames out of the input as far as its own sizes allow. `adjust` may change each header.
template <class Adjust>
void repair_adp_checksums(MutableBytes bytes, Adjust adjust) {
  while (bytes.size() >= kAdpHeaderSize) {
    auto header = load<AdpHeader>(bytes);
    const std::size_t rest = bytes.size() - kAdpHeaderSize;
    const std::size_t body_size = std::min<std::size_t>(header.body_size % 4096, rest);
    header.magic = kAdpMagic;
    header.version = kAdpVersion;
    header.body_size = static_cast<std::uint32_t>(body_size);
    adjust(header);
    const ConstBytes body = ConstBytes(bytes).subspan(kAdpHeaderSize, body_size);
    header.body_crc32c = body.empty() ? 0 : crc32c(body);
    header.header_crc32c = crc32c(std::as_bytes(std::span(&header, 1)).first(28));
    store(bytes, header);
    const std::size_t payload_size = std::min<std::size_t>(header.payload_size, rest - body_size);
    bytes = bytes.subspan(kAdpHeaderSize + body_size + payload_size);
  }
}

/// A connection's bytes: a good hello, unless there is to be none, then the input but its first byte.
class AdpFuzzInput {
 public:
  AdpFuzzInput(const AdpHeader& hello, ConstBytes hello_body, std::span<const std::uint8_t> data,
               bool with_hello)
      : bytes_(with_hello ? encode_adp_frame(hello, hello_body, 0) : std::vector<std::byte>()),
        hello_size_(bytes_.size()) {
    const ConstBytes rest = std::as_bytes(data).subspan(1);
    bytes_.insert(bytes_.end(), rest.begin(), rest.end());
  }
  ConstBytes bytes() const { return bytes_; }
  std::size_t hello_size() const { return hello_size_; }
  MutableBytes after_hello() { return MutableBytes(bytes_).subspan(hello_size_); }

 private:
  std::vector<std::byte> bytes_;
  std::size_t hello_size_;
};

}  // namespace agro
