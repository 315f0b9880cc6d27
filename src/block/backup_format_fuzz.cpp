// Fuzzes backup files as `agroctl block load` reads them.
//
// The first byte says whether checksums are made right before they are looked at, so that the bytes reach what
// comes after. Goal: no crash, and what is accepted lies within the volume, in order.
#include <cstdint>

#include "base/crc32c.hpp"
#include "block/backup_format.hpp"

namespace agro {
namespace {

void run(std::vector<std::byte> file, bool seals) {
  if (file.size() < kBackupPrefixSize) return;
  const auto header_size = backup_header_size(ConstBytes(file).first(kBackupPrefixSize));
  if (!header_size.has_value() || *header_size > file.size()) return;
  const MutableBytes header = MutableBytes(file).first(*header_size);
  if (seals) store(header.last(4), crc32c(header.first(header.size() - 4)));
  const auto decoded = decode_backup_header(header);
  if (!decoded.has_value()) return;
  AGRO_ASSERT(encode_backup_header(*decoded).size() == header.size());
  BackupProgress progress(header, decoded->size_bytes);
  MutableBytes rest = MutableBytes(file).subspan(*header_size);
  std::uint32_t crc = load<std::uint32_t>(header.last(4));
  std::uint64_t end = 0;
  while (!progress.at_end() && rest.size() >= kBackupRecordSize) {
    const MutableBytes entry = rest.first(kBackupRecordSize);
    if (seals) store(entry.last(4), crc32c(entry.first(36), crc));
    crc = load<std::uint32_t>(entry.last(4));
    const auto record = progress.decode(entry);
    if (!record.has_value()) return;
    rest = rest.subspan(kBackupRecordSize);
    if (record->kind == BackupKind::end) break;
    AGRO_ASSERT(record->offset >= end);
    end = record->offset + record->size;
    AGRO_ASSERT(end <= decoded->size_bytes);
    if (record->kind != BackupKind::data) continue;
    AGRO_ASSERT(record->size <= kBackupDataSizeMax);
    rest = rest.subspan(std::min<std::size_t>(rest.size(), record->size));
  }
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  agro::run({bytes + 1, bytes + size}, data[0] % 2 == 1);
  return 0;
}
