#include "distributor/protocols/adp/adp_peer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/log.hpp"
#include "distributor/last_stat.hpp"
#include "distributor/peer_address.hpp"
#include "distributor/protocols/adp/adp_channel.hpp"
#include "models/codec.hpp"

namespace agro {
namespace {

constexpr Duration kBackoffMin = std::chrono::milliseconds(50);
constexpr Duration kBackoffMax = std::chrono::milliseconds(150);
constexpr Duration kConnectLimit = std::chrono::seconds(2);
constexpr Duration kHeartbeat = std::chrono::seconds(1);
/// No byte heard for so long, though a heartbeat asked for some: the connection is dead.
constexpr Duration kSilenceMax = std::chrono::seconds(3);

using Body = std::vector<std::byte>;

/// One request that waits for its reply.
struct Pending {
  AdpOp op = AdpOp::stat;
  MutableBytes out;                // read: where the payload goes
  std::vector<BlockInfo> entries;  // list: of the frames so far
  bool receiving = false;          // the payload is on its way into `out`
  Promise<Body> promise;

  /// ReadStop::end. What has begun to arrive is waited for, or the connection would break.
  static void stop(void* call) {
    auto* pending = static_cast<Pending*>(call);
    if (pending->receiving) return;
    pending->promise.set(fail(Errc::timed_out, "another replica was quicker"));
  }
};

/// One connection, from hello to its end.
struct Session {
  Session(std::unique_ptr<Stream> taken, std::uint32_t block_size)
      : stream(std::move(taken)), reader(*stream, block_size), writer(*stream) {}

  /// Ends the connection and everything in flight. The first reason counts.
  void end(Error why) {
    if (ended) return;
    ended = true;
    reason = std::move(why);
    writer.close();
    for (const auto& [id, request] : pending) {
      request->promise.set(fail(Errc::unavailable, reason.message));
    }
    pending.clear();
    ended_event.notify_all();
  }

  std::unique_ptr<Stream> stream;
  AdpReader reader;
  AdpWriter writer;
  std::map<std::uint64_t, std::shared_ptr<Pending>> pending;
  std::uint64_t next_request_id = 1;
  std::uint64_t receiving_id = 0;  // whose payload is being received into its buffer; 0: none
  TimePoint last_heard;
  bool near = false;  // by a socket of this machine
  bool ended = false;
  Error reason;
  Event ended_event;
};

using SessionPtr = std::shared_ptr<Session>;

bool is_this_machine(const Address& address) {
  return address.kind == Address::Kind::unix_socket || address.host == "localhost" ||
         address.host == "::1" || address.host.starts_with("127.");
}

Error protocol_error(std::string text) { return {Errc::protocol_error, std::move(text)}; }

/// The reply's payload to its place, or past it when nobody waits any more.
Task<void> receive_payload(SessionPtr session, AdpHeader header, std::shared_ptr<Pending> request) {
  if (request == nullptr) co_return co_await session->reader.skip_payload(header.payload_size);
  if (session->reader.try_payload(request->out)) co_return Result<void>();
  session->receiving_id = header.request_id;
  request->receiving = true;
  const Result<void> received = co_await session->reader.read_payload(request->out);
  session->receiving_id = 0;
  co_return received;
}

/// Deals with one reply. Errors end the connection.
Task<void> take_reply(SessionPtr session, AdpHeader header) {
  if (!header.is_reply()) co_return fail(protocol_error("a request instead of a reply"));
  const auto found = session->pending.find(header.request_id);
  const std::shared_ptr<Pending> request =
      found == session->pending.end() ? nullptr : found->second;
  if (request != nullptr && request->op != header.operation()) {
    co_return fail(protocol_error(fmt::format(
        "a {} reply to a {} request", adp_op_name(header.operation()), adp_op_name(request->op))));
  }
  if (request == nullptr) {
    co_return co_await session->reader.skip_payload(header.payload_size);
  }
  const ConstBytes body = session->reader.body();
  if (header.status != 0) {
    request->promise.set(fail(decode_adp_error(header, body)));
    session->pending.erase(header.request_id);
    co_return Result<void>();
  }
  if (header.operation() == AdpOp::list) {
    AGRO_CO_TRY_OK(decode_adp_entries(body, request->entries));
    if ((header.flags & kAdpListMore) != 0) co_return Result<void>();
  }
  if (header.payload_size != request->out.size()) {
    co_return fail(protocol_error(fmt::format("a reply of {} bytes instead of {}",
                                              header.payload_size, request->out.size())));
  }
  Body kept(body.begin(), body.end());  // before the payload overwrites the input buffer
  if (header.payload_size > 0) {
    AGRO_CO_TRY_OK(co_await receive_payload(session, header, request));
  }
  request->promise.set(std::move(kept));
  session->pending.erase(header.request_id);
  co_return Result<void>();
}

Task<void> read_replies(SessionPtr session, Clock& clock) {
  while (!session->ended) {
    const std::optional<Result<AdpHeader>> frame = session->reader.try_next();
    if (!frame.has_value()) {
      AGRO_CO_TRY_OK(co_await session->reader.fill());
      session->last_heard = clock.now();
      continue;
    }
    if (!frame->has_value()) co_return fail(frame->error());
    AGRO_CO_TRY_OK(co_await take_reply(session, **frame));
  }
  co_return fail(Errc::closed, "connection closed");
}

Job reader_job(SessionPtr session, Clock& clock) {
  const Result<void> ended = co_await read_replies(session, clock);
  session->end(ended.error());
}

Job writer_job(SessionPtr session) {
  co_await session->writer.run();
  session->end({Errc::closed, "connection closed"});
}

}  // namespace

struct AdpPeer::State {
  State(Env its_env, AdpPeerOptions its_options)
      : env(its_env),
        options(std::move(its_options)),
        name(fmt::format("peer {} at {}", options.peer.to_string(),
                         format_peer_address(options.address))),
        last_stat(options.block_size),
        jobs(env.executor) {}

