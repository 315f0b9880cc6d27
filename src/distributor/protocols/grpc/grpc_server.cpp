#include "distributor/protocols/grpc/grpc_server.hpp"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include <cstring>

#include "base/log.hpp"
#include "distributor/buffer_classes.hpp"
#include "distributor/protocols/grpc/grpc_codec.hpp"
#include "distributor/protocols/grpc/peer.grpc.pb.h"
#include "models/codec.hpp"

namespace agro {
namespace {

constexpr int kCallsPerConnectionMax = 64;
constexpr std::size_t kMemoryMax = std::size_t{256} << 20;
constexpr int kShutdownSeconds = 5;  // for calls under way, before they are cancelled
constexpr Duration kProbe = std::chrono::milliseconds(200);

using Context = grpc::CallbackServerContext;

/// What a call needs on the loop; shared by all of a server.
struct Core {
  Core(Env its_env, Uuid its_cluster, std::shared_ptr<PeerService> its_service)
      : env(its_env),
        cluster(its_cluster),
        service(std::move(its_service)),
        buffers(service->block_size()),
        jobs(env.executor),
        requests(env.metrics.get("agro_grpc_requests_total", "gRPC requests served")),
        refused(env.metrics.get("agro_grpc_refused_requests_total",
                                "gRPC requests that were malformed or meant for others")) {}

  Env env;
  Uuid cluster;
  std::shared_ptr<PeerService> service;
  BufferClasses buffers;
  TaskGroup jobs;
  Metric& requests;
  Metric& refused;
};

std::string metadata_of(const Context& context, const char* name) {
  const auto found = context.client_metadata().find(name);
  return found == context.client_metadata().end()
             ? ""
             : std::string(found->second.data(), found->second.size());
}

/// Each call says whom it is for: a connection may have been made anew to somebody else.
Result<void> check_identity(const Core& core, const Context& context) {
  const std::string cluster = metadata_of(context, kGrpcCluster);
  const std::string peer = metadata_of(context, kGrpcPeer);
  if (!parse_uuid(cluster).has_value() || (!peer.empty() && !parse_uuid(peer).has_value())) {
    return fail(Errc::invalid_argument, fmt::format("metadata {} and {} must be UUIDs of the "
                                                    "cluster and, if given, of this peer",
                                                    kGrpcCluster, kGrpcPeer));
  }
  if (cluster != core.cluster.to_string()) {
    return fail(Errc::cluster_mismatch, fmt::format("this peer belongs to cluster {}, you to {}",
                                                    core.cluster.to_string(), cluster));
  }
  if (!peer.empty() && peer != core.service->id().to_string()) {
    return fail(Errc::unavailable,
                "another peer answers here: " + core.service->id().to_string());
  }
  return {};
}

grpc::Status final_status(Core& core, Context& context, const Result<void>& result) {
  if (result.has_value()) return grpc::Status::OK;
  const Errc code = result.error().code;
  if (code == Errc::invalid_argument || code == Errc::cluster_mismatch) core.refused.add();
  context.AddTrailingMetadata(kGrpcErrc, std::to_string(static_cast<unsigned>(code)));
  return to_status(result.error());
}

using CorePtr = std::shared_ptr<Core>;

// --- what the calls do, on the loop -----------------------------------------------------------

Task<void> do_hello(CorePtr core, const wire::HelloRequest*, wire::HelloReply* reply) {
  reply->set_cluster(uuid_bytes(core->cluster));
  reply->set_peer(uuid_bytes(core->service->id()));
  reply->set_block_size(core->service->block_size());
  co_return Result<void>();
}

Task<void> do_write(CorePtr core, const wire::WriteRequest* request, wire::Done*) {
  PeerWrite write;
  AGRO_CO_TRY(write.ref, from_wire(request->ref()));
  const std::string& block = request->block();
  if (block.empty() || block.size() > core->service->block_size()) {
    co_return fail(Errc::invalid_argument, fmt::format("a block of {} bytes", block.size()));
  }
  std::shared_ptr<AlignedBuffer> buffer = core->buffers.take(block.size());
  std::memcpy(buffer->data(), block.data(), block.size());
  const MutableBytes place = buffer->bytes().first(block.size());
  write.block = {std::move(buffer), place};
  write.checksummed = request->checksummed();
  write.reserve = request->reserve();
  write.repair = request->repair();
  write.keep = request->keep();
  write.ring_version = request->ring_version();
  co_return co_await core->service->write(std::move(write));
}

Task<void> do_read(CorePtr core, const wire::ReadRequest* request, wire::ReadReply* reply) {
  AGRO_CO_TRY(const BlockRef ref, from_wire(request->ref()));
  const std::uint64_t end = std::uint64_t{request->offset()} + request->size();
  if (request->size() == 0 || end > core->service->block_size()) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("bytes {}+{} of a block", request->offset(), request->size()));
  }
  const std::shared_ptr<AlignedBuffer> buffer = core->buffers.take(request->size());
  const MutableBytes place = buffer->bytes().first(request->size());
  std::vector<std::uint32_t> crcs;
  std::vector<std::uint32_t>* wanted_crcs = request->with_crcs() ? &crcs : nullptr;
  AGRO_CO_TRY_OK(co_await core->service->read(ref, request->offset(), place, wanted_crcs));
  reply->set_data(place.data(), place.size());
  reply->mutable_page_crcs()->Add(crcs.begin(), crcs.end());
  co_return Result<void>();
}

