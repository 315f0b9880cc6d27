#include "sim/sim_disk_node.hpp"

#include <algorithm>

namespace agro::sim {
namespace {

constexpr std::size_t kTearSize = 512;

const Page& zero_page() {
  static const Page page{};
  return page;
}

}  // namespace

const Page& page_of(const PageHandle& handle) { return handle == nullptr ? zero_page() : *handle; }

PageHandle make_page(ConstBytes bytes) {
  if (std::memcmp(bytes.data(), zero_page().data(), kPageSize) == 0) return nullptr;
  auto page = std::make_shared<Page>();
  std::memcpy(page->data(), bytes.data(), kPageSize);
  return page;
}

PageHandle Content::page(std::uint64_t number) const {
  const auto found = pages.find(number);
  return found == pages.end() ? nullptr : found->second;
}

void Content::set_page(std::uint64_t number, PageHandle page) {
  if (page == nullptr) {
    pages.erase(number);
  } else {
    pages[number] = std::move(page);
  }
}

void Content::resize(std::uint64_t new_size) {
  if (new_size < size) {
    std::erase_if(pages, [&](const auto& each) { return each.first * kPageSize >= new_size; });
    if (new_size % kPageSize != 0) clear_tail(new_size);
  }
  size = new_size;
}

void Content::clear_tail(std::uint64_t new_size) {
  Page cut = page_of(page(new_size / kPageSize));
  std::fill(cut.begin() + static_cast<std::ptrdiff_t>(new_size % kPageSize), cut.end(),
            std::byte{0});
  set_page(new_size / kPageSize, make_page(cut));
}

void Content::read(std::uint64_t offset, MutableBytes out) const {
  while (!out.empty()) {
    const std::size_t in_page = offset % kPageSize;
    const std::size_t count = std::min<std::size_t>(kPageSize - in_page, out.size());
    std::memcpy(out.data(), page_of(page(offset / kPageSize)).data() + in_page, count);
    offset += count;
    out = out.subspan(count);
  }
}

void Change::apply(Content& content) const {
  if (kind == Kind::resize) return content.resize(size);
  if (kind == Kind::allocate) return content.resize(std::max(content.size, size));
  for (std::size_t i = 0; i < pages.size(); ++i) content.set_page(first_page + i, pages[i]);
  if (kind == Kind::write) content.size = std::max(content.size, end());
}

void Change::apply_torn(Content& content, Random& random) const {
  if (sets_size()) return random.chance(1, 2) ? apply(content) : void();
  const std::size_t piece = random.chance(1, 2) ? kTearSize : kPageSize;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    Page mixed = page_of(content.page(first_page + i));
    bool any = false;
    for (std::size_t at = 0; at < kPageSize; at += piece) {
      if (random.chance(1, 2)) continue;
      any = true;
      std::memcpy(mixed.data() + at, page_of(pages[i]).data() + at, piece);
    }
    if (!any) continue;
    content.set_page(first_page + i, make_page(mixed));
    if (kind == Kind::write) {
      content.size = std::max(content.size, (first_page + i + 1) * kPageSize);
    }
  }
}

void Node::land_torn(Change change, Random& random) {
  if (change.sets_size()) {
    if (random.chance(1, 2)) return;
    change.apply(current);
  } else {
    change.apply_torn(current, random);
    for (std::size_t i = 0; i < change.pages.size(); ++i) {
      const std::uint64_t number = change.first_page + i;
      if (number * kPageSize >= current.size) {
        change.pages.resize(i);
        break;
      }
      change.pages[i] = current.page(number);
    }
  }
  if (change.sets_size() || !change.pages.empty()) {
    unsynced.push_back(std::move(change));
  }
}

void Node::note_written(const Change& change, TimePoint at) {
  while (!recent_writes.empty() && recent_writes.front().at < at - kRecent) recent_writes.pop_front();
  recent_writes.push_back({at, change.first_page, change.first_page + change.pages.size()});
}

bool Node::is_raw(std::uint64_t first_page, std::uint64_t end_page) const {
  for (std::uint64_t page = first_page; page < end_page; ++page) {
    if (page >= written.size() || !written[page]) return true;
  }
  return false;
}

void Node::land(const Change& change) {
  if (change.kind == Change::Kind::write) {
    if (written.size() * kPageSize < change.end()) written.resize(change.end() / kPageSize);
    std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(change.first_page), change.pages.size(), true);
  }
  for (std::size_t i = 0; i < change.pages.size(); ++i) {
    const std::uint64_t number = change.first_page + i;
    if (number * kPageSize < current.size) previous[number] = current.page(number);
    cached.pages.erase(number);
  }
  change.apply(current);
}

namespace {

/// Overwrites `out`, read from `offset`, with the page `number` where they overlap.
void overlay(std::uint64_t offset, MutableBytes out, std::uint64_t number, const Page& page) {
  const std::uint64_t begin = std::max(offset, number * kPageSize);
  const std::uint64_t end = std::min(offset + out.size(), (number + 1) * kPageSize);
  std::memcpy(out.data() + (begin - offset), page.data() + begin % kPageSize, end - begin);
}

}  // namespace

void Node::read(std::uint64_t offset, MutableBytes out) const {
  current.read(offset, out);
  if (cached.pages.empty()) return;
  for (std::uint64_t number = offset / kPageSize; number * kPageSize < offset + out.size(); ++number) {
    if (const PageHandle page = cached.page(number)) overlay(offset, out, number, *page);
  }
}

bool Node::read_stale(std::uint64_t offset, MutableBytes out) const {
  bool any = false;
  current.read(offset, out);
  for (std::uint64_t number = offset / kPageSize; number * kPageSize < offset + out.size(); ++number) {
    const auto found = previous.find(number);
    if (found == previous.end()) continue;
    any = true;
    overlay(offset, out, number, page_of(found->second));
  }
  return any;
}

std::optional<std::uint64_t> Node::elsewhere(std::uint64_t offset, std::uint64_t size,
                                             Random& random) const {
  const std::uint64_t in_page = offset % kPageSize;
  if (current.size < in_page + size) return std::nullopt;
  const std::uint64_t count = (current.size - in_page - size) / kPageSize + 1;
  if (count < 2) return std::nullopt;
  std::uint64_t pick = random.below(count - 1);
  if (pick >= offset / kPageSize) ++pick;
  return pick * kPageSize + in_page;
}

void Node::settle() {
  durable = current;
  cached.pages.clear();
  previous.clear();
  unsynced.clear();
  flying.clear();
  ++crash_count;
  locked = false;
}

void Node::crash(Random& random) {
  for (auto& [id, change] : flying) unsynced.push_back(std::move(change));
  for (const Change& change : unsynced) {
    switch (random.below(3)) {
      case 0: break;
      case 1: change.apply(durable); break;
      default: change.apply_torn(durable, random);
    }
  }
  current = durable;
  settle();
}

}  // namespace agro::sim
