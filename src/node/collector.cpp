#include "node/collector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "base/log.hpp"
#include "base/mutant.hpp"
#include "block/inode.hpp"
#include "blockset/blockset.hpp"

namespace agro {
namespace {

constexpr std::size_t kDeletedAtOnce = 1024;
/// Heads of a volume that are tried after the first, when its writer is quicker than we.
constexpr int kHeadsTried = 3;
/// What waits for its grace period is kept in memory; the rest is found again by later cycles.
constexpr std::size_t kCondemnedMax = 200'000;

void keep_distinct(std::vector<BlockRef>& refs) {
  std::sort(refs.begin(), refs.end());
  refs.erase(std::unique(refs.begin(), refs.end()), refs.end());
}

VolumeCensus census_of(const VolumeAccount& account) {
  VolumeCensus census;
  census.next_volume = account.next_volume;
  census.rebuilt_below = account.rebuilt_below;
  for (const VolumeRecord& volume : account.volumes) census.known.push_back(volume.id);
  // Known to either list is known: both lose a deleted volume in the same transaction.
  for (const VolumePosition& position : account.positions) census.known.push_back(position.volume);
  // Peers purge those themselves.
  for (const Tombstone& tombstone : account.tombstones) census.known.push_back(tombstone.volume);
  std::sort(census.known.begin(), census.known.end());
  return census;
}

template <class Records, class Id>
const typename Records::value_type* find_volume(const Records& records, VolumeId id, Id id_of) {
  const auto found = std::find_if(records.begin(), records.end(),
                                  [&](const auto& record) { return id_of(record) == id; });
  return found == records.end() ? nullptr : &*found;
}

}  // namespace

Collector::Collector(Env& env, Metadata& metadata, BlockBackend& blocks, PeerService& service,
                     Uuid cluster, CollectorOptions options)
    : env_(env),
      metadata_(metadata),
      blocks_(blocks),
      service_(service),
      cluster_(cluster),
      options_(options),
      jobs_(env.executor),
      metric_condemned_(env.metrics.get("agro_gc_condemned_blocks",
                                        "Blocks that no volume needs, in their grace period")),
      metric_deleted_(env.metrics.get("agro_gc_deleted_blocks_total", "Blocks that gc deleted")),
      metric_deleted_bytes_(env.metrics.get("agro_gc_deleted_bytes_total", "Bytes of those")) {}

void Collector::start() {
  const bool repeats = options_.interval > Duration(0);
  next_at_ = repeats ? env_.clock.now() + options_.first_after : TimePoint::max();
  jobs_.spawn(run());
}

void Collector::collect() {
  wanted_ = true;
  wake_.notify_all();
}

GcReport Collector::report() const {
  GcReport report = report_;
  report.running = report.running || wanted_;
  report.condemned_blocks = condemned_.size();
  return report;
}

Awaitable<void> Collector::stop() {
  stopping_ = true;
  wake_.notify_all();
  co_await jobs_.join();
}

// --- when
// -----------------------------------------------------------------------------------------

/// From now to the next cycle: at the next multiple of the interval, or when a grace period ends.
Duration Collector::until_next() const {
  const bool repeats = options_.interval > Duration(0);
  if (!problem_.empty() && (repeats || !condemned_.empty())) return options_.retry_after;
  Duration wait = Duration::max();
  if (repeats) {
    const std::int64_t interval_ms = std::max<std::int64_t>(
        1, std::chrono::duration_cast<std::chrono::milliseconds>(options_.interval).count());
    wait = std::chrono::milliseconds(interval_ms - env_.clock.unix_time_ms() % interval_ms);
  }
  for (const auto& [ref, condemned] : condemned_) {
    const Duration left = condemned.since + options_.grace - env_.clock.now();
    wait = std::min(wait, std::max(left, Duration(0)));
  }
  return wait;
}

Job Collector::run() {
  constexpr Duration kLookAgain = std::chrono::hours(1);
  while (!stopping_) {
    const TimePoint now = env_.clock.now();
    if (!wanted_ && now < next_at_) {
      co_await wait_until(wake_, env_.clock, std::min(next_at_, now + kLookAgain));
      continue;
    }
    wanted_ = false;
    report_.running = true;
    const Result<void> done = co_await cycle();
    report_.running = false;
    if (stopping_) break;
    if (!done.has_value()) log_warning("peer {}: gc: {}", service_.id().to_string(), problem_);
    const Duration wait = until_next();
    next_at_ = wait == Duration::max() ? TimePoint::max() : env_.clock.now() + wait;
  }
}

// --- one cycle
// ------------------------------------------------------------------------------------

void Collector::complain(std::string problem) {
  if (problem_.empty()) problem_ = std::move(problem);
}

Task<VolumeAccount> Collector::read_account() {
  AGRO_CO_TRY(VolumeAccount account, co_await metadata_.volume_account());
  if (account.cluster != cluster_) {
    co_return fail(Errc::cluster_mismatch, "the metadata store holds another cluster");
  }
  // A store that lost its contents has lost us, too.
  if (!std::binary_search(account.peers.begin(), account.peers.end(), service_.id())) {
    co_return fail(Errc::not_found, "the metadata store does not know this peer");
  }
  co_return account;
}

Task<void> Collector::cycle() {
  problem_.clear();
  ++cycle_;
  // The listing first: what is stored from now on is not looked at.
  std::vector<BlockInfo> held = service_.store().list({});
  Result<VolumeAccount> account = co_await read_account();
  if (AGRO_MUTANT(kGcWithoutListing) && !account.has_value()) {
    account = VolumeAccount{};
    account->next_volume = UINT64_MAX;
  }
  if (!account.has_value()) {
    complain(account.error().to_string());
    report_.problem = problem_;
    co_return fail(account.error());
  }
  for (const VolumeRecord& volume : account->volumes) {
    // Whoever deleted its last clone may have died before it was removed itself.
    if (volume.state != VolumeState::kept) continue;
    const Result<void> reaped = co_await metadata_.reap_kept_volume(volume.id);
    if (!reaped.has_value())
      complain(fmt::format("volume {}: {}", volume.id.value, reaped.error().to_string()));
  }
  const VolumeCensus census = census_of(*account);
  Result<void> outcome;
  std::set<VolumeId> not_judged;
  for (std::size_t at = 0; at < held.size() && !stopping_;) {
    const VolumeId volume = held[at].ref.volume;
    std::vector<BlockRef> refs;
    for (; at < held.size() && held[at].ref.volume == volume; ++at) refs.push_back(held[at].ref);
    const Result<void> judged = co_await judge(volume, std::move(refs), *account, census);
    if (judged.has_value()) continue;
    complain(fmt::format("volume {}: {}", volume.value, judged.error().to_string()));
    outcome = fail(judged.error());
    not_judged.insert(volume);
  }
  if (stopping_) co_return outcome;
  // Gone, or for some reason not found dead again: if ever it is, it waits from the beginning.
  std::erase_if(condemned_, [&](const auto& entry) {
    return entry.second.cycle != cycle_ && !not_judged.contains(entry.first.volume);
  });
  metric_condemned_.value = condemned_.size();
  report_.problem = problem_;
  if (outcome.has_value()) report_.finished_unix_ms = env_.clock.unix_time_ms();
  co_return outcome;
}

Task<void> Collector::judge(VolumeId volume, std::vector<BlockRef> held,
                            const VolumeAccount& account, const VolumeCensus& census) {
  if (is_deleted(volume, census)) co_return co_await sentence(volume, std::move(held));
  const VolumeRecord* record =
      find_volume(account.volumes, volume, [](const VolumeRecord& one) { return one.id; });
  // Not known, and not known to be deleted; or being deleted just now.
  if (record == nullptr) co_return Result<void>();
  const VolumePosition* position =
      find_volume(account.positions, volume, [](const VolumePosition& one) { return one.volume; });
  if (position == nullptr) co_return fail(Errc::not_found, "it has no head");
  if (record->block_spec.find("crc") == std::string::npos) co_return Result<void>();
  Result<void> judged = co_await judge_by(*record, *position, held);
  for (int again = 0; again < kHeadsTried && !judged.has_value() && !stopping_; ++again) {
    // Its writer may have committed a newer INode, and deleted the one that was being read.
    const Result<VolumePosition> present = co_await metadata_.position(volume);
    if (!present.has_value() ||
        (present->head == position->head && present->snapshots == position->snapshots))
      break;
    judged = co_await judge_by(*record, *present, held);
  }
  co_return judged;
}

/// What the head covers: of a volume that is kept for its clones, everything.
VolumeProof Collector::covering(const VolumeRecord& volume, const VolumeHead& head) {
  if (volume.state == VolumeState::kept)
    return {{UINT64_MAX}, UINT64_MAX, {UINT64_MAX}, UINT64_MAX, {}};
  return {head.epoch, head.sequence, head.checkpoint_epoch, head.root_index, {}};
}

Task<void> Collector::judge_by(VolumeRecord volume, VolumePosition position,
                               std::vector<BlockRef> held) {
  const VolumeProof coverage = covering(volume, position.head);
  std::erase_if(held, [&](const BlockRef& ref) { return !is_covered(ref, coverage); });
  Clean clean{position.head, position.snapshots, held.size(), 0};
  for (const BlockRef& ref : held) clean.covered_hash ^= hash_block_ref(ref);
  const auto known = clean_.find(volume.id);
  if (held.empty() || (known != clean_.end() && known->second == clean)) co_return Result<void>();
  AGRO_CO_TRY(const VolumeProof proof, co_await read_proof(volume, position));
  std::erase_if(held, [&](const BlockRef& ref) { return !is_dead(ref, proof); });
  if (held.empty())
    clean_[volume.id] = std::move(clean);
  else
    clean_.erase(volume.id);
  co_return co_await sentence(volume.id, std::move(held));
}

/// What the committed INode of the volume and those of its snapshots prove. Errors: whatever keeps
/// one of them from being read.
Task<VolumeProof> Collector::read_proof(VolumeRecord volume, VolumePosition position) {
  VolumeProof proof = covering(volume, position.head);
  std::vector<VolumeHead> heads;
  const Lineage lineage(volume.id, volume.ancestors);
  for (const SnapshotRecord& snapshot : position.snapshots) {
    heads.push_back(snapshot.head);
    if (snapshot.note_index == 0) continue;
    const Epoch epoch = snapshot.head.epoch;
    proof.live.push_back({lineage.owner_of(epoch), epoch, snapshot.note_index, BlockType::inode});
  }
  if (volume.state != VolumeState::kept) heads.push_back(position.head);
  // Snapshots have most of their blocks in common, and many an INode: each is read once, and what was read more
  // than once goes as soon as it is more than the rest, or a thousand snapshots would need a thousand times the memory.
  constexpr std::size_t kFew = 64 * 1024;
  std::set<std::tuple<Epoch, std::uint64_t, std::uint64_t>> roots;
  std::size_t distinct = 0;
  for (const VolumeHead& head : heads) {
    if (roots.insert({head.checkpoint_epoch, head.root_index, head.sequence}).second) {
      AGRO_CO_TRY_OK(co_await add_needed(volume, head, proof.live));
    }
    add_log(volume, head, proof.live);
    if (proof.live.size() <= 2 * distinct + kFew) continue;
    keep_distinct(proof.live);
    distinct = proof.live.size();
  }
  keep_distinct(proof.live);
  co_return proof;
}

/// Adds the blocks of the head's log, where that has an end.
void Collector::add_log(const VolumeRecord& volume, const VolumeHead& head, std::vector<BlockRef>& live) {
  const VolumeId owner = Lineage(volume.id, volume.ancestors).owner_of(head.epoch);
  for (std::uint64_t index = head.sequence + 1; index < head.log_end; ++index) {
    live.push_back({owner, head.epoch, index, BlockType::data});
  }
}

/// Adds the blocks that the INode of a head names.
Task<void> Collector::add_needed(VolumeRecord volume, VolumeHead head,
                                 std::vector<BlockRef>& live) {
  AGRO_CO_TRY(const BlocksetSpec spec, parse_blockset_spec(volume.block_spec));
  const std::unique_ptr<Blockset> blockset = make_blockset(spec, blocks_);
  BufferPool unused(blocks_.block_size(), 1);
  const Lineage lineage(volume.id, volume.ancestors);
  Inode inode(lineage, *blockset, unused);
  const BlockRef root{lineage.owner_of(head.checkpoint_epoch), head.checkpoint_epoch,
                      head.root_index, BlockType::inode};
  AGRO_CO_TRY(const InodeMeta meta, co_await inode.load_root(root));
  if (meta.covered_sequence != head.sequence || meta.epoch != head.checkpoint_epoch) {
    co_return fail(Errc::corrupt, "its INode does not fit its head");
  }
  AGRO_CO_TRY(const std::vector<BlockRef> named, co_await inode.load_needed_blocks());
  live.insert(live.end(), named.begin(), named.end());
  co_return Result<void>();
}

/// Condemns what is dead for the first time, and deletes what was condemned a grace period ago.
Task<void> Collector::sentence(VolumeId volume, std::vector<BlockRef> dead) {
  const TimePoint now = env_.clock.now();
  std::vector<BlockRef> ripe;
  for (const BlockRef& ref : dead) {
    const auto found = condemned_.find(ref);
    if (found == condemned_.end() && condemned_.size() < kCondemnedMax) {
      condemned_[ref] = {now, cycle_};
    } else if (found != condemned_.end()) {
      found->second.cycle = cycle_;
      if (now - found->second.since >= options_.grace) ripe.push_back(ref);
    }
  }
  std::uint64_t bytes = 0;
  std::size_t count = 0;
  for (std::size_t begin = 0; begin < ripe.size() && !stopping_; begin += kDeletedAtOnce) {
    const std::size_t end = std::min(begin + kDeletedAtOnce, ripe.size());
    std::vector<BlockRef> batch(ripe.begin() + static_cast<std::ptrdiff_t>(begin),
                                ripe.begin() + static_cast<std::ptrdiff_t>(end));
    std::uint64_t batch_bytes = 0;
    for (const BlockRef& ref : batch) batch_bytes += service_.store().find(ref).value_or(0);
    AGRO_CO_TRY_OK(co_await service_.remove(batch));
    for (const BlockRef& ref : batch) condemned_.erase(ref);
    count += batch.size();
    bytes += batch_bytes;
    report_.deleted_blocks += batch.size();
    report_.deleted_bytes += batch_bytes;
    metric_deleted_.add(batch.size());
    metric_deleted_bytes_.add(batch_bytes);
  }
  if (count > 0) {
    log_info("peer {}: gc deleted {} blocks of volume {}, {} bytes", service_.id().to_string(),
             count, volume.value, bytes);
  }
  co_return Result<void>();
}

}  // namespace agro
