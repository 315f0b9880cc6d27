#include "agroctl/backup_transfer.hpp"

#include <algorithm>

namespace agro {
namespace {

class BackupDump final : public Transfer {
 public:
  BackupDump(BlockDevice& device, SnapshotDifference& changes, BackupWriter& writer, Progress& progress)
      : Transfer(progress), device_(device), changes_(changes), writer_(writer), told_to_(writer.progress().offset()) {}

  void cancel() override { writer_.cancel(); }

  Task<void> work() override {
    AlignedBuffer buffer(BackupWriter::kRoom + kBackupDataSizeMax);
    while (!failed()) {
      AGRO_CO_TRY(const Piece piece, co_await take());
      if (piece.range.size == 0) break;
      if (!piece.range.zero) {
        const MutableBytes data = buffer.bytes().subspan(BackupWriter::kRoom, piece.range.size);
        AGRO_CO_TRY_OK(co_await device_.read(piece.range.offset, data));
        data_size_ += piece.range.size;
      }
      AGRO_CO_TRY_OK(co_await put(piece, buffer.bytes()));
    }
    co_return Result<void>();
  }

 private:
  struct Piece {
    std::uint64_t number = 0;
    ChangedRange range;  // size 0: the end
  };

  /// Pieces begin where their range does, so that a dump that goes on has the same ones.
  Task<Piece> take() {
    const AsyncMutex::Guard guard = co_await taking_.lock();
    while (rest_.size == 0) {
      AGRO_CO_TRY(const std::optional<ChangedRange> range, co_await changes_.next());
      if (!range.has_value()) co_return Piece{};
      rest_ = *range;
      const std::uint64_t told = std::clamp(told_to_, rest_.offset, rest_.offset + rest_.size) - rest_.offset;
      rest_.offset += told;
      rest_.size -= told;
    }
    Piece piece{next_number_++, rest_};
    piece.range.size = std::min(rest_.size, rest_.zero ? kBackupZeroSizeMax : kBackupDataSizeMax);
    rest_.offset += piece.range.size;
    rest_.size -= piece.range.size;
    co_return piece;
  }

  Task<void> put(Piece piece, MutableBytes buffer) {
    while (written_ != piece.number && !failed()) co_await changed().wait();
    if (failed()) co_return Result<void>();
    const BackupKind kind = piece.range.zero ? BackupKind::zero : BackupKind::data;
    AGRO_CO_TRY_OK(co_await writer_.append({kind, piece.range.offset, piece.range.size, 0}, buffer));
    ++written_;
    progress_.set(writer_.progress().offset(), device_.size_bytes());
    changed().notify_all();
    co_return Result<void>();
  }

  BlockDevice& device_;
  SnapshotDifference& changes_;
  BackupWriter& writer_;
  const std::uint64_t told_to_;  // by a dump that was interrupted
  AsyncMutex taking_;
  ChangedRange rest_;
  std::uint64_t next_number_ = 0;
  std::uint64_t written_ = 0;
};

class BackupLoad final : public Transfer {
 public:
  BackupLoad(BlockDevice& device, BackupReader& reader, ImageSource& source, bool fills_gaps, Progress& progress)
      : Transfer(progress), device_(device), reader_(reader), source_(source), fills_gaps_(fills_gaps) {}

  void cancel() override { source_.cancel(); }

  Task<void> work() override {
    AlignedBuffer buffer(kBackupDataSizeMax);
    while (!failed()) {
      AGRO_CO_TRY(const Piece piece, co_await take(buffer.bytes()));
      AGRO_CO_TRY_OK(co_await zero(piece.gap_offset, piece.gap_end));
      if (piece.record.kind == BackupKind::end) break;
      if (piece.record.kind == BackupKind::zero) {
        AGRO_CO_TRY_OK(co_await zero(piece.record.offset, piece.record.offset + piece.record.size));
        continue;
      }
      AGRO_CO_TRY_OK(co_await device_.write(piece.record.offset, buffer.bytes().first(piece.record.size)));
      data_size_ += piece.record.size;
    }
    co_return Result<void>();
  }

 private:
  struct Piece {
    std::uint64_t gap_offset = 0;  // before the record, to become zeros
    std::uint64_t gap_end = 0;
    BackupRecord record;
  };

  Task<Piece> take(MutableBytes out) {
    const AsyncMutex::Guard guard = co_await taking_.lock();
    const std::uint64_t told = reader_.progress().offset();
    if (reader_.progress().at_end()) co_return Piece{};
    AGRO_CO_TRY(const BackupRecord record, co_await reader_.next(out));
    const bool is_end = record.kind == BackupKind::end;
    const std::uint64_t size = device_.size_bytes();
    progress_.set(is_end ? size : reader_.progress().offset(), size);
    const std::uint64_t gap_end = is_end ? size : record.offset;
    const std::uint64_t kept_end = is_end ? reader_.progress().volume_size() : record.offset;
    co_return Piece{fills_gaps_ ? told : std::min(kept_end, gap_end), gap_end, record};
  }

  Task<void> zero(std::uint64_t offset, std::uint64_t end) {
    while (offset < end && !failed()) {
      const std::uint64_t size = std::min(end - offset, kBackupZeroSizeMax);
      AGRO_CO_TRY_OK(co_await device_.write_zeroes(offset, size, true));
      offset += size;
    }
    co_return Result<void>();
  }

  BlockDevice& device_;
  BackupReader& reader_;
  ImageSource& source_;
  const bool fills_gaps_;
  AsyncMutex taking_;
};

}  // namespace

std::unique_ptr<Transfer> make_backup_dump(BlockDevice& device, SnapshotDifference& changes, BackupWriter& writer,
                                           Progress& progress) {
  return std::make_unique<BackupDump>(device, changes, writer, progress);
}

std::unique_ptr<Transfer> make_backup_load(BlockDevice& device, BackupReader& reader, bool fills_gaps,
                                           Progress& progress) {
  return std::make_unique<BackupLoad>(device, reader, reader.source(), fills_gaps, progress);
}

}  // namespace agro