  Env env;
  AdpPeerOptions options;
  std::string name;
  SessionPtr session;  // null: not connected
  bool closed = false;
  bool hurry = false;  // do not wait for the next try
  Error problem{Errc::unavailable, "not connected yet"};
  LastStat last_stat;
  bool asking = false;  // stat(), before it is due
  Event changed;
  std::function<void()> listener;
  TaskGroup jobs;

  void tell() {
    changed.notify_all();
    if (listener) listener();
  }
  /// A reply's body, or entries for list.
  struct Request {
    AdpOp op = AdpOp::stat;
    std::uint8_t flags = 0;
    Body body;
    SharedBytes payload;
    MutableBytes out;
    ReadStop* stop = nullptr;
  };
  struct Reply {
    Body body;
    std::vector<BlockInfo> entries;
  };
  static Task<Reply> call(std::shared_ptr<State> state, Request request, TimePoint deadline);
  static Job run(std::shared_ptr<State> state);
  static Task<SessionPtr> open(std::shared_ptr<State> state);
  static Task<SessionPtr> open_at(std::shared_ptr<State> state, Address address);
  static Task<void> say_hello(std::shared_ptr<State> state, SessionPtr session);
  static Job heartbeat_job(std::shared_ptr<State> state, SessionPtr session);
  static Task<PeerStat> ask_stat(std::shared_ptr<State> state, TimePoint deadline);
  static void ask_when_old(const std::shared_ptr<State>& state);
  static Job ask_job(std::shared_ptr<State> state);
  void note_problem(const Error& error);
};

Task<AdpPeer::State::Reply> AdpPeer::State::call(std::shared_ptr<State> state, Request request,
                                                 TimePoint deadline) {
  const SessionPtr session = state->session;
  if (session == nullptr) {
    co_return fail(Errc::unavailable, state->name + ": " + state->problem.message);
  }
  auto pending = std::make_shared<Pending>();
  pending->op = request.op;
  pending->out = request.out;
  if (request.stop != nullptr) *request.stop = {pending, &Pending::stop};
  const std::uint64_t id = session->next_request_id++;
  session->pending.emplace(id, pending);
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(request.op);
  header.flags = request.flags;
  header.request_id = id;
  const auto payload_size = static_cast<std::uint32_t>(request.payload.size());
  session->writer.send(encode_adp_frame(header, request.body, payload_size),
                       std::move(request.payload));
  std::shared_ptr<Promise<Body>> promise(pending, &pending->promise);
  std::string what = fmt::format("{}: {}", state->name, adp_op_name(request.op));
  Result<Body> body = co_await get_until(promise, state->env.clock, deadline, what);
  session->pending.erase(id);
  // The caller's buffer goes with our return: stop the receive into it, and with it the connection,
  // which is stuck in the middle of a frame.
  if (session->receiving_id == id) session->end({Errc::timed_out, what + " stalled"});
  if (!body.has_value()) {
    if (body.code() == Errc::timed_out) co_return fail(std::move(body).error());
    co_return fail(with_context(std::move(body).error(), what));
  }
  co_return Reply{std::move(*body), std::move(pending->entries)};
}

void AdpPeer::State::note_problem(const Error& error) {
  if (problem.message != error.message && !closed) {
    log_info("{}: {}; trying again", name, error.message);
  }
  problem = error;
}

Task<void> AdpPeer::State::say_hello(std::shared_ptr<State> state, SessionPtr session) {
  const AdpPeerOptions& options = state->options;
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(AdpOp::hello);
  const AdpHello mine{options.cluster, options.self, options.block_size};
  session->writer.send(encode_adp_frame(header, encode_adp_hello(mine), 0), {});
  std::optional<Result<AdpHeader>> frame;
  while (!(frame = session->reader.try_next()).has_value()) {
    AGRO_CO_TRY_OK(co_await session->reader.fill());
  }
  if (!frame->has_value()) co_return fail(frame->error());
  const AdpHeader& reply = **frame;
  if (!reply.is_reply() || reply.operation() != AdpOp::hello) {
    co_return fail(protocol_error("no hello"));
  }
  if (reply.status != 0) co_return fail(decode_adp_error(reply, session->reader.body()));
  AGRO_CO_TRY(const AdpHello theirs, decode_adp_hello(session->reader.body()));
  if (theirs.cluster != options.cluster) {
    co_return fail(Errc::cluster_mismatch, "it belongs to cluster " + theirs.cluster.to_string());
  }
  if (theirs.peer != options.peer) {
    co_return fail(Errc::unavailable, "another peer answers there: " + theirs.peer.to_string());
  }
  if (theirs.block_size != options.block_size) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("its blocks are of {} bytes", theirs.block_size));
  }
  co_return Result<void>();
}

