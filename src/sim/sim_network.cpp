#include "sim/sim_network.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>

namespace agro {
namespace {

/// Bytes one direction holds, on the way and received, before its writer waits.
constexpr std::size_t kWindowBytes = std::size_t{1} << 20;
constexpr std::size_t kChunkSizeMax = 64 * 1024;
constexpr Duration kConnectRetry = std::chrono::milliseconds(200);
constexpr SimLink kLoopbackLink{std::chrono::microseconds(5), std::chrono::microseconds(20), 0};

using HostPair = std::pair<std::string, std::string>;

struct Chunk {
  enum class Kind : std::uint8_t { data, end, reset };
  Kind kind = Kind::data;
  TimePoint arrive_at;
  std::vector<std::byte> bytes;
};

}  // namespace

class SimStream;
class SimHost;
class SimListener;

/// One direction of a connection.
struct SimPipe : std::enable_shared_from_this<SimPipe> {
  std::shared_ptr<SimNetwork::Core> core;
  std::string from;
  std::string to;
  std::weak_ptr<SimPipe> reverse;
  std::deque<Chunk> on_the_way;
  std::deque<std::vector<std::byte>> received;
  std::size_t received_offset = 0;  // into received.front()
  std::size_t held_bytes = 0;       // in both deques
  std::optional<std::uint64_t> bytes_until_reset;
  bool timer_armed = false;
  bool broken = false;  // nothing passes any more; writes fail
  bool ended = false;   // the reader has been told the end, or closed
  bool writer_closed = false;
  Event readable;
  Event writable;

  void send(Chunk chunk);
  void arm();
  void deliver_due();
  void deliver(Chunk chunk);
  void stop_reading();
  void break_now();
};

struct SimNetwork::Core {
  Core(Executor loop, Clock& time, Random source) : executor(loop), clock(time), random(source) {}

  Executor executor;
  Clock& clock;
  Random random;
  SimLink default_link;
  std::map<std::string, std::unique_ptr<SimHost>> hosts;
  std::map<HostPair, SimLink> links;
  std::set<HostPair> blocked;
  std::set<std::string> isolated;
  std::set<std::string> dead_machines;
  std::set<std::string> dead_processes;
  std::map<std::pair<std::string, std::string>, SimListener*> listeners;  // (host, service)
  std::vector<std::weak_ptr<SimPipe>> pipes;                              // in order of creation

