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
  if (superblock.version != kStoreVersion) {
    return fail(Errc::not_supported, "store format version " + std::to_string(superblock.version) +
                                         ": this program knows version 1 only");
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

std::uint32_t encode_frame(FrameHeader header, std::span<const StoreRecord> records,
                           MutableBytes page) {
  AGRO_ASSERT(page.size() == kPageSize);
  AGRO_ASSERT(records.size() <= kFrameRecordsMax);
  header.record_count = static_cast<std::uint16_t>(records.size());
  std::memset(page.data(), 0, page.size());
  store(page, header);
  if (!records.empty()) {
    std::memcpy(page.data() + sizeof header, records.data(), records.size_bytes());
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
      page_index + 1 + header.inline_page_count > shape.pages_per_slot()) {
    return fail(Errc::corrupt, "frame out of range");
  }
  Frame frame{header, std::vector<StoreRecord>(header.record_count)};
  if (header.record_count > 0) {
    std::memcpy(frame.records.data(), page.data() + sizeof header,
                header.record_count * sizeof(StoreRecord));
  }
  for (const StoreRecord& record : frame.records) {
    if (!record_fits(record, shape)) return fail(Errc::corrupt, "frame record out of range");
    const bool carried = record.kind == RecordKind::put_inline &&
                         (record.flags & kRecordDurable) == 0;
    if (carried && (record.slot != slot || record.page <= page_index ||
                    record.page + pages_of(record.size) >
                        page_index + 1 + header.inline_page_count)) {
      return fail(Errc::corrupt, "inline block outside its frame");
    }
  }
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
  switch (record.kind) {
    case RecordKind::remove:
    case RecordKind::fence:
      return true;
    case RecordKind::put_slot:
      return record.slot < shape.slot_count && record.page == 0 && record.size > 0 &&
             record.size <= shape.block_size;
    case RecordKind::put_inline:
      return record.slot < shape.slot_count && record.page > 0 && record.size > 0 &&
             record.page + std::uint64_t{pages_of(record.size)} <= shape.pages_per_slot();
  }
  return false;
}

}  // namespace agro
