#include "distributor/protocols/grpc/grpc_peer.hpp"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <span>

#include "base/log.hpp"
#include "distributor/last_stat.hpp"
#include "distributor/peer_address.hpp"
#include "distributor/protocols/grpc/grpc_codec.hpp"
#include "distributor/protocols/grpc/peer.grpc.pb.h"
#include "models/codec.hpp"

namespace agro {
namespace {

constexpr Duration kHelloLimit = std::chrono::seconds(2);
constexpr Duration kConnectAgain = std::chrono::milliseconds(100);
constexpr Duration kHeartbeat = std::chrono::seconds(1);
/// Nothing heard for so long, though a heartbeat asked for something: the connection is dead.
constexpr Duration kSilenceMax = std::chrono::seconds(3);

using AsyncStub = wire::Peer::StubInterface::async_interface;

/// One call, alive until gRPC has said how it ended.
struct Call {
  grpc::ClientContext context;
  grpc::Status status;
  Promise<void> ended;  // on the loop
};

template <class Request, class Reply>
struct UnaryCall : Call {
  Request request;
  Reply reply;
};

template <class Request, class Reply>
using Method = void (AsyncStub::*)(grpc::ClientContext*, const Request*, Reply*,
                                   std::function<void(grpc::Status)>);

std::shared_ptr<grpc::Channel> make_channel(const RemotePeerOptions& options) {
  silence_grpc();
  grpc::ChannelArguments arguments;
  const int size_max = static_cast<int>(options.block_size) + kGrpcSlack;
  arguments.SetMaxReceiveMessageSize(size_max);
  arguments.SetMaxSendMessageSize(size_max);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of our own
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // how long connecting may take
  return grpc::CreateCustomChannel(grpc_target(options.address),
                                   grpc::InsecureChannelCredentials(), arguments);
}

bool is_this_machine(const Address& address) {
  return address.kind == Address::Kind::unix_socket || address.host == "localhost" ||
         address.host == "::1" || address.host.starts_with("127.");
}

}  // namespace

struct GrpcPeer::State : std::enable_shared_from_this<GrpcPeer::State> {
  State(Env its_env, RemotePeerOptions its_options)
      : env(its_env),
        options(std::move(its_options)),
        name(fmt::format("peer {} at {}", options.peer.to_string(),
                         format_peer_address({options.address, PeerProtocol::grpc}))),
        stub(wire::Peer::NewStub(make_channel(options))),
        last_stat(options.block_size),
        jobs(env.executor) {}

  /// Everything but the reply's meaning.
  template <class Request, class Reply>
  static Task<Reply> call(std::shared_ptr<State> state, const char* op,
                          Method<Request, Reply> method, Request request, TimePoint deadline) {
    if (state->closed) co_return fail(Errc::closed, state->name + " is closed");
    auto one = std::make_shared<UnaryCall<Request, Reply>>();
    one->request = std::move(request);
    state->prepare(*one, deadline);
    const std::uint64_t id = state->add(one);
    (state->stub->async()->*method)(
        &one->context, &one->request, &one->reply,
        [state, one, id](grpc::Status status) { state->note_end(id, one, std::move(status)); });
    AGRO_CO_TRY_OK(co_await finish(state, one, op, deadline));
    co_return std::move(one->reply);
  }

  /// Waits for the end of a call and says how it was.
  static Task<void> finish(std::shared_ptr<State> state, std::shared_ptr<Call> one, const char* op,
                           TimePoint deadline) {
    std::string what = fmt::format("{}: {}", state->name, op);
    std::shared_ptr<Promise<void>> promise(one, &one->ended);
    const Result<void> ended = co_await get_until(promise, state->env.clock, deadline, what);
    if (!ended.has_value()) {
      one->context.TryCancel();  // gRPC ends it by itself; nobody looks at the reply any more
      co_return fail(ended.error());
    }
    if (one->status.ok()) co_return Result<void>();
    const auto& trailing = one->context.GetServerTrailingMetadata();
    const auto errc = trailing.find(kGrpcErrc);
    const bool answered = errc != trailing.end();
    const Error error = to_error(
        one->status, answered ? std::string_view(errc->second.data(), errc->second.size()) : "");
    if (!answered && error.code == Errc::unavailable) state->drop(error);
    co_return fail(with_context(error, what));
  }

