#include "block/block_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace agro {
namespace {

/// docs/formats/inode.md, "Table pages".
struct TableRecord {
  std::uint64_t epoch;         //  0
  std::uint64_t sequence;      //  8
  std::uint32_t block_id;      // 16
  std::uint32_t live_count;    // 20
  std::uint32_t sector_count;  // 24
  std::uint32_t size;          // 28
};
static_assert(sizeof(TableRecord) == 32);
static_assert(std::has_unique_object_representations_v<TableRecord>, "no hidden padding");

}  // namespace

BlockId BlockTable::add(const BlockEntry& entry) {
  if (!free_ids_.empty()) {
    const BlockId id = free_ids_.back();
    free_ids_.pop_back();
    entries_[id] = entry;
    return id;
  }
  AGRO_ASSERT(entries_.size() < kBlockIdLimit);
  entries_.push_back(entry);
  return static_cast<BlockId>(entries_.size() - 1);
}

void BlockTable::free(BlockId id) {
  AGRO_ASSERT(entries_[id].live_count == 0);
  entries_[id] = {};
  free_ids_.push_back(id);
}

void BlockTable::encode_page(std::uint32_t page, std::vector<std::byte>& out) const {
  const BlockId begin = page * kEntriesPerPage;
  const BlockId end = std::min<BlockId>(begin + kEntriesPerPage, id_limit());
  for (BlockId id = begin; id < end; ++id) {
    const BlockEntry& entry = entries_[id];
    // In flight when captured is durable when committed: a checkpoint waits for its log position.
    if (entry.state == BlockState::free || entry.state == BlockState::open) continue;
    const TableRecord record{entry.epoch.value, entry.sequence,     id,
                             entry.live_count,  entry.sector_count, entry.size};
    const std::size_t position = out.size();
    out.resize(position + sizeof record);
    std::memcpy(out.data() + position, &record, sizeof record);
  }
}

Result<void> BlockTable::decode_page(std::uint32_t page, ConstBytes bytes) {
  const auto damaged = [page] {
    return fail(Errc::corrupt, fmt::format("table page {} of the INode is damaged", page));
  };
  const std::uint64_t begin = std::uint64_t{page} * kEntriesPerPage;
  if (begin + kEntriesPerPage > kBlockIdLimit || bytes.size() % sizeof(TableRecord) != 0) {
    return damaged();
  }
  if (entries_.size() < begin + kEntriesPerPage) entries_.resize(begin + kEntriesPerPage);
  for (std::size_t offset = 0; offset < bytes.size(); offset += sizeof(TableRecord)) {
    const auto record = load<TableRecord>(bytes.subspan(offset));
    const bool sound = record.block_id >= begin && record.block_id < begin + kEntriesPerPage &&
                       record.sequence != 0 && record.live_count <= record.sector_count &&
                       entries_[record.block_id].state == BlockState::free;
    if (!sound) return damaged();
    entries_[record.block_id] = {{record.epoch},      record.sequence, record.live_count,
                                 record.sector_count, record.size,     BlockState::durable};
  }
  return {};
}

void BlockTable::finish_decode() {
  while (!entries_.empty() && entries_.back().state == BlockState::free) entries_.pop_back();
  free_ids_.clear();
  for (BlockId id = id_limit(); id > 0; --id) {
    if (entries_[id - 1].state == BlockState::free) free_ids_.push_back(id - 1);
  }
}

}  // namespace agro
