#include "faults.hpp"

#include <algorithm>

#include "ring/ring.hpp"

namespace agro {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Death = SimCluster::Death;
using Life = SimCluster::Life;

namespace {

constexpr Duration kTryAgain = milliseconds(500);

}  // namespace

const std::vector<FaultInjector::Kind>& FaultInjector::table() {
  static const std::vector<Kind> kKinds = {
      {"crash", 12, &FaultInjector::crash},
      {"kill", 12, &FaultInjector::kill},
      {"stop", 4, &FaultInjector::stop},
      {"client-crash", 8, &FaultInjector::client_crash, true},
      {"client-stop", 2, &FaultInjector::client_stop, true},
      {"lost-tail", 8, &FaultInjector::lost_tail},
      {"blackout", 2, &FaultInjector::blackout},
      {"partition", 6, &FaultInjector::partition},
      {"one-way", 5, &FaultInjector::one_way},
      {"isolate", 6, &FaultInjector::isolate},
      {"slow-link", 4, &FaultInjector::slow_link},
      {"reset", 6, &FaultInjector::reset},
      {"mds-down", 5, &FaultInjector::mds_down},
      {"mds-outage", 3, &FaultInjector::mds_outage},
      {"mds-flaky", 4, &FaultInjector::mds_flaky},
      {"pause", 2, &FaultInjector::pause},
      {"freeze", 6, &FaultInjector::freeze},
      {"disk-errors", 4, &FaultInjector::disk_errors},
      {"disk-full", 2, &FaultInjector::disk_full},
      {"disk-slow", 3, &FaultInjector::disk_slow},
      {"disk-mishaps", 4, &FaultInjector::disk_mishaps},
      {"rot", 6, &FaultInjector::rot},
      {"disk-lost", 3, &FaultInjector::disk_lost},
      {"join", 4, &FaultInjector::join},
      {"ring-remove", 3, &FaultInjector::ring_remove},
      {"ring-add", 3, &FaultInjector::ring_add},
      {"ring-copies", 3, &FaultInjector::ring_copies},
      {"ring-weight", 2, &FaultInjector::ring_weight},
      {"work", 5, &FaultInjector::work, true},
      {"lying-sync", 30, &FaultInjector::lying_sync, false, true},
  };
  return kKinds;
}

std::vector<std::string> FaultInjector::fault_names() {
  std::vector<std::string> names;
  for (const Kind& kind : table()) {
    if (!kind.opt_in) names.emplace_back(kind.name);
  }
  return names;
}

std::vector<std::string> FaultInjector::opt_in_names() {
  std::vector<std::string> names;
  for (const Kind& kind : table()) {
    if (kind.opt_in) names.emplace_back(kind.name);
  }
  return names;
}

FaultInjector::FaultInjector(SimCluster& cluster, Trace& trace, Random random,
                             std::set<std::string> names, std::uint32_t copies,
                             std::function<void(std::size_t)> client_died)
    : cluster_(cluster), trace_(trace), random_(random), client_died_(std::move(client_died)),
      lowest_copies_(copies),
      jobs_(cluster.loop.executor()) {
  for (const Kind& kind : table()) {
    if (!names.contains(kind.name)) continue;
    kinds_.push_back(&kind);
    weight_sum_ += kind.weight;
  }
  if (!names.contains("lying-sync")) return;
  liar_ = random_.below(cluster.host_count());
  set_disk_faults(*liar_, {});
}

void FaultInjector::inject() {
  if (kinds_.empty()) return;
  // Between any two steps of anybody.
  if (random_.chance(1, 2)) cluster_.loop.run_steps(random_.below(300), milliseconds(50));
  std::uint64_t at = random_.below(weight_sum_);
  for (const Kind* kind : kinds_) {
    if (at < kind->weight) {
      if (is_careful() && !kind->gentle) return;
      if ((this->*kind->inject)()) ++counts_[kind->name];
      return;
    }
    at -= kind->weight;
  }
}

// --- putting right --------------------------------------------------------------------------------

TimePoint FaultInjector::later(Duration most) {
  // Mostly soon.
  const std::uint64_t scale = random_.chance(1, 4) ? 1 : 8;
  return now() + Duration(random_.below(static_cast<std::uint64_t>(most.count()) / scale));
}

void FaultInjector::repair_at(TimePoint at, std::function<bool()> act) {
  repairs_.push_back({at, std::move(act)});
}

void FaultInjector::repair_due() {
  const TimePoint present = now();
  for (std::size_t index = 0; index < repairs_.size();) {
    if (repairs_[index].at > present) {
      ++index;
    } else if (repairs_[index].act()) {
      repairs_.erase(repairs_.begin() + static_cast<std::ptrdiff_t>(index));
    } else {
      repairs_[index++].at = present + kTryAgain;
    }
  }
  look_after_lost();
  look_after_liar();
  for (auto& [peer, at] : peer_up_at_) {
    if (cluster_.peer_life(peer) == Life::up) note_id(peer);
    if (at > present || cluster_.peer_life(peer) != Life::down) continue;
    at = present + kTryAgain;
    const std::string& why = cluster_.start_error(peer);
    trace_.event(SimCluster::peer_name(peer), "starts{}{}", why.empty() ? "" : " again, after: ",
                 why);
    cluster_.begin_peer(peer);
  }
  for (auto& [client, at] : client_up_at_) {
    if (at > present || cluster_.client_life(client) != Life::down) continue;
    at = present + kTryAgain;
    trace_.event(SimCluster::client_name(client), "starts");
    cluster_.begin_client(client);
  }
}

void FaultInjector::repair_everything() {
  trace_.event("-", "all faults end");
  calming_since_.reset();
  for (Repair& repair : repairs_) repair.at = now();
  for (const std::size_t peer : joined_) peer_up_at_[peer] = now();
  for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
    client_up_at_[client] = now();
  }
  cluster_.network.heal_all();
  repair_due();
}

