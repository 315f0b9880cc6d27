#include "block/backup_format.hpp"

#include <fmt/format.h>

#include <cstring>

#include "base/crc32c.hpp"

namespace agro {
namespace {

constexpr std::uint16_t kVersion = 1;
constexpr std::uint16_t kIncrement = 1;
constexpr std::size_t kNameSizeMax = 255;

struct StateRecord {
  std::array<std::uint8_t, 16> cluster;  //  0
  std::uint64_t volume;                  // 16
  std::uint64_t epoch;                   // 24
  std::uint64_t log_end;                 // 32
};
static_assert(sizeof(StateRecord) == 40);

/// docs/formats/backup.md, "Header". Followed by the names and the CRC32C of all before it.
struct HeaderRecord {
  std::array<char, 8> magic;         //   0  kMagic
  std::uint16_t version;             //   8
  std::uint16_t flags;               //  10  kIncrement or 0
  std::uint32_t header_size;         //  12  names and checksum included
  StateRecord state;                 //  16
  StateRecord base;                  //  56  zeros without
  std::uint64_t size_bytes;          //  96
  std::int64_t created_unix_ms;      // 104
  std::uint16_t volume_name_size;    // 112
  std::uint16_t snapshot_name_size;  // 114
  std::uint16_t base_name_size;      // 116
  std::uint16_t zero;                // 118
};
static_assert(sizeof(HeaderRecord) == 120 && offsetof(HeaderRecord, size_bytes) == 96);
static_assert(std::has_unique_object_representations_v<HeaderRecord>, "no hidden padding");
constexpr std::array<char, 8> kMagic = {'A', 'G', 'R', 'O', 'B', 'K', 'P', '\n'};
constexpr std::size_t kHeaderSizeMax = sizeof(HeaderRecord) + 3 * kNameSizeMax + 4;

/// docs/formats/backup.md, "Records".
struct EntryRecord {
  std::uint32_t magic;        //  0
  std::uint32_t data_crc32c;  //  4  of the data that follow; 0: there are none
  std::uint64_t offset;       //  8  the end: number of records before it
  std::uint64_t size;         // 16  the end: bytes of data in all
  std::uint64_t zero_size;    // 24  the end: bytes of zeros in all; else 0
  std::uint32_t zero;         // 32
  std::uint32_t self_crc32c;  // 36  of bytes [0, 36), going on from the one before
};
static_assert(sizeof(EntryRecord) == kBackupRecordSize && offsetof(EntryRecord, self_crc32c) == 36);
static_assert(std::has_unique_object_representations_v<EntryRecord>, "no hidden padding");
constexpr std::size_t kChecked = offsetof(EntryRecord, self_crc32c);
constexpr std::uint32_t kDataMagic = 0x54414442;  // "BDAT"
constexpr std::uint32_t kZeroMagic = 0x52455A42;  // "BZER"
constexpr std::uint32_t kEndMagic = 0x444E4542;   // "BEND"

tl::unexpected<Error> damaged(std::string_view what) {
  return fail(Errc::corrupt, fmt::format("the backup is damaged: {}", what));
}

StateRecord record_of(const StateId& state) {
  return {state.cluster.bytes, state.volume.value, state.epoch.value, state.log_end};
}

StateId state_of(const StateRecord& record) {
  return {Uuid{record.cluster}, {record.volume}, {record.epoch}, record.log_end};
}

std::vector<std::byte> finish(EntryRecord record, std::uint32_t& crc) {
  std::vector<std::byte> bytes(sizeof record);
  store(MutableBytes(bytes), record);
  crc = crc32c(ConstBytes(bytes).first(kChecked), crc);
  record.self_crc32c = crc;
  store(MutableBytes(bytes), record);
  return bytes;
}

}  // namespace

// --- the header ---

std::vector<std::byte> encode_backup_header(const BackupHeader& header) {
  const std::string names = header.volume_name + header.snapshot_name + header.base_name;
  const std::size_t size = sizeof(HeaderRecord) + names.size() + 4;
  AGRO_ASSERT(size <= kHeaderSizeMax);
  HeaderRecord record{};
  record.magic = kMagic;
  record.version = kVersion;
  record.flags = header.base.has_value() ? kIncrement : 0;
  record.header_size = static_cast<std::uint32_t>(size);
  record.state = record_of(header.state);
  record.base = record_of(header.base.value_or(StateId{}));
  record.size_bytes = header.size_bytes;
  record.created_unix_ms = header.created_unix_ms;
  record.volume_name_size = static_cast<std::uint16_t>(header.volume_name.size());
  record.snapshot_name_size = static_cast<std::uint16_t>(header.snapshot_name.size());
  record.base_name_size = static_cast<std::uint16_t>(header.base_name.size());
  std::vector<std::byte> bytes(size);
  store(MutableBytes(bytes), record);
  std::memcpy(bytes.data() + sizeof record, names.data(), names.size());
  store(MutableBytes(bytes).last(4), crc32c(ConstBytes(bytes).first(size - 4)));
  return bytes;
}

bool is_backup(ConstBytes bytes) {
  return bytes.size() >= kMagic.size() && std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) == 0;
}

Result<std::size_t> backup_header_size(ConstBytes prefix) {
  AGRO_ASSERT(prefix.size() == kBackupPrefixSize);
  if (!is_backup(prefix)) return fail(Errc::corrupt, "this is no backup of agro's");
  const auto version = load<std::uint16_t>(prefix.subspan(offsetof(HeaderRecord, version)));
  if (version != kVersion) {
    return fail(Errc::not_supported,
                fmt::format("a backup of version {}; this agro reads {}: use a newer one", version, kVersion));
  }
  const auto size = load<std::uint32_t>(prefix.subspan(offsetof(HeaderRecord, header_size)));
  if (size < sizeof(HeaderRecord) + 4 || size > kHeaderSizeMax) return damaged("the header's size");
  return std::size_t{size};
}