Task<void> do_has(CorePtr core, const wire::HasRequest* request, wire::HasReply* reply) {
  AGRO_CO_TRY(const std::vector<BlockRef> refs, from_wire(request->refs()));
  AGRO_CO_TRY(const std::vector<std::uint32_t> sizes,
              core->service->has(refs, request->ring_version()));
  reply->mutable_sizes()->Add(sizes.begin(), sizes.end());
  co_return Result<void>();
}

Task<void> do_remove(CorePtr core, const wire::RemoveRequest* request, wire::Done*) {
  AGRO_CO_TRY(std::vector<BlockRef> refs, from_wire(request->refs()));
  co_return co_await core->service->remove(std::move(refs));
}

Task<void> do_fence(CorePtr core, const wire::FenceRequest* request, wire::Done*) {
  if (request->volume() == 0 || request->volume() > kVolumeIdMax) {
    co_return fail(Errc::invalid_argument, fmt::format("no volume is {}", request->volume()));
  }
  co_return co_await core->service->fence(VolumeId{request->volume()}, Epoch{request->epoch()});
}

Task<void> do_stat(CorePtr core, const wire::StatRequest*, wire::StatReply* reply) {
  to_wire(core->service->stat(), *reply);
  co_return Result<void>();
}

Task<void> do_report(CorePtr core, const wire::ReportRequest*, wire::ReportReply* reply) {
  reply->set_report(encode(core->service->report()));
  co_return Result<void>();
}

Task<void> do_start(CorePtr core, const wire::StartRequest* request, wire::Done*) {
  AGRO_CO_TRY(const WorkKind kind, from_wire(*request));
  co_return core->service->start(kind);
}

// --- between gRPC's threads and the loop ------------------------------------------------------

template <class Request, class Reply>
using Operation = Task<void> (*)(CorePtr, const Request*, Reply*);

/// gRPC keeps context, request and reply until Finish().
template <class Request, class Reply>
Job run_call(CorePtr core, Context* context, grpc::ServerUnaryReactor* reactor,
             const Request* request, Reply* reply, Operation<Request, Reply> operation) {
  core->requests.add();
  Result<void> result = check_identity(*core, *context);
  if (result.has_value()) result = co_await operation(core, request, reply);
  reactor->Finish(final_status(*core, *context, result));
}

template <class Request, class Reply>
grpc::ServerUnaryReactor* hand_over(const CorePtr& core, Context* context, const Request* request,
                                    Reply* reply, Operation<Request, Reply> operation) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  asio::post(core->env.executor, [core, context, reactor, request, reply, operation] {
    core->jobs.spawn(run_call(core, context, reactor, request, reply, operation));
  });
  return reactor;
}

/// Streams a list: made at once on the loop, sent piece by piece.
class ListReactor final : public grpc::ServerWriteReactor<wire::ListReply> {
 public:
  ListReactor(CorePtr core, Context* context, const wire::ListRequest* request)
      : core_(std::move(core)), context_(context), request_(request) {}

  /// On the loop.
  void begin() {
    core_->requests.add();
    Result<void> result = check_identity(*core_, *context_);
    if (result.has_value()) {
      const Result<BlockFilter> filter = from_wire(*request_);
      if (filter.has_value()) {
        entries_ = core_->service->list(*filter);
        return send_some();
      }
      result = fail(filter.error());
    }
    Finish(final_status(*core_, *context_, result));
  }
  void OnWriteDone(bool ok) override {
    if (ok) return send_some();
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "nobody listens"));
  }
  void OnDone() override { delete this; }

 private:
  void send_some() {
    if (sent_count_ == entries_.size()) return Finish(grpc::Status::OK);
    reply_.Clear();
    while (sent_count_ < entries_.size() && reply_.entries_size() < kGrpcItemsMax) {
      const BlockInfo& info = entries_[sent_count_++];
      wire::ListReply::Entry* entry = reply_.add_entries();
      to_wire(info.ref, *entry->mutable_ref());
      entry->set_size(info.size);
    }
    StartWrite(&reply_);
  }

  CorePtr core_;
  Context* context_;
  const wire::ListRequest* request_;
  std::vector<BlockInfo> entries_;
  std::size_t sent_count_ = 0;
  wire::ListReply reply_;
};

class Service final : public wire::Peer::CallbackService {
 public:
  explicit Service(CorePtr core) : core_(std::move(core)) {}
  using Unary = grpc::ServerUnaryReactor;

