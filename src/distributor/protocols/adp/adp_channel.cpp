#include "distributor/protocols/adp/adp_channel.hpp"

#include <algorithm>

namespace agro {
namespace {

constexpr std::size_t kBufferSize = kAdpHeaderSize + kAdpBodySizeMax;
/// A payload larger than this is worth a read of its own, straight to its place.
constexpr std::size_t kLargePayload = 16 * 1024;
/// After a large payload the next header is read with so few bytes behind it.
constexpr std::size_t kHeaderReadSize = 512;

}  // namespace

AdpReader::AdpReader(Stream& stream, std::uint32_t payload_size_max)
    : stream_(stream), payload_size_max_(payload_size_max), buffer_(kBufferSize) {}

std::optional<Result<AdpHeader>> AdpReader::try_next() {
  body_ = {};
  needed_ = kAdpHeaderSize;
  if (held() < needed_) return std::nullopt;
  const ConstBytes bytes = ConstBytes(buffer_).subspan(begin_, held());
  Result<AdpHeader> header = decode_adp_header(bytes, payload_size_max_);
  if (!header.has_value()) return header;
  needed_ = kAdpHeaderSize + header->body_size;
  if (held() < needed_) return std::nullopt;
  body_ = bytes.subspan(kAdpHeaderSize, header->body_size);
  begin_ += needed_;
  large_payloads_ = header->payload_size > kLargePayload;
  if (Result<void> checked = check_adp_body(*header, body_); !checked.has_value()) {
    return fail(std::move(checked).error());
  }
  return header;
}

Task<void> AdpReader::fill() {
  body_ = {};
  if (begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, held());
    end_ -= begin_;
    begin_ = 0;
  }
  std::size_t size_max = buffer_.size() - end_;
  if (large_payloads_) size_max = std::min(size_max, std::max(kHeaderReadSize, needed_ - end_));
  AGRO_ASSERT(size_max > 0);
  const MutableBytes free = MutableBytes(buffer_).subspan(end_, size_max);
  AGRO_CO_TRY(const std::size_t count, co_await stream_.read_some(free));
  end_ += count;
  co_return Result<void>();
}

std::size_t AdpReader::take_held(MutableBytes out) {
  const std::size_t count = std::min(out.size(), held());
  if (count > 0) std::memcpy(out.data(), buffer_.data() + begin_, count);
  begin_ += count;
  return count;
}

bool AdpReader::try_payload(MutableBytes out) {
  if (held() < out.size()) return false;
  take_held(out);
  return true;
}

Task<void> AdpReader::read_payload(MutableBytes out) {
  body_ = {};
  out = out.subspan(take_held(out));
  while (!out.empty()) {
    AGRO_CO_TRY(const std::size_t count, co_await stream_.read_some(out));
    out = out.subspan(count);
  }
  co_return Result<void>();
}

Task<void> AdpReader::skip_payload(std::uint32_t size) {
  std::size_t left = size;
  while (true) {
    const std::size_t count = std::min(left, held());
    begin_ += count;
    left -= count;
    if (left == 0) co_return Result<void>();
    needed_ = 1;
    AGRO_CO_TRY_OK(co_await fill());
  }
}

void AdpWriter::send(std::vector<std::byte> head, SharedBytes payload) {
  if (closed_) return;
  queued_bytes_ += head.size() + payload.size();
  queue_.push_back({std::move(head), std::move(payload)});
  wake_.notify_all();
}

Awaitable<void> AdpWriter::run() {
  while (!closed_) {
    if (queue_.empty()) {
      co_await wake_.wait();
      continue;
    }
    std::vector<Frame> batch;
    batch.swap(queue_);
    std::vector<ConstBytes> parts;
    parts.reserve(2 * batch.size());
    std::size_t batch_bytes = 0;
    for (const Frame& frame : batch) {
      parts.push_back(frame.head);
      if (frame.payload.size() > 0) parts.push_back(frame.payload.bytes);
      batch_bytes += frame.head.size() + frame.payload.size();
    }
    const Result<void> sent = co_await stream_.write(std::move(parts));
    queued_bytes_ -= batch_bytes;
    if (!sent.has_value()) close();  // the reading half sees the end and says why
    changed_.notify_all();
  }
}

Awaitable<void> AdpWriter::flush() {
  while (!closed_ && queued_bytes_ > 0) co_await changed_.wait();
}

void AdpWriter::close() {
  closed_ = true;
  stream_.close();
  wake_.notify_all();
  changed_.notify_all();
}

}  // namespace agro
