#include "node/rebalancer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/parallel.hpp"
#include "node/cluster_report.hpp"
#include "ring/ring.hpp"

namespace agro {
namespace {

constexpr std::size_t kBlocksAskedAtOnce = 2000;
constexpr std::size_t kPushesAtOnce = 4;
constexpr std::size_t kGivenUpAtOnce = 1024;
constexpr Duration kAnswerLimit = std::chrono::seconds(5);
constexpr Duration kPushLimit = std::chrono::seconds(20);
constexpr Duration kRateWindow = std::chrono::seconds(5);
/// Strays are looked at together, when writes to where they belong are surely over.
constexpr Duration kStraysAfter = std::chrono::seconds(5);

}  // namespace

Rebalancer::Rebalancer(Env& env, ClusterClient& cluster, PeerService& service,
                       RebalancerOptions options)
    : env_(env),
      cluster_(cluster),
      service_(service),
      options_(options),
      rate_(env.clock, service, options_.rate),
      jobs_(env.executor),
      metric_moved_bytes_(env.metrics.get("agro_rebalance_moved_bytes_total",
                                          "Bytes of blocks copied to where the ring wants them")),
      metric_left_bytes_(env.metrics.get("agro_rebalance_left_bytes",
                                         "Bytes of blocks still to be copied, as far as known")) {}

void Rebalancer::start() {
  load_ring();
  load_volumes();
  jobs_.spawn(follow());
  jobs_.spawn(run());
}

void Rebalancer::look() {
  wanted_ = true;
  settled_version_ = 0;
  wake_.notify_all();
}

void Rebalancer::stored(const BlockRef& ref) {
  if (placement_.parts.empty() || is_ours(ref)) return;
  strays_.insert(ref);
}

Awaitable<void> Rebalancer::stop() {
  stopping_ = true;
  wake_.notify_all();
  cluster_.changed().notify_all();
  co_await jobs_.join();
}

RebalanceReport Rebalancer::report() const {
  RebalanceReport report;
  report.running = running_ && blocks_left_ > 0;
  report.settled_version = settled_version_;
  report.blocks_left = blocks_left_;
  report.bytes_left = bytes_left_;
  report.blocks_moved = blocks_moved_;
  report.bytes_moved = bytes_moved_;
  report.problem = problem_;
  report.short_blocks = short_blocks_;
  const TimePoint now = env_.clock.now();
  std::uint64_t recent = 0;
  for (const auto& [at, bytes] : moves_) {
    if (now - at <= kRateWindow) recent += bytes;
  }
  report.bytes_per_second = recent / std::chrono::duration_cast<std::chrono::seconds>(kRateWindow).count();
  return report;
}

// --- what is known of the cluster -----------------------------------------------------------------

void Rebalancer::load_ring() {
  const RingSpec& spec = cluster_.view().ring;
  if (spec.version == placement_.version && !placement_.parts.empty()) return;
  Placement placement{spec.version, spec.kind == RingKind::union_, {}};
  const std::vector<RingSpec> whole{spec};
  const std::vector<RingSpec>& parts = placement.changing ? spec.parts : whole;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    Result<std::shared_ptr<const Ring>> ring = make_ring(*part);
    if (!ring.has_value()) {
      log_error("the ring in the metadata store is refused: {}", ring.error().to_string());
      return;
    }
    placement.parts.push_back(std::move(*ring));
  }
  placement_ = std::move(placement);
  wanted_ = true;
  settled_version_ = 0;
}

void Rebalancer::load_volumes() {
  volumes_.clear();
  for (const VolumeRecord& volume : cluster_.view().volumes) {
    // Asked about a ring of no copies, a volume answers with its own count.
    RingSpec none;
    none.replication = 0;
    volumes_[volume.id] = copy_count_of(volume, none);
  }
}

bool Rebalancer::is_alive(const PeerId& id) const {
  const std::vector<PeerView>& peers = cluster_.view().peers;
  return std::any_of(peers.begin(), peers.end(), [&id](const PeerView& peer) {
    return peer.record.id == id && peer.alive;
  });
}

std::size_t Rebalancer::owner_count(const Ring& part, const BlockRef& ref) const {
  part.permutation(ref, permutation_);
  const auto volume = volumes_.find(ref.volume);
  const bool own = volume != volumes_.end() && volume->second > 0;
  const std::uint32_t copies = own ? volume->second : part.replication();
  return std::min<std::size_t>(copies, permutation_.size());
}

