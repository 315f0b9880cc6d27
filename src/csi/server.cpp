#include "csi/server.hpp"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <filesystem>

#include "base/log.hpp"
#include "csi/csi.grpc.pb.h"

namespace agro::csi {
namespace {

constexpr int kMessageSizeMax = 4 << 20;
constexpr int kShutdownSeconds = 20;  // for calls under way, before they are cancelled
constexpr Duration kProbe = std::chrono::milliseconds(200);

using Context = grpc::CallbackServerContext;
using Unary = grpc::ServerUnaryReactor;

grpc::StatusCode code_of(Errc code) {
  switch (code) {
    case Errc::invalid_argument: return grpc::StatusCode::INVALID_ARGUMENT;
    case Errc::not_found: return grpc::StatusCode::NOT_FOUND;
    case Errc::already_exists: return grpc::StatusCode::ALREADY_EXISTS;
    case Errc::out_of_space: return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case Errc::too_large: return grpc::StatusCode::OUT_OF_RANGE;
    case Errc::locked:
    case Errc::fenced: return grpc::StatusCode::FAILED_PRECONDITION;
    case Errc::conflict: return grpc::StatusCode::ABORTED;
    case Errc::timed_out: return grpc::StatusCode::DEADLINE_EXCEEDED;
    case Errc::unavailable:
    case Errc::no_quorum:
    case Errc::closed:
    case Errc::outcome_unknown:
    case Errc::stale_ring: return grpc::StatusCode::UNAVAILABLE;
    case Errc::not_supported: return grpc::StatusCode::UNIMPLEMENTED;
    default: return grpc::StatusCode::INTERNAL;
  }
}

/// What a call needs on the loop.
struct Core {
  Core(Env& its_env, ClusterClient& its_cluster) : env(its_env), cluster(its_cluster), jobs(env.executor) {}
  Env& env;
  ClusterClient& cluster;
  std::string driver_name;
  Controller* controller = nullptr;
  NodeService* node = nullptr;
  TaskGroup jobs;
};
using CorePtr = std::shared_ptr<Core>;

template <class Request, class Reply>
using Operation = Task<void> (*)(Core&, const Request&, Reply&);

/// gRPC keeps context, request and reply until Finish().
template <class Request, class Reply>
Job run_call(CorePtr core, Unary* reactor, const Request* request, Reply* reply, Operation<Request, Reply> operation) {
  const Result<void> result = co_await operation(*core, *request, *reply);
  if (!result.has_value()) {
    log_info("{}: {}", request->GetTypeName(), result.error().to_string());
    reactor->Finish(grpc::Status(code_of(result.error().code), result.error().message));
  } else {
    reactor->Finish(grpc::Status::OK);
  }
}

template <class Request, class Reply>
Unary* hand_over(const CorePtr& core, Context* context, const Request* request, Reply* reply,
                 Operation<Request, Reply> operation) {
  Unary* reactor = context->DefaultReactor();
  asio::post(core->env.executor, [core, reactor, request, reply, operation] {
    core->jobs.spawn(run_call(core, reactor, request, reply, operation));
  });
  return reactor;
}

template <auto method, class Request, class Reply>
Task<void> on_controller(Core& core, const Request& request, Reply& reply) {
  return (core.controller->*method)(request, reply);
}
template <auto method, class Request, class Reply>
Task<void> on_node(Core& core, const Request& request, Reply& reply) {
  return (core.node->*method)(request, reply);
}

Task<void> get_plugin_info(Core& core, const v1::GetPluginInfoRequest& /*request*/, v1::GetPluginInfoResponse& reply) {
  reply.set_name(core.driver_name);
  reply.set_vendor_version(AGRO_VERSION);
  co_return Result<void>();
}

Task<void> get_plugin_capabilities(Core& core, const v1::GetPluginCapabilitiesRequest& /*request*/,
                                   v1::GetPluginCapabilitiesResponse& reply) {
  using Service = v1::PluginCapability::Service;
  if (core.controller != nullptr) reply.add_capabilities()->mutable_service()->set_type(Service::CONTROLLER_SERVICE);
  reply.add_capabilities()->mutable_service()->set_type(Service::VOLUME_ACCESSIBILITY_CONSTRAINTS);
  reply.add_capabilities()->mutable_volume_expansion()->set_type(v1::PluginCapability::VolumeExpansion::ONLINE);
  co_return Result<void>();
}

Task<void> probe(Core& core, const v1::ProbeRequest& /*request*/, v1::ProbeResponse& reply) {
  const Result<ClusterRecord> cluster = co_await core.cluster.metadata().cluster();
  reply.mutable_ready()->set_value(cluster.has_value());
  if (!cluster.has_value()) log_warning("not ready: {}", cluster.error().to_string());
  co_return Result<void>();
}

// One line a call: the name of gRPC, the messages, and what does it.
#define AGRO_CSI_CALL(name, operation)                                                                     \
  Unary* name(Context* context, const v1::name##Request* request, v1::name##Response* reply) override {    \
    return hand_over<v1::name##Request, v1::name##Response>(core_, context, request, reply, operation);    \
  }
#define AGRO_CSI_CONTROLLER(name, method) \
  AGRO_CSI_CALL(name, (on_controller<&Controller::method, v1::name##Request, v1::name##Response>))
#define AGRO_CSI_NODE(name, method) \
  AGRO_CSI_CALL(name, (on_node<&NodeService::method, v1::name##Request, v1::name##Response>))

class IdentityCalls final : public v1::Identity::CallbackService {
 public:
  explicit IdentityCalls(CorePtr core) : core_(std::move(core)) {}
  AGRO_CSI_CALL(GetPluginInfo, get_plugin_info)
  AGRO_CSI_CALL(GetPluginCapabilities, get_plugin_capabilities)
  AGRO_CSI_CALL(Probe, probe)

 private:
  CorePtr core_;
};

class ControllerCalls final : public v1::Controller::CallbackService {
 public:
  explicit ControllerCalls(CorePtr core) : core_(std::move(core)) {}
  AGRO_CSI_CONTROLLER(CreateVolume, create_volume)
  AGRO_CSI_CONTROLLER(DeleteVolume, delete_volume)
  AGRO_CSI_CONTROLLER(ControllerPublishVolume, publish)
  AGRO_CSI_CONTROLLER(ControllerUnpublishVolume, unpublish)
  AGRO_CSI_CONTROLLER(ValidateVolumeCapabilities, validate)
  AGRO_CSI_CONTROLLER(ListVolumes, list_volumes)
  AGRO_CSI_CONTROLLER(ControllerGetVolume, get_volume)
  AGRO_CSI_CONTROLLER(ControllerModifyVolume, modify_volume)
  AGRO_CSI_CONTROLLER(ControllerExpandVolume, expand_volume)
  AGRO_CSI_CONTROLLER(GetCapacity, get_capacity)
  AGRO_CSI_CONTROLLER(ControllerGetCapabilities, get_capabilities)
  AGRO_CSI_CONTROLLER(CreateSnapshot, create_snapshot)
  AGRO_CSI_CONTROLLER(DeleteSnapshot, delete_snapshot)
  AGRO_CSI_CONTROLLER(ListSnapshots, list_snapshots)

 private:
  CorePtr core_;
};

class NodeCalls final : public v1::Node::CallbackService {
 public:
  explicit NodeCalls(CorePtr core) : core_(std::move(core)) {}
  AGRO_CSI_NODE(NodeStageVolume, stage)
  AGRO_CSI_NODE(NodeUnstageVolume, unstage)
  AGRO_CSI_NODE(NodePublishVolume, publish)
  AGRO_CSI_NODE(NodeUnpublishVolume, unpublish)
  AGRO_CSI_NODE(NodeGetVolumeStats, get_stats)
  AGRO_CSI_NODE(NodeExpandVolume, expand)
  AGRO_CSI_NODE(NodeGetCapabilities, get_capabilities)
  AGRO_CSI_NODE(NodeGetInfo, get_info)

 private:
  CorePtr core_;
};

/// What gRPC's threads use; it lives as long as they do.
struct Listening {
  explicit Listening(const CorePtr& core) : identity(core), controller(core), node(core) {}
  IdentityCalls identity;
  ControllerCalls controller;
  NodeCalls node;
  std::unique_ptr<grpc::Server> server;
};

Result<void> start_listening(Listening& listening, const std::string& path, bool has_controller, bool has_node) {
  std::error_code problem;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), problem);
  std::filesystem::remove(path, problem);  // nobody listens there
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(kMessageSizeMax);
  builder.RegisterService(&listening.identity);
  if (has_controller) builder.RegisterService(&listening.controller);
  if (has_node) builder.RegisterService(&listening.node);
  listening.server = builder.BuildAndStart();
  if (listening.server != nullptr) return {};
  return fail(Errc::io_error, fmt::format("gRPC cannot listen on unix:{}: may this user make files there?", path));
}

}  // namespace

struct Server::Impl {
  CorePtr core;
  std::shared_ptr<Listening> listening;
};

Server::Server(Env& env, ClusterClient& cluster, std::string driver_name, Controller* controller, NodeService* node)
    : impl_(std::make_shared<Impl>()) {
  impl_->core = std::make_shared<Core>(env, cluster);
  impl_->core->driver_name = std::move(driver_name);
  impl_->core->controller = controller;
  impl_->core->node = node;
}

Server::~Server() { AGRO_ASSERT(impl_->listening == nullptr && impl_->core->jobs.count() == 0); }

Task<void> Server::listen(std::string path) {
  const std::shared_ptr<Impl> impl = impl_;
  Env& env = impl->core->env;
  Address address;
  address.path = path;
  // gRPC would take the socket's file away from whoever listens there.
  const Result<std::unique_ptr<Stream>> taken = co_await env.network.connect(address, env.clock.now() + kProbe);
  if (taken.has_value()) co_return fail(Errc::already_exists, fmt::format("unix:{} is in use by another process", path));
  auto one = std::make_shared<Listening>(impl->core);
  auto start = [one, path, has_controller = impl->core->controller != nullptr, has_node = impl->core->node != nullptr] {
    return start_listening(*one, path, has_controller, has_node);
  };
  AGRO_CO_TRY_OK(co_await run_blocking(env.offload, std::move(start)));
  impl->listening = std::move(one);
  co_return Result<void>();
}

Awaitable<void> Server::stop() {
  const std::shared_ptr<Impl> impl = impl_;
  const std::shared_ptr<Listening> one = std::exchange(impl->listening, nullptr);
  if (one != nullptr) {
    auto shut_down = [one]() -> Result<void> {
      const gpr_timespec limit = gpr_time_from_seconds(kShutdownSeconds, GPR_TIMESPAN);
      one->server->Shutdown(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), limit));
      one->server.reset();
      return {};
    };
    const Result<void> stopped = co_await run_blocking(impl->core->env.offload, std::move(shut_down));
    AGRO_ASSERT(stopped.has_value());
  }
  co_await impl->core->jobs.join();
}

}  // namespace agro::csi
