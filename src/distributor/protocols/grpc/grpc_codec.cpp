#include "distributor/protocols/grpc/grpc_codec.hpp"

#include <fmt/format.h>
#include <grpc/support/log.h>

#include <array>
#include <charconv>
#include <cstring>

namespace agro {
namespace {

/// Text beyond it would not fit HTTP/2's headers.
constexpr std::size_t kErrorTextMax = 1024;

struct CodePair {
  Errc errc;
  grpc::StatusCode status;
};

/// For clients that know gRPC only, and for errors that are gRPC's own. The first of a status wins.
constexpr std::array kCodes = {
    CodePair{Errc::invalid_argument, grpc::StatusCode::INVALID_ARGUMENT},
    CodePair{Errc::not_found, grpc::StatusCode::NOT_FOUND},
    CodePair{Errc::already_exists, grpc::StatusCode::ALREADY_EXISTS},
    CodePair{Errc::corrupt, grpc::StatusCode::DATA_LOSS},
    CodePair{Errc::timed_out, grpc::StatusCode::DEADLINE_EXCEEDED},
    CodePair{Errc::unavailable, grpc::StatusCode::UNAVAILABLE},
    CodePair{Errc::not_supported, grpc::StatusCode::UNIMPLEMENTED},
    CodePair{Errc::too_large, grpc::StatusCode::RESOURCE_EXHAUSTED},
    CodePair{Errc::out_of_space, grpc::StatusCode::RESOURCE_EXHAUSTED},
    CodePair{Errc::closed, grpc::StatusCode::CANCELLED},
    CodePair{Errc::cluster_mismatch, grpc::StatusCode::FAILED_PRECONDITION},
    CodePair{Errc::fenced, grpc::StatusCode::FAILED_PRECONDITION},
    CodePair{Errc::stale_ring, grpc::StatusCode::FAILED_PRECONDITION},
    CodePair{Errc::io_error, grpc::StatusCode::INTERNAL},
};

}  // namespace

void silence_grpc() {
  gpr_set_log_function([](gpr_log_func_args*) {});
}

std::string grpc_target(const Address& address) {
  if (address.kind == Address::Kind::unix_socket) return "unix:" + address.path;
  return "dns:///" + address.to_string().substr(4);  // without "tcp:"
}

grpc::Status to_status(const Error& error) {
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;
  for (const CodePair& pair : kCodes) {
    if (pair.errc == error.code) code = pair.status;
  }
  return {code, error.message.substr(0, kErrorTextMax)};
}

Error to_error(const grpc::Status& status, std::string_view errc) {
  unsigned number = 0;
  const auto parsed = std::from_chars(errc.data(), errc.data() + errc.size(), number);
  const bool known = parsed.ec == std::errc() && number > 0 && number < 256 &&
                     errc_name(static_cast<Errc>(number)) != "unknown";
  if (known) return {static_cast<Errc>(number), status.error_message()};
  for (const CodePair& pair : kCodes) {
    if (pair.status == status.error_code()) return {pair.errc, status.error_message()};
  }
  return {Errc::protocol_error, fmt::format("gRPC status {}: {}", int{status.error_code()},
                                            status.error_message())};
}

void to_wire(const BlockRef& ref, wire::Ref& out) {
  out.set_volume(ref.volume.value);
  out.set_epoch(ref.epoch.value);
  out.set_index(ref.index);
  out.set_type(static_cast<std::uint32_t>(ref.type));
}

Result<BlockRef> from_wire(const wire::Ref& ref) {
  if (ref.volume() == 0 || ref.volume() > kVolumeIdMax || ref.type() < 1 || ref.type() > 3) {
    return fail(Errc::invalid_argument, fmt::format("no block is named type {}, volume {}",
                                                    ref.type(), ref.volume()));
  }
  return BlockRef{VolumeId{ref.volume()}, Epoch{ref.epoch()}, ref.index(),
                  static_cast<BlockType>(ref.type())};
}

Result<std::vector<BlockRef>> from_wire(const google::protobuf::RepeatedPtrField<wire::Ref>& refs) {
  if (refs.size() > kGrpcItemsMax) {
    return fail(Errc::invalid_argument,
                fmt::format("{} blocks at once, at most {}", refs.size(), kGrpcItemsMax));
  }
  std::vector<BlockRef> decoded;
  decoded.reserve(static_cast<std::size_t>(refs.size()));
  for (const wire::Ref& ref : refs) {
    AGRO_TRY(const BlockRef one, from_wire(ref));
    decoded.push_back(one);
  }
  return decoded;
}

void to_wire(const BlockFilter& filter, wire::ListRequest& out) {
  if (filter.volume) out.set_volume(filter.volume->value);
  if (filter.type) out.set_type(static_cast<std::uint32_t>(*filter.type));
  if (filter.epoch) out.set_epoch(filter.epoch->value);
  out.set_index_from(filter.index_from);
}

Result<BlockFilter> from_wire(const wire::ListRequest& request) {
  BlockFilter filter;
  if (request.has_volume()) filter.volume = VolumeId{request.volume()};
  if (request.has_epoch()) filter.epoch = Epoch{request.epoch()};
  if (request.has_type()) {
    if (request.type() < 1 || request.type() > 3) {
      return fail(Errc::invalid_argument, fmt::format("there is no block type {}", request.type()));
    }
    filter.type = static_cast<BlockType>(request.type());
  }
  filter.index_from = request.index_from();
  return filter;
}

void to_wire(const PeerStat& stat, wire::StatReply& out) {
  out.set_peer(uuid_bytes(stat.id));
  out.set_size(stat.store.size);
  out.set_used(stat.store.used);
  out.set_available(stat.store.available);
  out.set_block_count(stat.store.block_count);
  out.set_index_bytes(stat.store.index_bytes);
  out.set_sync_count(stat.store.sync_count);
  out.set_bytes_written(stat.store.bytes_written);
}

Result<PeerStat> from_wire(const wire::StatReply& reply) {
  PeerStat stat;
  AGRO_TRY(stat.id, uuid_from_bytes(reply.peer()));
  stat.store.size = reply.size();
  stat.store.used = reply.used();
  stat.store.available = reply.available();
  stat.store.block_count = reply.block_count();
  stat.store.index_bytes = reply.index_bytes();
  stat.store.sync_count = reply.sync_count();
  stat.store.bytes_written = reply.bytes_written();
  return stat;
}

Result<WorkKind> from_wire(const wire::StartRequest& request) {
  if (request.kind() < 1 || request.kind() > 3) {
    return fail(Errc::invalid_argument, fmt::format("unknown kind of work {}", request.kind()));
  }
  return static_cast<WorkKind>(request.kind());
}

std::string uuid_bytes(const Uuid& id) {
  return {reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()};
}

Result<Uuid> uuid_from_bytes(const std::string& bytes) {
  Uuid id;
  if (bytes.size() != id.bytes.size()) {
    return fail(Errc::protocol_error, fmt::format("an id of {} bytes", bytes.size()));
  }
  std::memcpy(id.bytes.data(), bytes.data(), bytes.size());
  return id;
}

}  // namespace agro
