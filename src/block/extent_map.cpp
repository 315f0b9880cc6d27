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
ExtentMap::~ExtentMap() = default;
ExtentMap::ExtentMap(ExtentMap&&) noexcept = default;
ExtentMap& ExtentMap::operator=(ExtentMap&&) noexcept = default;

MapRun ExtentMap::lookup(std::uint64_t lba, std::uint32_t count_max) const {
  AGRO_ASSERT(lba < sector_count_);
  const auto limit = static_cast<std::uint32_t>(
      std::min<std::uint64_t>({count_max, left_in_page(lba), sector_count_ - lba}));
  const Page* page = pages_[page_of(lba)].get();
  if (page == nullptr) {
    AGRO_ASSERT(!absent_[page_of(lba)]);
    return {lba, limit, kHoleBlock, 0};
  }
  page->used = true;
  const auto start = static_cast<std::uint32_t>(lba % kSectorsPerPage);
  if (page->flat != nullptr) {
    const FlatPage& flat = *page->flat;
    const BlockId block = flat.block[start];
    const std::uint32_t step = has_sectors(block) ? 1 : 0;
    std::uint32_t count = 1;
    while (count < limit && flat.block[start + count] == block &&
           flat.sector[start + count] == flat.sector[start] + count * step) {
      ++count;
    }
    return {lba, count, block, flat.sector[start]};
  }
  // The first run that ends after `start`.
  const auto run = std::partition_point(
      page->runs.begin(), page->runs.end(),
      [start](const Run& candidate) { return candidate.start + candidate.count <= start; });
  if (run == page->runs.end()) return {lba, limit, kHoleBlock, 0};
  if (run->start > start) return {lba, std::min<std::uint32_t>(limit, run->start - start), kHoleBlock, 0};
  const std::uint32_t skip = start - run->start;
  const std::uint32_t sector = has_sectors(run->block) ? run->sector + skip : 0;
  return {lba, std::min<std::uint32_t>(limit, run->count - skip), run->block, sector};
}

void ExtentMap::assign(std::uint64_t lba, std::uint32_t count, BlockId block, std::uint32_t sector,
                       std::vector<MapRun>& replaced) {
  AGRO_ASSERT(count > 0);
  AGRO_ASSERT(count <= left_in_page(lba));
  AGRO_ASSERT(lba + count <= sector_count_);
  Page* page = pages_[page_of(lba)].get();
  if (page == nullptr) {
    AGRO_ASSERT(!absent_[page_of(lba)]);
    if (block == kHoleBlock) return;
    page = &add_page(page_of(lba));
  }
  page->used = true;
  const std::size_t bytes_before = page_bytes(*page);
  const Run added{block, static_cast<std::uint16_t>(lba % kSectorsPerPage),
                  static_cast<std::uint16_t>(count), static_cast<std::uint16_t>(sector), 0};
  const std::uint64_t base = round_down(lba, kSectorsPerPage);
  if (page->flat != nullptr) {
    assign_flat(*page->flat, base, added, replaced);
  } else {
    assign_runs(*page, base, added, replaced);
    if (page->runs.size() > kRunCountMax) flatten(*page);
  }
  memory_bytes_ = memory_bytes_ - bytes_before + page_bytes(*page);
}

void ExtentMap::count_replaced(const MapRun& run, std::vector<MapRun>& replaced) {
  if (has_sectors(run.block)) replaced.push_back(run);
}

bool ExtentMap::continues(const Run& left, const Run& right) {
  if (left.block != right.block || left.start + left.count != right.start) return false;
  return !has_sectors(left.block) || left.sector + left.count == right.sector;
}

void ExtentMap::assign_runs(Page& page, std::uint64_t base, Run added,
                            std::vector<MapRun>& replaced) {
  std::vector<Run>& runs = page.runs;
  const std::uint32_t begin = added.start;
  const std::uint32_t end = begin + added.count;
  const auto first = std::partition_point(
      runs.begin(), runs.end(), [begin](const Run& run) { return run.start + run.count <= begin; });
  auto last = first;
  // What takes the place of [first, last): a left rest, the new run, a right rest.
  std::array<Run, 3> fresh;
  std::size_t fresh_count = 0;
  Run right_rest{};
  for (; last != runs.end() && last->start < end; ++last) {
    const std::uint32_t run_end = last->start + last->count;
    const std::uint32_t cut_begin = std::max<std::uint32_t>(last->start, begin);
    const std::uint32_t cut_end = std::min(run_end, end);
    const std::uint32_t step = has_sectors(last->block) ? 1 : 0;
    const auto sector_at = [&](std::uint32_t position) {
      return static_cast<std::uint16_t>(last->sector + (position - last->start) * step);
    };
    count_replaced({base + cut_begin, cut_end - cut_begin, last->block, sector_at(cut_begin)},
                   replaced);
    if (last->start < begin) {
      fresh[fresh_count++] = {last->block, last->start,
                              static_cast<std::uint16_t>(begin - last->start), last->sector, 0};
    }
    if (run_end > end) {
      right_rest = {last->block, static_cast<std::uint16_t>(end),
                    static_cast<std::uint16_t>(run_end - end), sector_at(end), 0};
    }
  }
  if (added.block != kHoleBlock) fresh[fresh_count++] = added;
  if (right_rest.count > 0) fresh[fresh_count++] = right_rest;
  // Join within the fresh ones and with the neighbours on both sides.
  auto from = first;
  auto to = last;
  std::array<Run, 5> joined;
  std::size_t joined_count = 0;
  const auto push = [&](const Run& run) {
    if (joined_count > 0 && continues(joined[joined_count - 1], run)) {
      joined[joined_count - 1].count = static_cast<std::uint16_t>(joined[joined_count - 1].count + run.count);
    } else {
      joined[joined_count++] = run;
    }
  };
  if (from != runs.begin()) push(*--from);
  for (std::size_t index = 0; index < fresh_count; ++index) push(fresh[index]);
  if (to != runs.end()) push(*to++);
  const auto old_count = static_cast<std::size_t>(to - from);
  const std::size_t kept = std::min(old_count, joined_count);
  std::copy_n(joined.begin(), kept, from);
  if (joined_count > old_count) {
    runs.insert(from + static_cast<std::ptrdiff_t>(kept), joined.begin() + kept,
                joined.begin() + joined_count);
  } else {
    runs.erase(from + static_cast<std::ptrdiff_t>(kept), to);
  }
}

