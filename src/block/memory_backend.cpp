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

Reached MemoryBackend::reached() const {
  Reached reached;
  for (std::uint32_t number = 1; number <= kMembers; ++number) {
    PeerId id;
    id.bytes[0] = static_cast<std::uint8_t>(number);
    reached.members.push_back(id);
    if (number > missing_) reached.answered.push_back(id);
  }
  return reached;
}

Task<std::uint32_t> MemoryBackend::write(BlockRef ref, SharedBytes block, WriteOptions options) {
  AGRO_CO_TRY_OK(state());
  const SharedBytes copy = copy_shared(block.bytes);
  co_await delay();
  // The block may arrive although the answer is lost in the crash.
  if (crashed_) co_return fail(Errc::closed, "crashed");
  AGRO_CO_TRY_OK(state());
  if (!options.repair && ref.epoch < blocks_.fences[ref.volume]) {
    co_return fail(Errc::fenced, "fenced");
  }
  if (options.keep && ref.type == BlockType::data) blocks_.kept += copy.size();
  const std::uint64_t limit =
      options.reserve ? blocks_.capacity : blocks_.capacity - blocks_.reserve;
  if (limit != UINT64_MAX && blocks_.used() + copy.size() > limit) co_return fail(Errc::out_of_space, "full");
  const std::uint32_t copies = std::min(copy_count(), kMembers - missing_);
  const std::uint32_t least = options.min_copies != 0 ? options.min_copies : copy_count();
  if (copies < least) co_return fail(Errc::no_quorum, "too few members");
  blocks_.blocks.emplace(ref, copy);
  if (copies == copy_count()) {
    blocks_.copies.erase(ref);
  } else {
    blocks_.copies[ref] = copies;
  }
  if (random_.chance(1, 4)) co_await delay();
  AGRO_CO_TRY_OK(state());
  co_return copies;
}

Task<void> MemoryBackend::read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                               ReadOptions /*options*/) {
  if (ref.type == BlockType::data) blocks_.reads.push_back(ref);
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

Task<Listing> MemoryBackend::list(BlockFilter filter, std::uint32_t /*missing_allowed*/) {
  co_await delay();
  AGRO_CO_TRY_OK(state());
  Listing listing;
  listing.unreachable_count = missing_;
  listing.reached = reached();
  for (const auto& [ref, block] : blocks_.blocks) {
    if (filter.volume && ref.volume != *filter.volume) continue;
    if (filter.type && ref.type != *filter.type) continue;
    if (filter.epoch && ref.epoch != *filter.epoch) continue;
    if (ref.index < filter.index_from) continue;
    const auto fewer = blocks_.copies.find(ref);
    const std::uint32_t copies = fewer == blocks_.copies.end() ? copy_count() : fewer->second;
    listing.entries.push_back({ref, static_cast<std::uint32_t>(block.size()), copies});
  }
  co_return listing;
}

Task<Reached> MemoryBackend::fence(VolumeId volume, Epoch epoch,
                                   std::uint32_t /*missing_allowed*/) {
  co_await delay();
  AGRO_CO_TRY_OK(state());
  if (blocks_.fences[volume] > epoch) co_return fail(Errc::fenced, "fenced");
  blocks_.fences[volume] = epoch;
  co_return reached();
}

Space MemoryBackend::space() const {
  if (told_space_.has_value()) return *told_space_;
  if (blocks_.capacity == UINT64_MAX) return {};
  const std::uint64_t used = blocks_.used();
  const std::uint64_t usable = blocks_.capacity - blocks_.reserve;
  return {blocks_.capacity, used, usable > used ? usable - used : 0};
}

}  // namespace agro