  void prepare(Call& one, TimePoint deadline) {
    one.context.AddMetadata(kGrpcCluster, options.cluster.to_string());
    one.context.AddMetadata(kGrpcPeer, options.peer.to_string());
    const Duration left = std::max(deadline - env.clock.now(), Duration(0));
    one.context.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                          gpr_time_from_nanos(left.count(), GPR_TIMESPAN)));
  }
  std::uint64_t add(std::shared_ptr<Call> one) {
    in_flight.emplace(next_call_id, std::move(one));
    return next_call_id++;
  }
  /// From a thread of gRPC's.
  void note_end(std::uint64_t id, std::shared_ptr<Call> one, grpc::Status status) {
    asio::post(env.executor, [self = shared_from_this(), id, one = std::move(one),
                              status = std::move(status)]() mutable {
      one->status = std::move(status);
      one->ended.set({});
      self->in_flight.erase(id);
      self->changed.notify_all();
    });
  }

  /// The connection is no good: whatever is in flight fails now.
  void drop(const Error& error) {
    if (problem.message != error.message && !closed) {
      log_info("{}: {}; trying again", name, error.message);
    }
    problem = error;
    if (!std::exchange(is_connected, false)) return;
    cancel_all(error);
    tell();
  }
  void tell() {
    changed.notify_all();
    if (listener) listener();
  }
  void cancel_all(const Error& error) {
    for (const auto& [id, one] : in_flight) {
      one->ended.set(fail(Errc::unavailable, error.message));
      one->context.TryCancel();
    }
  }

  static Task<void> say_hello(std::shared_ptr<State> state);
  static Task<PeerStat> ask_stat(std::shared_ptr<State> state, TimePoint deadline);
  static void ask_when_old(const std::shared_ptr<State>& state);
  static Job ask_job(std::shared_ptr<State> state);
  static Job run(std::shared_ptr<State> state);

  Env env;
  RemotePeerOptions options;
  std::string name;
  std::unique_ptr<wire::Peer::Stub> stub;
  bool is_connected = false;
  bool closed = false;
  Error problem{Errc::unavailable, "not connected yet"};
  LastStat last_stat;
  bool asking = false;  // stat(), before it is due
  TimePoint last_heard;
  std::map<std::uint64_t, std::shared_ptr<Call>> in_flight;
  std::uint64_t next_call_id = 1;
  bool hurry = false;  // do not wait for the next try
  std::function<void()> listener;
  Event changed;
  TaskGroup jobs;
};

Task<void> GrpcPeer::State::say_hello(std::shared_ptr<State> state) {
  const RemotePeerOptions& options = state->options;
  wire::HelloRequest request;
  AGRO_CO_TRY(const wire::HelloReply reply,
              co_await call(state, "hello", &AsyncStub::Hello, std::move(request),
                            state->env.clock.now() + kHelloLimit));
  AGRO_CO_TRY(const Uuid cluster, uuid_from_bytes(reply.cluster()));
  AGRO_CO_TRY(const Uuid peer, uuid_from_bytes(reply.peer()));
  if (cluster != options.cluster) {
    co_return fail(Errc::cluster_mismatch, "it belongs to cluster " + cluster.to_string());
  }
  if (peer != options.peer) {
    co_return fail(Errc::unavailable, "another peer answers there: " + peer.to_string());
  }
  if (reply.block_size() != options.block_size) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("its blocks are of {} bytes", reply.block_size()));
  }
  co_return Result<void>();
}

Task<PeerStat> GrpcPeer::State::ask_stat(std::shared_ptr<State> state, TimePoint deadline) {
  wire::StatRequest request;
  AGRO_CO_TRY(const wire::StatReply reply,
              co_await call(state, "stat", &AsyncStub::Stat, std::move(request), deadline));
  AGRO_CO_TRY(const PeerStat stat, from_wire(reply));
  state->last_stat.told(stat);
  co_return stat;
}

void GrpcPeer::State::ask_when_old(const std::shared_ptr<State>& state) {
  if (state->closed || state->asking || !state->last_stat.is_old()) return;
  state->asking = true;
  state->jobs.spawn(ask_job(state));
}

Job GrpcPeer::State::ask_job(std::shared_ptr<State> state) {
  (void)co_await ask_stat(state, state->env.clock.now() + kHeartbeat);  // the next heartbeat asks again
  state->asking = false;
}