  Unary* Hello(Context* c, const wire::HelloRequest* in, wire::HelloReply* out) override {
    return hand_over(core_, c, in, out, do_hello);
  }
  Unary* Write(Context* c, const wire::WriteRequest* in, wire::Done* out) override {
    return hand_over(core_, c, in, out, do_write);
  }
  Unary* Read(Context* c, const wire::ReadRequest* in, wire::ReadReply* out) override {
    return hand_over(core_, c, in, out, do_read);
  }
  Unary* Has(Context* c, const wire::HasRequest* in, wire::HasReply* out) override {
    return hand_over(core_, c, in, out, do_has);
  }
  grpc::ServerWriteReactor<wire::ListReply>* List(Context* c, const wire::ListRequest* in) override {
    auto* reactor = new ListReactor(core_, c, in);  // deletes itself when gRPC is done with it
    asio::post(core_->env.executor, [reactor] { reactor->begin(); });
    return reactor;
  }
  Unary* Remove(Context* c, const wire::RemoveRequest* in, wire::Done* out) override {
    return hand_over(core_, c, in, out, do_remove);
  }
  Unary* Fence(Context* c, const wire::FenceRequest* in, wire::Done* out) override {
    return hand_over(core_, c, in, out, do_fence);
  }
  Unary* Stat(Context* c, const wire::StatRequest* in, wire::StatReply* out) override {
    return hand_over(core_, c, in, out, do_stat);
  }
  Unary* Report(Context* c, const wire::ReportRequest* in, wire::ReportReply* out) override {
    return hand_over(core_, c, in, out, do_report);
  }
  Unary* Start(Context* c, const wire::StartRequest* in, wire::Done* out) override {
    return hand_over(core_, c, in, out, do_start);
  }

 private:
  CorePtr core_;
};

/// A running server of one address; its own copy of the service, which lives as long.
struct Listening {
  explicit Listening(CorePtr core) : service(std::move(core)) {}
  Service service;
  std::unique_ptr<grpc::Server> server;
};

Result<Address> start_listening(Listening& listening, Address address, std::uint32_t block_size) {
  grpc::ServerBuilder builder;
  int port = 0;
  const bool is_unix = address.kind == Address::Kind::unix_socket;
  const std::string place =
      is_unix ? "unix:" + address.path : address.to_string().substr(4);  // without "tcp:"
  builder.AddListeningPort(place, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(block_size) + kGrpcSlack);
  builder.SetMaxSendMessageSize(static_cast<int>(block_size) + kGrpcSlack);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kCallsPerConnectionMax);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetResourceQuota(grpc::ResourceQuota("agro peer").Resize(kMemoryMax));
  builder.RegisterService(&listening.service);
  listening.server = builder.BuildAndStart();
  if (listening.server == nullptr || port == 0) {
    return fail(Errc::already_exists, fmt::format("gRPC cannot listen on {}: the address is in use, "
                                                  "or not of this machine",
                                                  address.to_string()));
  }
  if (!is_unix) address.port = static_cast<std::uint16_t>(port);
  return address;
}

}  // namespace

struct GrpcServer::Impl {
  CorePtr core;
  std::vector<std::shared_ptr<Listening>> listening;
};

GrpcServer::GrpcServer(Env env, Uuid cluster, std::shared_ptr<PeerService> service)
    : impl_(std::make_shared<Impl>()) {
  silence_grpc();
  impl_->core = std::make_shared<Core>(env, cluster, std::move(service));
}

GrpcServer::~GrpcServer() { AGRO_ASSERT(impl_->listening.empty() && impl_->core->jobs.count() == 0); }

Task<Address> GrpcServer::listen(Address address) {
  const std::shared_ptr<Impl> impl = impl_;
  const Env& env = impl->core->env;
  if (address.kind == Address::Kind::unix_socket) {
    // gRPC would take the socket's file away from whoever listens there.
    const Result<std::unique_ptr<Stream>> taken =
        co_await env.network.connect(address, env.clock.now() + kProbe);
    if (taken.has_value()) {
      co_return fail(Errc::already_exists, address.to_string() + " is in use by another process");
    }
  }
  auto one = std::make_shared<Listening>(impl->core);
  const std::uint32_t block_size = impl->core->service->block_size();
  // Names are resolved here, which may take its time. (Named: g++ 12 would destroy it twice.)
  auto start = [one, address, block_size] { return start_listening(*one, address, block_size); };
  Result<Address> bound = co_await run_blocking(env.offload, std::move(start));
  if (bound.has_value()) impl->listening.push_back(std::move(one));
  co_return bound;
}

Awaitable<void> GrpcServer::stop() {
  const std::shared_ptr<Impl> impl = impl_;
  const std::vector<std::shared_ptr<Listening>> all = std::exchange(impl->listening, {});
  for (const std::shared_ptr<Listening>& one : all) {
    auto shut_down = [one]() -> Result<void> {
      const gpr_timespec limit = gpr_time_from_seconds(kShutdownSeconds, GPR_TIMESPAN);
      one->server->Shutdown(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), limit));
      one->server.reset();
      return {};
    };
    const Result<void> stopped =
        co_await run_blocking(impl->core->env.offload, std::move(shut_down));
    AGRO_ASSERT(stopped.has_value());
  }
  co_await impl->core->jobs.join();
}

}  // namespace agro
