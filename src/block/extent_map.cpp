#include "block/extent_map.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace agro {
namespace {

bool has_sectors(BlockId block) { return block < kBlockIdLimit; }

/// docs/formats/inode.md, "Map pages".
struct PageHeader {
  std::uint32_t run_count;  // 0
  std::uint32_t zero;       // 4
};
struct PageRun {
  std::uint32_t block;   // 0
  std::uint16_t start;   // 4
  std::uint16_t count;   // 6
  std::uint16_t sector;  // 8
  std::uint16_t zero;    // 10
};
static_assert(sizeof(PageHeader) == 8 && sizeof(PageRun) == 12);

}  // namespace

ExtentMap::ExtentMap(std::uint64_t sector_count)
    : sector_count_(sector_count),
      pages_(round_up(sector_count, kSectorsPerPage) / kSectorsPerPage),
      absent_(pages_.size(), false) {}

void ExtentMap::grow(std::uint64_t sector_count) {
  AGRO_ASSERT(sector_count >= sector_count_);
  sector_count_ = sector_count;
  pages_.resize(round_up(sector_count, kSectorsPerPage) / kSectorsPerPage);
  absent_.resize(pages_.size(), false);
}

void ExtentMap::shrink(std::uint64_t sector_count) {
  AGRO_ASSERT(sector_count <= sector_count_);
  const std::uint64_t page_count = round_up(sector_count, kSectorsPerPage) / kSectorsPerPage;
  for (std::uint64_t page = page_count; page < pages_.size(); ++page) {
    AGRO_ASSERT(pages_[page].empty());
    AGRO_ASSERT(!absent_[page]);
  }
  sector_count_ = sector_count;
  pages_.resize(page_count);
  absent_.resize(page_count);
}

MapRun ExtentMap::lookup(std::uint64_t lba, std::uint32_t count_max) const {
  AGRO_ASSERT(lba < sector_count_);
  const auto limit = static_cast<std::uint32_t>(
      std::min<std::uint64_t>({count_max, left_in_page(lba), sector_count_ - lba}));
  const MapPage& page = pages_[page_of(lba)];
  if (page.empty()) {
    AGRO_ASSERT(!absent_[page_of(lba)]);
    return {lba, limit, kHoleBlock, 0};
  }
  const MapPage::Run run = page.lookup(static_cast<std::uint32_t>(lba % kSectorsPerPage), limit);
  return {lba, run.count, run.block, run.sector};
}

void ExtentMap::assign(std::uint64_t lba, std::uint32_t count, BlockId block, std::uint32_t sector,
                       std::vector<MapRun>& replaced) {
  AGRO_ASSERT(count > 0);
  AGRO_ASSERT(count <= left_in_page(lba));
  AGRO_ASSERT(lba + count <= sector_count_);
  AGRO_ASSERT(!has_sectors(block) || sector + count <= kSectorsPerBlockMax);
  const std::uint32_t index = page_of(lba);
  AGRO_ASSERT(is_page_loaded(index));
  MapPage& page = pages_[index];
  const bool was_empty = page.empty();
  const std::uint32_t place = was_empty ? 0 : page.place();
  memory_bytes_ -= page.memory_bytes();
  page.assign({block, static_cast<std::uint16_t>(lba % kSectorsPerPage),
               static_cast<std::uint16_t>(count), static_cast<std::uint16_t>(sector), 0},
              round_down(lba, kSectorsPerPage), replaced);
  memory_bytes_ += page.memory_bytes();
  if (was_empty && !page.empty()) add_resident(index);
  if (!was_empty && page.empty()) drop_resident(place);
}

void ExtentMap::add_resident(std::uint32_t page) {
  pages_[page].set_place(static_cast<std::uint32_t>(resident_.size()));
  resident_.push_back(page);
  absent_[page] = false;
}