Result<BackupHeader> decode_backup_header(ConstBytes bytes) {
  if (bytes.size() < sizeof(HeaderRecord) + 4) return damaged("a header too short");
  AGRO_TRY(const std::size_t size, backup_header_size(bytes.first(kBackupPrefixSize)));
  if (size != bytes.size()) return damaged("the header's size");
  if (crc32c(bytes.first(size - 4)) != load<std::uint32_t>(bytes.last(4))) return damaged("the header's checksum");
  const auto record = load<HeaderRecord>(bytes);
  const std::size_t names = std::size_t{record.volume_name_size} + record.snapshot_name_size + record.base_name_size;
  const bool is_increment = record.flags == kIncrement;
  const bool has_base = state_of(record.base) != StateId{} || record.base_name_size > 0;
  if (sizeof(HeaderRecord) + names + 4 != size || record.volume_name_size > kNameSizeMax ||
      record.snapshot_name_size > kNameSizeMax || record.base_name_size > kNameSizeMax) {
    return damaged("names");
  }
  if (record.flags > kIncrement || has_base != is_increment || record.zero != 0) return damaged("the header");
  if (record.size_bytes % kPageSize != 0 || record.size_bytes == 0) return damaged("the volume's size");
  const std::string_view text = as_text(bytes.subspan(sizeof record, names));
  BackupHeader header;
  header.state = state_of(record.state);
  if (is_increment) header.base = state_of(record.base);
  header.size_bytes = record.size_bytes;
  header.created_unix_ms = record.created_unix_ms;
  header.volume_name = text.substr(0, record.volume_name_size);
  header.snapshot_name = text.substr(record.volume_name_size, record.snapshot_name_size);
  header.base_name = text.substr(names - record.base_name_size);
  return header;
}

// --- records ---

BackupProgress::BackupProgress(ConstBytes header_bytes, std::uint64_t volume_size)
    : volume_size_(volume_size), crc_(load<std::uint32_t>(header_bytes.last(4))), file_size_(header_bytes.size()) {}

Result<void> BackupProgress::check(const BackupRecord& record) const {
  const std::uint64_t size_max = record.kind == BackupKind::data ? kBackupDataSizeMax : kBackupZeroSizeMax;
  if (record.size == 0 || record.size > size_max || (record.size | record.offset) % kPageSize != 0) {
    return damaged(fmt::format("a record of {} bytes at {}", record.size, record.offset));
  }
  if (record.offset < offset_ || record.offset > volume_size_ || record.size > volume_size_ - record.offset) {
    return damaged(fmt::format("bytes {}+{} after {} of {}", record.offset, record.size, offset_, volume_size_));
  }
  return {};
}

void BackupProgress::count(const BackupRecord& record, std::uint32_t crc) {
  crc_ = crc;
  file_size_ += kBackupRecordSize;
  if (record.kind == BackupKind::end) {
    at_end_ = true;
    return;
  }
  ++record_count_;
  offset_ = record.offset + record.size;
  if (record.kind == BackupKind::zero) {
    zero_size_ += record.size;
  } else {
    data_size_ += record.size;
    file_size_ += record.size;
  }
}

std::vector<std::byte> BackupProgress::encode(const BackupRecord& record) {
  AGRO_ASSERT(!at_end_);
  AGRO_ASSERT(record.kind != BackupKind::end);
  AGRO_ASSERT(check(record).has_value());
  std::uint32_t crc = crc_;
  const std::uint32_t magic = record.kind == BackupKind::data ? kDataMagic : kZeroMagic;
  std::vector<std::byte> bytes = finish({magic, record.data_crc32c, record.offset, record.size, 0, 0, 0}, crc);
  count(record, crc);
  return bytes;
}

std::vector<std::byte> BackupProgress::encode_end() {
  AGRO_ASSERT(!at_end_);
  std::uint32_t crc = crc_;
  std::vector<std::byte> bytes = finish({kEndMagic, 0, record_count_, data_size_, zero_size_, 0, 0}, crc);
  count({}, crc);
  return bytes;
}

Result<BackupRecord> BackupProgress::decode(ConstBytes bytes) {
  AGRO_ASSERT(bytes.size() == kBackupRecordSize);
  AGRO_ASSERT(!at_end_);
  const auto entry = load<EntryRecord>(bytes);
  const std::uint32_t crc = crc32c(bytes.first(kChecked), crc_);
  if (crc != entry.self_crc32c) return damaged(fmt::format("the checksum of the record at byte {}", file_size_));
  BackupRecord record;
  record.offset = entry.offset;
  record.size = entry.size;
  record.data_crc32c = entry.data_crc32c;
  if (entry.magic == kEndMagic) {
    const bool fits = entry.offset == record_count_ && entry.size == data_size_ && entry.zero_size == zero_size_ &&
                      entry.data_crc32c == 0 && entry.zero == 0;
    if (!fits) return damaged("its totals");
    count({}, crc);
    return BackupRecord{};
  }
  record.kind = entry.magic == kDataMagic ? BackupKind::data : BackupKind::zero;
  const bool is_known = entry.magic == kDataMagic || (entry.magic == kZeroMagic && entry.data_crc32c == 0);
  if (!is_known || entry.zero_size != 0 || entry.zero != 0) return damaged("a record of an unknown kind");
  AGRO_TRY_OK(check(record));
  count(record, crc);
  return record;
}

}  // namespace agro