bool Rebalancer::is_ours(const BlockRef& ref) const {
  const Ring& target = *placement_.parts.front();
  const std::size_t owners = owner_count(target, ref);
  return std::any_of(permutation_.begin(),
                     permutation_.begin() + static_cast<std::ptrdiff_t>(owners),
                     [&](std::uint32_t member) { return target.members()[member].id == service_.id(); });
}

bool Rebalancer::is_covered(const BlockRef& ref) const {
  const auto found = std::lower_bound(
      positions_.begin(), positions_.end(), ref.volume,
      [](const VolumePosition& position, VolumeId id) { return position.volume < id; });
  // Of a volume that nobody knows, nothing is given up: that is for gc to judge.
  if (!volumes_.contains(ref.volume)) return false;
  return found != positions_.end() && found->volume == ref.volume && found->covers(ref);
}

Job Rebalancer::follow() {
  while (!stopping_) {
    load_ring();
    const std::uint64_t revision = cluster_.view().revision;
    co_await service_.require_ring(placement_.version);
    load_volumes();
    std::set<PeerId> alive;
    for (const PeerView& peer : cluster_.view().peers) {
      if (peer.alive) alive.insert(peer.record.id);
    }
    if (alive != alive_) look();
    alive_ = std::move(alive);
    if (wanted_) wake_.notify_all();
    while (!stopping_ && cluster_.view().revision == revision) co_await cluster_.changed().wait();
  }
}

// --- one pass -------------------------------------------------------------------------------------

Job Rebalancer::run() {
  TimePoint look_at = env_.clock.now();
  while (!stopping_) {
    if (!wanted_ && env_.clock.now() < look_at) {
      co_await wait_until(wake_, env_.clock, std::min(look_at, env_.clock.now() + kStraysAfter));
      if (!wanted_ && strays_.empty()) continue;
    }
    if (env_.clock.now() >= look_at) wanted_ = true;
    if (stopping_) co_return;
    if (placement_.parts.empty()) {  // no ring yet, or one that was refused
      co_await wait_until(wake_, env_.clock, env_.clock.now() + kStraysAfter);
      continue;
    }
    running_ = true;
    version_ = placement_.version;
    const Result<void> done = co_await pass();
    running_ = false;
    blocks_left_ = bytes_left_ = 0;
    metric_left_bytes_.value = 0;
    look_at = env_.clock.now() + options_.look_every;
    if (done.has_value()) {
      problem_.clear();
      continue;
    }
    problem_ = done.error().to_string();
    log_warning("peer {}: rebalance: {}; will try again", service_.id().to_string(), problem_);
    wanted_ = true;
    const TimePoint again = env_.clock.now() + options_.retry_after;
    while (!stopping_ && env_.clock.now() < again) co_await wait_until(wake_, env_.clock, again);
  }
}

std::vector<Rebalancer::Item> Rebalancer::items_to_look_at() {
  std::vector<Item> items;
  if (std::exchange(wanted_, false)) {
    for (const BlockInfo& block : service_.store().list({})) items.push_back({block, 0});
  } else {
    for (const BlockRef& ref : strays_) {
      if (const auto size = service_.store().find(ref)) items.push_back({{ref, *size}, 0});
    }
  }
  strays_.clear();
  if (leave_alone_) {
    std::erase_if(items, [this](const Item& item) { return leave_alone_(item.block.ref); });
  }
  return items;
}

/// A peer that is new in the ring was not there when writers fenced older ones.
Task<void> Rebalancer::adopt_fences() {
  AGRO_CO_TRY(positions_, co_await cluster_.metadata().positions());
  for (std::size_t index = 0; index < positions_.size() && !stopping_; ++index) {
    const VolumePosition position = positions_[index];
    if (service_.store().fence_of(position.volume) >= position.epoch) continue;
    AGRO_CO_TRY_OK(co_await service_.store().fence(position.volume, position.epoch));
  }
  co_return Result<void>();
}

