// gRPC messages and statuses to ours and back. Only for the .cpp files of this folder: it names gRPC.
//
// Invariants: what a decoder returns is in range; an Errc survives the way there and back.
// Threading: pure functions. Format: docs/formats/grpc.md.
#pragma once

#include <grpcpp/support/status.h>

#include "base/network.hpp"
#include "distributor/peer.hpp"
#include "distributor/protocols/grpc/peer.pb.h"

namespace agro {

namespace wire = agro::peer::v1;

// Names of metadata: what each call carries, and what tells an Errc exactly.
inline constexpr const char* kGrpcCluster = "agro-cluster";
inline constexpr const char* kGrpcPeer = "agro-peer";
inline constexpr const char* kGrpcErrc = "agro-errc";

inline constexpr int kGrpcItemsMax = 2000;
/// What a message may be larger than a block: refs of 2,000 blocks, checksums of a block's pages.
inline constexpr int kGrpcSlack = 256 * 1024;

/// What gRPC has to say goes into our errors; it would print it.
void silence_grpc();

/// "dns:///host:port", "unix:/path" (absolute), as gRPC names where to connect.
std::string grpc_target(const Address& address);

grpc::Status to_status(const Error& error);
/// `errc`: the trailing metadata of that name, empty when there was none.
Error to_error(const grpc::Status& status, std::string_view errc);

void to_wire(const BlockRef& ref, wire::Ref& out);
Result<BlockRef> from_wire(const wire::Ref& ref);
Result<std::vector<BlockRef>> from_wire(const google::protobuf::RepeatedPtrField<wire::Ref>& refs);
void to_wire(const BlockFilter& filter, wire::ListRequest& out);
Result<BlockFilter> from_wire(const wire::ListRequest& request);
void to_wire(const PeerStat& stat, wire::StatReply& out);
Result<PeerStat> from_wire(const wire::StatReply& reply);
Result<WorkKind> from_wire(const wire::StartRequest& request);
std::string uuid_bytes(const Uuid& id);
Result<Uuid> uuid_from_bytes(const std::string& bytes);

}  // namespace agro