std::string FaultInjector::not_up() const {
  for (const std::size_t peer : joined_) {
    if (cluster_.peer_life(peer) == Life::up) continue;
    return SimCluster::peer_name(peer) + " is not up: " + cluster_.start_error(peer);
  }
  for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
    if (cluster_.client_life(client) != Life::up) {
      return SimCluster::client_name(client) + " is not up";
    }
  }
  return repairs_.empty() ? "" : "a repair is still to be made";
}

// --- processes ------------------------------------------------------------------------------------

std::optional<std::size_t> FaultInjector::random_peer(Life life) {
  std::vector<std::size_t> found;
  for (const std::size_t peer : joined_) {
    if (cluster_.peer_life(peer) == life) found.push_back(peer);
  }
  if (found.empty()) return std::nullopt;
  return found[random_.below(found.size())];
}

void FaultInjector::end_peer(std::size_t index, Death death, TimePoint up_again) {
  set_disk_faults(index, {});
  if (liar_ == index) cluster_.disk(index).write_back();
  cluster_.end_peer(index, death);
  peer_up_at_[index] = up_again;
}

void FaultInjector::end_client(std::size_t index, Death death, TimePoint up_again) {
  if (death != Death::stopped) client_died_(index);
  cluster_.end_client(index, death);
  client_up_at_[index] = up_again;
}

bool FaultInjector::end_random_peer(Death death, const char* word) {
  const bool starting = death != Death::stopped && random_.chance(1, 3);
  std::optional<std::size_t> peer;
  if (starting) peer = random_peer(Life::starting);
  if (!peer.has_value()) peer = random_peer(Life::up);
  if (!peer.has_value()) return false;
  trace_.event(SimCluster::peer_name(*peer), "{}", word);
  end_peer(*peer, death, later(seconds(20)));
  return true;
}

bool FaultInjector::crash() { return end_random_peer(Death::power, "loses its power"); }
bool FaultInjector::kill() { return end_random_peer(Death::killed, "is killed"); }
bool FaultInjector::stop() { return end_random_peer(Death::stopped, "is stopped"); }

bool FaultInjector::client_crash() {
  const std::size_t client = random_.below(SimCluster::kClientCount);
  const Life life = cluster_.client_life(client);
  if (life != Life::up && life != Life::starting) return false;
  trace_.event(SimCluster::client_name(client), "is killed");
  end_client(client, Death::killed, later(seconds(5)));
  return true;
}

bool FaultInjector::client_stop() {
  const std::size_t client = random_.below(SimCluster::kClientCount);
  if (cluster_.client_life(client) != Life::up) return false;
  trace_.event(SimCluster::client_name(client), "is stopped");
  end_client(client, Death::stopped, later(seconds(5)));
  return true;
}

