#include "block/map_page.hpp"

#include <algorithm>
#include <array>
#include <bit>

namespace agro {
namespace {

using Run = MapPage::Run;
using Word = std::uint64_t;

constexpr std::uint32_t kWordBits = 64;
constexpr std::size_t kBitmapBytes = MapPage::kSectorCount / 8;
constexpr std::size_t kCellBytes = 5;
constexpr std::uint32_t kCellBlockBits = 28;
constexpr BlockId kCellBlockMask = (1U << kCellBlockBits) - 1;

bool has_sectors(BlockId block) { return block < kBlockIdLimit; }
std::uint32_t step_of(BlockId block) { return has_sectors(block) ? 1 : 0; }

struct Cell {
  BlockId block;
  std::uint32_t sector;
  bool operator==(const Cell&) const = default;
};

/// Low 28 bits the block, of which marks beyond kBlockIdLimit lost ones only; high 12 bits the sector.
Cell load_cell(const std::byte* at) {
  std::uint32_t low = 0;
  std::memcpy(&low, at, sizeof low);
  const BlockId block = low & kCellBlockMask;
  const std::uint32_t sector = std::to_integer<std::uint32_t>(at[4]) << 4U | low >> kCellBlockBits;
  return {has_sectors(block) ? block : block | ~kCellBlockMask, sector};
}

void store_cell(std::byte* at, Cell cell) {
  const std::uint32_t low = (cell.block & kCellBlockMask) | cell.sector << kCellBlockBits;
  std::memcpy(at, &low, sizeof low);
  at[4] = static_cast<std::byte>(cell.sector >> 4U);
}

Run run_at(BlockId block, std::uint32_t start, std::uint32_t count, std::uint32_t sector) {
  return {block, static_cast<std::uint16_t>(start), static_cast<std::uint16_t>(count),
          static_cast<std::uint16_t>(sector), 0};
}

/// The part of `run` from sector `begin` of the page to `end`.
Run cut(const Run& run, std::uint32_t begin, std::uint32_t end) {
  return run_at(run.block, begin, end - begin, run.sector + (begin - run.start) * step_of(run.block));
}

bool continues(const Run& left, const Run& right) {
  return left.block == right.block && left.start + left.count == right.start &&
         left.sector + left.count * step_of(left.block) == right.sector;
}

void report(const Run& run, std::uint64_t base, std::vector<MapRun>& replaced) {
  if (has_sectors(run.block)) replaced.push_back({base + run.start, run.count, run.block, run.sector});
}

/// A quarter of a power of two, as the size classes of allocators are.
std::size_t rounded_size(std::size_t size) {
  return round_up(size, std::max<std::size_t>(std::bit_floor(size) / 4, 16));
}

bool are_cells_smaller(std::size_t run_count, std::size_t mapped_count) {
  return run_count * sizeof(Run) > kBitmapBytes + mapped_count * kCellBytes;
}

/// Up to five runs, of which neighbours that continue each other are joined.
struct Joined {
  std::array<Run, 5> runs;
  std::size_t count = 0;
  void push(const Run& run) {
    if (count > 0 && continues(runs[count - 1], run)) {
      runs[count - 1].count = static_cast<std::uint16_t>(runs[count - 1].count + run.count);
    } else {
      runs[count++] = run;
    }
  }
};

}  // namespace

// --- memory ---

MapPage::Memory MapPage::allocate(std::size_t content_bytes) {
  const std::size_t size = rounded_size(sizeof(Header) + content_bytes);
  auto* header = new (::operator new(size)) Header{};
  header->capacity = static_cast<std::uint32_t>(size - sizeof(Header));
  header->used = true;
  return Memory(header);
}

std::size_t MapPage::memory_bytes() const {
  return memory_ == nullptr ? 0 : sizeof(Header) + memory_->capacity;
}

std::size_t MapPage::content_bytes() const {
  return memory_->has_cells ? kBitmapBytes + memory_->mapped_count * kCellBytes
                            : memory_->run_count * sizeof(Run);
}

/// Makes room; what is there stays.
void MapPage::reserve(std::size_t bytes) {
  if (bytes <= memory_->capacity) return;
  Memory larger = allocate(bytes);
  const std::uint32_t capacity = larger->capacity;
  std::memcpy(larger.get(), memory_.get(), sizeof(Header) + content_bytes());
  larger->capacity = capacity;
  memory_ = std::move(larger);
}

/// Gives memory back when less than half is needed.
void MapPage::shrink() {
  if (memory_->mapped_count == 0) {
    memory_.reset();
    return;
  }
  const std::size_t bytes = content_bytes();
  if (rounded_size(sizeof(Header) + bytes) > memory_bytes() / 2) return;
  Memory smaller = allocate(bytes);
  const std::uint32_t capacity = smaller->capacity;
  std::memcpy(smaller.get(), memory_.get(), sizeof(Header) + bytes);
  smaller->capacity = capacity;
  memory_ = std::move(smaller);
}

// --- both forms ---

MapPage::MapPage(std::span<const Run> runs) {
  if (runs.empty()) return;
  std::uint32_t mapped_count = 0;
  for (const Run& run : runs) mapped_count += run.count;
  if (are_cells_smaller(runs.size(), mapped_count)) {
    fill_cells(runs, mapped_count);
    return;
  }
  memory_ = allocate(runs.size_bytes());
  std::memcpy(contents(), runs.data(), runs.size_bytes());
  memory_->run_count = static_cast<std::uint16_t>(runs.size());
  memory_->mapped_count = static_cast<std::uint16_t>(mapped_count);
}

Run MapPage::lookup(std::uint32_t start, std::uint32_t limit) const {
  if (memory_ == nullptr) return run_at(kHoleBlock, start, limit, 0);
  memory_->used = true;
  if (memory_->has_cells) return lookup_cells(start, limit);
  const Run* const begin = runs();
  const Run* const end = begin + memory_->run_count;
  // The first run that ends after `start`.
  const Run* const run = std::partition_point(begin, end, [start](const Run& candidate) {
    return std::uint32_t{candidate.start} + candidate.count <= start;
  });
  if (run == end) return run_at(kHoleBlock, start, limit, 0);
  if (run->start > start) {
    return run_at(kHoleBlock, start, std::min<std::uint32_t>(limit, run->start - start), 0);
  }
  return cut(*run, start, std::min<std::uint32_t>(start + limit, run->start + run->count));
}

void MapPage::assign(const Run& added, std::uint64_t base, std::vector<MapRun>& replaced) {
  if (memory_ == nullptr) {
    if (added.block == kHoleBlock) return;
    memory_ = allocate(sizeof(Run));
  }
  memory_->used = true;
  if (memory_->has_cells) {
    assign_cells(added, base, replaced);
  } else {
    assign_runs(added, base, replaced);
    if (are_cells_smaller(memory_->run_count, memory_->mapped_count)) {
      const Memory list = std::move(memory_);
      fill_cells({reinterpret_cast<const Run*>(list.get() + 1), list->run_count}, list->mapped_count);
      memory_->place = list->place;
    }
  }
  shrink();
}

// --- list ---

void MapPage::assign_runs(const Run& added, std::uint64_t base, std::vector<MapRun>& replaced) {
  const std::uint32_t begin = added.start;
  const std::uint32_t end = begin + added.count;
  const Run* const all = runs();
  const Run* const all_end = all + memory_->run_count;
  const Run* from = std::partition_point(all, all_end, [begin](const Run& run) {
    return std::uint32_t{run.start} + run.count <= begin;
  });
  const Run* to = from;
  std::uint32_t removed_count = 0;
  Joined joined;
  Run right_rest{};
  if (from != all) joined.push(*--from);
  for (; to != all_end && to->start < end; ++to) {
    const std::uint32_t run_end = std::uint32_t{to->start} + to->count;
    const Run gone = cut(*to, std::max<std::uint32_t>(to->start, begin), std::min(run_end, end));
    report(gone, base, replaced);
    removed_count += gone.count;
    if (to->start < begin) joined.push(cut(*to, to->start, begin));
    if (run_end > end) right_rest = cut(*to, end, run_end);
  }
  if (added.block != kHoleBlock) joined.push(added);
  if (right_rest.count > 0) joined.push(right_rest);
  if (to != all_end) joined.push(*to++);
  const std::uint32_t added_count = added.block != kHoleBlock ? added.count : 0;
  splice(static_cast<std::size_t>(from - all), static_cast<std::size_t>(to - from),
         std::span(joined.runs).first(joined.count));
  memory_->mapped_count =
      static_cast<std::uint16_t>(memory_->mapped_count + added_count - removed_count);
}

/// Puts `fresh` in the place of `old_count` runs.
void MapPage::splice(std::size_t from, std::size_t old_count, std::span<const Run> fresh) {
  const std::size_t new_count = memory_->run_count - old_count + fresh.size();
  reserve(new_count * sizeof(Run));
  Run* const at = runs() + from;
  std::memmove(at + fresh.size(), at + old_count,
               (memory_->run_count - from - old_count) * sizeof(Run));
  std::memcpy(at, fresh.data(), fresh.size_bytes());
  memory_->run_count = static_cast<std::uint16_t>(new_count);
}

// --- cells ---

bool MapPage::is_mapped(std::uint32_t position) const {
  const auto word = load<Word>(ConstBytes(contents() + position / kWordBits * sizeof(Word), sizeof(Word)));
  return (word >> (position % kWordBits) & 1U) != 0;
}

/// The first mapped sector from `position` on; `end` when there is none before.
std::uint32_t MapPage::next_mapped(std::uint32_t position, std::uint32_t end) const {
  while (position < end) {
    const auto word =
        load<Word>(ConstBytes(contents() + position / kWordBits * sizeof(Word), sizeof(Word)));
    const Word rest = word >> (position % kWordBits);
    if (rest != 0) return std::min(end, position + static_cast<std::uint32_t>(std::countr_zero(rest)));
    position = static_cast<std::uint32_t>(round_down(position, kWordBits)) + kWordBits;
  }
  return end;
}

/// Mapped sectors before `position`.
std::uint32_t MapPage::rank(std::uint32_t position) const {
  std::array<Word, MapPage::kSectorCount / kWordBits> words;
  std::memcpy(words.data(), contents(), kBitmapBytes);
  std::uint32_t count = 0;
  for (std::uint32_t index = 0; index < position / kWordBits; ++index) {
    count += static_cast<std::uint32_t>(std::popcount(words[index]));
  }
  if (position % kWordBits == 0) return count;
  const Word below = (Word{1} << (position % kWordBits)) - 1;
  return count + static_cast<std::uint32_t>(std::popcount(words[position / kWordBits] & below));
}

std::byte* MapPage::cell(std::uint32_t index) const {
  return contents() + kBitmapBytes + std::size_t{index} * kCellBytes;
}

void MapPage::set_mapped(std::uint32_t begin, std::uint32_t end, bool mapped) {
  while (begin < end) {
    const std::uint32_t shift = begin % kWordBits;
    const std::uint32_t count = std::min(kWordBits - shift, end - begin);
    const Word mask = (~Word{0} >> (kWordBits - count)) << shift;
    std::byte* const at = contents() + begin / kWordBits * sizeof(Word);
    const auto word = load<Word>(ConstBytes(at, sizeof(Word)));
    store(MutableBytes(at, sizeof(Word)), mapped ? word | mask : word & ~mask);
    begin += count;
  }
}

void MapPage::put_cells(std::uint32_t index, const Run& run) {
  for (std::uint32_t step = 0; step < run.count; ++step) {
    store_cell(cell(index + step), {run.block, run.sector + step * step_of(run.block)});
  }
}

Run MapPage::lookup_cells(std::uint32_t start, std::uint32_t limit) const {
  if (!is_mapped(start)) {
    return run_at(kHoleBlock, start, next_mapped(start, start + limit) - start, 0);
  }
  const std::uint32_t index = rank(start);
  const Cell first = load_cell(cell(index));
  const std::uint32_t step = step_of(first.block);
  std::uint32_t count = 1;
  while (count < limit && is_mapped(start + count) &&
         load_cell(cell(index + count)) == Cell{first.block, first.sector + count * step}) {
    ++count;
  }
  return run_at(first.block, start, count, first.sector);
}

void MapPage::assign_cells(const Run& added, std::uint64_t base, std::vector<MapRun>& replaced) {
  const std::uint32_t end = std::uint32_t{added.start} + added.count;
  for (std::uint32_t at = next_mapped(added.start, end); at < end; at = next_mapped(at, end)) {
    const Run old = lookup_cells(at, end - at);
    report(old, base, replaced);
    at += old.count;
  }
  const std::uint32_t index = rank(added.start);
  const std::uint32_t old_count = rank(end) - index;
  const std::uint32_t new_count = added.block == kHoleBlock ? 0 : added.count;
  const std::uint32_t tail_count = memory_->mapped_count - index - old_count;
  const std::uint32_t mapped_count = memory_->mapped_count - old_count + new_count;
  reserve(kBitmapBytes + mapped_count * kCellBytes);
  std::memmove(cell(index + new_count), cell(index + old_count), tail_count * kCellBytes);
  if (new_count > 0) put_cells(index, added);
  set_mapped(added.start, end, new_count > 0);
  memory_->mapped_count = static_cast<std::uint16_t>(mapped_count);
}

void MapPage::fill_cells(std::span<const Run> runs, std::uint32_t mapped_count) {
  memory_ = allocate(kBitmapBytes + mapped_count * kCellBytes);
  memory_->has_cells = true;
  std::memset(contents(), 0, kBitmapBytes);
  std::uint32_t index = 0;
  for (const Run& run : runs) {
    put_cells(index, run);
    set_mapped(run.start, std::uint32_t{run.start} + run.count, true);
    index += run.count;
  }
  memory_->mapped_count = static_cast<std::uint16_t>(mapped_count);
}

}  // namespace agro
