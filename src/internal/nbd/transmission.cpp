#include "internal/nbd/transmission.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/log.hpp"

namespace agro::nbd {

namespace {

/// Requests that wait for the device, per connection.
constexpr std::size_t kJobCountMax = 256;
/// Bytes of payloads and replies held, per connection; one request may exceed it.
constexpr std::size_t kQueuedSizeMax = 64U << 20;
/// Reads up to this size go straight into the reply queue's arena.
constexpr std::size_t kSmallReadMax = 64U << 10;
/// Longer reads are answered in pieces, where the protocol can say so: a piece is still in the
/// core's cache when the socket takes it, and the client copies one while we read the next. Long enough
/// that a device takes it for the large read that it is part of, not for a small one to read ahead of.
constexpr std::size_t kPieceSize = 256U << 10;
/// Longer writes are received and written in such pieces, for the same reason.
constexpr std::uint32_t kWritePieceSize = 192U << 10;
/// A round's replies leave when they are this large, though more requests are in the buffer.
constexpr std::size_t kRoundSizeMax = 1U << 20;
constexpr std::size_t kRoundPartCountMax = 256;
/// Replies up to this size are sent in line: a socket has room for them, so nobody waits.
constexpr std::size_t kInlineSendMax = 192U << 10;
/// Message text of an error chunk.
constexpr std::size_t kMessageSizeMax = 512;
constexpr std::size_t kStatusDescriptorCountMax = 8192;
constexpr std::size_t kLoggedErrorCountMax = 16;
/// A partial payload at least this long is received alone, so that it need not be moved.
constexpr std::size_t kExactReceiveMin = 16U << 10;

std::string_view command_name(Command command) {
  switch (command) {
    case Command::read:
      return "read";
    case Command::write:
      return "write";
    case Command::disconnect:
      return "disconnect";
    case Command::flush:
      return "flush";
    case Command::trim:
      return "trim";
    case Command::cache:
      return "cache";
    case Command::write_zeroes:
      return "write zeroes";
    case Command::block_status:
      return "block status";
  }
  return "unknown command";
}

unsigned allowed_flags(Command command, bool structured_replies) {
  switch (command) {
    case Command::read:
      return kFua | (structured_replies ? unsigned{kDontFragment} : 0U);
    case Command::write_zeroes:
      return kFua | kNoHole | kFastZero;
    case Command::block_status:
      return kFua | kReqOne;
    default:
      return kFua;
  }
}

struct Rejection {
  WireError error = WireError::none;
  const char* reason = "";
};

/// What is wrong with a request before the device sees it; WireError::none: nothing.
Rejection check(const Request& request, const BlockDevice& device, const Session& session) {
  const bool modifies = request.command == Command::write || request.command == Command::trim ||
                        request.command == Command::write_zeroes;
  if (static_cast<unsigned>(request.command) > static_cast<unsigned>(Command::block_status)) {
    return {WireError::einval, "unknown command"};
  }
  if ((request.flags & ~allowed_flags(request.command, session.structured_replies)) != 0) {
    return {WireError::einval, "a flag that this command does not have"};
  }
  if (request.command == Command::flush) {
    if (request.offset == 0 && request.size == 0) return {};
    return {WireError::einval, "a flush has neither offset nor length"};
  }
  if (modifies && device.read_only()) return {WireError::eperm, "the export is read-only"};
  if (request.command == Command::block_status && (!session.base_allocation || request.size == 0)) {
    return {WireError::einval, session.base_allocation ? "block status of nothing"
                                                       : "no metadata context was negotiated"};
  }
  if (request.command == Command::read && request.size > kPayloadSizeMax) {
    return {WireError::einval, "a read longer than 32 MiB"};
  }
  const std::uint64_t end = device.size_bytes();
  if (request.offset > end || request.size > end - request.offset) {
    const bool needs_space =
        request.command == Command::write || request.command == Command::write_zeroes;
    return {needs_space ? WireError::enospc : WireError::einval, "beyond the end of the export"};
  }
  return {};
}

}  // namespace

ServerMetrics::ServerMetrics(Metrics& metrics)
    : connections_total(metrics.get("agro_nbd_connections_total", "NBD connections accepted")),
      connections(metrics.get("agro_nbd_connections", "NBD connections open")),
      protocol_errors_total(metrics.get("agro_nbd_protocol_errors_total",
                                        "NBD connections closed for malformed bytes")),
      reads_total(metrics.get("agro_nbd_reads_total", "NBD read requests")),
      writes_total(metrics.get("agro_nbd_writes_total", "NBD write requests")),
      flushes_total(metrics.get("agro_nbd_flushes_total", "NBD flush requests")),
      other_requests_total(metrics.get("agro_nbd_other_requests_total", "other NBD requests")),
      read_bytes_total(metrics.get("agro_nbd_read_bytes_total", "bytes asked for by NBD reads")),
      written_bytes_total(metrics.get("agro_nbd_written_bytes_total", "bytes of NBD writes")),
      errors_total(metrics.get("agro_nbd_errors_total", "NBD requests answered with an error")) {}

Transmission::Transmission(Executor executor, Stream& stream, InputBuffer& input,
                           PayloadPools& pools, ServerMetrics& metrics, Session session)
    : stream_(stream),
      input_(input),
      pools_(pools),
      metrics_(metrics),
      session_(std::move(session)),
      device_(*session_.device),
      jobs_(executor) {}

Task<void> Transmission::run() {
  const Result<void> end = co_await read_requests();
  if (end.code() == Errc::protocol_error) is_broken_ = true;  // no more to say to this client
  if (is_broken_) stream_.close();
  // The client that said DISC, or only ended its side, still gets what it had asked for.
  co_await send_all();
  co_await jobs_.join();
  co_await send_all();
  stream_.close();
  co_return end;
}

void Transmission::begin_stop() {
  is_stopping_ = true;
  close_when_stopped();
}

void Transmission::close_when_stopped() {
  if (is_stopping_ && is_idle()) stream_.close();
}

Task<void> Transmission::read_requests() {
  for (;;) {
    AGRO_CO_TRY(const bool ended, co_await serve_buffered());
    co_await push_replies();
    if (ended) co_return Result<void>();
    if (is_broken_) co_return fail(Errc::closed, "the client does not take our replies");
    // What is left in the buffer is the start of a request.
    std::size_t size_min = kRequestSize;
    std::size_t size_max = input_.capacity();
    if (input_.size() >= kRequestSize) {
      AGRO_CO_TRY(const Request request, decode_request(input_.bytes()));
      size_min += request.size;
      if (size_min - input_.size() >= kExactReceiveMin) size_max = size_min;
    }
    size_max = std::max(size_min, size_max);
    AGRO_CO_TRY_OK(co_await input_.fill(stream_, size_min, size_max));
  }
}

/// Serves every whole request in the buffer; true after DISC.
Task<bool> Transmission::serve_buffered() {
  while (input_.size() >= kRequestSize) {
    const Result<Request> decoded = decode_request(input_.bytes());
    if (!decoded.has_value()) co_return fail(decoded.error());
    const Request request = *decoded;
    if (request.command == Command::disconnect) co_return true;
    std::size_t payload_size = 0;
    if (request.command == Command::write) {
      if (request.size > kPayloadSizeMax) {
        co_return fail(Errc::protocol_error,
                       fmt::format("a write of {} bytes, more than 32 MiB", request.size));
      }
      payload_size = request.size;
    }
    if (is_full()) co_await wait_for_room();
    if (is_broken_) co_return false;
    if (kRequestSize + payload_size > input_.capacity()) {
      input_.consume(kRequestSize);
      co_await push_replies();
      AGRO_CO_TRY_OK(co_await receive_large_write(request));
      continue;
    }
    if (input_.size() < kRequestSize + payload_size) co_return false;
    if (request.command == Command::read && request.size > kPieceSize &&
        session_.structured_replies && (request.flags & kDontFragment) == 0) {
      input_.consume(kRequestSize);
      co_await serve_in_pieces(request);
      continue;
    }
    serve(request, input_.bytes().subspan(kRequestSize, payload_size));
    input_.consume(kRequestSize + payload_size);
    if (queue_.size() >= kRoundSizeMax || queue_.part_count() >= kRoundPartCountMax) {
      co_await push_replies();
    }
  }
  co_return false;
}

/// Sends chunks of a long read while the device answers at once; the rest is served as any other
/// read is.
Awaitable<void> Transmission::serve_in_pieces(Request request) {
  metrics_.reads_total.add();
  metrics_.read_bytes_total.add(request.size);
  if (refuse(request)) co_return;
  ++job_count_;  // so that nobody takes us for idle between two pieces
  while (request.size > kPieceSize && !is_broken_) {
    std::shared_ptr<AlignedBuffer> buffer = pools_.take(kPieceSize);
    const MutableBytes piece = buffer->bytes().first(kPieceSize);
    const std::optional<Result<void>> done = device_.try_read(request.offset, piece);
    if (!done.has_value() || !done->has_value()) break;
    queue_.commit(encode_offset_data_header(queue_.reserve(kOffsetDataHeaderSize), request.cookie,
                                            request.offset, kPieceSize, ChunkPlace::earlier));
    queue_.append(std::move(buffer), piece);
    request.offset += kPieceSize;
    request.size -= kPieceSize;
    if (!is_sending_) {
      jobs_.spawn(send_job());
      co_await yield_to_loop();
    }
    // One piece on its way and one ready: more of them would only leave the cache again.
    while (is_sending_ && queue_.size() >= kPieceSize) co_await progress_.wait();
  }
  start_read(request);
  --job_count_;
}

/// A payload that the input buffer cannot hold is written as it comes, while the device takes it at
/// once; what must wait goes into a buffer of its own. A client that leaves in the middle has had
/// part of an unacknowledged write done, as a disk does.
Task<void> Transmission::receive_large_write(Request request) {
  metrics_.writes_total.add();
  metrics_.written_bytes_total.add(request.size);
  if (refuse(request)) co_return co_await skip_payload(request.size);
  Request rest = request;
  while (rest.size > 0) {
    std::uint32_t size = std::min(rest.size, kWritePieceSize);
    if (size < rest.size) size -= (rest.offset + size) % kPageSize;  // no sector is written twice
    const std::size_t size_max = std::min<std::size_t>(rest.size, input_.capacity());
    AGRO_CO_TRY_OK(co_await input_.fill(stream_, size, size_max));
    const std::optional<Result<void>> done =
        device_.try_write(rest.offset, input_.bytes().first(size));
    if (!done.has_value()) break;
    if (!done->has_value()) {
      reply(request, *done);
      co_return co_await skip_payload(rest.size);
    }
    input_.consume(size);
    rest.offset += size;
    rest.size -= size;
  }
  if (rest.size > 0) {
    std::shared_ptr<AlignedBuffer> buffer = pools_.take(rest.size);
    const MutableBytes payload = buffer->bytes().first(rest.size);
    const std::size_t here = std::min<std::size_t>(input_.size(), payload.size());
    std::memcpy(payload.data(), input_.bytes().data(), here);
    input_.consume(here);
    AGRO_CO_TRY_OK(co_await read_exactly(stream_, payload.subspan(here)));
    start_job(rest.size, write_job(rest, std::move(buffer), payload));
  } else if ((request.flags & kFua) != 0) {
    start_job(0, control_job(request));
  } else {
    reply(request, {});
  }
  co_return Result<void>();
}

Task<void> Transmission::skip_payload(std::size_t size) {
  while (size > 0) {
    AGRO_CO_TRY_OK(co_await input_.fill(stream_, 1, std::min(size, input_.capacity())));
    const std::size_t count = std::min(size, input_.size());
    input_.consume(count);
    size -= count;
  }
  co_return Result<void>();
}

bool Transmission::is_full() const {
  return job_count_ >= kJobCountMax ||
         job_size_ + queue_.size() + sending_.size() >= kQueuedSizeMax;
}

Awaitable<void> Transmission::wait_for_room() {
  while (is_full() && !is_broken_) {
    if (!queue_.empty() && !is_sending_) {
      co_await send_all();
    } else {
      co_await progress_.wait();
    }
  }
}

void Transmission::serve(const Request& request, ConstBytes payload) {
  if (request.command == Command::write) {
    serve_write(request, payload);
    return;
  }
  if (request.command == Command::read) {
    serve_read(request);
    return;
  }
  (request.command == Command::flush ? metrics_.flushes_total : metrics_.other_requests_total)
      .add();
  if (refuse(request)) return;
  if (request.size == 0 && request.command != Command::flush) {
    reply(request, {});
  } else if (request.command == Command::block_status) {
    start_job(0, block_status_job(request));
  } else {
    start_job(0, control_job(request));
  }
}

bool Transmission::refuse(const Request& request) {
  const Rejection rejection = is_stopping_
                                  ? Rejection{WireError::eshutdown, "the server is shutting down"}
                                  : check(request, device_, session_);
  if (rejection.error == WireError::none) return false;
  reply_error(request, rejection.error, rejection.reason);
  return true;
}

void Transmission::serve_read(const Request& request) {
  metrics_.reads_total.add();
  metrics_.read_bytes_total.add(request.size);
  if (!refuse(request)) start_read(request);
}

void Transmission::start_read(const Request& request) {
  if (request.size == 0) {
    reply_read(request, nullptr);
    return;
  }
  if (request.size > kSmallReadMax) {
    std::shared_ptr<AlignedBuffer> buffer = pools_.take(request.size);
    const std::optional<Result<void>> done =
        device_.try_read(request.offset, buffer->bytes().first(request.size));
    if (!done.has_value()) {
      start_job(request.size, read_job(request));
    } else if (done->has_value()) {
      reply_read(request, std::move(buffer));
    } else {
      reply(request, *done);
    }
    return;
  }
  const std::size_t header_size =
      session_.structured_replies ? kOffsetDataHeaderSize : kSimpleReplySize;
  const MutableBytes room = queue_.reserve(header_size + request.size);
  const std::optional<Result<void>> done =
      device_.try_read(request.offset, room.subspan(header_size));
  if (!done.has_value()) {
    start_job(request.size, read_job(request));
    return;
  }
  if (!done->has_value()) {
    reply(request, *done);
    return;
  }
  if (session_.structured_replies) {
    encode_offset_data_header(room, request.cookie, request.offset, request.size);
  } else {
    encode_simple_reply(room, {.error = WireError::none, .cookie = request.cookie});
  }
  queue_.commit(header_size + request.size);
}

void Transmission::serve_write(const Request& request, ConstBytes payload) {
  metrics_.writes_total.add();
  metrics_.written_bytes_total.add(request.size);
  if (refuse(request)) return;
  if (payload.empty()) {
    reply(request, {});
    return;
  }
  const std::optional<Result<void>> done = device_.try_write(request.offset, payload);
  if (done.has_value() && (!done->has_value() || (request.flags & kFua) == 0)) {
    reply(request, *done);
    return;
  }
  if (done.has_value()) {
    start_job(0, control_job(request));  // FUA: the flush is all that is left
    return;
  }
  std::shared_ptr<AlignedBuffer> owner = pools_.take(payload.size());
  std::memcpy(owner->data(), payload.data(), payload.size());
  const ConstBytes kept(owner->data(), payload.size());
  start_job(request.size, write_job(request, std::move(owner), kept));
}

void Transmission::start_job(std::size_t size, Job job) {
  ++job_count_;
  job_size_ += size;
  jobs_.spawn(std::move(job));
}

Job Transmission::read_job(Request request) {
  std::shared_ptr<AlignedBuffer> buffer = pools_.take(request.size);
  const MutableBytes out = buffer->bytes().first(request.size);
  const Result<void> result = co_await device_.read(request.offset, out);
  if (result.has_value()) {
    reply_read(request, std::move(buffer));
  } else {
    reply(request, result);
  }
  co_await end_job(request.size);
}

Job Transmission::write_job(Request request, std::shared_ptr<AlignedBuffer> owner,
                            ConstBytes payload) {
  Result<void> result = co_await device_.write(request.offset, payload);
  owner.reset();
  if (result.has_value() && (request.flags & kFua) != 0) result = co_await device_.flush();
  reply(request, result);
  co_await end_job(request.size);
}

Job Transmission::control_job(Request request) {
  Result<void> result = co_await control(request);
  reply(request, result);
  co_await end_job(0);
}

/// Everything without payload, and the flush of a write with FUA.
Task<void> Transmission::control(Request request) {
  switch (request.command) {
    case Command::trim:
      AGRO_CO_TRY_OK(co_await device_.trim(request.offset, request.size));
      break;
    case Command::write_zeroes: {
      const bool may_punch_hole = (request.flags & kNoHole) == 0;
      AGRO_CO_TRY_OK(co_await device_.write_zeroes(request.offset, request.size, may_punch_hole));
      break;
    }
    case Command::cache:
      co_return co_await device_.cache(request.offset, request.size);
    case Command::flush:
      co_return co_await device_.flush();
    default:
      break;
  }
  if ((request.flags & kFua) != 0) co_return co_await device_.flush();
  co_return Result<void>();
}

Job Transmission::block_status_job(Request request) {
  const Result<std::vector<StatusExtent>> extents =
      co_await device_.status(request.offset, request.size);
  if (extents.has_value()) {
    reply_status(request, *extents);
  } else {
    const Error& error = extents.error();
    reply(request, fail(error));
  }
  co_await end_job(0);
}

/// A request is answered. Lets the others that are ready answer too, then sends all at once.
Awaitable<void> Transmission::end_job(std::size_t size) {
  --job_count_;
  job_size_ -= size;
  progress_.notify_all();
  if (is_sending_ || is_send_due_) co_return;
  if (job_count_ > 0) {
    is_send_due_ = true;
    co_await yield_to_loop();
    is_send_due_ = false;
  }
  co_await send_all();
}

void Transmission::reply(const Request& request, const Result<void>& result) {
  if (!result.has_value()) {
    const Error& error = result.error();
    if (logged_error_count_ < kLoggedErrorCountMax) {
      ++logged_error_count_;
      log_warning("nbd: {}: {} of {} bytes at {} failed: {}", session_.export_name,
                  command_name(request.command), request.size, request.offset, error.to_string());
    }
    reply_error(request, to_wire_error(error.code), error.message);
    return;
  }
  if (is_broken_) return;
  encode_simple_reply(queue_.reserve(kSimpleReplySize),
                      {.error = WireError::none, .cookie = request.cookie});
  queue_.commit(kSimpleReplySize);
}

void Transmission::reply_error(const Request& request, WireError error, std::string_view message) {
  metrics_.errors_total.add();
  if (is_broken_) return;
  if (session_.structured_replies) {
    const MutableBytes room = queue_.reserve(kChunkHeaderSize + kMessageSizeMax);
    queue_.commit(encode_error_chunk(room, request.cookie, error, message));
    return;
  }
  encode_simple_reply(queue_.reserve(kSimpleReplySize), {.error = error, .cookie = request.cookie});
  queue_.commit(kSimpleReplySize);
}

/// The head of a successful read, then `buffer` as it is; none when the read has no bytes.
void Transmission::reply_read(const Request& request, std::shared_ptr<AlignedBuffer> buffer) {
  if (is_broken_) return;
  const MutableBytes room = queue_.reserve(kOffsetDataHeaderSize);
  if (!session_.structured_replies) {
    queue_.commit(encode_simple_reply(room, {.error = WireError::none, .cookie = request.cookie}));
  } else if (buffer == nullptr) {
    queue_.commit(encode_chunk_header(
        room, {.flags = kChunkDone, .type = ChunkType::none, .cookie = request.cookie, .size = 0}));
  } else {
    queue_.commit(encode_offset_data_header(room, request.cookie, request.offset, request.size));
  }
  if (buffer == nullptr) return;
  const ConstBytes bytes = buffer->bytes().first(request.size);
  queue_.append(std::move(buffer), bytes);
}

void Transmission::reply_status(const Request& request, const std::vector<StatusExtent>& extents) {
  const std::size_t count_max = (request.flags & kReqOne) != 0 ? 1 : kStatusDescriptorCountMax;
  std::vector<StatusDescriptor> descriptors;
  std::uint64_t left = request.size;
  for (const StatusExtent& extent : extents) {
    const auto size = static_cast<std::uint32_t>(std::min(left, extent.size));
    if (size == 0) continue;
    const std::uint32_t flags = (extent.hole ? kStateHole : 0) | (extent.zero ? kStateZero : 0);
    if (!descriptors.empty() && descriptors.back().flags == flags) {
      descriptors.back().size += size;
    } else {
      if (descriptors.size() == count_max) break;
      descriptors.push_back({.size = size, .flags = flags});
    }
    left -= size;
  }
  if (descriptors.empty()) {
    reply(request, fail(Errc::io_error, "the device told nothing about the range"));
    return;
  }
  if (is_broken_) return;
  const std::size_t size =
      kChunkHeaderSize + sizeof(std::uint32_t) + sizeof(StatusDescriptor) * descriptors.size();
  const MutableBytes room = queue_.reserve(size);
  queue_.commit(encode_block_status_chunk(room, request.cookie, kBaseAllocationId, descriptors));
}

Awaitable<void> Transmission::push_replies() {
  if (is_sending_ || queue_.empty()) co_return;  // who sends takes these as well
  if (queue_.size() <= kInlineSendMax) {
    co_await send_all();
  } else {
    jobs_.spawn(send_job());
  }
}

Awaitable<void> Transmission::send_all() {
  if (is_sending_) co_return;
  is_sending_ = true;
  while (!queue_.empty() && !is_broken_) {
    std::swap(queue_, sending_);
    std::vector<ConstBytes> views = sending_.views();
    const Result<void> sent = co_await stream_.write(std::move(views));
    sending_.clear();
    if (!sent.has_value()) {
      is_broken_ = true;
      stream_.close();
    }
    progress_.notify_all();
  }
  if (is_broken_) queue_.clear();
  is_sending_ = false;
  close_when_stopped();
}

}  // namespace agro::nbd
