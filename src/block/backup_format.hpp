// Backup files: a snapshot of a volume, or what changed since another, as a stream of records.
//
// Invariants: each checksum goes on from the one before it, so that a record that is missing, repeated or of
// another file is found where it stands; records are in ascending order and do not overlap, so that a file
// that ends early says how far it got.
// Threading: none; no I/O. Format: docs/formats/backup.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "core/state_id.hpp"

namespace agro {

struct BackupHeader {
  StateId state;
  std::optional<StateId> base;  // an increment: what it starts from
  std::uint64_t size_bytes = 0;     // of the volume, a multiple of 4096
  std::int64_t created_unix_ms = 0;  // the snapshot
  std::string volume_name;
  std::string snapshot_name;
  std::string base_name;  // of the base's snapshot; empty without a base
  bool operator==(const BackupHeader&) const = default;
};

enum class BackupKind : std::uint8_t { data, zero, end };

/// Bytes of the volume, or the end of the file with its totals.
struct BackupRecord {
  BackupKind kind = BackupKind::end;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint32_t data_crc32c = 0;
  bool operator==(const BackupRecord&) const = default;
};

inline constexpr std::size_t kBackupPrefixSize = 16;
inline constexpr std::size_t kBackupRecordSize = 40;
/// Of one record with data, which so fits in memory, and of one with zeros.
inline constexpr std::uint64_t kBackupDataSizeMax = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kBackupZeroSizeMax = std::uint64_t{1} << 30;

/// Shape: names of at most 255 bytes.
std::vector<std::byte> encode_backup_header(const BackupHeader& header);
/// Whether these bytes, the first of a file, are a backup's of whatever version.
bool is_backup(ConstBytes bytes);
/// The size of the header that starts so. Shape: kBackupPrefixSize bytes. Errors: corrupt; not_supported (version).
Result<std::size_t> backup_header_size(ConstBytes prefix);
/// Shape: exactly the header. Errors: corrupt.
Result<BackupHeader> decode_backup_header(ConstBytes bytes);

/// What was read or written of a file so far.
class BackupProgress {
 public:
  /// Shape: `header_bytes` are those of a sound header.
  BackupProgress(ConstBytes header_bytes, std::uint64_t volume_size);

  /// The bytes of the next record; its data follow it. Shape: in order, within the volume.
  std::vector<std::byte> encode(const BackupRecord& record);
  /// The end's record, with totals.
  std::vector<std::byte> encode_end();
  /// The next record; the caller compares its data with data_crc32c. Shape: kBackupRecordSize bytes; not
  /// after the end. Errors: corrupt.
  Result<BackupRecord> decode(ConstBytes bytes);

  /// Up to here the volume is told.
  std::uint64_t offset() const { return offset_; }
  /// Bytes of the file up to here, data of the last record included.
  std::uint64_t file_size() const { return file_size_; }
  std::uint64_t volume_size() const { return volume_size_; }
  std::uint64_t data_size() const { return data_size_; }
  std::uint64_t zero_size() const { return zero_size_; }
  bool at_end() const { return at_end_; }

 private:
  Result<void> check(const BackupRecord& record) const;
  void count(const BackupRecord& record, std::uint32_t crc);

  std::uint64_t volume_size_;
  std::uint32_t crc_;  // of all but data so far
  std::uint64_t offset_ = 0;
  std::uint64_t file_size_;
  std::uint64_t record_count_ = 0;
  std::uint64_t data_size_ = 0;
  std::uint64_t zero_size_ = 0;
  bool at_end_ = false;
};

}  // namespace agro
