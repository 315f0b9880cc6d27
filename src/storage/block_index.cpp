#include "storage/block_index.hpp"

#include <algorithm>

namespace agro {

bool matches(const BlockFilter& filter, const BlockRef& ref) {
  return (!filter.volume || *filter.volume == ref.volume) &&
         (!filter.type || *filter.type == ref.type) &&
         (!filter.epoch || *filter.epoch == ref.epoch) && ref.index >= filter.index_from;
}

std::optional<BlockLocation> BlockIndex::find(const BlockRef& ref) const {
  const Shard& shard = shards_[shard_of(ref)];
  const auto found = shard.find(Key(ref));
  if (found == shard.end()) return std::nullopt;
  return found->second;
}

std::optional<BlockLocation> BlockIndex::put(const BlockRef& ref, const BlockLocation& location) {
  const auto [found, added] = shards_[shard_of(ref)].try_emplace(Key(ref), location);
  if (added) {
    ++size_;
    return std::nullopt;
  }
  return std::exchange(found->second, location);
}

std::optional<BlockLocation> BlockIndex::remove(const BlockRef& ref) {
  Shard& shard = shards_[shard_of(ref)];
  const auto found = shard.find(Key(ref));
  if (found == shard.end()) return std::nullopt;
  const BlockLocation location = found->second;
  shard.erase(found);
  --size_;
  return location;
}

std::uint64_t BlockIndex::memory() const {
  std::uint64_t bytes = sizeof *this;
  for (const Shard& shard : shards_) {
    const std::uint64_t capacity = shard.bucket_count();  // 15 a group, and 16 bytes of tags each
    if (capacity > 0) bytes += capacity * sizeof(Shard::value_type) + (capacity / 15 + 1) * 16;
  }
  return bytes;
}

std::vector<BlockInfo> BlockIndex::list(const BlockFilter& filter) const {
  std::vector<BlockInfo> found;
  for (std::size_t shard = 0; shard < kShardCount; ++shard) {
    visit_shard(shard, [&](const BlockRef& ref, const BlockLocation& location) {
      if (matches(filter, ref)) found.push_back({ref, location.size});
    });
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace agro