void ExtentMap::assign_flat(FlatPage& flat, std::uint64_t base, Run added,
                            std::vector<MapRun>& replaced) {
  const std::uint32_t step = has_sectors(added.block) ? 1 : 0;
  for (std::uint32_t index = 0; index < added.count; ++index) {
    const std::uint32_t position = added.start + index;
    count_replaced({base + position, 1, flat.block[position], flat.sector[position]}, replaced);
    flat.block[position] = added.block;
    flat.sector[position] = static_cast<std::uint16_t>(added.sector + index * step);
  }
}

void ExtentMap::flatten(Page& page) {
  auto flat = std::make_unique<FlatPage>();
  flat->block.fill(kHoleBlock);
  flat->sector.fill(0);
  for (const Run& run : page.runs) {
    const std::uint32_t step = has_sectors(run.block) ? 1 : 0;
    for (std::uint32_t index = 0; index < run.count; ++index) {
      flat->block[run.start + index] = run.block;
      flat->sector[run.start + index] = static_cast<std::uint16_t>(run.sector + index * step);
    }
  }
  page.flat = std::move(flat);
  page.runs = std::vector<Run>();  // `= {}` would keep the memory
}

void ExtentMap::runs_of_page(std::uint32_t page, std::vector<MapRun>& out) const {
  AGRO_ASSERT(is_page_loaded(page));
  if (pages_[page] == nullptr) return;
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
  AGRO_ASSERT(pages_[page_index] == nullptr);
  if (bytes.size() < sizeof(PageHeader)) return damaged();
  const auto header = load<PageHeader>(bytes);
  if (header.run_count > kSectorsPerPage ||
      bytes.size() != sizeof(PageHeader) + header.run_count * sizeof(PageRun)) {
    return damaged();
  }
  std::vector<Run> runs;
  runs.reserve(header.run_count);
  std::uint32_t previous_end = 0;
  const std::uint64_t base = std::uint64_t{page_index} * kSectorsPerPage;
  for (std::uint32_t index = 0; index < header.run_count; ++index) {
    const auto run = load<PageRun>(bytes.subspan(sizeof(PageHeader) + index * sizeof(PageRun)));
    const std::uint32_t end = std::uint32_t{run.start} + run.count;
    const bool sound = run.count > 0 && run.start >= previous_end && end <= kSectorsPerPage &&
                       base + end <= sector_count_ && run.block != kHoleBlock &&
                       (has_sectors(run.block) || run.block == kZeroBlock) &&
                       std::uint32_t{run.sector} + run.count <= 65536;
    if (!sound) return damaged();
    runs.push_back({run.block, run.start, run.count, run.sector, 0});
    previous_end = end;
  }
  Page& page = add_page(page_index);
  page.runs = std::move(runs);
  if (page.runs.size() > kRunCountMax) flatten(page);
  memory_bytes_ += page_bytes(page) - sizeof(Page);
  return {};
}

std::size_t ExtentMap::page_bytes(const Page& page) {
  return sizeof(Page) + page.runs.capacity() * sizeof(Run) +
         (page.flat != nullptr ? sizeof(FlatPage) : 0);
}

ExtentMap::Page& ExtentMap::add_page(std::uint32_t index) {
  pages_[index] = std::make_unique<Page>();
  pages_[index]->place = static_cast<std::uint32_t>(resident_.size());
  resident_.push_back(index);
  absent_[index] = false;
  memory_bytes_ += sizeof(Page);
  return *pages_[index];
}

void ExtentMap::set_absent(std::uint32_t page) {
  AGRO_ASSERT(pages_[page] == nullptr);
  absent_[page] = true;
}

void ExtentMap::evict(std::uint32_t page) {
  AGRO_ASSERT(pages_[page] != nullptr);
  const Page& old = *pages_[page];
  absent_[page] = old.flat != nullptr
                      ? std::any_of(old.flat->block.begin(), old.flat->block.end(),
                                    [](BlockId block) { return block != kHoleBlock; })
                      : !old.runs.empty();
  memory_bytes_ -= page_bytes(old);
  pages_[resident_.back()]->place = old.place;
  resident_[old.place] = resident_.back();
  resident_.pop_back();
  pages_[page].reset();
}

}  // namespace agro
