// A volume over a MemoryBackend on simulated time, with crash and reopen, for tests.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/log.hpp"
#include "block/memory_backend.hpp"
#include "block/volume.hpp"
#include "sim/sim_disk.hpp"
#include "sim/sim_loop.hpp"
#include "sim/sim_network.hpp"

namespace agro {

/// A lease that is valid until told otherwise; its head survives crashes.
class TestLease final : public VolumeLease {
 public:
  TestLease(LogHead& head, Epoch epoch) : head_(head), epoch_(epoch) {}
  Epoch epoch() const override { return epoch_; }
  bool valid() const override { return valid_; }
  bool lost() const override { return lost_; }
  Event& changed() override { return changed_; }
  Task<void> commit(LogHead head) override {
    co_await yield_to_loop();
    if (crashed_) co_return fail(Errc::closed, "crashed");
    if (head_.epoch > epoch_) co_return fail(Errc::fenced, "a newer epoch");
    if (commit_fails) co_return fail(Errc::unavailable, "no metadata store");
    head_ = head;
    co_return Result<void>();
  }
  Task<void> set_degraded(std::uint32_t copies) override {
    co_await yield_to_loop();
    if (crashed_) co_return fail(Errc::closed, "crashed");
    if (degraded_fails) co_return fail(Errc::unavailable, "no metadata store");
    degraded = copies;
    if (on_degraded) on_degraded();
    co_return Result<void>();
  }
  std::uint32_t degraded = 0;
  std::function<void()> on_degraded;  // called when it is recorded, before the volume knows
  bool degraded_fails = false;
  bool commit_fails = false;
  void crash() { crashed_ = true; }
  void set_valid(bool valid) {
    valid_ = valid;
    changed_.notify_all();
  }
  void lose() {
    valid_ = false;
    lost_ = true;
    changed_.notify_all();
  }

 private:
  LogHead& head_;
  Epoch epoch_;
  bool valid_ = true;
  bool lost_ = false;
  bool crashed_ = false;
  Event changed_;
};

class VolumeFixture {
 public:
  explicit VolumeFixture(std::uint64_t seed, std::uint64_t size = 4 * 1024 * 1024)
      : random(seed), size_bytes(size) {
    options.checkpoint_after_bytes = 2 * 1024 * 1024;
    options.checkpoint_after_blocks = 40;
    options.dead_bytes_max = 1024 * 1024;
    options.in_flight_size_max = 1024 * 1024;
    options.read_cache_size = 64 * 4096;
    set_log_sink({});  // retries by the thousand
  }
  ~VolumeFixture() {
    if (volume) (void)loop.run(volume->close());
  }

  /// Opens under the next epoch. The old volume must be closed or crashed.
  Result<void> open() {
    ++epoch;
    backend = std::make_unique<MemoryBackend>(blocks, loop.clock(), random.next(), block_size);
    lease = std::make_unique<TestLease>(head, Epoch{epoch});
    Result<std::unique_ptr<Volume>> opened = loop.run(
        Volume::open(env, *backend, *parse_blockset_spec(spec), kVolume, size_bytes, head,
                     *lease, options));
    if (!opened) return fail(std::move(opened).error());
    volume = std::move(*opened);
    return {};
  }
  Result<void> close() {
    Result<void> closed = loop.run(volume->close());
    volume.reset();
    return closed;
  }
  /// The client's process dies: what was on its way to the peers arrived or did not.
  void crash() {
    backend->crash();
    lease->crash();
    (void)loop.run(volume->close());
    volume.reset();
  }

  static constexpr VolumeId kVolume{7};
  SimLoop loop;
  Random random;
  Metrics metrics;
  InlineOffload offload{loop.executor()};
  // Disk and network are never touched by a volume: the backend stands for them.
  SimDisk disk{loop.clock(), Random(1)};
  SimNetwork network{loop.executor(), loop.clock(), Random(2)};
  Env env{loop.executor(), loop.clock(), random, disk, network.host("client"), offload, metrics};
  std::uint64_t size_bytes;
  std::uint32_t block_size = kBlockSizeMin;
  bool commits_fail = false;  // of leases that are made from now on, by whoever heeds it
  std::uint64_t epoch = 0;
  const char* spec = "crc,base";
  VolumeOptions options;
  MemoryBlocks blocks;
  LogHead head;
  std::unique_ptr<MemoryBackend> backend;
  std::unique_ptr<TestLease> lease;
  std::unique_ptr<Volume> volume;
};

}  // namespace agro
