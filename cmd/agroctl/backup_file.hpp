// Backup files as they are written and read: docs/formats/backup.md over an image's file or pipe.
//
// Invariants: what was written is whole records, so that an interrupted dump to a file goes on after the last
// one that is sound. Threading: one loop.
#pragma once

#include "agroctl/image_file.hpp"
#include "block/backup_format.hpp"

namespace agro {

class BackupReader {
 public:
  /// Shape: `source` outlives it, and nobody else reads it.
  explicit BackupReader(ImageSource& source) : source_(source) {}

  /// Whether the source starts as backups do. Errors: io_error; closed.
  static Task<bool> probe(ImageSource& source);
  /// Shape: first. Errors: corrupt; not_supported; io_error; closed.
  Task<BackupHeader> read_header();
  /// The next record, its data in the front of `out`, verified. After the end it is not called again.
  /// Shape: `out` has kBackupDataSizeMax bytes. Errors: as read_header().
  Task<BackupRecord> next(MutableBytes out);
  /// Shape: after read_header().
  const BackupProgress& progress() const { return *progress_; }
  ImageSource& source() { return source_; }

 private:
  Task<void> read(std::uint64_t offset, MutableBytes out);
  Task<void> check_ends();

  ImageSource& source_;
  std::optional<BackupProgress> progress_;
};

class BackupWriter {
 public:
  /// Bytes that a caller leaves free before data: then record and data are one write.
  static constexpr std::size_t kRoom = kPageSize;

  /// Makes or empties a file; with `resume` goes on with one that was left unfinished, if it is there.
  /// Errors: conflict (`resume`, and the file holds something else); io_error.
  static Task<std::unique_ptr<BackupWriter>> open(Offload& offload, std::string path, BackupHeader header,
                                                  bool resume);

  const BackupProgress& progress() const { return progress_; }
  /// Appends a record; its data lie in `buffer` behind kRoom. Shape: one call at a time; order as in
  /// BackupProgress; data_crc32c is filled in here.
  Task<void> append(BackupRecord record, MutableBytes buffer);
  /// Appends the end and makes it durable.
  Task<void> finish();
  void cancel() { sink_->cancel(); }

 private:
  BackupWriter(std::unique_ptr<ImageSink> sink, BackupProgress progress)
      : sink_(std::move(sink)), progress_(progress) {}

  std::unique_ptr<ImageSink> sink_;
  BackupProgress progress_;
};

}  // namespace agro