/// A peer of this machine is reached by its Unix socket, whatever its address says.
Task<SessionPtr> AdpPeer::State::open(std::shared_ptr<State> state) {
  if (const auto near = near_address(state->env.network, state->options.peer)) {
    Result<SessionPtr> opened = co_await open_at(state, *near);
    if (opened.has_value()) {
      (*opened)->near = true;
      co_return opened;
    }
  }
  co_return co_await open_at(state, state->options.address);
}

Task<SessionPtr> AdpPeer::State::open_at(std::shared_ptr<State> state, Address address) {
  Clock& clock = state->env.clock;
  const TimePoint deadline = clock.now() + kConnectLimit;
  AGRO_CO_TRY(std::unique_ptr<Stream> stream,
              co_await state->env.network.connect(std::move(address), deadline));
  auto session = std::make_shared<Session>(std::move(stream), state->options.block_size);
  if (state->closed) co_return fail(Errc::closed, "closed");
  state->jobs.spawn(writer_job(session));
  const TimerId too_late = clock.call_at(deadline, [weak = std::weak_ptr<Session>(session)] {
    if (const SessionPtr s = weak.lock()) s->end({Errc::timed_out, "no hello in time"});
  });
  Result<void> greeted = co_await say_hello(state, session);
  clock.cancel(too_late);
  if (session->ended && session->reason.code == Errc::timed_out) greeted = fail(session->reason);
  if (state->closed) greeted = fail(Errc::closed, "closed");
  if (!greeted.has_value()) {
    session->end(greeted.error());
    co_return fail(greeted.error());
  }
  session->last_heard = clock.now();
  co_return session;
}

Job AdpPeer::State::run(std::shared_ptr<State> state) {
  Clock& clock = state->env.clock;
  Duration backoff = kBackoffMin;
  while (!state->closed) {
    const Result<SessionPtr> opened = co_await open(state);
    if (opened.has_value()) {
      const SessionPtr session = *opened;
      backoff = kBackoffMin;
      state->session = session;
      state->problem = {Errc::unavailable, ""};
      state->tell();
      state->jobs.spawn(reader_job(session, clock));
      state->jobs.spawn(heartbeat_job(state, session));
      while (!session->ended) co_await session->ended_event.wait();
      state->session = nullptr;
      state->note_problem(session->reason);
      state->tell();
    } else {
      state->note_problem(opened.error());
    }
    // Somebody else's spread: peers that lost the same server do not come back in step.
    const Duration spread(state->env.random.below(static_cast<std::uint64_t>(backoff.count()) / 4));
    const TimePoint next_try = clock.now() + backoff + spread;
    state->hurry = false;
    while (!state->closed && !state->hurry && clock.now() < next_try) {
      co_await wait_until(state->changed, clock, next_try);
    }
    backoff = std::min(2 * backoff, kBackoffMax);
  }
}