  bool passes(const std::string& from, const std::string& to) const;
  SimLink link(const std::string& from, const std::string& to) const;
  Duration latency(const std::string& from, const std::string& to);
  std::vector<std::shared_ptr<SimPipe>> live_pipes();
  void rearm_all();
};

bool SimNetwork::Core::passes(const std::string& from, const std::string& to) const {
  if (dead_machines.contains(from) || dead_machines.contains(to)) return false;
  if (from == to) return true;
  return !blocked.contains({from, to}) && !isolated.contains(from) && !isolated.contains(to);
}

SimLink SimNetwork::Core::link(const std::string& from, const std::string& to) const {
  if (const auto found = links.find({from, to}); found != links.end()) return found->second;
  return from == to ? kLoopbackLink : default_link;
}

Duration SimNetwork::Core::latency(const std::string& from, const std::string& to) {
  const SimLink its = link(from, to);
  const auto spread = static_cast<std::uint64_t>((its.latency_max - its.latency_min).count());
  return its.latency_min + Duration(random.below(spread + 1));
}

std::vector<std::shared_ptr<SimPipe>> SimNetwork::Core::live_pipes() {
  std::erase_if(pipes, [](const std::weak_ptr<SimPipe>& pipe) { return pipe.expired(); });
  std::vector<std::shared_ptr<SimPipe>> live;
  for (const std::weak_ptr<SimPipe>& pipe : pipes) live.push_back(pipe.lock());
  return live;
}

void SimNetwork::Core::rearm_all() {
  for (const std::shared_ptr<SimPipe>& pipe : live_pipes()) pipe->arm();
}

void SimPipe::send(Chunk chunk) {
  TimePoint arrive_at = core->clock.now() + core->latency(from, to);
  if (!on_the_way.empty()) arrive_at = std::max(arrive_at, on_the_way.back().arrive_at);
  // Latency passes for all at once, bandwidth for one after the other.
  if (const std::uint64_t rate = core->link(from, to).bytes_per_second; rate > 0) {
    arrive_at += Duration(chunk.bytes.size() * 1'000'000'000 / rate);
  }
  chunk.arrive_at = arrive_at;
  held_bytes += chunk.bytes.size();
  on_the_way.push_back(std::move(chunk));
  arm();
}

void SimPipe::arm() {
  if (timer_armed || broken || on_the_way.empty() || !core->passes(from, to)) return;
  timer_armed = true;
  core->clock.call_at(on_the_way.front().arrive_at, [self = shared_from_this()] {
    self->timer_armed = false;
    self->deliver_due();
  });
}

void SimPipe::deliver_due() {
  while (!broken && !on_the_way.empty() && core->passes(from, to) &&
         on_the_way.front().arrive_at <= core->clock.now()) {
    Chunk chunk = std::move(on_the_way.front());
    on_the_way.pop_front();
    deliver(std::move(chunk));
  }
  arm();
}

void SimPipe::deliver(Chunk chunk) {
  if (chunk.kind == Chunk::Kind::data) {
    bool cut = false;
    if (bytes_until_reset.has_value()) {
      cut = chunk.bytes.size() >= *bytes_until_reset;
      if (cut) chunk.bytes.resize(*bytes_until_reset);
      *bytes_until_reset -= chunk.bytes.size();
    }
    if (ended) {  // nobody reads it any more
      held_bytes -= std::min(held_bytes, chunk.bytes.size());
      writable.notify_all();
    } else if (!chunk.bytes.empty()) {
      received.push_back(std::move(chunk.bytes));
    }
    if (cut) {
      if (const auto other = reverse.lock()) other->break_now();
      ended = true;
      broken = true;
      writable.notify_all();
    }
  } else {
    ended = true;
    if (chunk.kind == Chunk::Kind::reset) stop_reading();
    // Whoever was told the end cannot send to the other side any more.
    if (const auto other = reverse.lock()) {
      other->broken = true;
      other->writable.notify_all();
    }
  }
  readable.notify_all();
}

void SimPipe::stop_reading() {
  ended = true;
  received.clear();
  received_offset = 0;
  readable.notify_all();
}

void SimPipe::break_now() {
  stop_reading();
  broken = true;
  on_the_way.clear();
  held_bytes = 0;
  writable.notify_all();
}

class SimStream final : public Stream {
 public:
  SimStream(std::shared_ptr<SimPipe> in, std::shared_ptr<SimPipe> out, std::string name)
      : in_(std::move(in)), out_(std::move(out)), name_(std::move(name)) {}
  ~SimStream() override { close(); }
  SimStream(const SimStream&) = delete;
  SimStream& operator=(const SimStream&) = delete;

  Task<std::size_t> read_some(MutableBytes out) override { return read_from(in_, name_, out); }
  Task<void> write(std::vector<ConstBytes> parts) override {
    return write_to(out_, name_, std::move(parts));
  }
  void close() override;
  std::string peer_name() const override { return name_; }

 private:
  static Task<std::size_t> read_from(std::shared_ptr<SimPipe> pipe, std::string name,
                                     MutableBytes out);
  static Task<void> write_to(std::shared_ptr<SimPipe> pipe, std::string name,
                             std::vector<ConstBytes> parts);
  std::shared_ptr<SimPipe> in_;
  std::shared_ptr<SimPipe> out_;
  std::string name_;
  bool closed_ = false;
};

void SimStream::close() {
  if (std::exchange(closed_, true)) return;
  in_->stop_reading();
  out_->writer_closed = true;
  out_->writable.notify_all();
  if (!out_->broken) out_->send({Chunk::Kind::end, {}, {}});
}

Task<std::size_t> SimStream::read_from(std::shared_ptr<SimPipe> pipe, std::string name,
                                       MutableBytes out) {
  AGRO_ASSERT(!out.empty());
  while (pipe->received.empty()) {
    if (pipe->ended) co_return fail(Errc::closed, name + ": connection closed");
    co_await pipe->readable.wait();
  }
  const std::vector<std::byte>& front = pipe->received.front();
  const std::size_t count = std::min(out.size(), front.size() - pipe->received_offset);
  std::memcpy(out.data(), front.data() + pipe->received_offset, count);
  pipe->received_offset += count;
  pipe->held_bytes -= std::min(count, pipe->held_bytes);
  if (pipe->received_offset == front.size()) {
    pipe->received.pop_front();
    pipe->received_offset = 0;
  }
  pipe->writable.notify_all();
  co_return count;
}

Task<void> SimStream::write_to(std::shared_ptr<SimPipe> pipe, std::string name,
                               std::vector<ConstBytes> parts) {
  for (ConstBytes part : parts) {
    while (true) {
      if (pipe->broken || pipe->writer_closed) {
        co_return fail(Errc::closed, name + ": connection closed");
      }
      if (part.empty()) break;
      if (pipe->held_bytes >= kWindowBytes) {
        co_await pipe->writable.wait();
        continue;
      }
      // Cuts fall anywhere, as on a real network.
      const std::size_t limit = std::min(part.size(), kChunkSizeMax);
      std::size_t size = limit;
      if (pipe->core->random.chance(1, 4)) size = 1 + pipe->core->random.below(limit);
      pipe->send({Chunk::Kind::data, {}, {part.begin(), part.begin() + static_cast<long>(size)}});
      part = part.subspan(size);
    }
  }
  co_return Result<void>();
}

class SimListener final : public Listener {
 public:
  SimListener(std::shared_ptr<SimNetwork::Core> core, std::string host, std::string service,
              Address address)
      : core_(std::move(core)),
        host_(std::move(host)),
        service_(std::move(service)),
        address_(std::move(address)) {
    core_->listeners[{host_, service_}] = this;
  }
  ~SimListener() override { close(); }
  SimListener(const SimListener&) = delete;
  SimListener& operator=(const SimListener&) = delete;

  Task<std::unique_ptr<Stream>> accept() override { return accept_from(queue_); }
  void close() override {
    if (std::exchange(queue_->closed, true)) return;
    core_->listeners.erase({host_, service_});
    queue_->streams.clear();
    queue_->changed.notify_all();
  }
  Address address() const override { return address_; }
  void push(std::unique_ptr<Stream> stream) {
    queue_->streams.push_back(std::move(stream));
    queue_->changed.notify_all();
  }

 private:
  struct Queue {
    std::deque<std::unique_ptr<Stream>> streams;
    bool closed = false;
    Event changed;
  };
  static Task<std::unique_ptr<Stream>> accept_from(std::shared_ptr<Queue> queue) {
    while (queue->streams.empty()) {
      if (queue->closed) co_return fail(Errc::closed, "no longer listening");
      co_await queue->changed.wait();
    }
    std::unique_ptr<Stream> stream = std::move(queue->streams.front());
    queue->streams.pop_front();
    co_return stream;
  }

  std::shared_ptr<SimNetwork::Core> core_;
  std::string host_;
  std::string service_;
  Address address_;
  std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();
};

using ConnectPromise = Promise<std::unique_ptr<Stream>>;

class SimHost final : public Network {
 public:
  /// `core` owns the host.
  SimHost(SimNetwork::Core* core, std::string name)
      : core_(core), clock_(&core->clock), name_(std::move(name)) {}

  Task<std::unique_ptr<Stream>> connect(Address address, TimePoint deadline) override;
  Task<std::unique_ptr<Listener>> listen(Address address) override;
  void set_shared(const std::shared_ptr<SimNetwork::Core>& core) { shared_core_ = core; }
  void set_clock(Clock& clock) { clock_ = &clock; }

 private:
  struct Attempt {
    std::shared_ptr<SimNetwork::Core> core;
    std::string from;
    std::string to;
    std::string service;
    Address address;
    std::shared_ptr<ConnectPromise> promise;
  };
  static Job attempt(Attempt attempt);

  SimNetwork::Core* core_;
  Clock* clock_;
  std::weak_ptr<SimNetwork::Core> shared_core_;
  std::string name_;
  std::uint16_t next_port_ = 40'000;
};

std::string service_of(const Address& address) {
  return address.kind == Address::Kind::unix_socket ? "unix:" + address.path
                                                    : fmt::format("tcp:{}", address.port);
}

std::pair<std::shared_ptr<SimPipe>, std::shared_ptr<SimPipe>> make_pipes(
    const std::shared_ptr<SimNetwork::Core>& core, const std::string& a, const std::string& b) {
  auto there = std::make_shared<SimPipe>();
  auto back = std::make_shared<SimPipe>();
  there->core = back->core = core;
  there->from = back->to = a;
  there->to = back->from = b;
  there->reverse = back;
  back->reverse = there;
  core->live_pipes();  // forgets those that are gone
  core->pipes.push_back(there);
  core->pipes.push_back(back);
  return {std::move(there), std::move(back)};
}

Job SimHost::attempt(Attempt attempt) {
  const std::shared_ptr<SimNetwork::Core> core = attempt.core;
  while (!attempt.promise->is_set()) {
    co_await sleep_for(core->clock, core->latency(attempt.from, attempt.to));
    if (core->dead_processes.contains(attempt.from)) {
      attempt.promise->set(fail(Errc::closed, "the process is dead"));
      co_return;
    }
    if (!core->passes(attempt.from, attempt.to) || !core->passes(attempt.to, attempt.from)) {
      co_await sleep_for(core->clock, kConnectRetry);
      continue;
    }
    const auto found = core->listeners.find({attempt.to, attempt.service});
    std::unique_ptr<Stream> client;
    if (found != core->listeners.end()) {
      auto [there, back] = make_pipes(core, attempt.from, attempt.to);
      client = std::make_unique<SimStream>(back, there, attempt.address.to_string());
      found->second->push(std::make_unique<SimStream>(there, back, "tcp:" + attempt.from + ":0"));
    }
    co_await sleep_for(core->clock, core->latency(attempt.to, attempt.from));
    if (client == nullptr) {
      attempt.promise->set(fail(
          Errc::unavailable,
          fmt::format("cannot connect to {}: Connection refused", attempt.address.to_string())));
    } else {
      attempt.promise->set(std::move(client));
    }
  }
}

Task<std::unique_ptr<Stream>> SimHost::connect(Address address, TimePoint deadline) {
  std::string to = name_;
  if (address.kind == Address::Kind::tcp && address.host != "127.0.0.1" &&
      address.host != "localhost") {
    to = address.host;
    if (!core_->hosts.contains(to)) {
      co_return fail(Errc::invalid_argument, address.to_string() + ": no such host");
    }
  }
  auto promise = std::make_shared<ConnectPromise>();
  Attempt how{shared_core_.lock(), name_, to, service_of(address), address, promise};
  Clock& clock = *clock_;
  spawn(core_->executor, attempt(std::move(how)));
  std::string what = "connecting to " + address.to_string();
  co_return co_await get_until(std::move(promise), clock, deadline, std::move(what));
}

Task<std::unique_ptr<Listener>> SimHost::listen(Address address) {
  if (address.kind == Address::Kind::tcp && address.port == 0) address.port = next_port_++;
  const std::string service = service_of(address);
  if (core_->dead_processes.contains(name_)) co_return fail(Errc::closed, "the process is dead");
  if (core_->listeners.contains({name_, service})) {
    co_return fail(Errc::already_exists,
                   fmt::format("cannot listen on {}: it is in use", address.to_string()));
  }
  co_return std::make_unique<SimListener>(shared_core_.lock(), name_, service, address);
}

SimNetwork::SimNetwork(Executor executor, Clock& clock, Random random)
    : core_(std::make_shared<Core>(executor, clock, random)) {}
SimNetwork::~SimNetwork() = default;

Network& SimNetwork::host(const std::string& name) {
  std::unique_ptr<SimHost>& host = core_->hosts[name];
  if (host == nullptr) {
    host = std::make_unique<SimHost>(core_.get(), name);
    host->set_shared(core_);
  }
  return *host;
}

void SimNetwork::set_clock(const std::string& name, Clock& clock) {
  host(name);
  core_->hosts[name]->set_clock(clock);
}

void SimNetwork::set_default_link(SimLink link) { core_->default_link = link; }

void SimNetwork::set_link(const std::string& a, const std::string& b, SimLink link) {
  core_->links[{a, b}] = link;
  core_->links[{b, a}] = link;
}

void SimNetwork::partition_one_way(const std::string& from, const std::string& to) {
  core_->blocked.insert({from, to});
}

void SimNetwork::partition(const std::string& a, const std::string& b) {
  partition_one_way(a, b);
  partition_one_way(b, a);
}

void SimNetwork::isolate(const std::string& name) { core_->isolated.insert(name); }

void SimNetwork::heal(const std::string& a, const std::string& b) {
  core_->blocked.erase({a, b});
  core_->blocked.erase({b, a});
  core_->rearm_all();
}

void SimNetwork::heal_all() {
  core_->blocked.clear();
  core_->isolated.clear();
  core_->rearm_all();
}

void SimNetwork::reset(const std::string& a, const std::string& b) {
  for (const std::shared_ptr<SimPipe>& pipe : core_->live_pipes()) {
    if ((pipe->from == a && pipe->to == b) || (pipe->from == b && pipe->to == a)) {
      pipe->break_now();
    }
  }
}

void SimNetwork::reset_after(const std::string& from, const std::string& to,
                             std::uint64_t byte_count) {
  for (const std::shared_ptr<SimPipe>& pipe : core_->live_pipes()) {
    if (pipe->from == from && pipe->to == to) pipe->bytes_until_reset = byte_count;
  }
}

void SimNetwork::drop_host(const std::string& name, SimDeath death) {
  std::vector<SimListener*> listeners;
  for (const auto& [key, listener] : core_->listeners) {
    if (key.first == name) listeners.push_back(listener);
  }
  for (SimListener* listener : listeners) listener->close();
  if (death == SimDeath::machine) core_->dead_machines.insert(name);
  if (death == SimDeath::killed) core_->dead_processes.insert(name);
  for (const std::shared_ptr<SimPipe>& pipe : core_->live_pipes()) {
    if (pipe->to == name) pipe->stop_reading();
    if (pipe->from != name || pipe->broken) continue;
    // What it had sent is lost with it; the other end learns of the death when news can pass.
    pipe->on_the_way.clear();
    pipe->writer_closed = true;
    pipe->writable.notify_all();
    pipe->send({Chunk::Kind::reset, {}, {}});
  }
}

void SimNetwork::revive_host(const std::string& name) {
  core_->dead_machines.erase(name);
  core_->dead_processes.erase(name);
  core_->rearm_all();
}

std::size_t SimNetwork::connection_count() const {
  std::size_t count = 0;
  for (const std::shared_ptr<SimPipe>& pipe : core_->live_pipes()) {
    const std::shared_ptr<SimPipe> other = pipe->reverse.lock();
    if (other != nullptr && !pipe->ended && !other->ended) ++count;
  }
  return count / 2;
}

}  // namespace agro