/// A client dies shortly after some of the peers stopped hearing it: later blocks of its log are
/// stored, and earlier ones are not.
bool FaultInjector::lost_tail() {
  const std::size_t client = random_.below(SimCluster::kClientCount);
  if (cluster_.client_life(client) != Life::up) return false;
  const std::string name = SimCluster::client_name(client);
  std::vector<std::string> deaf;
  for (const std::size_t peer : joined_) {
    if (random_.chance(1, 2)) deaf.push_back(SimCluster::peer_name(peer));
  }
  if (deaf.empty()) return false;
  trace_.event(name, "is not heard by {}, and will be killed", fmt::join(deaf, ", "));
  for (const std::string& peer : deaf) cluster_.network.partition(name, peer);
  repair_at(now() + milliseconds(random_.below(600)), [this, client, name, deaf] {
    const Life life = cluster_.client_life(client);
    if (life == Life::up || life == Life::starting) {
      trace_.event(name, "is killed");
      end_client(client, Death::killed, later(seconds(5)));
    }
    for (const std::string& peer : deaf) cluster_.network.heal(name, peer);
    return true;
  });
  return true;
}

bool FaultInjector::blackout() {
  trace_.event("-", "all machines lose their power");
  for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
    const Life life = cluster_.client_life(client);
    if (life != Life::up && life != Life::starting) continue;
    end_client(client, Death::killed, later(seconds(10)));
  }
  for (const std::size_t peer : joined_) {
    const Life life = cluster_.peer_life(peer);
    if (life == Life::up || life == Life::starting) end_peer(peer, Death::power, later(seconds(10)));
  }
  return true;
}

bool FaultInjector::pause() {
  // Every process stands still, and time goes on: also that of leases.
  const Duration duration = milliseconds(random_.below(15000));
  trace_.event("-", "everything stands still for {} ms",
               std::chrono::duration_cast<milliseconds>(duration).count());
  SimClock& clock = cluster_.loop.clock();
  clock.advance_to(clock.now() + duration);
  return true;
}

bool FaultInjector::freeze_peer(std::size_t index, Duration duration) {
  if (cluster_.peer_life(index) != Life::up || cluster_.peer_is_frozen(index)) return false;
  trace_.event(SimCluster::peer_name(index), "is frozen");
  cluster_.freeze_peer(index, true);
  repair_at(now() + duration, [this, index] {
    trace_.event(SimCluster::peer_name(index), "goes on");
    cluster_.freeze_peer(index, false);
    return true;
  });
  return true;
}

bool FaultInjector::freeze_client(std::size_t index, Duration duration) {
  if (cluster_.client_life(index) != Life::up || cluster_.client_is_frozen(index)) return false;
  trace_.event(SimCluster::client_name(index), "is frozen");
  cluster_.freeze_client(index, true);
  repair_at(now() + duration, [this, index] {
    trace_.event(SimCluster::client_name(index), "goes on");
    cluster_.freeze_client(index, false);
    return true;
  });
  return true;
}

bool FaultInjector::freeze() {
  const Duration duration = later(seconds(30)) - now();
  if (random_.chance(1, 2)) {
    return freeze_client(random_.below(SimCluster::kClientCount), duration);
  }
  const std::optional<std::size_t> peer = random_peer(Life::up);
  return peer.has_value() && freeze_peer(*peer, duration);
}

// --- the network ----------------------------------------------------------------------------------

std::vector<std::string> FaultInjector::hosts() const {
  std::vector<std::string> names;
  for (std::size_t client = 0; client < SimCluster::kClientCount; ++client) {
    names.push_back(SimCluster::client_name(client));
  }
  for (const std::size_t peer : joined_) names.push_back(SimCluster::peer_name(peer));
  return names;
}

std::string FaultInjector::random_host() {
  const std::vector<std::string> names = hosts();
  return names[random_.below(names.size())];
}

bool FaultInjector::partition() {
  const std::string a = random_host();
  const std::string b = random_host();
  if (a == b) return false;
  trace_.event(a, "and {} do not reach each other", b);
  cluster_.network.partition(a, b);
  repair_at(later(seconds(20)), [this, a, b] {
    trace_.event(a, "and {} reach each other", b);
    cluster_.network.heal(a, b);
    return true;
  });
  return true;
}

bool FaultInjector::one_way() {
  const std::string a = random_host();
  const std::string b = random_host();
  if (a == b) return false;
  trace_.event(a, "does not reach {}", b);
  cluster_.network.partition_one_way(a, b);
  repair_at(later(seconds(20)), [this, a, b] {
    trace_.event(a, "reaches {} again", b);
    cluster_.network.heal(a, b);
    return true;
  });
  return true;
}

bool FaultInjector::isolate() {
  const std::string name = random_host();
  trace_.event(name, "is cut off");
  for (const std::string& other : hosts()) {
    if (other != name) cluster_.network.partition(name, other);
  }
  repair_at(later(seconds(20)), [this, name] {
    trace_.event(name, "is connected again");
    for (const std::string& other : hosts()) {
      if (other != name) cluster_.network.heal(name, other);
    }
    return true;
  });
  return true;
}

