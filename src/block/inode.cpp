#include "block/inode.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/parallel.hpp"

namespace agro {
namespace {

/// docs/formats/inode.md, "Root". Followed by InodeBlockRecords, then the directory locations of
/// the map, then those of the table, then name and block spec, then AncestorRecords to the end.
struct RootHeader {
  std::uint32_t magic;                  //  0  kRootMagic
  std::uint16_t version;                //  4  3, or 2 without ancestors; 1 has no name, no spec, replication 0
  std::uint16_t replication;            //  6  of the volume itself; 0: the ring's
  std::uint64_t volume;                 //  8
  std::uint64_t size_bytes;             // 16
  std::uint64_t covered_sequence;       // 24
  std::uint64_t epoch;                  // 32
  std::uint64_t next_index;             // 40  of inode blocks
  std::uint32_t map_page_count;         // 48
  std::uint32_t table_page_count;       // 52
  std::uint32_t map_directory_count;    // 56
  std::uint32_t table_directory_count;  // 60
  std::uint32_t block_count;            // 64
  std::uint16_t name_size;              // 68  bytes
  std::uint16_t spec_size;              // 70  bytes
};
static_assert(sizeof(RootHeader) == 72 && offsetof(RootHeader, spec_size) == 70);
static_assert(std::has_unique_object_representations_v<RootHeader>, "no hidden padding");
constexpr std::uint32_t kRootMagic = 0x31444E49;  // "IND1"
constexpr std::uint16_t kRootVersion = 2;
constexpr std::uint16_t kCloneRootVersion = 3;

struct AncestorRecord {
  std::uint64_t volume;      //  0
  std::uint64_t last_epoch;  //  8
};
static_assert(sizeof(AncestorRecord) == 16);

struct InodeBlockRecord {
  std::uint64_t epoch;  //  0
  std::uint64_t index;  //  8
  std::uint32_t size;   // 16  payload bytes; 0: free
  std::uint32_t live;   // 20
};
static_assert(sizeof(InodeBlockRecord) == 24);

constexpr std::size_t kReadsAtOnce = 8;
/// Below this much garbage nothing is moved.
constexpr std::uint64_t kGarbageAllowed = kBlockSizeDefault;

/// Between two pages in a block, what is read rather than asked for twice.
constexpr std::uint64_t kGapReadToo = 64 * 1024;

std::uint64_t end_of(const PageLocation& location) {
  return std::uint64_t{location.offset} + location.length;
}

std::uint32_t directory_count_for(std::uint64_t page_count) {
  return static_cast<std::uint32_t>((page_count + Inode::kPagesPerDirectory - 1) /
                                    Inode::kPagesPerDirectory);
}

tl::unexpected<Error> damaged(const char* what) {
  return fail(Errc::corrupt, fmt::format("INode: {}", what));
}

}  // namespace

// --- reading ---

Result<void> Inode::decode_ancestors(ConstBytes bytes, std::vector<VolumeAncestor>& ancestors) {
  Epoch last;
  for (; !bytes.empty(); bytes = bytes.subspan(sizeof(AncestorRecord))) {
    const auto record = load<AncestorRecord>(bytes);
    if (record.volume == 0 || record.volume > kVolumeIdMax || record.last_epoch <= last.value) {
      return damaged("root with ancestors out of order");
    }
    last = {record.last_epoch};
    ancestors.push_back({{record.volume}, last});
  }
  return {};
}

bool Inode::is_root(ConstBytes payload) {
  return payload.size() >= sizeof(RootHeader) && load<RootHeader>(payload).magic == kRootMagic;
}

Task<SharedBytes> Inode::read_payload(BlockRef ref) {
  AGRO_CO_TRY(SharedBytes block, co_await blockset_.read_block(ref, {}));
  co_return blockset_.payload(ref, std::move(block));
}

Task<InodeMeta> Inode::load_root(BlockRef root) {
  AGRO_CO_TRY(const SharedBytes payload, co_await read_payload(root));
  InodeMeta meta;
  AGRO_CO_TRY_OK(decode_root(payload.bytes, meta));
  root_ = root;
  co_return meta;
}

Result<void> Inode::decode_root(ConstBytes payload, InodeMeta& meta) {
  if (payload.size() < sizeof(RootHeader)) return damaged("root too short");
  const auto header = load<RootHeader>(payload);
  if (header.magic != kRootMagic) return damaged("not a root");
  if (header.version == 0 || header.version > kCloneRootVersion) {
    return damaged("a root of another version: use a newer agro");
  }
  if (header.version == 1 && (header.replication | header.name_size | header.spec_size) != 0) {
    return damaged("a root of version 1 with a description");
  }
  const std::uint64_t expected_size =
      sizeof(RootHeader) + std::uint64_t{header.block_count} * sizeof(InodeBlockRecord) +
      (std::uint64_t{header.map_directory_count} + header.table_directory_count) *
          sizeof(PageLocation) +
      header.name_size + header.spec_size;
  const bool fits = header.version == kCloneRootVersion
                        ? payload.size() > expected_size &&
                              (payload.size() - expected_size) % sizeof(AncestorRecord) == 0
                        : payload.size() == expected_size;
  if (!fits) return damaged("root counts do not fit");
  if (directory_count_for(header.map_page_count) != header.map_directory_count ||
      directory_count_for(header.table_page_count) != header.table_directory_count) {
    return damaged("root directory counts");
  }
  AGRO_TRY_OK(decode_ancestors(payload.subspan(expected_size), meta.description.ancestors));
  // Whoever knows a volume by its blocks alone learns its lineage here.
  if (lineage_.ancestors().empty()) lineage_ = Lineage(lineage_.self(), meta.description.ancestors);
  if (header.volume != lineage_.owner_of({header.epoch}).value) return damaged("root of another volume");
  meta.volume = {header.volume};
  meta.size_bytes = header.size_bytes;
  meta.covered_sequence = header.covered_sequence;
  meta.epoch = {header.epoch};
  const ConstBytes texts = payload.first(expected_size).last(header.name_size + std::size_t{header.spec_size});
  meta.description.name = as_text(texts.first(header.name_size));
  meta.description.block_spec = as_text(texts.last(header.spec_size));
  meta.description.replication = header.replication;
  next_index_ = header.next_index;
  ConstBytes rest = payload.subspan(sizeof(RootHeader));
  for (std::uint32_t slot = 0; slot < header.block_count; ++slot) {
    const auto record = load<InodeBlockRecord>(rest);
    rest = rest.subspan(sizeof record);
    const Epoch epoch{record.epoch};
    const BlockRef ref{lineage_.owner_of(epoch), epoch, record.index, BlockType::inode};
    if (record.size > blockset_.payload_capacity()) return damaged("a block larger than blocks are");
    blocks_.push_back({ref, record.size, record.live});
    if (record.size == 0) free_slots_.push_back(slot);
  }
  const std::array<std::uint32_t, 2> page_counts = {header.map_page_count, header.table_page_count};
  for (std::size_t tree = 0; tree < trees_.size(); ++tree) {
    trees_[tree].pages.resize(page_counts[tree]);
    trees_[tree].directories.resize(directory_count_for(page_counts[tree]));
    for (PageLocation& location : trees_[tree].directories) {
      location = load<PageLocation>(rest);
      rest = rest.subspan(sizeof location);
    }
  }
  return {};
}

Task<void> Inode::read_block_into(std::size_t slot, std::vector<SharedBytes>& payloads) {
  if (blocks_[slot].size == 0) co_return Result<void>();
  AGRO_CO_TRY(payloads[slot], co_await read_payload(blocks_[slot].ref));
  if (payloads[slot].size() != blocks_[slot].size) co_return damaged("block of another size");
  co_return Result<void>();
}

Task<std::vector<SharedBytes>> Inode::read_blocks() {
  std::vector<SharedBytes> payloads(blocks_.size());
  AGRO_CO_TRY_OK(co_await for_each_parallel(
      payloads.size(), kReadsAtOnce,
      [this, &payloads](std::size_t slot) { return read_block_into(slot, payloads); }));
  co_return payloads;
}

Task<void> Inode::load_pages(VolumeMap& map) {
  AGRO_CO_TRY(const std::vector<SharedBytes> payloads, co_await read_blocks());
  const auto bytes_at = [&](const PageLocation& location) -> Result<ConstBytes> {
    if (location.slot >= payloads.size() ||
        std::uint64_t{location.offset} + location.length > payloads[location.slot].size()) {
      return damaged("page outside its block");
    }
    return payloads[location.slot].bytes.subspan(location.offset, location.length);
  };
  if (trees_[0].pages.size() > map.map().page_count()) co_return damaged("more pages than sectors");
  for (std::size_t kind = 0; kind < trees_.size(); ++kind) {
    Tree& tree = trees_[kind];
    for (std::size_t directory = 0; directory < tree.directories.size(); ++directory) {
      if (tree.directories[directory].length == 0) continue;
      AGRO_CO_TRY(const ConstBytes listed, bytes_at(tree.directories[directory]));
      const std::size_t first = directory * kPagesPerDirectory;
      const std::size_t count = std::min<std::size_t>(kPagesPerDirectory, tree.pages.size() - first);
      if (listed.size() != count * sizeof(PageLocation)) co_return damaged("directory size");
      for (std::size_t index = 0; index < count; ++index) {
        PageLocation& location = tree.pages[first + index];
        location = load<PageLocation>(listed.subspan(index * sizeof(PageLocation)));
        if (location.length == 0) continue;
        AGRO_CO_TRY(const ConstBytes bytes, bytes_at(location));
        const auto page = static_cast<std::uint32_t>(first + index);
        if (static_cast<PageKind>(kind) == PageKind::map) {
          AGRO_CO_TRY_OK(map.map_for_decode().decode_page(page, bytes));
        } else {
          AGRO_CO_TRY_OK(map.table_for_decode().decode_page(page, bytes));
        }
      }
      co_await yield_to_loop();
    }
  }
  map.table_for_decode().finish_decode();
  co_return map.check_counts();
}

/// Calls `visit` for those that have bytes, in no order. What lies close together is read together.
Task<void> Inode::visit_pages(std::vector<Located> pages, Visit visit) {
  std::erase_if(pages, [](const Located& page) { return page.second.length == 0; });
  std::sort(pages.begin(), pages.end(), [](const Located& left, const Located& right) {
    return std::pair(left.second.slot, left.second.offset) <
           std::pair(right.second.slot, right.second.offset);
  });
  std::vector<std::span<const Located>> groups;
  for (const Located& page : pages) {
    const PageLocation& location = page.second;
    if (location.slot >= blocks_.size() || blocks_[location.slot].size == 0) {
      co_return damaged("page in no block");
    }
    if (std::uint64_t{location.offset} + location.length > blocks_[location.slot].size) {
      co_return damaged("page outside its block");
    }
    if (!groups.empty() && groups.back().back().second.slot == location.slot &&
        location.offset <= end_of(groups.back().back().second) + kGapReadToo) {
      groups.back() = {groups.back().data(), groups.back().size() + 1};
    } else {
      groups.emplace_back(&page, 1);
    }
  }
  co_return co_await for_each_parallel(
      groups.size(), kReadsAtOnce,
      [this, &groups, &visit](std::size_t index) { return visit_group(groups[index], visit); });
}

Task<void> Inode::visit_group(std::span<const Located> pages, const Visit& visit) {
  const PageLocation& first = pages.front().second;
  const InodeBlock& block = blocks_[first.slot];
  std::uint64_t end = 0;
  for (const Located& page : pages) end = std::max(end, end_of(page.second));
  AGRO_CO_TRY(const std::vector<std::byte> bytes,
              co_await read_page({block.ref, block.size, first.offset,
                                  static_cast<std::uint32_t>(end - first.offset)}));
  for (const auto& [index, location] : pages) {
    AGRO_CO_TRY_OK(
        visit(index, ConstBytes(bytes).subspan(location.offset - first.offset, location.length)));
  }
  co_return Result<void>();
}

Task<void> Inode::load_locations(PageKind kind) {
  Tree& tree = trees_[static_cast<std::size_t>(kind)];
  std::vector<Located> located;
  for (std::uint32_t index = 0; index < tree.directories.size(); ++index) {
    located.push_back({index, tree.directories[index]});
  }
  const Visit read_directory = [this, &tree](std::uint32_t directory,
                                             ConstBytes listed) -> Result<void> {
    const std::size_t first = std::size_t{directory} * kPagesPerDirectory;
    const std::size_t count = std::min<std::size_t>(kPagesPerDirectory, tree.pages.size() - first);
    if (listed.size() != count * sizeof(PageLocation)) return damaged("directory size");
    for (std::size_t index = 0; index < count; ++index) {
      const auto location = load<PageLocation>(listed.subspan(index * sizeof(PageLocation)));
      if (location.length > 0 &&
          (location.slot >= blocks_.size() ||
           std::uint64_t{location.offset} + location.length > blocks_[location.slot].size)) {
        return damaged("page outside its block");
      }
      tree.pages[first + index] = location;
    }
    return {};
  };
  co_return co_await visit_pages(std::move(located), read_directory);
}

Task<void> Inode::load_table(BlockTable& table) {
  const Tree& tree = trees_[static_cast<std::size_t>(PageKind::table)];
  std::vector<Located> located;
  for (std::uint32_t index = 0; index < tree.pages.size(); ++index) {
    located.push_back({index, tree.pages[index]});
  }
  const Visit read_page = [&table](std::uint32_t page, ConstBytes bytes) {
    return table.decode_page(page, bytes);
  };
  AGRO_CO_TRY_OK(co_await visit_pages(std::move(located), read_page));
  table.finish_decode();
  co_return Result<void>();
}

Task<void> Inode::load_directories(VolumeMap& map) {
  const std::vector<PageLocation>& pages = trees_[static_cast<std::size_t>(PageKind::map)].pages;
  if (pages.size() > map.map().page_count()) co_return damaged("more pages than sectors");
  AGRO_CO_TRY_OK(co_await load_locations(PageKind::map));
  AGRO_CO_TRY_OK(co_await load_locations(PageKind::table));
  AGRO_CO_TRY_OK(co_await load_table(map.table_for_decode()));
  for (std::uint32_t page = 0; page < pages.size(); ++page) {
    if (pages[page].length > 0) map.map_for_decode().set_absent(page);
  }
  map.count_table();
  co_return Result<void>();
}

Inode::PageAt Inode::page_at(PageKey key) const {
  const std::vector<PageLocation>& pages = trees_[static_cast<std::size_t>(key.kind)].pages;
  AGRO_ASSERT(key.index < pages.size());
  const PageLocation& location = pages[key.index];
  AGRO_ASSERT(location.length > 0);
  const InodeBlock& block = blocks_[location.slot];
  return {block.ref, block.size, location.offset, location.length};
}

Task<std::vector<std::byte>> Inode::read_page(PageAt at) {
  const auto begin = static_cast<std::uint32_t>(round_down(at.offset, kPageSize));
  const auto end = static_cast<std::uint32_t>(round_up(at.offset + at.length, kPageSize));
  // A range is whole pages of the payload; the last one is read with its block.
  if (end <= at.block_size) {
    AlignedBuffer buffer(end - begin);
    AGRO_CO_TRY_OK(co_await blockset_.read(at.block, begin, buffer.bytes(), {}));
    const ConstBytes bytes = ConstBytes(buffer.bytes()).subspan(at.offset - begin, at.length);
    co_return std::vector<std::byte>(bytes.begin(), bytes.end());
  }
  AGRO_CO_TRY(const SharedBytes payload, co_await read_payload(at.block));
  if (payload.size() != at.block_size) co_return damaged("block of another size");
  const ConstBytes bytes = payload.bytes.subspan(at.offset, at.length);
  co_return std::vector<std::byte>(bytes.begin(), bytes.end());
}

Task<std::vector<BlockRef>> Inode::load_needed_blocks() {
  AGRO_CO_TRY_OK(co_await load_locations(PageKind::table));
  BlockTable table;
  AGRO_CO_TRY_OK(co_await load_table(table));
  std::vector<BlockRef> needed = live_refs();
  needed.push_back(root_);
  for (BlockId id = 0; id < table.id_limit(); ++id) {
    if (table[id].state == BlockState::free) continue;
    const Epoch epoch = table[id].epoch;
    needed.push_back({lineage_.owner_of(epoch), epoch, table[id].sequence, BlockType::data});
  }
  std::sort(needed.begin(), needed.end());
  co_return needed;
}

// --- writing ---

void Inode::release(const PageLocation& location) {
  if (location.length == 0) return;
  InodeBlock& block = blocks_[location.slot];
  AGRO_ASSERT(block.live >= location.length);
  block.live -= location.length;
  if (block.live > 0) return;
  garbage_.push_back(block.ref);
  block = {};
  free_slots_.push_back(location.slot);
}

std::uint32_t Inode::take_slot() {
  if (free_slots_.empty()) {
    blocks_.emplace_back();
    return static_cast<std::uint32_t>(blocks_.size() - 1);
  }
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

std::vector<PageKey> Inode::pages_to_move() const {
  std::uint64_t stored = 0;
  std::uint64_t live = 0;
  for (const InodeBlock& block : blocks_) {
    stored += block.size;
    live += block.live;
  }
  if (stored <= 2 * live + kGarbageAllowed) return {};
  // Every block that is less than half live: what is left is at least half live.
  std::vector<PageKey> keys;
  for (std::size_t kind = 0; kind < trees_.size(); ++kind) {
    const std::vector<PageLocation>& pages = trees_[kind].pages;
    for (std::uint32_t index = 0; index < pages.size(); ++index) {
      if (pages[index].length == 0) continue;
      const InodeBlock& block = blocks_[pages[index].slot];
      if (2 * std::uint64_t{block.live} < block.size) {
        keys.push_back({static_cast<PageKind>(kind), index});
      }
    }
  }
  return keys;
}

Task<void> Inode::put_page(PageKey key, std::vector<std::byte> bytes, Epoch epoch) {
  const auto kind = static_cast<std::uint32_t>(key.kind);
  Tree& tree = trees_[kind];
  if (tree.pages.size() <= key.index) {
    // The directory that grows is written anew, for its size follows the number of pages.
    if (!tree.pages.empty()) {
      tree.changed_directories.insert((static_cast<std::uint32_t>(tree.pages.size()) - 1) / kPagesPerDirectory);
    }
    tree.pages.resize(key.index + 1);
    tree.directories.resize(directory_count_for(tree.pages.size()));
  }
  tree.changed_directories.insert(key.index / kPagesPerDirectory);
  return stage(kind, false, key.index, std::move(bytes), epoch);
}

Task<void> Inode::stage(std::uint32_t tree, bool is_directory, std::uint32_t index,
                        std::vector<std::byte> bytes, Epoch epoch) {
  const auto length = static_cast<std::uint32_t>(bytes.size());
  if (length == 0) {
    PageLocation& location =
        is_directory ? trees_[tree].directories[index] : trees_[tree].pages[index];
    release(location);
    location = {};
    co_return Result<void>();
  }
  AGRO_ASSERT(length <= blockset_.payload_capacity());
  if (staging_ != nullptr && staging_size_ + length > blockset_.payload_capacity()) {
    AGRO_CO_TRY_OK(co_await write_staged(epoch));
  }
  if (staging_ == nullptr) staging_ = buffers_.take();
  std::memcpy(staging_->data() + staging_size_, bytes.data(), length);
  staged_.push_back({tree, is_directory, index, staging_size_, length});
  staging_size_ += length;
  co_return Result<void>();
}

Task<void> Inode::write_staged(Epoch epoch) {
  if (staging_ == nullptr) co_return Result<void>();
  const BlockRef ref{lineage_.self(), epoch, next_index_++, BlockType::inode};
  const std::shared_ptr<AlignedBuffer> buffer = std::exchange(staging_, nullptr);
  const std::uint32_t payload_size = std::exchange(staging_size_, 0);
  const std::vector<Staged> staged = std::exchange(staged_, {});
  AGRO_CO_TRY_OK(co_await write_block(ref, buffer, payload_size));
  const std::uint32_t slot = take_slot();
  blocks_[slot] = {ref, payload_size, payload_size};
  for (const Staged& page : staged) {
    Tree& tree = trees_[page.tree];
    PageLocation& location =
        page.is_directory ? tree.directories[page.index] : tree.pages[page.index];
    release(location);
    location = {slot, page.offset, page.length, 0};
  }
  co_return Result<void>();
}

Task<void> Inode::write_block(BlockRef ref, std::shared_ptr<AlignedBuffer> buffer,
                              std::uint32_t payload_size) {
  const std::uint32_t size = blockset_.seal(ref, buffer->bytes(), payload_size);
  bytes_written_ += size;
  const SharedBytes block{buffer, buffer->bytes().first(size)};
  co_return co_await writer_(ref, block);
}

std::size_t Inode::root_size(const VolumeDescription& description) const {
  return description.name.size() + description.block_spec.size() + sizeof(RootHeader) +
         description.ancestors.size() * sizeof(AncestorRecord) + blocks_.size() * sizeof(InodeBlockRecord) +
         (trees_[0].directories.size() + trees_[1].directories.size()) * sizeof(PageLocation);
}

std::uint32_t Inode::encode_root(const InodeMeta& meta, MutableBytes out) const {
  RootHeader header{};
  header.magic = kRootMagic;
  header.version = meta.description.ancestors.empty() ? kRootVersion : kCloneRootVersion;
  header.replication = static_cast<std::uint16_t>(meta.description.replication);
  header.name_size = static_cast<std::uint16_t>(meta.description.name.size());
  header.spec_size = static_cast<std::uint16_t>(meta.description.block_spec.size());
  header.volume = lineage_.self().value;
  header.size_bytes = meta.size_bytes;
  header.covered_sequence = meta.covered_sequence;
  header.epoch = meta.epoch.value;
  header.next_index = next_index_;
  header.map_page_count = static_cast<std::uint32_t>(trees_[0].pages.size());
  header.table_page_count = static_cast<std::uint32_t>(trees_[1].pages.size());
  header.map_directory_count = static_cast<std::uint32_t>(trees_[0].directories.size());
  header.table_directory_count = static_cast<std::uint32_t>(trees_[1].directories.size());
  header.block_count = static_cast<std::uint32_t>(blocks_.size());
  store(out, header);
  std::size_t position = sizeof header;
  for (const InodeBlock& block : blocks_) {
    store(out.subspan(position), InodeBlockRecord{block.ref.epoch.value, block.ref.index,
                                                  block.size, block.live});
    position += sizeof(InodeBlockRecord);
  }
  for (const Tree& tree : trees_) {
    for (const PageLocation& location : tree.directories) {
      store(out.subspan(position), location);
      position += sizeof location;
    }
  }
  const std::string texts = meta.description.name + meta.description.block_spec;
  std::memcpy(out.data() + position, texts.data(), texts.size());
  position += texts.size();
  for (const VolumeAncestor& ancestor : meta.description.ancestors) {
    store(out.subspan(position), AncestorRecord{ancestor.volume.value, ancestor.last_epoch.value});
    position += sizeof(AncestorRecord);
  }
  return static_cast<std::uint32_t>(position);
}

Task<BlockRef> Inode::finish(InodeMeta meta) {
  AGRO_CO_TRY_OK(co_await write_staged(meta.epoch));
  for (std::uint32_t kind = 0; kind < trees_.size(); ++kind) {
    Tree& tree = trees_[kind];
    // A directory also moves when its block is mostly garbage.
    for (std::uint32_t index = 0; index < tree.directories.size(); ++index) {
      const PageLocation& location = tree.directories[index];
      if (location.length == 0) continue;
      const InodeBlock& block = blocks_[location.slot];
      if (2 * std::uint64_t{block.live} < block.size) tree.changed_directories.insert(index);
    }
    const std::set<std::uint32_t> changed = tree.changed_directories;
    for (const std::uint32_t index : changed) {
      const std::size_t first = std::size_t{index} * kPagesPerDirectory;
      const std::size_t count = std::min<std::size_t>(kPagesPerDirectory, tree.pages.size() - first);
      std::vector<std::byte> bytes(count * sizeof(PageLocation));
      std::memcpy(bytes.data(), &tree.pages[first], bytes.size());
      AGRO_CO_TRY_OK(co_await stage(kind, true, index, std::move(bytes), meta.epoch));
    }
  }
  AGRO_CO_TRY_OK(co_await write_staged(meta.epoch));
  const BlockRef root{lineage_.self(), meta.epoch, next_index_++, BlockType::inode};
  if (root_size(meta.description) > blockset_.payload_capacity()) {
    co_return fail(Errc::too_large, "the volume's INode root does not fit a block: use a larger block size");
  }
  std::shared_ptr<AlignedBuffer> buffer = buffers_.take();
  const std::uint32_t payload_size = encode_root(meta, buffer->bytes());
  AGRO_CO_TRY_OK(co_await write_block(root, buffer, payload_size));
  for (Tree& tree : trees_) tree.changed_directories.clear();
  if (root_.index != 0) garbage_.push_back(root_);
  root_ = root;
  co_return root;
}

Task<void> Inode::write_note(BlockRef ref, std::vector<std::byte> payload) {
  std::shared_ptr<AlignedBuffer> buffer = buffers_.take();
  AGRO_ASSERT(payload.size() <= blockset_.payload_capacity());
  std::memcpy(buffer->data(), payload.data(), payload.size());
  co_return co_await write_block(ref, buffer, static_cast<std::uint32_t>(payload.size()));
}

void Inode::cut_map(std::uint32_t page_count) {
  Tree& tree = trees_[static_cast<std::size_t>(PageKind::map)];
  if (tree.pages.size() <= page_count) return;
  const std::uint32_t directory_count = directory_count_for(page_count);
  for (std::size_t page = page_count; page < tree.pages.size(); ++page) release(tree.pages[page]);
  for (std::size_t one = directory_count; one < tree.directories.size(); ++one) release(tree.directories[one]);
  tree.pages.resize(page_count);
  tree.directories.resize(directory_count);
  tree.changed_directories.erase(tree.changed_directories.lower_bound(directory_count),
                                 tree.changed_directories.end());
  // The last one is shorter now.
  if (page_count % kPagesPerDirectory != 0) tree.changed_directories.insert(directory_count - 1);
}

std::vector<BlockRef> Inode::take_garbage() { return std::exchange(garbage_, {}); }

std::vector<BlockRef> Inode::live_refs() const {
  std::vector<BlockRef> refs;
  for (const InodeBlock& block : blocks_) {
    if (block.size > 0) refs.push_back(block.ref);
  }
  return refs;
}

}  // namespace agro
