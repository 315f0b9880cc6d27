// Faults of disks: errors, no room, slowness, misreading, rot.
#include "blockset/crc.hpp"
#include "faults.hpp"

namespace agro {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Death = SimCluster::Death;
using Life = SimCluster::Life;

namespace {

constexpr const char* kStoreFile = "/data/blocks";
constexpr SimDiskOptions kGoodDisk{std::chrono::microseconds(20), std::chrono::microseconds(400)};

}  // namespace

void FaultInjector::set_disk_faults(std::size_t index, SimDiskFaults faults) {
  faults.lying_sync = liar_ == index;
  cluster_.disk(index).set_faults(faults);
}

/// A store whose disk failed a write takes none until it is opened again, also one that is starting.
void FaultInjector::restart_store(std::size_t index) {
  const Life life = cluster_.peer_life(index);
  if (life == Life::up || life == Life::starting) end_peer(index, Death::killed, now());
}

bool FaultInjector::disk_errors() {
  const std::optional<std::size_t> peer = random_peer(Life::up);
  if (!peer.has_value()) return false;
  SimFault fault;
  const std::uint64_t kind = random_.below(3);
  fault.fail_reads = kind == 0;
  fault.fail_writes = kind == 1;
  fault.fail_syncs = kind == 2;
  constexpr const char* kWords[] = {"reads", "writes", "syncs"};
  trace_.event(SimCluster::peer_name(*peer), "its disk fails {}", kWords[kind]);
  cluster_.disk(*peer).set_fault(kStoreFile, fault);
  repair_at(later(seconds(20)), [this, index = *peer] {
    trace_.event(SimCluster::peer_name(index), "its disk is well");
    cluster_.disk(index).set_fault(kStoreFile, {});
    restart_store(index);
    return true;
  });
  return true;
}

bool FaultInjector::disk_full() {
  const std::optional<std::size_t> peer = random_peer(Life::up);
  if (!peer.has_value()) return false;
  SimDisk& disk = cluster_.disk(*peer);
  const std::uint64_t size = disk.exists(kStoreFile) ? disk.size_of(kStoreFile) : 0;
  SimDiskOptions options = kGoodDisk;
  options.capacity = size + random_.below(512 * 1024);
  trace_.event(SimCluster::peer_name(*peer), "its disk is full at {} bytes", options.capacity);
  disk.set_options(options);
  repair_at(later(seconds(20)), [this, index = *peer] {
    trace_.event(SimCluster::peer_name(index), "its disk has room");
    cluster_.disk(index).set_options(kGoodDisk);
    restart_store(index);
    return true;
  });
  return true;
}

bool FaultInjector::disk_slow() {
  const std::optional<std::size_t> peer = random_peer(Life::up);
  if (!peer.has_value()) return false;
  SimDisk& disk = cluster_.disk(*peer);
  if (random_.chance(1, 3)) {
    const Duration duration = milliseconds(random_.below(4000));
    trace_.event(SimCluster::peer_name(*peer), "its disk stalls for {} ms",
                 std::chrono::duration_cast<milliseconds>(duration).count());
    disk.stall_for(duration);
    return true;
  }
  SimDiskOptions options = kGoodDisk;
  options.slowness = static_cast<std::uint32_t>(10 + random_.below(1000));
  trace_.event(SimCluster::peer_name(*peer), "its disk is {} times as slow", options.slowness);
  disk.set_options(options);
  repair_at(later(seconds(10)), [this, index = *peer] {
    trace_.event(SimCluster::peer_name(index), "its disk is quick");
    cluster_.disk(index).set_options(kGoodDisk);
    return true;
  });
  return true;
}

/// Reads that fail once, or bring what was not asked for; only while the peer is up: what a store
/// reads when it opens decides what it holds.
bool FaultInjector::disk_mishaps() {
  const std::optional<std::size_t> peer = random_peer(Life::up);
  if (!peer.has_value()) return false;
  SimDiskFaults faults;
  const std::uint64_t most = random_.chance(1, 2) ? 20'000 : 400'000;
  faults.read_error_ppm = static_cast<std::uint32_t>(random_.below(most));
  faults.misdirected_read_ppm = static_cast<std::uint32_t>(random_.below(most));
  faults.stale_read_ppm = static_cast<std::uint32_t>(random_.below(most));
  trace_.event(SimCluster::peer_name(*peer), "its disk misreads: {} fail, {} misdirected, {} stale ppm",
               faults.read_error_ppm, faults.misdirected_read_ppm, faults.stale_read_ppm);
  set_disk_faults(*peer, faults);
  repair_at(later(seconds(20)), [this, index = *peer] {
    trace_.event(SimCluster::peer_name(index), "its disk reads well");
    set_disk_faults(index, {});
    return true;
  });
  return true;
}

bool FaultInjector::keep_misreading(std::size_t peer) {
  if (!rotten_.empty()) return false;
  SimDiskFaults faults;
  faults.read_error_ppm = 150'000;
  faults.misdirected_read_ppm = 150'000;
  trace_.event(SimCluster::peer_name(peer), "its disk misreads, to see that nobody notices");
  set_disk_faults(peer, faults);
  repair_at(TimePoint::max(), [this, peer] {
    set_disk_faults(peer, {});
    return true;
  });
  return true;
}

/// Another peer that is up holds the block, and that copy was never spoiled.
bool FaultInjector::has_good_copy_elsewhere(std::size_t peer, const BlockRef& ref) {
  const std::set<std::size_t>& bad = rotten_[ref];
  for (const std::size_t other : joined_) {
    if (other == peer || bad.contains(other) || cluster_.peer_life(other) != Life::up) continue;
    if (other == liar_) continue;
    if (cluster_.node(other).service()->store().find(ref).has_value()) return true;
  }
  return false;
}

Task<std::string> FaultInjector::read_block(std::size_t peer, BlockInfo block) {
  std::string bytes(block.size, '\0');
  AGRO_CO_TRY_OK(co_await cluster_.node(peer).service()->store().read(
      block.ref, 0, std::as_writable_bytes(std::span(bytes))));
  co_return bytes;
}

/// A bit of a block is flipped where the disk holds it. A block is found by its last page, whose
/// checksums are salted with its name. Copies that rot stay bad in our book, also when repaired: so
/// at least one copy of each block never was touched. Nothing rots that was written just now: before a
/// store was idle it can not tell rot in its last group from a crash (docs/formats/store.md).
bool FaultInjector::rot() {
  const std::optional<std::size_t> peer = random_peer(Life::up);
  if (!peer.has_value() || cluster_.peer_is_frozen(*peer) || lowest_copies_ < 2) return false;
  const std::vector<BlockInfo> blocks = cluster_.node(*peer).service()->store().list({});
  if (blocks.empty()) return false;
  const BlockInfo block = blocks[random_.below(blocks.size())];
  if (!has_good_copy_elsewhere(*peer, block.ref)) return false;
  const auto fresh = [this, peer] { return cluster_.peer_life(*peer) == Life::up; };
  const Result<std::string> bytes = cluster_.loop.run(read_block(*peer, block), seconds(1));
  // A disk that misreads may show what is elsewhere, and the store's own records are not to rot.
  if (!bytes.has_value() || !crc_verify_block(block.ref, as_bytes(*bytes)).has_value()) return false;
  if (!fresh() || !has_good_copy_elsewhere(*peer, block.ref)) return false;
  SimDisk& disk = cluster_.disk(*peer);
  const std::uint64_t offset = random_.below(block.size);
  const std::string last = bytes->substr(block.size - kPageSize);
  bool found = false;
  for (std::uint64_t end = block.size; end <= disk.size_of(kStoreFile); end += kPageSize) {
    // The last page may also be left in dead space, with something else before it.
    if (disk.contents(kStoreFile, end - kPageSize, kPageSize) != last) continue;
    if (disk.contents(kStoreFile, end - block.size, block.size) != *bytes) continue;
    if (!disk.is_at_rest(kStoreFile, end - block.size, block.size)) continue;
    disk.rot(kStoreFile, end - block.size + offset, std::byte(1U << random_.below(8)));
    found = true;
  }
  if (!found) return false;
  rotten_[block.ref].insert(*peer);
  trace_.event(SimCluster::peer_name(*peer), "byte {} of block {} rots", offset,
               block.ref.to_string());
  return true;
}

}  // namespace agro