Job AdpPeer::State::heartbeat_job(std::shared_ptr<State> state, SessionPtr session) {
  Clock& clock = state->env.clock;
  while (!session->ended) {
    // The answer matters less than that something is heard.
    (void)co_await ask_stat(state, clock.now() + kHeartbeat);
    if (session->ended) co_return;
    if (clock.now() - session->last_heard >= kSilenceMax) {
      session->end({Errc::unavailable, "silent"});
      co_return;
    }
    co_await wait_until(session->ended_event, clock, clock.now() + kHeartbeat);
  }
}

Task<PeerStat> AdpPeer::State::ask_stat(std::shared_ptr<State> state, TimePoint deadline) {
  Request request;
  request.op = AdpOp::stat;
  AGRO_CO_TRY(const Reply reply, co_await call(state, std::move(request), deadline));
  AGRO_CO_TRY(const PeerStat stat, decode_adp_stat(reply.body));
  state->last_stat.told(stat);
  co_return stat;
}

void AdpPeer::State::ask_when_old(const std::shared_ptr<State>& state) {
  if (state->closed || state->asking || !state->last_stat.is_old()) return;
  state->asking = true;
  state->jobs.spawn(ask_job(state));
}

Job AdpPeer::State::ask_job(std::shared_ptr<State> state) {
  (void)co_await ask_stat(state, state->env.clock.now() + kHeartbeat);  // the next heartbeat asks again
  state->asking = false;
}

AdpPeer::AdpPeer(Env env, AdpPeerOptions options)
    : state_(std::make_shared<State>(env, std::move(options))) {
  state_->jobs.spawn(State::run(state_));
}

AdpPeer::~AdpPeer() { close(); }

PeerId AdpPeer::id() const { return state_->options.peer; }
bool AdpPeer::connected() const { return state_->session != nullptr && !state_->session->ended; }
void AdpPeer::on_connection(std::function<void()> listener) {
  state_->listener = std::move(listener);
}
bool AdpPeer::local() const {
  return is_this_machine(state_->options.address) ||
         (state_->session != nullptr && state_->session->near);
}
std::optional<PeerStat> AdpPeer::last_stat() const { return state_->last_stat.get(); }
std::string AdpPeer::problem() const { return connected() ? "" : state_->problem.message; }

void AdpPeer::close() {
  if (std::exchange(state_->closed, true)) return;
  state_->problem = {Errc::closed, "closed"};
  if (state_->session != nullptr) state_->session->end({Errc::closed, "closed"});
  state_->session = nullptr;
  state_->changed.notify_all();
}

Awaitable<void> AdpPeer::stop() {
  close();
  const std::shared_ptr<State> state = state_;
  co_await state->jobs.join();
}

Awaitable<bool> AdpPeer::wait_connected(TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  Clock& clock = state->env.clock;
  while (state->session == nullptr && !state->closed && clock.now() < deadline) {
    co_await wait_until(state->changed, clock, deadline);
  }
  co_return state->session != nullptr;
}

void AdpPeer::connect_now() {
  state_->hurry = true;
  state_->changed.notify_all();
}

Task<void> AdpPeer::write(PeerWrite request, TimePoint deadline) {
  State::Request wire;
  wire.op = AdpOp::write;
  wire.flags = (request.checksummed ? kAdpWriteChecksummed : 0) |
               (request.reserve ? kAdpWriteReserve : 0) | (request.repair ? kAdpWriteRepair : 0) |
               (request.keep ? kAdpWriteKeep : 0);
  wire.body = encode_adp_write({request.ref, request.ring_version});
  wire.payload = std::move(request.block);
  if (wire.payload.size() > state_->options.block_size) {
    co_return fail(Errc::too_large, fmt::format("a block of {} bytes", wire.payload.size()));
  }
  const std::shared_ptr<State> state = state_;
  const std::size_t size = wire.payload.size();
  state->last_stat.begin_put(size);
  const Result<State::Reply> reply = co_await State::call(state, std::move(wire), deadline);
  state->last_stat.end_put(size, reply.code());
  State::ask_when_old(state);
  if (!reply.has_value()) co_return fail(reply.error());
  co_return Result<void>();
}

