#include "distributor/protocols/adp/adp_server.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "distributor/protocols/adp/adp_channel.hpp"
#include "models/codec.hpp"

namespace agro {
namespace {

/// Requests under way and replies not yet sent, per connection; beyond it nothing more is read.
constexpr std::size_t kInFlightBytesMax = std::size_t{32} << 20;
/// What a request costs beside its block.
constexpr std::size_t kRequestCost = 512;
/// A connection that has not said hello by then is closed.
constexpr Duration kAcceptRetryDelay = std::chrono::seconds(1);
constexpr Duration kHelloLimit = std::chrono::seconds(10);

std::vector<std::byte> encode_reply(AdpOp op, std::uint64_t request_id, ConstBytes body,
                                    std::uint32_t payload_size = 0, std::uint8_t flags = 0) {
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(op) | kAdpReplyBit;
  header.flags = flags;
  header.request_id = request_id;
  return encode_adp_frame(header, body, payload_size);
}

}  // namespace

struct AdpServer::Connection {
  Connection(std::unique_ptr<Stream> taken, std::uint32_t block_size)
      : stream(std::move(taken)), reader(*stream, block_size), writer(*stream) {}

  void send_result(AdpOp op, std::uint64_t request_id, const Result<void>& result) {
    if (result.has_value()) {
      writer.send(encode_reply(op, request_id, {}), {});
    } else {
      writer.send(encode_adp_error(op, request_id, result.error()), {});
    }
  }
  bool is_full() const { return under_way_bytes + writer.queued_bytes() > kInFlightBytesMax; }
  void begin(std::size_t size) { under_way_bytes += size + kRequestCost; }
  void end(std::size_t size) {
    under_way_bytes -= size + kRequestCost;
    writer.changed().notify_all();
  }