Task<void> Rebalancer::pass() {
  co_await service_.require_ring(version_);
  AGRO_CO_TRY_OK(co_await adopt_fences());
  const bool whole = wanted_;
  std::uint64_t short_count = 0;
  std::vector<Item> left = items_to_look_at();
  // Blocks on their way to their other owners right now are no concern of ours.
  const TimePoint begin = env_.clock.now() + options_.settle_delay;
  while (!left.empty() && !is_stale() && env_.clock.now() < begin) {
    co_await wait_until(wake_, env_.clock, begin);
  }
  bool stuck = false;
  while (!left.empty() && !is_stale()) {
    Round round;
    round.stuck = stuck;
    for (std::size_t at = 0; at < left.size() && !is_stale(); at += kBlocksAskedAtOnce) {
      const std::size_t count = std::min(kBlocksAskedAtOnce, left.size() - at);
      AGRO_CO_TRY_OK(co_await plan(std::span(left).subspan(at, count), round));
    }
    short_count += round.short_count;
    blocks_left_ = round.again.size();
    bytes_left_ = round.bytes;
    metric_left_bytes_.value = bytes_left_;
    if (is_stale()) break;
    const std::uint64_t moved_before = blocks_moved_;
    AGRO_CO_TRY_OK(co_await carry_out(round));
    const bool moved = blocks_moved_ > moved_before;
    stuck = !moved && round.again.size() == left.size();
    left = std::move(round.again);
    // What is new comes first: blocks of a peer that does not answer may be left for ever.
    if (left.empty() || wanted_) break;
    if (moved) continue;
    const TimePoint again = env_.clock.now() + options_.retry_after;
    while (!is_stale() && !wanted_ && env_.clock.now() < again) {
      co_await wait_until(wake_, env_.clock, again);
    }
    AGRO_CO_TRY(positions_, co_await cluster_.metadata().positions());
  }
  if (is_stale() || wanted_) {
    wanted_ = true;
    co_return Result<void>();
  }
  if (!whole) co_return Result<void>();
  short_blocks_ = short_count;
  settled_version_ = version_;
  // The word is kept when an owner that was dead is back without its copy: so it is not given before.
  if (placement_.changing && short_count == 0) {
    AGRO_CO_TRY_OK(co_await cluster_.metadata().report_settled(service_.id(), version_));
  }
  co_return Result<void>();
}

Rebalancer::Asked Rebalancer::asked_for(const BlockRef& ref) const {
  Asked asked;
  for (std::size_t part = 0; part < placement_.parts.size(); ++part) {
    const Ring& ring = *placement_.parts[part];
    const std::size_t owners = owner_count(ring, ref);
    for (std::size_t rank = 0; rank < owners; ++rank) {
      const PeerId& id = ring.members()[permutation_[rank]].id;
      if (std::find(asked.ids.begin(), asked.ids.end(), id) != asked.ids.end()) continue;
      asked.ids.push_back(id);
      asked.peers.push_back({part == 0, id == service_.id(), Holding::present});
    }
  }
  if (std::find(asked.ids.begin(), asked.ids.end(), service_.id()) == asked.ids.end()) {
    asked.ids.push_back(service_.id());
    asked.peers.push_back({false, true, Holding::present});
  }
  return asked;
}

/// Never an error: a peer that does not answer has not answered.
Task<void> Rebalancer::ask(PeerId id, std::vector<BlockRef> refs, Answers& answers) {
  const std::shared_ptr<Peer> peer = cluster_.peer(id);
  if (peer == nullptr || !peer->connected()) co_return Result<void>();
  const TimePoint deadline = env_.clock.now() + kAnswerLimit;
  const Result<std::vector<std::uint32_t>> sizes = co_await peer->has(refs, version_, deadline);
  if (!sizes.has_value()) co_return Result<void>();
  std::set<BlockRef>& held = answers[id].emplace();
  for (std::size_t index = 0; index < refs.size(); ++index) {
    if ((*sizes)[index] > 0) held.insert(held.end(), refs[index]);
  }
  co_return Result<void>();
}

Holding Rebalancer::holding_of(const Answers& answers, const PeerId& id,
                               const BlockRef& ref) const {
  if (id == service_.id()) return Holding::present;
  const auto answer = answers.find(id);
  if (answer == answers.end() || !answer->second.has_value()) {
    return is_alive(id) ? Holding::silent : Holding::dead;
  }
  return answer->second->contains(ref) ? Holding::present : Holding::missing;
}