bool FaultInjector::slow_link() {
  const std::string a = random_host();
  const std::string b = random_host();
  if (a == b) return false;
  SimLink link;
  link.latency_max = milliseconds(1 + random_.below(400));
  if (random_.chance(1, 3)) link.bytes_per_second = 50'000 + random_.below(2'000'000);
  trace_.event(a, "and {} have a slow link: up to {} ms, {} bytes/s", b,
               std::chrono::duration_cast<milliseconds>(link.latency_max).count(),
               link.bytes_per_second);
  cluster_.network.set_link(a, b, link);
  repair_at(later(seconds(20)), [this, a, b] {
    trace_.event(a, "and {} have a good link", b);
    cluster_.network.set_link(a, b, SimLink{});
    return true;
  });
  return true;
}

bool FaultInjector::reset() {
  const std::string a = random_host();
  const std::string b = random_host();
  if (a == b) return false;
  const std::uint64_t bytes = random_.below(random_.chance(1, 2) ? 300 : 100'000);
  trace_.event(a, "connections to {} are reset after {} bytes", b, bytes);
  cluster_.network.reset_after(a, b, bytes);
  return true;
}

// --- the metadata store ---------------------------------------------------------------------------

bool FaultInjector::mds_down() {
  const bool client = random_.chance(1, 2);
  const std::size_t index = random_.below(client ? SimCluster::kClientCount : cluster_.host_count());
  const auto runs = [this, client, index] {
    const Life life = client ? cluster_.client_life(index) : cluster_.peer_life(index);
    return life == Life::up || life == Life::starting;
  };
  if (!runs()) return false;
  const std::string name = client ? SimCluster::client_name(index) : SimCluster::peer_name(index);
  SimKvFaults faults;
  faults.down = random_.chance(2, 3);
  faults.fail_keep_alives = !faults.down;
  trace_.event(name, "{}", faults.down ? "does not reach the metadata store"
                                       : "cannot renew its leases");
  (client ? cluster_.client_kv(index) : cluster_.peer_kv(index)).set_faults(faults);
  repair_at(later(seconds(20)), [this, client, index, runs, name] {
    if (!runs()) return true;
    trace_.event(name, "reaches the metadata store");
    (client ? cluster_.client_kv(index) : cluster_.peer_kv(index)).set_faults({});
    return true;
  });
  return true;
}

/// No running peer reaches the metadata store, for longer than gc lets what it condemned wait; and gc
/// starts in it. So what it makes of a listing that failed shows on all copies.
bool FaultInjector::mds_outage() {
  std::vector<std::size_t> cut_off;
  for (const std::size_t peer : joined_) {
    if (cluster_.peer_life(peer) == Life::up) cut_off.push_back(peer);
  }
  if (cut_off.empty()) return false;
  trace_.event("-", "no peer reaches the metadata store, and each is told to gc");
  SimKvFaults faults;
  faults.down = true;
  for (const std::size_t peer : cut_off) {
    cluster_.peer_kv(peer).set_faults(faults);
    (void)cluster_.node(peer).service()->start(WorkKind::gc);
  }
  const Duration more = milliseconds(500 + random_.below(4000));
  repair_at(now() + cluster_.background().gc.grace + more, [this, cut_off] {
    trace_.event("-", "the peers reach the metadata store");
    for (const std::size_t peer : cut_off) {
      const Life life = cluster_.peer_life(peer);
      if (life == Life::up || life == Life::starting) cluster_.peer_kv(peer).set_faults({});
    }
    return true;
  });
  return true;
}

bool FaultInjector::mds_flaky() {
  const std::size_t count = cluster_.host_count() + SimCluster::kClientCount;
  SimKvFaults faults;
  faults.latency_max = milliseconds(random_.below(100));
  faults.refuse_ppm = static_cast<std::uint32_t>(random_.below(100'000));
  faults.lose_question_ppm = static_cast<std::uint32_t>(random_.below(100'000));
  faults.lose_answer_ppm = static_cast<std::uint32_t>(random_.below(100'000));
  faults.watch_lag_max = milliseconds(random_.below(2000));
  faults.watch_compaction_ppm = static_cast<std::uint32_t>(random_.below(100'000));
  trace_.event("-", "the metadata store is flaky: {} us, refuses {}, loses {} and {} ppm, lag {} ms",
               std::chrono::duration_cast<std::chrono::microseconds>(faults.latency_max).count(),
               faults.refuse_ppm, faults.lose_question_ppm, faults.lose_answer_ppm,
               std::chrono::duration_cast<milliseconds>(faults.watch_lag_max).count());
  const auto set = [this, count](const SimKvFaults& wanted) {
    for (std::size_t index = 0; index < count; ++index) {
      const bool client = index < SimCluster::kClientCount;
      const std::size_t peer = index - SimCluster::kClientCount;
      const Life life = client ? cluster_.client_life(index) : cluster_.peer_life(peer);
      if (life != Life::up && life != Life::starting) continue;
      (client ? cluster_.client_kv(index) : cluster_.peer_kv(peer)).set_faults(wanted);
    }
  };
  set(faults);
  repair_at(later(seconds(20)), [this, set] {
    trace_.event("-", "the metadata store is well");
    set({});
    return true;
  });
  return true;
}

// --- the ring -------------------------------------------------------------------------------------

bool FaultInjector::join() {
  for (std::size_t peer = 0; peer < cluster_.host_count(); ++peer) {
    if (joined_.contains(peer)) continue;
    trace_.event(SimCluster::peer_name(peer), "joins");
    joined_.insert(peer);
    peer_up_at_[peer] = now();
    return true;
  }
  return false;
}

Job FaultInjector::change_job(RingChange change, std::string what) {
  const Result<RingSpec> changed = co_await change_ring(cluster_.metadata(), std::move(change));
  trace_.event("-", "ring change: {}: {}", what,
               changed.has_value() ? fmt::format("ring {}", changed->version)
                                   : changed.error().to_string());
}

void FaultInjector::change(RingChange wanted, const std::string& what) {
  trace_.event("-", "ring change: {}", what);
  jobs_.spawn(change_job(std::move(wanted), what));
}

bool FaultInjector::ring_remove() {
  if (!lost_.empty()) return false;  // the ring needs who is left
  if (peer_ids_.empty()) return false;
  const auto peer = std::next(peer_ids_.begin(),
                              static_cast<std::ptrdiff_t>(random_.below(peer_ids_.size())));
  RingChange wanted;
  wanted.kind = RingChangeKind::remove;
  wanted.members.push_back({.id = peer->second});
  change(std::move(wanted), "remove " + SimCluster::peer_name(peer->first));
  return true;
}

bool FaultInjector::ring_add() {
  if (peer_ids_.empty()) return false;
  const auto peer = std::next(peer_ids_.begin(),
                              static_cast<std::ptrdiff_t>(random_.below(peer_ids_.size())));
  RingChange wanted;
  wanted.kind = RingChangeKind::add;
  wanted.members.push_back({.id = peer->second, .weight = 1 + random_.below(3)});
  change(std::move(wanted), "add " + SimCluster::peer_name(peer->first));
  return true;
}

bool FaultInjector::ring_copies() {
  RingChange wanted;
  wanted.kind = RingChangeKind::set_replication;
  wanted.replication = static_cast<std::uint32_t>(1 + random_.below(3));
  // With one copy wanted, one that has rotted may be the one that is kept, or the liar's; and nobody can
  // be sure that a peer which is lost had none of which it was the only one.
  const bool one_is_too_few = !rotten_.empty() || !lost_.empty() || liar_.has_value();
  if (wanted.replication == 1 && one_is_too_few) return false;
  if (!lost_.empty()) return false;  // it counts as a member until it is taken out, and then is one too few
  lowest_copies_ = std::min(lowest_copies_, wanted.replication);
  change(wanted, fmt::format("{} copies", wanted.replication));
  return true;
}

bool FaultInjector::ring_weight() {
  if (peer_ids_.empty()) return false;
  const auto peer = std::next(peer_ids_.begin(),
                              static_cast<std::ptrdiff_t>(random_.below(peer_ids_.size())));
  RingChange wanted;
  wanted.kind = RingChangeKind::reweight;
  wanted.members.push_back({.id = peer->second, .weight = 1 + random_.below(4)});
  change(std::move(wanted), "reweight " + SimCluster::peer_name(peer->first));
  return true;
}

bool FaultInjector::work() {
  const std::optional<std::size_t> peer = random_peer(Life::up);
  if (!peer.has_value()) return false;
  constexpr WorkKind kKinds[] = {WorkKind::rebalance, WorkKind::scrub, WorkKind::gc};
  constexpr const char* kNames[] = {"rebalance", "scrub", "gc"};
  const std::uint64_t kind = random_.below(3);
  const Result<void> started = cluster_.node(*peer).service()->start(kKinds[kind]);
  trace_.event(SimCluster::peer_name(*peer), "is told to {}: {}", kNames[kind],
               errc_name(started.code()));
  return started.has_value();
}

}  // namespace agro
