#include "block/memory_backend.hpp"

namespace agro {

std::uint64_t MemoryBlocks::used() const {
  std::uint64_t total = 0;
  for (const auto& [ref, block] : blocks) total += block.size();
  return total;
}

Awaitable<void> MemoryBackend::delay() {
  co_await sleep_for(clock_, std::chrono::microseconds(1 + random_.below(2000)));
}

Result<void> MemoryBackend::state() const {
  if (crashed_) return fail(Errc::closed, "crashed");
  if (failure_ != Errc::ok) return fail(failure_, "injected");
  return {};
}

Task<void> MemoryBackend::write(BlockRef ref, SharedBytes block, WriteOptions options) {
  AGRO_CO_TRY_OK(state());
  const SharedBytes copy = copy_shared(block.bytes);
  co_await delay();
  // The block may arrive although the answer is lost in the crash.
  if (crashed_) co_return fail(Errc::closed, "crashed");
  AGRO_CO_TRY_OK(state());
  if (!options.repair && ref.epoch < blocks_.fences[ref.volume]) {
    co_return fail(Errc::fenced, "fenced");
  }
  const std::uint64_t limit =
      options.reserve ? blocks_.capacity : blocks_.capacity - blocks_.reserve;
  if (blocks_.used() + copy.size() > limit) co_return fail(Errc::out_of_space, "full");
  blocks_.blocks.emplace(ref, copy);
  if (random_.chance(1, 4)) co_await delay();
  co_return state();
}

Task<void> MemoryBackend::read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                               ReadOptions /*options*/) {
  co_await delay();
  AGRO_CO_TRY_OK(state());
  const auto found = blocks_.blocks.find(ref);
  if (found == blocks_.blocks.end()) co_return fail(Errc::not_found, ref.to_string());
  std::memcpy(out.data(), found->second.bytes.data() + offset, out.size());
  co_return Result<void>();
}

std::optional<Result<void>> MemoryBackend::try_read(const BlockRef& /*ref*/,
                                                    std::uint32_t /*offset*/, MutableBytes /*out*/,
                                                    const ReadOptions& /*options*/) {
  return std::nullopt;
}

Task<SharedBytes> MemoryBackend::read_block(BlockRef ref, ReadOptions /*options*/) {
  co_await delay();
  AGRO_CO_TRY_OK(state());
  const auto found = blocks_.blocks.find(ref);
  if (found == blocks_.blocks.end()) co_return fail(Errc::not_found, ref.to_string());
  co_return found->second;
}

Task<void> MemoryBackend::remove(std::vector<BlockRef> refs) {
  co_await delay();
  AGRO_CO_TRY_OK(state());
  for (const BlockRef& ref : refs) blocks_.blocks.erase(ref);
  co_return Result<void>();
}

Task<Listing> MemoryBackend::list(BlockFilter filter) {
  co_await delay();
  AGRO_CO_TRY_OK(state());
  Listing listing;
  listing.unreachable_count = missing_;
  for (const auto& [ref, block] : blocks_.blocks) {
    if (filter.volume && ref.volume != *filter.volume) continue;
    if (filter.type && ref.type != *filter.type) continue;
    if (filter.epoch && ref.epoch != *filter.epoch) continue;
    if (ref.index < filter.index_from) continue;
    listing.entries.push_back({ref, static_cast<std::uint32_t>(block.size()), 2});
  }
  co_return listing;
}

Task<std::uint32_t> MemoryBackend::fence(VolumeId volume, Epoch epoch) {
  co_await delay();
  AGRO_CO_TRY_OK(state());
  if (blocks_.fences[volume] > epoch) co_return fail(Errc::fenced, "fenced");
  blocks_.fences[volume] = epoch;
  co_return missing_;
}

Space MemoryBackend::space() const {
  if (blocks_.capacity == UINT64_MAX) return {};
  const std::uint64_t used = blocks_.used();
  const std::uint64_t usable = blocks_.capacity - blocks_.reserve;
  return {blocks_.capacity, used, usable > used ? usable - used : 0};
}

}  // namespace agro