Task<void> Rebalancer::plan(std::span<const Item> items, Round& round) {
  std::vector<Asked> asked;
  std::map<PeerId, std::vector<BlockRef>> questions;
  for (const Item& item : items) {
    asked.push_back(asked_for(item.block.ref));
    for (const PeerId& id : asked.back().ids) {
      if (id != service_.id()) questions[id].push_back(item.block.ref);
    }
  }
  Answers answers;
  std::vector<PeerId> ids;
  for (const auto& [id, refs] : questions) ids.push_back(id);
  AGRO_CO_TRY_OK(co_await for_each_parallel(
      ids.size(), ids.size(),
      [&](std::size_t index) { return ask(ids[index], questions[ids[index]], answers); }));
  for (std::size_t index = 0; index < items.size(); ++index) {
    Item item = items[index];
    if (!service_.store().find(item.block.ref).has_value()) continue;  // deleted meanwhile
    Asked& one = asked[index];
    for (std::size_t at = 0; at < one.ids.size(); ++at) {
      one.peers[at].holding = holding_of(answers, one.ids[at], item.block.ref);
    }
    const bool covered = is_covered(item.block.ref);
    const BlockPlan plan = plan_block(one.peers, item.attempt, covered);
    for (const std::size_t at : plan.push_to) {
      round.pushes.push_back({item, one.ids[at]});
      round.bytes += item.block.size;
    }
    if (plan.give_up) round.give_up.push_back(item.block.ref);
    if (plan.settled && !plan.give_up && !covered && !is_ours(item.block.ref)) {
      strays_.insert(item.block.ref);  // until a checkpoint covers it
    }
    if (plan.settled) {
      round.short_count += plan.is_short ? 1 : 0;
      continue;
    }
    // Whoever is to push first is at it for as long as anything gets settled.
    if (plan.push_to.empty() && round.stuck) ++item.attempt;
    round.again.push_back(item);
  }
  co_return Result<void>();
}

Task<void> Rebalancer::carry_out(Round& round) {
  for (std::size_t at = 0; at < round.give_up.size() && !is_stale(); at += kGivenUpAtOnce) {
    const std::size_t end = std::min(at + kGivenUpAtOnce, round.give_up.size());
    std::vector<BlockRef> refs(round.give_up.begin() + static_cast<std::ptrdiff_t>(at),
                               round.give_up.begin() + static_cast<std::ptrdiff_t>(end));
    AGRO_CO_TRY_OK(co_await service_.give_up(std::move(refs), version_));
  }
  co_return co_await for_each_parallel(
      round.pushes.size(), kPushesAtOnce,
      [&](std::size_t index) { return push(round.pushes[index]); });
}

Task<SharedBytes> Rebalancer::read_verified(BlockRef ref, std::uint32_t size) {
  auto buffer = std::make_shared<AlignedBuffer>(round_up(size, kPageSize));
  const MutableBytes place = buffer->bytes().first(size);
  const Result<void> read = co_await service_.store().read(ref, 0, place);
  if (!cluster_.is_checksummed(ref.volume)) {
    if (!read.has_value()) co_return fail(read.error());
    co_return SharedBytes{std::move(buffer), place};
  }
  if (read.has_value() && check_.verify_block(ref, place)) {
    co_return SharedBytes{std::move(buffer), place};
  }
  // Ours is bad: any good one, and ours is repaired from it on the way.
  ReadOptions options;
  options.check = &check_;
  co_return co_await cluster_.distributor().read_block(ref, options);
}

/// Errors are this block's: said, and tried again in the next round.
Task<void> Rebalancer::push(Push push) {
  const std::uint64_t size = push.item.block.size;
  const BlockRef ref = push.item.block.ref;
  if (!is_stale()) co_await wait_for_rate(size);
  const std::shared_ptr<Peer> peer = cluster_.peer(push.to);
  if (is_stale() || peer == nullptr || !service_.store().find(ref).has_value()) {
    co_return Result<void>();
  }
  Result<void> sent;
  Result<SharedBytes> block = co_await read_verified(ref, push.item.block.size);
  if (block.has_value()) {
    PeerWrite request;
    request.ref = ref;
    request.block = std::move(*block);
    request.checksummed = cluster_.is_checksummed(ref.volume);
    request.repair = true;
    request.ring_version = version_;
    sent = co_await peer->write(std::move(request), env_.clock.now() + kPushLimit);
  } else {
    sent = fail(std::move(block).error());
  }
  bytes_left_ -= std::min(bytes_left_, size);
  metric_left_bytes_.value = bytes_left_;
  if (!sent.has_value()) {
    problem_ = fmt::format("block {} to peer {}: {}", ref.to_string(), push.to.to_string(),
                           sent.error().to_string());
    co_return Result<void>();
  }
  ++blocks_moved_;
  bytes_moved_ += size;
  metric_moved_bytes_.add(size);
  const TimePoint now = env_.clock.now();
  std::erase_if(moves_, [now](const auto& move) { return now - move.first > kRateWindow; });
  moves_.push_back({now, size});
  co_return Result<void>();
}

Awaitable<void> Rebalancer::wait_for_rate(std::uint64_t size) {
  const TimePoint at = rate_.book(size);
  while (!is_stale() && env_.clock.now() < at) co_await wait_until(wake_, env_.clock, at);
}

}  // namespace agro
