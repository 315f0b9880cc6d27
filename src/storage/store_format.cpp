#include "storage/store_format.hpp"

#include "base/crc32c.hpp"
#include "storage/block_store.hpp"

namespace agro {

void Superblock::set_log_start(const LogPosition& position) {
  log_sequence = position.sequence;
  log_slot = position.slot;
  log_page = position.page;
  log_next_slot = position.next_slot;
  log_previous_crc = position.previous_crc;
}

void encode_superblock(Superblock superblock, MutableBytes page) {
  AGRO_ASSERT(page.size() == kPageSize);
  std::memset(page.data(), 0, page.size());
  store(page, superblock);
  superblock.self_crc = crc32c(page.first(offsetof(Superblock, self_crc)));
  store(page, superblock);
}

Result<Superblock> decode_superblock(ConstBytes page) {
  AGRO_ASSERT(page.size() == kPageSize);
  const auto superblock = load<Superblock>(page);
  if (superblock.magic != kSuperblockMagic) return fail(Errc::corrupt, "not a superblock");
  if (crc32c(page.first(offsetof(Superblock, self_crc))) != superblock.self_crc) {
    return fail(Errc::corrupt, "superblock checksum");
  }
  if (superblock.version < kStoreVersionOldest || superblock.version > kStoreVersion) {
    return fail(Errc::not_supported, "store format version " + std::to_string(superblock.version) +
                                         ": this program knows 1 and 2; use the newer one that wrote it");
  }
  const std::uint32_t size = superblock.block_size;
  if (!std::has_single_bit(size) || size < kBlockSizeMin || size > kBlockSizeMax) {
    return fail(Errc::corrupt, "superblock block size");
  }
  if (superblock.log_page > size / kPageSize || superblock.log_sequence == 0) {
    return fail(Errc::corrupt, "superblock log position");
  }
  return superblock;
}

PackedTail find_tail(ConstBytes block, std::size_t size_max) {
  constexpr std::size_t kWords = kPageSize / 8;
  if (block.size() % kPageSize != 0 || block.size() < 2 * std::size_t{kPageSize}) return {};
  const ConstBytes page = block.last(kPageSize);
  std::size_t best_begin = 0;
  std::size_t best_end = 0;
  std::size_t begin = 0;  // of the run of zeros that may go on
  for (std::size_t word = 0; word < kWords; ++word) {
    if (load<std::uint64_t>(page.subspan(word * 8)) != 0) {
      begin = word + 1;
    } else if (word + 1 - begin > best_end - best_begin) {
      best_begin = begin;
      best_end = word + 1;
    }
  }
  // A page of zeros has a last word all the same: a tail that is there is not empty.
  const std::size_t end_words = std::max<std::size_t>(1, kWords - best_end);
  if ((best_begin + end_words) * 8 > std::min(size_max, kPackedTailMax)) return {};
  if (best_begin > UINT8_MAX || end_words > UINT8_MAX) return {};
  return {static_cast<std::uint8_t>(best_begin), static_cast<std::uint8_t>(end_words)};
}

void unpack_tail(PackedTail tail, ConstBytes header_page, MutableBytes out) {
  AGRO_ASSERT(header_page.size() == kPageSize);
  AGRO_ASSERT(out.size() == kPageSize);
  const std::uint32_t end_begin = kPageSize - tail.end_size();
  std::memset(out.data(), 0, kPageSize);
  std::memcpy(out.data(), header_page.data() + kPageSize - tail.size(), tail.head_size());
  std::memcpy(out.data() + end_begin, header_page.data() + end_begin, tail.end_size());
}

std::uint32_t encode_frame(FrameHeader header, std::span<const StoreRecord> records,
                           MutableBytes page, ConstBytes packed) {
  AGRO_ASSERT(page.size() == kPageSize);
  AGRO_ASSERT(sizeof header + records.size_bytes() + header.tail().size() <= kPageSize);
  AGRO_ASSERT(header.tail().is_some() == !packed.empty());
  header.record_count = static_cast<std::uint16_t>(records.size());
  std::memset(page.data(), 0, page.size());
  store(page, header);
  if (!records.empty()) {
    std::memcpy(page.data() + sizeof header, records.data(), records.size_bytes());
  }
  if (const PackedTail tail = header.tail(); tail.is_some()) {
    const ConstBytes last = packed.last(kPageSize);
    std::memcpy(page.data() + kPageSize - tail.size(), last.data(), tail.head_size());
    std::memcpy(page.data() + kPageSize - tail.end_size(), last.data() + kPageSize - tail.end_size(), tail.end_size());
  }
  header.self_crc = crc32c(page.subspan(8));
  store(page, header);
  return header.self_crc;
}

Result<FrameHeader> decode_frame_header(ConstBytes page, std::uint32_t slot,
                                        std::uint32_t page_index) {
  AGRO_ASSERT(page.size() == kPageSize);
  const auto header = load<FrameHeader>(page);
  if (header.magic != kFrameMagic) return fail(Errc::corrupt, "not a frame");
  if (crc32c(page.subspan(8)) != header.self_crc) return fail(Errc::corrupt, "frame checksum");
  if (header.slot != slot || header.page != page_index) {
    return fail(Errc::corrupt, "a frame from elsewhere");
  }
  return header;
}

Result<Frame> decode_frame(ConstBytes page, std::uint32_t slot, std::uint32_t page_index,
                           const StoreShape& shape) {
  AGRO_TRY(const FrameHeader header, decode_frame_header(page, slot, page_index));
  if (header.record_count > kFrameRecordsMax || header.group_sequence == 0 ||
      header.group_sequence > header.sequence || header.next_slot >= shape.slot_count ||
      sizeof header + header.record_count * sizeof(StoreRecord) + header.tail().size() > kPageSize ||
      page_index + 1 + header.inline_page_count > shape.pages_per_slot()) {
    return fail(Errc::corrupt, "frame out of range");
  }
  Frame frame{header, std::vector<StoreRecord>(header.record_count)};
  if (header.record_count > 0) {
    std::memcpy(frame.records.data(), page.data() + sizeof header,
                header.record_count * sizeof(StoreRecord));
  }
  std::uint32_t packed_count = 0;
  for (const StoreRecord& record : frame.records) {
    if (!record_fits(record, shape)) return fail(Errc::corrupt, "frame record out of range");
    if (!record.is_carried()) continue;
    if (record.slot != slot || record.page <= page_index ||
        record.page + record.own_pages() > page_index + 1 + header.inline_page_count) {
      return fail(Errc::corrupt, "inline block outside its frame");
    }
    if (!record.is_packed()) continue;
    if (record.page != page_index + 1) return fail(Errc::corrupt, "packed block not behind its frame's header");
    ++packed_count;
  }
  if (packed_count != (header.tail_code == 0 ? 0U : 1U)) return fail(Errc::corrupt, "packed block without its tail");
  return frame;
}

void encode_checkpoint(CheckpointHeader header, ConstBytes records, MutableBytes page) {
  AGRO_ASSERT(page.size() == kPageSize);
  header.record_count = static_cast<std::uint32_t>(records.size() / sizeof(StoreRecord));
  header.records_crc = crc32c(records);
  std::memset(page.data(), 0, page.size());
  store(page, header);
  header.self_crc = crc32c(page.subspan(8, sizeof header - 8));
  store(page, header);
}

Result<CheckpointPart> decode_checkpoint(ConstBytes slot_bytes, const StoreShape& shape) {
  AGRO_ASSERT(slot_bytes.size() == shape.block_size);
  const auto header = load<CheckpointHeader>(slot_bytes);
  if (header.magic != kCheckpointMagic ||
      crc32c(slot_bytes.subspan(8, sizeof header - 8)) != header.self_crc) {
    return fail(Errc::corrupt, "checkpoint header");
  }
  if (header.record_count > checkpoint_records_max(shape.block_size) ||
      (header.next_slot != kNoSlot && header.next_slot >= shape.slot_count)) {
    return fail(Errc::corrupt, "checkpoint out of range");
  }
  const ConstBytes bytes = slot_bytes.subspan(kPageSize, header.record_count * sizeof(StoreRecord));
  if (crc32c(bytes) != header.records_crc) return fail(Errc::corrupt, "checkpoint checksum");
  CheckpointPart part{header, std::vector<StoreRecord>(header.record_count)};
  if (!bytes.empty()) std::memcpy(part.records.data(), bytes.data(), bytes.size());
  for (const StoreRecord& record : part.records) {
    if (!record_fits(record, shape) || record.kind == RecordKind::remove) {
      return fail(Errc::corrupt, "checkpoint record out of range");
    }
  }
  return part;
}

bool record_fits(const StoreRecord& record, const StoreShape& shape) {
  if (record.is_packed()) {
    if (record.kind != RecordKind::put_inline || record.size % kPageSize != 0 || pages_of(record.size) < 2) return false;
    const PackedTail tail = PackedTail::of_code(static_cast<std::uint16_t>(record.data_crc));
    if (record.is_durable() && (record.data_crc > UINT16_MAX || !tail.is_some() || tail.size() > kPackedTailMax)) {
      return false;
    }
  }
  switch (record.kind) {
    case RecordKind::remove:
    case RecordKind::fence:
      return true;
    case RecordKind::put_slot:
      return record.slot < shape.slot_count && record.page == 0 && record.size > 0 &&
             record.size <= shape.block_size;
    case RecordKind::put_inline:
      return record.slot < shape.slot_count && record.page > 0 && record.size > 0 &&
             record.size <= shape.block_size && record.page + record.own_pages() <= shape.pages_per_slot();
  }
  return false;
}

}  // namespace agro
