#include "agroctl/backup_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/crc32c.hpp"

namespace agro {
namespace {

/// How far an interrupted dump with this header got: after its last sound record. None: it has to begin anew.
/// Errors: conflict, when the file is another.
Task<std::optional<BackupProgress>> find_progress(Offload& offload, std::string path, BackupHeader wanted) {
  AGRO_CO_TRY(const std::unique_ptr<ImageSource> source, ImageSource::open(offload, path));
  const std::vector<std::byte> header = encode_backup_header(wanted);
  if (source->is_stream()) {
    co_return fail(Errc::invalid_argument, path + " is no file, and only a dump to one can be resumed");
  }
  std::vector<std::byte> found(std::min<std::uint64_t>(header.size(), source->size()));
  AGRO_CO_TRY([[maybe_unused]] const std::size_t count, co_await source->read(0, found));
  if (!std::equal(found.begin(), found.end(), header.begin())) {
    co_return fail(Errc::conflict,
                   path + " is not what this dump would be; without --resume it is overwritten");
  }
  if (found.size() < header.size()) co_return std::nullopt;
  BackupReader reader(*source);
  AGRO_CO_TRY([[maybe_unused]] const BackupHeader same, co_await reader.read_header());
  BackupProgress sound = reader.progress();
  AlignedBuffer data(kBackupDataSizeMax);
  while (!sound.at_end()) {
    const Result<BackupRecord> record = co_await reader.next(data.bytes());
    if (record.code() == Errc::corrupt) break;  // the last one, or what the file system lost
    if (!record.has_value()) co_return fail(record.error());
    sound = reader.progress();
  }
  co_return sound;
}

}  // namespace

// --- reading ---

Task<void> BackupReader::read(std::uint64_t offset, MutableBytes out) {
  AGRO_CO_TRY(const std::size_t count, co_await source_.read(offset, out));
  if (count == out.size()) co_return Result<void>();
  co_return fail(Errc::corrupt,
                 fmt::format("{} ends early, at byte {}: the dump was interrupted, or the file cut; 'agroctl "
                             "block dump --resume' goes on with such a file",
                             source_.name(), offset + count));
}

Task<bool> BackupReader::probe(ImageSource& source) {
  std::array<std::byte, kBackupPrefixSize> prefix{};
  AGRO_CO_TRY(const std::size_t count, co_await source.peek(prefix));
  co_return is_backup(ConstBytes(prefix).first(count));
}

Task<BackupHeader> BackupReader::read_header() {
  std::vector<std::byte> bytes(kBackupPrefixSize);
  AGRO_CO_TRY_OK(co_await read(0, bytes));
  AGRO_CO_TRY(const std::size_t size, backup_header_size(bytes));
  bytes.resize(size);
  AGRO_CO_TRY_OK(co_await read(kBackupPrefixSize, MutableBytes(bytes).subspan(kBackupPrefixSize)));
  AGRO_CO_TRY(BackupHeader header, decode_backup_header(bytes));
  progress_.emplace(bytes, header.size_bytes);
  co_return header;
}

Task<BackupRecord> BackupReader::next(MutableBytes out) {
  const std::uint64_t offset = progress_->file_size();
  std::array<std::byte, kBackupRecordSize> bytes{};
  AGRO_CO_TRY_OK(co_await read(offset, bytes));
  AGRO_CO_TRY(const BackupRecord record, progress_->decode(bytes));
  if (record.kind == BackupKind::end) AGRO_CO_TRY_OK(co_await check_ends());
  if (record.kind != BackupKind::data) co_return record;
  const MutableBytes data = out.first(record.size);
  AGRO_CO_TRY_OK(co_await read(offset + kBackupRecordSize, data));
  if (crc32c(data) == record.data_crc32c) co_return record;
  co_return fail(Errc::corrupt, fmt::format("{} is damaged: the data at byte {}, of the volume's bytes {}+{}",
                                            source_.name(), offset + kBackupRecordSize, record.offset, record.size));
}

/// A device is larger than what was dumped to it; whatever else goes on may be the next increment.
Task<void> BackupReader::check_ends() {
  std::array<std::byte, 1> more{};
  if (source_.is_device()) co_return Result<void>();
  AGRO_CO_TRY(const std::size_t count, co_await source_.read(progress_->file_size(), more));
  if (count == 0) co_return Result<void>();
  co_return fail(Errc::corrupt,
                 fmt::format("{} goes on after the end of a backup, at byte {}; load one backup at a time",
                             source_.name(), progress_->file_size()));
}

// --- writing ---

Task<std::unique_ptr<BackupWriter>> BackupWriter::open(Offload& offload, std::string path, BackupHeader header,
                                                       bool resume) {
  const std::vector<std::byte> bytes = encode_backup_header(header);
  std::optional<BackupProgress> found;
  if (resume) {
    Result<std::optional<BackupProgress>> progress = co_await find_progress(offload, path, header);
    if (!progress.has_value() && progress.code() != Errc::not_found) co_return fail(progress.error());
    if (progress.has_value()) found = *progress;
  }
  const BackupProgress progress = found.value_or(BackupProgress(bytes, header.size_bytes));
  const std::uint64_t kept = found.has_value() ? progress.file_size() : 0;
  AGRO_CO_TRY(std::unique_ptr<ImageSink> sink, ImageSink::open(offload, path, kept, kept));
  if (kept == 0) AGRO_CO_TRY_OK(co_await sink->write(0, bytes));
  co_return std::unique_ptr<BackupWriter>(new BackupWriter(std::move(sink), progress));
}

Task<void> BackupWriter::append(BackupRecord record, MutableBytes buffer) {
  const std::uint64_t offset = progress_.file_size();
  const bool has_data = record.kind == BackupKind::data;
  if (has_data) record.data_crc32c = crc32c(buffer.subspan(kRoom, record.size));
  const std::vector<std::byte> bytes = progress_.encode(record);
  if (!has_data) co_return co_await sink_->write(offset, bytes);
  const MutableBytes whole = buffer.subspan(kRoom - bytes.size(), bytes.size() + record.size);
  std::memcpy(whole.data(), bytes.data(), bytes.size());
  co_return co_await sink_->write(offset, whole);
}

Task<void> BackupWriter::finish() {
  if (!progress_.at_end()) {
    const std::uint64_t offset = progress_.file_size();
    const std::vector<std::byte> bytes = progress_.encode_end();
    AGRO_CO_TRY_OK(co_await sink_->write(offset, bytes));
  }
  co_return co_await sink_->finish();
}

}  // namespace agro