void ExtentMap::drop_resident(std::uint32_t place) {
  const std::uint32_t last = resident_.back();
  resident_.pop_back();
  if (place == resident_.size()) return;
  resident_[place] = last;
  pages_[last].set_place(place);
}

void ExtentMap::runs_of_page(std::uint32_t page, std::vector<MapRun>& out) const {
  AGRO_ASSERT(is_page_loaded(page));
  if (pages_[page].empty()) return;
  std::uint64_t lba = std::uint64_t{page} * kSectorsPerPage;
  const std::uint64_t end = std::min<std::uint64_t>(lba + kSectorsPerPage, sector_count_);
  while (lba < end) {
    const MapRun run = lookup(lba, static_cast<std::uint32_t>(end - lba));
    if (run.block != kHoleBlock) out.push_back(run);
    lba += run.count;
  }
}

void ExtentMap::encode_page(std::uint32_t page, std::vector<std::byte>& out) const {
  std::vector<MapRun> runs;
  runs_of_page(page, runs);
  if (runs.empty()) return;
  const std::size_t begin = out.size();
  out.resize(begin + sizeof(PageHeader) + runs.size() * sizeof(PageRun));
  const MutableBytes bytes(out.data() + begin, out.size() - begin);
  store(bytes, PageHeader{static_cast<std::uint32_t>(runs.size()), 0});
  for (std::size_t index = 0; index < runs.size(); ++index) {
    const MapRun& run = runs[index];
    store(bytes.subspan(sizeof(PageHeader) + index * sizeof(PageRun)),
          PageRun{run.block, static_cast<std::uint16_t>(run.lba % kSectorsPerPage),
                  static_cast<std::uint16_t>(run.count), static_cast<std::uint16_t>(run.sector), 0});
  }
}

Result<void> ExtentMap::decode_page(std::uint32_t page_index, ConstBytes bytes) {
  const auto damaged = [page_index] {
    return fail(Errc::corrupt, fmt::format("map page {} of the INode is damaged", page_index));
  };
  AGRO_ASSERT(page_index < page_count());
  AGRO_ASSERT(pages_[page_index].empty());
  if (bytes.size() < sizeof(PageHeader)) return damaged();
  const auto header = load<PageHeader>(bytes);
  if (header.run_count == 0 || header.run_count > kSectorsPerPage ||
      bytes.size() != sizeof(PageHeader) + header.run_count * sizeof(PageRun)) {
    return damaged();
  }
  std::vector<MapPage::Run> runs;
  runs.reserve(header.run_count);
  std::uint32_t previous_end = 0;
  const std::uint64_t base = std::uint64_t{page_index} * kSectorsPerPage;
  for (std::uint32_t index = 0; index < header.run_count; ++index) {
    const auto run = load<PageRun>(bytes.subspan(sizeof(PageHeader) + index * sizeof(PageRun)));
    const std::uint32_t end = std::uint32_t{run.start} + run.count;
    const bool sound = run.count > 0 && run.start >= previous_end && end <= kSectorsPerPage &&
                       base + end <= sector_count_ &&
                       (has_sectors(run.block) || run.block == kZeroBlock) &&
                       std::uint32_t{run.sector} + run.count <= kSectorsPerBlockMax;
    if (!sound) return damaged();
    runs.push_back({run.block, run.start, run.count, run.sector, 0});
    previous_end = end;
  }
  pages_[page_index] = MapPage(runs);
  memory_bytes_ += pages_[page_index].memory_bytes();
  add_resident(page_index);
  return {};
}

void ExtentMap::set_absent(std::uint32_t page) {
  AGRO_ASSERT(pages_[page].empty());
  absent_[page] = true;
}

void ExtentMap::evict(std::uint32_t page) {
  AGRO_ASSERT(!pages_[page].empty());
  memory_bytes_ -= pages_[page].memory_bytes();
  drop_resident(pages_[page].place());
  pages_[page] = MapPage();
  absent_[page] = true;
}

}  // namespace agro
