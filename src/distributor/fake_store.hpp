// Test helper: a block store in memory with faults on demand, and an Env on simulated time.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/env.hpp"
#include "blockset/crc.hpp"
#include "sim/sim_disk.hpp"
#include "sim/sim_loop.hpp"
#include "sim/sim_network.hpp"
#include "storage/block_store.hpp"

namespace agro {

/// Keeps the contract of BlockStore, but for durability.
class FakeStore final : public BlockStore {
 public:
  FakeStore(Clock& clock, std::uint32_t block_size) : clock_(clock), block_size_(block_size) {}

  // Knobs.
  Duration put_delay{0};
  Duration read_delay{0};
  bool cold = false;  // try_read has to wait
  std::optional<Error> put_error;
  std::uint64_t size = 1 << 30;
  // What was seen.
  int put_count = 0;
  int repair_count = 0;
  const void* last_put_data = nullptr;
  std::map<BlockRef, std::vector<std::byte>> blocks;

  void flip(const BlockRef& ref, std::uint32_t offset) {
    blocks.at(ref).at(offset) ^= std::byte{1};
  }

  Task<void> put(BlockRef ref, SharedBytes bytes, PutOptions) override {
    ++put_count;
    last_put_data = bytes.bytes.data();
    if (put_delay > Duration(0)) co_await sleep_for(clock_, put_delay);
    if (put_error.has_value()) co_return fail(*put_error);
    if (ref.epoch < fence_of(ref.volume)) co_return fail(Errc::fenced, "fenced");
    if (stats().available < bytes.size()) co_return fail(Errc::out_of_space, "full");
    blocks.try_emplace(ref, bytes.bytes.begin(), bytes.bytes.end());
    co_return Result<void>();
  }
  Task<void> repair(BlockRef ref, SharedBytes bytes, PutOptions /*options*/) override {
    ++repair_count;
    blocks[ref].assign(bytes.bytes.begin(), bytes.bytes.end());
    co_return Result<void>();
  }
  std::optional<std::uint32_t> find(const BlockRef& ref) const override {
    const auto found = blocks.find(ref);
    if (found == blocks.end()) return std::nullopt;
    return static_cast<std::uint32_t>(found->second.size());
  }
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out) override {
    if (read_delay > Duration(0)) co_await sleep_for(clock_, read_delay);
    co_return copy(ref, offset, out);
  }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset,
                                       MutableBytes out) override {
    if (cold || read_delay > Duration(0)) return std::nullopt;
    return copy(ref, offset, out);
  }
  Task<std::size_t> remove(std::vector<BlockRef> refs) override {
    std::size_t count = 0;
    for (const BlockRef& ref : refs) count += blocks.erase(ref);
    co_return count;
  }
  std::vector<BlockInfo> list(const BlockFilter& filter) const override {
    std::vector<BlockInfo> infos;
    for (const auto& [ref, bytes] : blocks) {
      if (filter.volume && *filter.volume != ref.volume) continue;
      if (filter.type && *filter.type != ref.type) continue;
      if (filter.epoch && *filter.epoch != ref.epoch) continue;
      if (ref.index < filter.index_from) continue;
      infos.push_back({ref, static_cast<std::uint32_t>(bytes.size())});
    }
    return infos;
  }
  Task<void> fence(VolumeId volume, Epoch epoch) override {
    fences_[volume] = std::max(fences_[volume], epoch);
    co_return Result<void>();
  }
  Epoch fence_of(VolumeId volume) const override {
    const auto found = fences_.find(volume);
    return found == fences_.end() ? Epoch{} : found->second;
  }
  StoreStats stats() const override {
    StoreStats stats;
    stats.size = size;
    for (const auto& [ref, bytes] : blocks) stats.used += bytes.size();
    stats.available = size - std::min(size, stats.used);
    stats.block_count = blocks.size();
    return stats;
  }
  std::uint32_t block_size() const override { return block_size_; }
  Task<void> close() override { co_return Result<void>(); }

 private:
  Result<void> copy(const BlockRef& ref, std::uint32_t offset, MutableBytes out) const {
    const auto found = blocks.find(ref);
    if (found == blocks.end()) return fail(Errc::not_found, "not here");
    if (offset + out.size() > found->second.size()) {
      return fail(Errc::invalid_argument, "beyond the block's end");
    }
    std::memcpy(out.data(), found->second.data() + offset, out.size());
    return {};
  }
  Clock& clock_;
  std::uint32_t block_size_;
  std::map<VolumeId, Epoch> fences_;
};

/// One simulated node's view of the outside.
class FakeNode {
 public:
  FakeNode(SimLoop& sim, SimNetwork& network, const std::string& host)
      : sim_(sim),
        network_(network.host(host)),
        random_(std::hash<std::string>{}(host)),
        disk_(sim.clock(), Random(1)),
        offload_(sim.executor()) {}
  Env env() {
    return {sim_.executor(), sim_.clock(), random_, disk_, network_, offload_, metrics_};
  }
  Metrics& metrics() { return metrics_; }

 private:
  SimLoop& sim_;
  Network& network_;
  Random random_;
  SimDisk disk_;
  InlineOffload offload_;
  Metrics metrics_;
};

/// A sealed block of `payload_size` bytes that depend on `ref`.
inline SharedBytes make_block(const BlockRef& ref, std::uint32_t payload_size) {
  auto buffer = std::make_shared<AlignedBuffer>(crc_block_size(payload_size));
  for (std::uint32_t index = 0; index < payload_size; ++index) {
    buffer->bytes()[index] = std::byte(index * 31 + ref.index + index / 509);
  }
  const std::uint32_t size = crc_seal(ref, buffer->bytes(), payload_size);
  const ConstBytes bytes = buffer->bytes().first(size);
  return {std::move(buffer), bytes};
}

}  // namespace agro