  std::unique_ptr<Stream> stream;
  AdpReader reader;
  AdpWriter writer;
  std::size_t under_way_bytes = 0;
  bool closed = false;
};

AdpServer::AdpServer(Env env, Uuid cluster, std::shared_ptr<PeerService> service)
    : env_(env),
      cluster_(cluster),
      service_(std::move(service)),
      buffers_(service_->block_size()),
      jobs_(env.executor),
      requests_(env.metrics.get("agro_adp_requests_total", "ADP requests served")),
      bad_connections_(env.metrics.get("agro_adp_bad_connections_total",
                                       "ADP connections closed for breaking the protocol")),
      open_connections_(env.metrics.get("agro_adp_connections", "ADP connections open now")) {}

AdpServer::~AdpServer() { AGRO_ASSERT(jobs_.count() == 0); }

Task<Address> AdpServer::listen(Address address) {
  AGRO_CO_TRY(std::unique_ptr<Listener> listener, co_await env_.network.listen(address));
  std::shared_ptr<Listener> shared = std::move(listener);
  if (stopping_) co_return fail(Errc::closed, "the server is stopping");
  listeners_.push_back(shared);
  const Address real = shared->address();
  jobs_.spawn(accept_loop(std::move(shared)));
  co_return real;
}

Job AdpServer::accept_loop(std::shared_ptr<Listener> listener) {
  while (!stopping_) {
    Result<std::unique_ptr<Stream>> stream = co_await listener->accept();
    if (stream.has_value()) {
      serve(std::move(*stream));
    } else if (stream.code() == Errc::closed) {
      co_return;
    } else {
      // Out of descriptors, most likely: those who are connected will leave some day.
      log_warning("adp: cannot accept on {}: {}", listener->address().to_string(),
                  stream.error().to_string());
      co_await wait_until(stopped_, env_.clock, env_.clock.now() + kAcceptRetryDelay);
    }
  }
}

void AdpServer::serve(std::unique_ptr<Stream> stream) {
  if (stopping_) return;
  auto connection = std::make_shared<Connection>(std::move(stream), service_->block_size());
  connections_.push_back(connection);
  open_connections_.add();
  jobs_.spawn(run_connection(std::move(connection)));
}

Awaitable<void> AdpServer::stop() {
  stopping_ = true;
  stopped_.notify_all();
  for (const std::shared_ptr<Listener>& listener : listeners_) listener->close();
  for (const ConnectionPtr& connection : connections_) {
    connection->closed = true;
    connection->writer.close();
  }
  co_await jobs_.join();
  listeners_.clear();
}

Job AdpServer::run_connection(ConnectionPtr connection) {
  jobs_.spawn([](ConnectionPtr c) -> Job { co_await c->writer.run(); }(connection));
  const TimerId too_late = env_.clock.call_at(env_.clock.now() + kHelloLimit,
                                              [weak = std::weak_ptr<Connection>(connection)] {
                                                if (const ConnectionPtr c = weak.lock())
                                                  c->writer.close();
                                              });
  Result<void> ended = co_await greet(connection);
  env_.clock.cancel(too_late);
  if (ended.has_value()) ended = co_await read_requests(connection);
  if (!ended.has_value() && ended.code() != Errc::closed) {
    bad_connections_.add();
    log_warning("adp: {}: {}; connection closed", connection->stream->peer_name(),
                ended.error().message);
    co_await connection->writer.flush();
  }
  connection->closed = true;
  connection->writer.close();
  std::erase(connections_, connection);
  open_connections_.value -= 1;
}

Task<void> AdpServer::greet(ConnectionPtr connection) {
  std::optional<Result<AdpHeader>> frame;
  while (!(frame = connection->reader.try_next()).has_value()) {
    AGRO_CO_TRY_OK(co_await connection->reader.fill());
  }
  const auto refuse = [&connection](std::uint64_t request_id, Error error) {
    connection->writer.send(encode_adp_error(AdpOp::hello, request_id, error), {});
    return fail(std::move(error));
  };
  if (!frame->has_value()) {
    if (frame->code() == Errc::not_supported) co_return refuse(0, frame->error());
    co_return fail(frame->error());
  }
  const AdpHeader& header = **frame;
  if (header.is_reply() || header.operation() != AdpOp::hello) {
    co_return fail(Errc::protocol_error, "no hello");
  }
  AGRO_CO_TRY(const AdpHello hello, decode_adp_hello(connection->reader.body()));
  if (hello.cluster != cluster_) {
    co_return refuse(
        header.request_id,
        {Errc::cluster_mismatch, fmt::format("this peer belongs to cluster {}, you to {}",
                                             cluster_.to_string(), hello.cluster.to_string())});
  }
  if (hello.block_size != service_->block_size()) {
    co_return refuse(
        header.request_id,
        {Errc::invalid_argument, fmt::format("this peer's blocks are of {} bytes, yours of {}",
                                             service_->block_size(), hello.block_size)});
  }
  const AdpHello mine{cluster_, service_->id(), service_->block_size()};
  connection->writer.send(encode_reply(AdpOp::hello, header.request_id, encode_adp_hello(mine)),
                          {});
  co_return Result<void>();
}

Task<void> AdpServer::read_requests(ConnectionPtr connection) {
  while (!connection->closed) {
    if (connection->is_full()) {
      co_await connection->writer.changed().wait();
      continue;
    }
    const std::optional<Result<AdpHeader>> frame = connection->reader.try_next();
    if (!frame.has_value()) {
      AGRO_CO_TRY_OK(co_await connection->reader.fill());
      continue;
    }
    if (!frame->has_value()) co_return fail(frame->error());
    const AdpHeader& header = **frame;
    if (header.is_reply()) co_return fail(Errc::protocol_error, "a reply instead of a request");
    requests_.add();
    if (header.operation() == AdpOp::write) {
      AGRO_CO_TRY_OK(co_await handle_write(connection, header));
    } else if (header.operation() == AdpOp::read) {
      AGRO_CO_TRY_OK(handle_read(connection, header));
    } else {
      AGRO_CO_TRY_OK(handle_now(connection, header));
    }
  }
  co_return fail(Errc::closed, "connection closed");
}

Task<void> AdpServer::handle_write(ConnectionPtr connection, AdpHeader header) {
  PeerWrite request;
  AGRO_CO_TRY(const AdpWrite write, decode_adp_write(connection->reader.body()));
  request.ref = write.ref;
  request.ring_version = write.ring_version;
  request.checksummed = (header.flags & kAdpWriteChecksummed) != 0;
  request.reserve = (header.flags & kAdpWriteReserve) != 0;
  request.repair = (header.flags & kAdpWriteRepair) != 0;
  request.keep = (header.flags & kAdpWriteKeep) != 0;
  if (header.payload_size > 0) {
    std::shared_ptr<AlignedBuffer> buffer = buffers_.take(header.payload_size);
    const MutableBytes place = buffer->bytes().first(header.payload_size);
    if (!connection->reader.try_payload(place)) {
      AGRO_CO_TRY_OK(co_await connection->reader.read_payload(place));
    }
    request.block = {std::move(buffer), place};
  }
  connection->begin(request.block.size());
  jobs_.spawn(finish_write(connection, header.request_id, std::move(request)));
  co_return Result<void>();
}

Job AdpServer::finish_write(ConnectionPtr connection, std::uint64_t request_id, PeerWrite request) {
  const std::size_t size = request.block.size();
  const Result<void> stored = co_await service_->write(std::move(request));
  connection->send_result(AdpOp::write, request_id, stored);
  connection->end(size);
}

Result<void> AdpServer::handle_read(const ConnectionPtr& connection, const AdpHeader& header) {
  AGRO_TRY(const AdpRead request,
           decode_adp_read(connection->reader.body(), service_->block_size()));
  const bool with_crcs = (header.flags & kAdpReadWithCrcs) != 0;
  std::shared_ptr<AlignedBuffer> buffer = buffers_.take(request.size);
  const MutableBytes place = buffer->bytes().first(request.size);
  std::vector<std::uint32_t> crcs;
  const std::optional<Result<void>> read =
      service_->try_read(request.ref, request.offset, place, with_crcs ? &crcs : nullptr);
  if (!read.has_value()) {
    connection->begin(request.size);
    jobs_.spawn(finish_read(connection, header.request_id, request, std::move(buffer), with_crcs));
  } else if (read->has_value()) {
    connection->writer.send(
        encode_reply(AdpOp::read, header.request_id, encode_adp_crcs(crcs), request.size),
        {std::move(buffer), place});
  } else {
    connection->writer.send(encode_adp_error(AdpOp::read, header.request_id, read->error()), {});
  }
  return {};
}

Job AdpServer::finish_read(ConnectionPtr connection, std::uint64_t request_id, AdpRead request,
                           std::shared_ptr<AlignedBuffer> buffer, bool with_crcs) {
  const MutableBytes place = buffer->bytes().first(request.size);
  std::vector<std::uint32_t> crcs;
  const Result<void> read =
      co_await service_->read(request.ref, request.offset, place, with_crcs ? &crcs : nullptr);
  if (read.has_value()) {
    SharedBytes payload{std::move(buffer), place};
    connection->writer.send(
        encode_reply(AdpOp::read, request_id, encode_adp_crcs(crcs), request.size),
        std::move(payload));
  } else {
    connection->writer.send(encode_adp_error(AdpOp::read, request_id, read.error()), {});
  }
  connection->end(request.size);
}

/// Everything whose answer is known at once, or that changes the store without a payload.
Result<void> AdpServer::handle_now(const ConnectionPtr& connection, const AdpHeader& header) {
  const ConstBytes body = connection->reader.body();
  const std::uint64_t id = header.request_id;
  const AdpOp op = header.operation();
  switch (op) {
    case AdpOp::has: {
      AGRO_TRY(const AdpHas has, decode_adp_has(body));
      const Result<std::vector<std::uint32_t>> sizes = service_->has(has.refs, has.ring_version);
      connection->writer.send(sizes.has_value() ? encode_reply(op, id, encode_adp_sizes(*sizes))
                                                : encode_adp_error(op, id, sizes.error()),
                              {});
      return {};
    }
    case AdpOp::list: {
      AGRO_TRY(const BlockFilter filter, decode_adp_filter(body));
      reply_list(*connection, id, filter);
      return {};
    }
    case AdpOp::remove: {
      AGRO_TRY(std::vector<BlockRef> refs, decode_adp_refs(body));
      connection->begin(0);
      jobs_.spawn(finish_void(connection, op, id, service_->remove(std::move(refs))));
      return {};
    }
    case AdpOp::fence: {
      AGRO_TRY(const AdpFence fence, decode_adp_fence(body));
      connection->begin(0);
      jobs_.spawn(finish_void(connection, op, id, service_->fence(fence.volume, fence.epoch)));
      return {};
    }
    case AdpOp::stat:
      if (!body.empty()) return fail(Errc::protocol_error, "a stat request with a body");
      connection->writer.send(encode_reply(op, id, encode_adp_stat(service_->stat())), {});
      return {};
    case AdpOp::report:
      if (!body.empty()) return fail(Errc::protocol_error, "a report request with a body");
      connection->writer.send(encode_reply(op, id, as_bytes(encode(service_->report()))), {});
      return {};
    case AdpOp::start: {
      AGRO_TRY(const WorkKind kind, decode_adp_start(body));
      connection->send_result(op, id, service_->start(kind));
      return {};
    }
    default:
      return fail(Errc::protocol_error, "a second hello");
  }
}

void AdpServer::reply_list(Connection& connection, std::uint64_t request_id,
                           const BlockFilter& filter) {
  const std::vector<BlockInfo> all = service_->list(filter);
  std::span<const BlockInfo> left = all;
  do {
    const auto some = left.first(std::min(left.size(), kAdpItemsPerFrame));
    left = left.subspan(some.size());
    const std::uint8_t flags = left.empty() ? 0 : kAdpListMore;
    connection.writer.send(
        encode_reply(AdpOp::list, request_id, encode_adp_entries(some), 0, flags), {});
  } while (!left.empty());
}

Job AdpServer::finish_void(ConnectionPtr connection, AdpOp op, std::uint64_t request_id,
                           Task<void> work) {
  const Result<void> result = co_await std::move(work);
  connection->send_result(op, request_id, result);
  connection->end(0);
}

}  // namespace agro