Job GrpcPeer::State::run(std::shared_ptr<State> state) {
  Clock& clock = state->env.clock;
  while (!state->closed) {
    const bool was_connected = state->is_connected;
    if (was_connected) {
      const Result<PeerStat> heard = co_await ask_stat(state, clock.now() + kHeartbeat);
      if (heard.has_value()) state->last_heard = clock.now();
      if (!heard.has_value() && clock.now() - state->last_heard >= kSilenceMax) {
        state->drop({Errc::unavailable, "silent"});
      }
    } else {
      const Result<void> greeted = co_await say_hello(state);
      if (state->closed) co_return;
      if (greeted.has_value()) {
        state->is_connected = true;
        state->last_heard = clock.now();
        state->problem = {Errc::unavailable, ""};
        state->tell();
        continue;  // and ask for its stat
      }
      state->drop(greeted.error());
    }
    const TimePoint next = clock.now() + (state->is_connected ? kHeartbeat : kConnectAgain);
    const bool is_connected = state->is_connected;
    state->hurry = false;
    while (!state->closed && !state->hurry && state->is_connected == is_connected &&
           clock.now() < next) {
      co_await wait_until(state->changed, clock, next);
    }
  }
}

GrpcPeer::GrpcPeer(Env env, RemotePeerOptions options)
    : state_(std::make_shared<State>(env, std::move(options))) {
  state_->jobs.spawn(State::run(state_));
}

GrpcPeer::~GrpcPeer() { close(); }

PeerId GrpcPeer::id() const { return state_->options.peer; }
bool GrpcPeer::connected() const { return state_->is_connected; }
bool GrpcPeer::local() const { return is_this_machine(state_->options.address); }
std::optional<PeerStat> GrpcPeer::last_stat() const { return state_->last_stat.get(); }
std::string GrpcPeer::problem() const { return connected() ? "" : state_->problem.message; }

void GrpcPeer::close() {
  if (std::exchange(state_->closed, true)) return;
  state_->is_connected = false;
  state_->problem = {Errc::closed, "closed"};
  state_->cancel_all(state_->problem);
  state_->changed.notify_all();
}

Awaitable<void> GrpcPeer::stop() {
  close();
  const std::shared_ptr<State> state = state_;
  co_await state->jobs.join();
  // gRPC still has to say how the cancelled calls ended, and says it to our loop.
  while (!state->in_flight.empty()) co_await state->changed.wait();
}

void GrpcPeer::on_connection(std::function<void()> listener) {
  state_->listener = std::move(listener);
}

void GrpcPeer::connect_now() {
  state_->hurry = true;
  state_->changed.notify_all();
}

Awaitable<bool> GrpcPeer::wait_connected(TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  Clock& clock = state->env.clock;
  while (!state->is_connected && !state->closed && clock.now() < deadline) {
    co_await wait_until(state->changed, clock, deadline);
  }
  co_return state->is_connected;
}

// --- the operations ---------------------------------------------------------------------------

Task<void> GrpcPeer::write(PeerWrite write, TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  if (write.block.size() > state->options.block_size) {
    co_return fail(Errc::too_large, fmt::format("a block of {} bytes", write.block.size()));
  }
  wire::WriteRequest request;
  to_wire(write.ref, *request.mutable_ref());
  request.set_block(write.block.bytes.data(), write.block.size());
  request.set_checksummed(write.checksummed);
  request.set_reserve(write.reserve);
  request.set_repair(write.repair);
  request.set_keep(write.keep);
  request.set_ring_version(write.ring_version);
  const std::size_t size = write.block.size();
  state->last_stat.begin_put(size);
  const auto reply = co_await State::call(state, "write", &AsyncStub::Write, std::move(request), deadline);
  state->last_stat.end_put(size, reply.code());
  State::ask_when_old(state);
  if (!reply.has_value()) co_return fail(reply.error());
  co_return Result<void>();
}

Task<void> GrpcPeer::read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                          std::vector<std::uint32_t>* page_crcs, TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  if (out.empty() || out.size() > state->options.block_size) {
    co_return fail(Errc::invalid_argument, fmt::format("a read of {} bytes", out.size()));
  }
  wire::ReadRequest request;
  to_wire(ref, *request.mutable_ref());
  request.set_offset(offset);
  request.set_size(static_cast<std::uint32_t>(out.size()));
  request.set_with_crcs(page_crcs != nullptr);
  AGRO_CO_TRY(const wire::ReadReply reply,
              co_await State::call(state, "read", &AsyncStub::Read, std::move(request), deadline));
  if (reply.data().size() != out.size()) {
    co_return fail(Errc::protocol_error, fmt::format("{}: {} bytes instead of {}", state->name,
                                                     reply.data().size(), out.size()));
  }
  std::memcpy(out.data(), reply.data().data(), out.size());
  if (page_crcs != nullptr) page_crcs->assign(reply.page_crcs().begin(), reply.page_crcs().end());
  co_return Result<void>();
}

