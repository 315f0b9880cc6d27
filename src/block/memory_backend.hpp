// A cluster in a map, for tests of volumes: durable after a random delay, crashable, faulty on demand.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "base/clock.hpp"
#include "base/random.hpp"
#include "blockset/backend.hpp"

namespace agro {

/// What survives a crash of the client: the blocks the peers have.
struct MemoryBlocks {
  std::map<BlockRef, SharedBytes> blocks;
  std::map<BlockRef, std::uint32_t> copies;  // of blocks with fewer than all
  std::map<VolumeId, Epoch> fences;
  std::uint64_t capacity = UINT64_MAX;  // bytes, beyond which writes get out_of_space
  std::uint64_t reserve = 0;            // bytes of it for reserved writes only
  std::vector<BlockRef> reads;          // each call of read() on a data block
  std::uint64_t kept = 0;               // bytes of data blocks that came with WriteOptions::keep
  std::uint64_t used() const;
};

class MemoryBackend final : public BlockBackend {
 public:
  MemoryBackend(MemoryBlocks& blocks, Clock& clock, std::uint64_t seed, std::uint32_t block_size)
      : blocks_(blocks), clock_(clock), random_(seed), block_size_(block_size) {}

  /// From now on nothing reaches the blocks: what is under way either did or never does.
  void crash() { crashed_ = true; }
  /// Every operation fails with this code until set to ok.
  void fail_with(Errc code) { failure_ = code; }
  /// Of kMembers members, so many do not answer fence() and list(), and hold no copy of a write.
  void set_missing(std::uint32_t count) {
    missing_ = count;
    peers_changed_.notify_all();
  }
  /// From now on space() says what it is now, as peers do who are asked only now and then.
  void freeze_space() { told_space_ = space(); }
  static constexpr std::uint32_t kMembers = 3;

  Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) override;
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  ReadOptions options) override;
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       const ReadOptions& options) override;
  Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) override;
  Task<void> remove(std::vector<BlockRef> refs) override;
  Task<Listing> list(BlockFilter filter, std::uint32_t missing_allowed = 0) override;
  Task<Reached> fence(VolumeId volume, Epoch epoch, std::uint32_t missing_allowed = 0) override;
  std::uint32_t copy_count() const override { return 2; }
  std::uint32_t sure_copies() const override { return 2; }
  std::uint32_t ready_count() const override { return kMembers - missing_; }
  Event& peers_changed() override { return peers_changed_; }
  std::uint32_t block_size() const override { return block_size_; }
  Space space() const override;

 private:
  Awaitable<void> delay();
  Reached reached() const;
  Result<void> state() const;

  MemoryBlocks& blocks_;
  Clock& clock_;
  Random random_;
  std::uint32_t block_size_;
  bool crashed_ = false;
  Errc failure_ = Errc::ok;
  std::uint32_t missing_ = 0;
  std::optional<Space> told_space_;
  Event peers_changed_;
};

}  // namespace agro
