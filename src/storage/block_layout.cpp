#include "storage/block_layout.hpp"

#include <algorithm>
#include <cstring>

namespace agro {

FileExtent extent_of(const BlockLocation& location, std::uint32_t block_size) {
  const std::uint64_t begin = slot_offset(location.slot, block_size) + std::uint64_t{location.page} * kPageSize;
  if (!location.tail.is_some()) return {begin, begin + location.size};
  return {begin - kPageSize, begin + location.size - kPageSize};
}

BlockPieces::BlockPieces(const BlockLocation& location, std::uint32_t block_size, std::uint64_t offset,
                         MutableBytes out) {
  AGRO_ASSERT(offset + out.size() <= location.size);
  const FileExtent extent = extent_of(location, block_size);
  const PackedTail tail = location.tail;
  if (!tail.is_some()) {
    add(extent.begin + offset, out);
    return;
  }
  const std::uint64_t body = location.size - kPageSize;
  // The part of `out` that is in [from, to) of the block.
  const auto part = [&](std::uint64_t from, std::uint64_t to) {
    const std::uint64_t begin = std::clamp(from, offset, offset + out.size()) - offset;
    const std::uint64_t end = std::clamp(to, offset, offset + out.size()) - offset;
    return out.subspan(begin, end - begin);
  };
  const auto at = [&](std::uint64_t from) { return std::max(from, offset); };
  const std::uint64_t head_end = body + tail.head_size();
  const std::uint64_t end_begin = location.size - tail.end_size();
  add(extent.begin + kPageSize + offset, part(0, body));
  add(extent.begin + kPageSize - tail.size() + (at(body) - body), part(body, head_end));
  const MutableBytes zeros = part(head_end, end_begin);
  if (!zeros.empty()) std::memset(zeros.data(), 0, zeros.size());
  add(extent.begin + (at(end_begin) - body), part(end_begin, location.size));
}

void BlockPieces::add(std::uint64_t file_offset, MutableBytes out) {
  if (!out.empty()) pieces_[count_++] = {file_offset, out};
}

Task<void> read_pieces(File& file, BlockLocation location, std::uint32_t block_size, std::uint64_t offset,
                       MutableBytes out) {
  const BlockPieces pieces(location, block_size, offset, out);
  for (const BlockPieces::Piece& piece : pieces) AGRO_CO_TRY_OK(co_await file.read(piece.offset, piece.out));
  co_return Result<void>();
}

BlockLocation location_of(const StoreRecord& record, PackedTail tail) {
  BlockLocation location{.slot = record.slot, .size = record.size, .page = record.page};
  if (record.is_packed()) {
    location.tail = record.is_durable() ? PackedTail::of_code(static_cast<std::uint16_t>(record.data_crc)) : tail;
  }
  return location;
}

StoreRecord durable_record(const BlockRef& ref, const BlockLocation& location) {
  StoreRecord record;
  record.kind = location.is_inline() ? RecordKind::put_inline : RecordKind::put_slot;
  record.slot = location.slot;
  record.page = location.page;
  record.size = location.size;
  record.flags = kRecordDurable;
  if (location.tail.is_some()) {
    record.flags |= kRecordPacked;
    record.data_crc = location.tail.code();
  }
  record.set_ref(ref);
  return record;
}

}  // namespace agro
