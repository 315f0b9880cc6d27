// Map pages on demand: what a read, a write, the cleaner or a replay needs is loaded from the INode.
//
// Who awaits a load looks at the map again after it. What it pinned stays in memory meanwhile.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/parallel.hpp"
#include "block/volume.hpp"

namespace agro {
namespace {

constexpr std::size_t kLoadsAtOnce = 16;
constexpr std::size_t kEvictRoundsOfLoad = 16;
constexpr std::size_t kMovedAtOnce = 64;

}  // namespace

Task<void> Volume::load_page(std::uint32_t page) {
  bool waited = false;
  while (!map_.is_page_loaded(page)) {
    const Inode::PageAt at = inode_.page_at({PageKind::map, page});
    Result<std::vector<std::byte>> bytes = co_await inode_.read_page(at);
    // Somebody else may have loaded it, and a checkpoint moved it and deleted its old block.
    if (map_.is_page_loaded(page)) break;
    if (!(inode_.page_at({PageKind::map, page}) == at)) continue;
    Result<void> loaded;
    if (bytes.has_value()) {
      loaded = map_.load_page(page, *bytes);
    } else {
      loaded = fail(std::move(bytes).error());
    }
    if (loaded.code() == Errc::unavailable && is_open_ && !failed_ && !stopping_jobs_) {
      if (!std::exchange(waited, true)) {
        log_warning("volume {}: a map page waits: {}", id_.value, loaded.error().to_string());
      }
      co_await wait_until(stopping_, env_.clock, env_.clock.now() + options_.retry_after);
      continue;
    }
    if (!loaded.has_value()) {
      co_return fail(with_context(std::move(loaded).error(),
                                  fmt::format("map page {} in block {}", page, at.block.to_string())));
    }
    metric_loaded_pages_.add();
    map_share_.settle(kEvictRoundsOfLoad);
  }
  co_return Result<void>();
}

PagePin Volume::pin_range(std::uint64_t lba, std::uint64_t count) {
  return {map_, ExtentMap::page_of(lba), ExtentMap::page_of(lba + count - 1) + 1};
}

/// Loads what is absent of [lba, lba + count), which the caller has pinned.
Task<void> Volume::load_range(std::uint64_t lba, std::uint64_t count) {
  const std::uint32_t first = ExtentMap::page_of(lba);
  const std::uint32_t end = ExtentMap::page_of(lba + count - 1) + 1;
  if (end - first == 1) co_return co_await load_page(first);
  co_return co_await for_each_parallel(
      end - first, kLoadsAtOnce,
      [this, first](std::size_t index) { return load_page(first + static_cast<std::uint32_t>(index)); });
}

/// Pins and loads many ranges; passes over those that are none of the volume's.
Task<void> Volume::load_ranges(std::vector<PagePin>& pins, std::vector<SectorRange> ranges) {
  std::vector<std::uint32_t> absent;
  for (const SectorRange& range : ranges) {
    const std::uint64_t sector_count = map_.map().sector_count();
    if (range.count == 0 || range.count > sector_count || range.lba > sector_count - range.count) continue;
    const std::uint32_t first = ExtentMap::page_of(range.lba);
    const std::uint32_t end = ExtentMap::page_of(range.lba + range.count - 1) + 1;
    pins.emplace_back(map_, first, end);
    for (std::uint32_t page = first; page < end; ++page) {
      if (!map_.is_page_loaded(page)) absent.push_back(page);
    }
  }
  std::sort(absent.begin(), absent.end());
  absent.erase(std::unique(absent.begin(), absent.end()), absent.end());
  co_return co_await for_each_parallel(
      absent.size(), kLoadsAtOnce,
      [this, &absent](std::size_t index) { return load_page(absent[index]); });
}

Task<void> Volume::read_moved_page(PageKey key, std::vector<std::byte>& bytes) {
  const Inode::PageAt at = inode_.page_at(key);
  Result<std::vector<std::byte>> read = co_await inode_.read_page(at);
  if (read.has_value()) {
    bytes = std::move(*read);
  } else {
    // It stays where it is, for whoever needs it to fail or to wait.
    log_warning("volume {}: a map page in block {} stays in its place: {}", id_.value,
                at.block.to_string(), read.error().to_string());
  }
  co_return Result<void>();
}

/// Copies pages that are not in memory, as they are, from one block of the INode to another.
/// Whatever changes one of them meanwhile comes after this checkpoint.
Task<void> Volume::move_pages(std::vector<PageKey> keys) {
  for (std::size_t begin = 0; begin < keys.size(); begin += kMovedAtOnce) {
    const std::size_t count = std::min(kMovedAtOnce, keys.size() - begin);
    std::vector<std::vector<std::byte>> pages(count);
    AGRO_CO_TRY_OK(co_await for_each_parallel(
        count, kLoadsAtOnce, [this, begin, &keys, &pages](std::size_t index) {
          return read_moved_page(keys[begin + index], pages[index]);
        }));
    for (std::size_t index = 0; index < count; ++index) {
      if (pages[index].empty()) continue;
      AGRO_CO_TRY_OK(co_await inode_.put_page(keys[begin + index], std::move(pages[index]),
                                              lease_.epoch()));
    }
  }
  co_return Result<void>();
}

}  // namespace agro
