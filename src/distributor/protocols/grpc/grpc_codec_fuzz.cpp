// Fuzzes what comes over gRPC: any bytes as any message give values in range or an error, and what
// decodes encodes to what decodes to the same.
#include "distributor/protocols/grpc/grpc_codec.hpp"

#include <string>

#include "base/assert.hpp"
#include "models/codec.hpp"

namespace agro {
namespace {

void decode_all(const std::string& bytes) {
  wire::Ref ref;
  if (ref.ParseFromString(bytes)) {
    const Result<BlockRef> decoded = from_wire(ref);
    wire::Ref again;
    if (decoded.has_value()) {
      to_wire(*decoded, again);
      AGRO_ASSERT(from_wire(again).value() == *decoded);
      AGRO_ASSERT(decoded->volume.value >= 1 && decoded->volume.value <= kVolumeIdMax);
    }
  }
  wire::RemoveRequest remove;
  if (remove.ParseFromString(bytes)) {
    const Result<std::vector<BlockRef>> refs = from_wire(remove.refs());
    AGRO_ASSERT(!refs.has_value() || refs->size() <= kGrpcItemsMax);
  }
  wire::ListRequest list;
  if (list.ParseFromString(bytes)) {
    const Result<BlockFilter> filter = from_wire(list);
    wire::ListRequest again;
    if (filter.has_value()) {
      to_wire(*filter, again);
      AGRO_ASSERT(again.SerializeAsString().size() <= 64);
    }
  }
  wire::StatReply stat;
  if (stat.ParseFromString(bytes)) {
    const Result<PeerStat> decoded = from_wire(stat);
    AGRO_ASSERT(decoded.has_value() == (stat.peer().size() == 16));
  }
  wire::HasRequest has;
  if (has.ParseFromString(bytes)) {
    const Result<std::vector<BlockRef>> refs = from_wire(has.refs());
    AGRO_ASSERT(!refs.has_value() || static_cast<int>(refs->size()) == has.refs_size());
  }
  wire::ListReply listed;
  if (listed.ParseFromString(bytes)) {
    for (const wire::ListReply::Entry& entry : listed.entries()) (void)from_wire(entry.ref());
  }
  wire::StartRequest start;
  if (start.ParseFromString(bytes)) {
    const Result<WorkKind> kind = from_wire(start);
    AGRO_ASSERT(!kind.has_value() || static_cast<std::uint32_t>(*kind) == start.kind());
  }
  wire::ReportReply report;
  if (report.ParseFromString(bytes)) (void)decode_peer_report(report.report());
  AGRO_ASSERT(uuid_from_bytes(bytes).has_value() == (bytes.size() == 16));
  const Error error = to_error({static_cast<grpc::StatusCode>(bytes.size() % 20), bytes}, bytes);
  AGRO_ASSERT(error.code != Errc::ok);
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  agro::decode_all(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