Task<void> AdpPeer::read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                         std::vector<std::uint32_t>* page_crcs, TimePoint deadline) {
  return read_with(ref, offset, out, page_crcs, deadline, nullptr);
}

Task<void> AdpPeer::read_stoppable(BlockRef ref, std::uint32_t offset, MutableBytes out,
                                   std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                                   ReadStop& stop) {
  return read_with(ref, offset, out, page_crcs, deadline, &stop);
}

Task<void> AdpPeer::read_with(BlockRef ref, std::uint32_t offset, MutableBytes out,
                              std::vector<std::uint32_t>* page_crcs, TimePoint deadline,
                              ReadStop* stop) {
  if (out.empty() || out.size() > state_->options.block_size) {
    co_return fail(Errc::invalid_argument, fmt::format("a read of {} bytes", out.size()));
  }
  State::Request wire;
  wire.op = AdpOp::read;
  wire.flags = page_crcs != nullptr ? kAdpReadWithCrcs : 0;
  wire.body = encode_adp_read({ref, offset, static_cast<std::uint32_t>(out.size())});
  wire.out = out;
  wire.stop = stop;
  AGRO_CO_TRY(const State::Reply reply, co_await State::call(state_, std::move(wire), deadline));
  AGRO_CO_TRY(std::vector<std::uint32_t> crcs, decode_adp_crcs(reply.body));
  if (page_crcs != nullptr) *page_crcs = std::move(crcs);
  co_return Result<void>();
}

Task<std::vector<std::uint32_t>> AdpPeer::has(std::vector<BlockRef> refs,
                                              std::uint64_t ring_version, TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  std::vector<std::uint32_t> sizes;
  std::span<const BlockRef> left = refs;
  while (!left.empty()) {
    const auto some = left.first(std::min(left.size(), kAdpItemsPerFrame));
    left = left.subspan(some.size());
    State::Request wire;
    wire.op = AdpOp::has;
    wire.body = encode_adp_has({ring_version, {some.begin(), some.end()}});
    AGRO_CO_TRY(const State::Reply reply, co_await State::call(state, std::move(wire), deadline));
    AGRO_CO_TRY(const std::vector<std::uint32_t> more, decode_adp_sizes(reply.body, some.size()));
    sizes.insert(sizes.end(), more.begin(), more.end());
  }
  co_return sizes;
}

Task<PeerReport> AdpPeer::report(TimePoint deadline) {
  State::Request wire;
  wire.op = AdpOp::report;
  AGRO_CO_TRY(const State::Reply reply, co_await State::call(state_, std::move(wire), deadline));
  co_return decode_peer_report(as_text(reply.body));
}

Task<void> AdpPeer::start(WorkKind kind, TimePoint deadline) {
  State::Request wire;
  wire.op = AdpOp::start;
  wire.body = encode_adp_start(kind);
  AGRO_CO_TRY_OK(co_await State::call(state_, std::move(wire), deadline));
  co_return Result<void>();
}

Task<std::vector<BlockInfo>> AdpPeer::list(BlockFilter filter, TimePoint deadline) {
  State::Request wire;
  wire.op = AdpOp::list;
  wire.body = encode_adp_filter(filter);
  AGRO_CO_TRY(State::Reply reply, co_await State::call(state_, std::move(wire), deadline));
  co_return std::move(reply.entries);
}

Task<void> AdpPeer::remove(std::vector<BlockRef> refs, TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  std::span<const BlockRef> left = refs;
  while (!left.empty()) {
    const auto some = left.first(std::min(left.size(), kAdpItemsPerFrame));
    left = left.subspan(some.size());
    State::Request wire;
    wire.op = AdpOp::remove;
    wire.body = encode_adp_refs(some);
    AGRO_CO_TRY_OK(co_await State::call(state, std::move(wire), deadline));
  }
  state->last_stat.note_removal();
  State::ask_when_old(state);
  co_return Result<void>();
}

Task<void> AdpPeer::fence(VolumeId volume, Epoch epoch, TimePoint deadline) {
  State::Request wire;
  wire.op = AdpOp::fence;
  wire.body = encode_adp_fence({volume, epoch});
  AGRO_CO_TRY_OK(co_await State::call(state_, std::move(wire), deadline));
  co_return Result<void>();
}

Task<PeerStat> AdpPeer::stat(TimePoint deadline) {
  const std::shared_ptr<State> state = state_;
  co_return co_await State::ask_stat(state, deadline);
}

}  // namespace agro