Task<std::vector<std::uint32_t>> GrpcPeer::has(std::vector<BlockRef> refs, std::uint64_t ring_version,
                                                 TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  std::vector<std::uint32_t> sizes;
  for (std::size_t begin = 0; begin < refs.size(); begin += kGrpcItemsMax) {
    const std::size_t end = std::min<std::size_t>(begin + kGrpcItemsMax, refs.size());
    wire::HasRequest request;
    for (std::size_t at = begin; at < end; ++at) to_wire(refs[at], *request.add_refs());
    request.set_ring_version(ring_version);
    AGRO_CO_TRY(const wire::HasReply reply,
                co_await State::call(state, "has", &AsyncStub::Has, std::move(request), deadline));
    if (static_cast<std::size_t>(reply.sizes_size()) != end - begin) {
      co_return fail(Errc::protocol_error, state->name + ": has: as many answers as blocks expected");
    }
    sizes.insert(sizes.end(), reply.sizes().begin(), reply.sizes().end());
  }
  co_return sizes;
}

namespace {

/// Receives a list on gRPC's threads; whole when the call has ended.
struct ListCall final : Call, grpc::ClientReadReactor<wire::ListReply> {
  void OnReadDone(bool ok) override {
    if (!ok) return;
    for (const wire::ListReply::Entry& entry : reply.entries()) entries.push_back(entry);
    StartRead(&reply);
  }
  void OnDone(const grpc::Status& its_status) override {
    const auto tell = std::move(on_done);  // the loop may end our life before this returns
    tell(its_status);
  }

  wire::ListRequest request;
  wire::ListReply reply;
  std::vector<wire::ListReply::Entry> entries;
  std::function<void(grpc::Status)> on_done;
};

}  // namespace

Task<std::vector<BlockInfo>> GrpcPeer::list(BlockFilter filter, TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  if (state->closed) co_return fail(Errc::closed, state->name + " is closed");
  auto one = std::make_shared<ListCall>();
  to_wire(filter, one->request);
  state->prepare(*one, deadline);
  const std::uint64_t id = state->add(one);
  // `in_flight` keeps the call until its end, so that it need not keep itself.
  one->on_done = [state, weak = std::weak_ptr<ListCall>(one), id](grpc::Status status) {
    state->note_end(id, weak.lock(), std::move(status));
  };
  state->stub->async()->List(&one->context, &one->request, one.get());
  one->StartRead(&one->reply);
  one->StartCall();
  AGRO_CO_TRY_OK(co_await State::finish(state, one, "list", deadline));
  std::vector<BlockInfo> infos;
  infos.reserve(one->entries.size());
  for (const wire::ListReply::Entry& entry : one->entries) {
    AGRO_CO_TRY(const BlockRef ref, from_wire(entry.ref()));
    infos.push_back({ref, entry.size()});
  }
  co_return infos;
}

Task<void> GrpcPeer::remove(std::vector<BlockRef> refs, TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  for (std::size_t begin = 0; begin < refs.size(); begin += kGrpcItemsMax) {
    const std::size_t end = std::min<std::size_t>(begin + kGrpcItemsMax, refs.size());
    wire::RemoveRequest request;
    for (std::size_t at = begin; at < end; ++at) to_wire(refs[at], *request.add_refs());
    AGRO_CO_TRY_OK(
        co_await State::call(state, "remove", &AsyncStub::Remove, std::move(request), deadline));
  }
  state->last_stat.note_removal();
  State::ask_when_old(state);
  co_return Result<void>();
}

Task<void> GrpcPeer::fence(VolumeId volume, Epoch epoch, TimePoint deadline) {
  wire::FenceRequest request;
  request.set_volume(volume.value);
  request.set_epoch(epoch.value);
  AGRO_CO_TRY_OK(co_await State::call(state_, "fence", &AsyncStub::Fence, std::move(request), deadline));
  co_return Result<void>();
}

Task<PeerStat> GrpcPeer::stat(TimePoint deadline) { return State::ask_stat(state_, deadline); }

Task<PeerReport> GrpcPeer::report(TimePoint deadline) {
  wire::ReportRequest request;
  AGRO_CO_TRY(const wire::ReportReply reply,
              co_await State::call(state_, "report", &AsyncStub::Report, std::move(request), deadline));
  co_return decode_peer_report(reply.report());
}

Task<void> GrpcPeer::start(WorkKind kind, TimePoint deadline) {
  wire::StartRequest request;
  request.set_kind(static_cast<std::uint32_t>(kind));
  AGRO_CO_TRY_OK(co_await State::call(state_, "start", &AsyncStub::Start, std::move(request), deadline));
  co_return Result<void>();
}

}  // namespace agro
