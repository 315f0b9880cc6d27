#include "storage/temp_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/unordered/unordered_flat_map.hpp>
#include <map>

#include "storage/block_index.hpp"

namespace agro {
namespace {

class TempStore final : public BlockStore {
 public:
  explicit TempStore(TempStoreOptions options) : options_(options) {}

  Task<void> put(BlockRef ref, SharedBytes bytes, PutOptions options) override {
    co_return store_block(ref, bytes, options.reserve, false);
  }
  Task<void> repair(BlockRef ref, SharedBytes bytes, PutOptions options) override {
    const bool reserve = options.reserve || blocks_.contains(ref);
    co_return store_block(ref, bytes, reserve, true);
  }

  std::optional<std::uint32_t> find(const BlockRef& ref) const override {
    const auto found = blocks_.find(ref);
    if (found == blocks_.end()) return std::nullopt;
    return static_cast<std::uint32_t>(found->second.size());
  }

  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out) override {
    co_return read_now(ref, offset, out);
  }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset,
                                       MutableBytes out) override {
    return read_now(ref, offset, out);
  }

  Task<std::size_t> remove(std::vector<BlockRef> refs) override {
    if (closed_) co_return fail(Errc::closed, "the store is closed");
    std::size_t count = 0;
    for (const BlockRef& ref : refs) {
      const auto found = blocks_.find(ref);
      if (found == blocks_.end()) continue;
      used_ -= allocated(found->second.size());
      blocks_.erase(found);
      ++count;
    }
    co_return count;
  }

  std::vector<BlockInfo> list(const BlockFilter& filter) const override {
    std::vector<BlockInfo> found;
    for (const auto& [ref, bytes] : blocks_) {
      if (matches(filter, ref)) found.push_back({ref, static_cast<std::uint32_t>(bytes.size())});
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  Task<void> fence(VolumeId volume, Epoch epoch) override {
    if (closed_) co_return fail(Errc::closed, "the store is closed");
    Epoch& fence = fences_[volume];
    fence = std::max(fence, epoch);
    co_return Result<void>();
  }
  Epoch fence_of(VolumeId volume) const override {
    const auto found = fences_.find(volume);
    return found == fences_.end() ? Epoch{} : found->second;
  }

  StoreStats stats() const override {
    StoreStats stats;
    stats.size = options_.size;
    stats.used = used_;
    const std::uint64_t usable = options_.size - reserve_size();
    stats.available = usable > used_ ? usable - used_ : 0;
    stats.block_count = blocks_.size();
    stats.index_bytes = blocks_.bucket_count() * sizeof(Blocks::value_type);
    stats.bytes_written = bytes_written_;
    return stats;
  }
  std::uint32_t block_size() const override { return options_.block_size; }

  Task<void> close() override {
    closed_ = true;
    co_return Result<void>();
  }

 private:
  using Blocks = boost::unordered_flat_map<BlockRef, SharedBytes, std::hash<BlockRef>>;

  static std::uint64_t allocated(std::size_t size) { return round_up(size, kPageSize); }
  std::uint64_t reserve_size() const { return options_.size / 50; }

  Result<void> store_block(const BlockRef& ref, const SharedBytes& bytes, bool reserve,
                           bool repair) {
    if (closed_) return fail(Errc::closed, "the store is closed");
    if (bytes.size() == 0) return fail(Errc::invalid_argument, "an empty block");
    if (bytes.size() > options_.block_size) {
      return fail(Errc::too_large, fmt::format("{} has {} bytes, a block at most {}",
                                               ref.to_string(), bytes.size(), options_.block_size));
    }
    const Epoch fence = fence_of(ref.volume);
    if (ref.epoch < fence && (!repair || fence.value == UINT64_MAX)) {
      return fail(Errc::fenced, fmt::format("{}: epochs below {} are fenced", ref.to_string(),
                                            fence.value));
    }
    const auto found = blocks_.find(ref);
    const std::uint64_t old_size = found == blocks_.end() ? 0 : allocated(found->second.size());
    if (found != blocks_.end() && !repair) {
      if (found->second.size() == bytes.size()) return {};
      return fail(Errc::already_exists, fmt::format("{} is here with {} bytes, not {}",
                                                    ref.to_string(), found->second.size(),
                                                    bytes.size()));
    }
    const std::uint64_t limit = options_.size - (reserve ? 0 : reserve_size());
    const std::uint64_t used = used_ - old_size + allocated(bytes.size());
    if (used > limit) return fail(Errc::out_of_space, "the store is full");
    blocks_[ref] = copy_shared(bytes.bytes);
    used_ = used;
    bytes_written_ += bytes.size();
    return {};
  }

  Result<void> read_now(const BlockRef& ref, std::uint32_t offset, MutableBytes out) const {
    if (closed_) return fail(Errc::closed, "the store is closed");
    const auto found = blocks_.find(ref);
    if (found == blocks_.end()) return fail(Errc::not_found, ref.to_string() + " is not here");
    const ConstBytes bytes = found->second.bytes;
    if (offset > bytes.size() || out.size() > bytes.size() - offset) {
      return fail(Errc::invalid_argument, fmt::format("{}: bytes {} to {} of {}", ref.to_string(),
                                                      offset, offset + out.size(), bytes.size()));
    }
    if (!out.empty()) std::memcpy(out.data(), bytes.data() + offset, out.size());
    return {};
  }

  TempStoreOptions options_;
  Blocks blocks_;
  std::map<VolumeId, Epoch> fences_;
  std::uint64_t used_ = 0;
  std::uint64_t bytes_written_ = 0;
  bool closed_ = false;
};

}  // namespace

std::unique_ptr<BlockStore> make_temp_store(TempStoreOptions options) {
  return std::make_unique<TempStore>(options);
}

}  // namespace agro
