#include "common/serving_loops.hpp"

#include <algorithm>

#include "base/run_on.hpp"
#include "block/map_memory.hpp"
#include "metadata/measured_kv.hpp"

namespace agro {

/// Which loop a volume is on, by the number in its record.
class ServingLoop::Homes final : public nbd::Siblings {
 public:
  explicit Homes(ClusterClient& cluster) : cluster_(cluster) {}

  Awaitable<nbd::Server*> server_of(std::string export_name) override {
    const std::string volume = export_name.substr(0, export_name.find('@'));  // a snapshot is where its volume is
    for (const VolumeRecord& known : cluster_.view().volumes) {
      if (known.name == volume && known.state == VolumeState::active) co_return server_at(known.id);
    }
    const Result<VolumeRecord> found = co_await cluster_.metadata().find_volume(volume);  // made a moment ago, perhaps
    co_return found.has_value() ? server_at(found->id) : nullptr;
  }

  std::vector<nbd::Server*> servers;
  std::size_t own = 0;

 private:
  nbd::Server* server_at(VolumeId id) const {
    const std::size_t home = id.value % servers.size();
    return home == own ? nullptr : servers[home];
  }

  ClusterClient& cluster_;
};

ServingLoop::ServingLoop(Env& env) : env_(env) {}
ServingLoop::~ServingLoop() = default;

Task<std::unique_ptr<ServingLoop>> ServingLoop::start(Env& env, Kv& kv, VolumeManagerOptions options) {
  std::unique_ptr<ServingLoop> loop(new ServingLoop(env));
  AGRO_CO_TRY(loop->cluster_, co_await ClusterClient::start(env, kv));
  loop->manager_ = std::make_unique<VolumeManager>(env, kv, *loop->cluster_, std::move(options));
  loop->homes_ = std::make_unique<Homes>(*loop->cluster_);
  loop->server_ = std::make_unique<nbd::Server>(env.executor, env.clock, env.metrics, *loop->manager_);
  co_return std::move(loop);
}

Task<std::unique_ptr<ServingLoop>> ServingLoop::open(Env& env, std::string metadata_uri, VolumeManagerOptions options) {
  AGRO_CO_TRY(std::unique_ptr<Kv> kv, co_await open_measured_kv(env, metadata_uri, false));
  Result<std::unique_ptr<ServingLoop>> loop = co_await start(env, *kv, std::move(options));
  if (loop.has_value()) {
    (*loop)->own_kv_ = std::move(kv);
    co_return loop;
  }
  (void)co_await kv->close();  // what kept us from starting is what the user needs to know
  co_return loop;
}

Task<void> ServingLoop::join(std::vector<nbd::Server*> servers, std::size_t own) {
  homes_->servers = std::move(servers);
  homes_->own = own;
  server_->use_siblings(*homes_, env_.network);
  co_return Result<void>();
}

Task<LoopReport> ServingLoop::report() { co_return LoopReport{manager_->attached(), env_.metrics.snapshot()}; }

namespace {

Job stop_server(nbd::Server& server) { co_await server.stop(); }

}  // namespace

Task<void> ServingLoop::stop() {
  // A request that waits in a suspended volume ends when the manager closes the volume.
  TaskGroup group(env_.executor);
  group.spawn(stop_server(*server_));
  Result<void> result = co_await manager_->stop();
  co_await group.join();
  co_await cluster_->stop();
  if (own_kv_ == nullptr) co_return result;
  const Result<void> closed = co_await own_kv_->close();
  co_return result.has_value() ? closed : result;
}

namespace {

std::shared_ptr<MapMemory> map_memory_of_loop(const ServingOptions& options) {
  constexpr std::uint64_t kLeast = std::uint64_t{1} << 20;  // with next to none, every few writes would need a checkpoint
  return std::make_shared<MapMemory>(std::max(options.map_memory / options.loop_count, kLeast));
}

}  // namespace

Task<std::unique_ptr<ServingLoops>> ServingLoops::start(Env& env, Kv& kv, ServingOptions options) {
  std::unique_ptr<ServingLoops> loops(new ServingLoops(env));
  VolumeManagerOptions manager = options.manager;
  manager.volume.map_memory = map_memory_of_loop(options);
  AGRO_CO_TRY(loops->first_, co_await ServingLoop::start(env, kv, std::move(manager)));
  const Result<void> started = co_await loops->start_further(options);
  if (started.has_value()) co_return std::move(loops);
  (void)co_await loops->stop();  // nothing is attached yet
  co_return fail(started.error());
}

ServingLoops::~ServingLoops() = default;

Task<void> ServingLoops::start_further(const ServingOptions& options) {
  std::vector<nbd::Server*> servers{&first_->server()};
  for (unsigned number = 1; number < options.loop_count; ++number) {
    Further& further = further_.emplace_back();
    further.thread = std::make_unique<LoopThread>(number, options.busy_poll);
    VolumeManagerOptions manager = options.manager;
    manager.volume.map_memory = map_memory_of_loop(options);
    Task<std::unique_ptr<ServingLoop>> opening = ServingLoop::open(further.thread->env(), options.metadata_uri, std::move(manager));
    AGRO_CO_TRY(further.loop, co_await run_on(further.executor(), std::move(opening)));
    servers.push_back(&further.loop->server());
  }
  if (further_.empty()) co_return Result<void>();
  AGRO_CO_TRY_OK(co_await first_->join(servers, 0));
  for (std::size_t index = 0; index < further_.size(); ++index) {
    AGRO_CO_TRY_OK(co_await run_on(further_[index].executor(), further_[index].loop->join(servers, index + 1)));
  }
  co_return Result<void>();
}

void ServingLoops::use_tls(std::shared_ptr<const nbd::TlsContext> tls) {
  first_->server().use_tls(tls);
  // Nobody is connected: nothing comes to these servers before the first listens.
  for (Further& further : further_) further.loop->server().use_tls(tls);
}

Awaitable<LoopReport> ServingLoops::report() {
  LoopReport all;
  all.attached = first_->manager().attached();
  for (Further& further : further_) {
    if (further.loop == nullptr) continue;  // stopped
    Result<LoopReport> one = co_await run_on(further.executor(), further.loop->report());
    if (!one.has_value()) continue;  // it cannot fail
    std::move(one->attached.begin(), one->attached.end(), std::back_inserter(all.attached));
    all.metrics.merge(one->metrics);
  }
  std::sort(all.attached.begin(), all.attached.end(), [](const auto& left, const auto& right) { return left.name < right.name; });
  co_return all;
}

namespace {

Task<void> drop(std::unique_ptr<ServingLoop> loop) {
  loop.reset();
  co_return Result<void>();
}

}  // namespace

Job ServingLoops::stop_further(Further& further, Result<void>& first) {
  Result<void> stopped = co_await run_on(further.executor(), further.loop->stop());
  if (first.has_value()) first = std::move(stopped);
}

Job ServingLoops::stop_first(Result<void>& first) {
  Result<void> stopped = co_await first_->stop();
  if (first.has_value()) first = std::move(stopped);
}

Task<void> ServingLoops::stop() {
  Result<void> result;
  TaskGroup group(env_.executor);
  group.spawn(stop_first(result));
  for (Further& further : further_) {
    if (further.loop != nullptr) group.spawn(stop_further(further, result));
  }
  co_await group.join();
  // No server hands a connection to another any more: now they can go.
  for (Further& further : further_) AGRO_CO_TRY_OK(co_await run_on(further.executor(), drop(std::move(further.loop))));
  co_return result;
}

}  // namespace agro
