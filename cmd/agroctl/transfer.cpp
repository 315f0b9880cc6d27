#include "agroctl/transfer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/units.hpp"

namespace agro {
namespace {

constexpr std::size_t kPieceSize = kMiB;
constexpr std::uint64_t kHoleSize = kGiB;  // at most so much at once, for progress and for Ctrl-C
constexpr std::size_t kWorkerCount = 8;

bool all_zero(ConstBytes bytes) {
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

class Load final : public Transfer {
 public:
  Load(BlockDevice& device, ImageSource& source, bool blank, Progress& progress)
      : Transfer(progress), device_(device), source_(source), blank_(blank) {}

  void cancel() override { source_.cancel(); }

  Task<void> work() override {
    AlignedBuffer buffer(kPieceSize);
    while (!failed()) {
      AGRO_CO_TRY(const Piece piece, co_await take(buffer.bytes()));
      if (piece.size == 0) break;
      if (piece.hole) {
        AGRO_CO_TRY_OK(co_await put_zeros(piece.offset, piece.size));
      } else {
        if (!source_.is_stream()) AGRO_CO_TRY_OK(co_await read(piece, buffer.bytes()));
        AGRO_CO_TRY_OK(co_await put(piece.offset, buffer.bytes().first(piece.size)));
      }
      progress_.add(piece.size);
    }
    co_return Result<void>();
  }

 private:
  struct Piece {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;  // whole pages; 0: the end
    bool hole = false;
  };

  /// The next piece; of a stream, read into `out` as well, for it comes in order.
  Task<Piece> take(MutableBytes out) {
    const AsyncMutex::Guard guard = co_await taking_.lock();
    if (source_.is_stream()) co_return co_await take_from_stream(out);
    const std::uint64_t end = round_up(source_.size(), kPageSize);
    if (next_ >= end) co_return Piece{};
    if (next_ >= run_end_) {
      AGRO_CO_TRY(const ImageSource::Run run, co_await source_.run_at(next_));
      const std::uint64_t run_end = next_ + run.size;
      // Runs end where the file system likes. A page that is part hole, part data, is data.
      const bool whole_page = run_end >= source_.size() || round_down(run_end, kPageSize) > next_;
      run_is_hole_ = run.hole && whole_page;
      const bool cut = run_is_hole_ && run_end < source_.size();
      run_end_ = cut ? round_down(run_end, kPageSize) : round_up(run_end, kPageSize);
    }
    const std::uint64_t size_max = run_is_hole_ ? kHoleSize : kPieceSize;
    const Piece piece{next_, std::min(run_end_ - next_, size_max), run_is_hole_};
    next_ += piece.size;
    co_return piece;
  }

  Task<Piece> take_from_stream(MutableBytes out) {
    if (at_end_) co_return Piece{};
    AGRO_CO_TRY(const std::size_t count, co_await source_.read(next_, out));
    at_end_ = count < out.size();
    if (count > device_.size_bytes() - next_) {
      co_return fail(Errc::too_large,
                     fmt::format("{} holds more than the volume, which has {}", source_.name(),
                                 format_size(device_.size_bytes())));
    }
    const Piece piece{next_, round_up(count, kPageSize), false};
    std::memset(out.data() + count, 0, piece.size - count);
    next_ += piece.size;
    co_return piece;
  }

  Task<void> read(Piece piece, MutableBytes out) {
    const std::uint64_t wanted = std::min(piece.size, source_.size() - piece.offset);
    AGRO_CO_TRY(const std::size_t count, co_await source_.read(piece.offset, out.first(wanted)));
    if (count < wanted) {
      co_return fail(Errc::io_error, source_.name() + " got shorter while it was read");
    }
    std::memset(out.data() + count, 0, piece.size - count);
    co_return Result<void>();
  }

  Task<void> put_zeros(std::uint64_t offset, std::uint64_t size) {
    if (blank_) co_return Result<void>();
    co_return co_await device_.write_zeroes(offset, size, true);
  }

  /// Writes runs of pages with data, and the pages of zeros between them as holes.
  Task<void> put(std::uint64_t offset, ConstBytes bytes) {
    std::size_t begin = 0;
    while (begin < bytes.size()) {
      const bool zero = all_zero(bytes.subspan(begin, kPageSize));
      std::size_t end = begin + kPageSize;
      while (end < bytes.size() && all_zero(bytes.subspan(end, kPageSize)) == zero)
        end += kPageSize;
      const ConstBytes run = bytes.subspan(begin, end - begin);
      if (zero) {
        AGRO_CO_TRY_OK(co_await put_zeros(offset + begin, run.size()));
      } else {
        AGRO_CO_TRY_OK(co_await device_.write(offset + begin, run));
        data_size_ += run.size();
      }
      begin = end;
    }
    co_return Result<void>();
  }

  BlockDevice& device_;
  ImageSource& source_;
  const bool blank_;
  AsyncMutex taking_;
  std::uint64_t next_ = 0;
  std::uint64_t run_end_ = 0;
  bool run_is_hole_ = false;
  bool at_end_ = false;
};

class Dump final : public Transfer {
 public:
  Dump(BlockDevice& device, ImageSink& sink, Progress& progress)
      : Transfer(progress), device_(device), sink_(sink) {}

  void cancel() override { sink_.cancel(); }

  Task<void> work() override {
    AlignedBuffer buffer(kPieceSize);
    while (!failed()) {
      AGRO_CO_TRY(const Piece piece, co_await take());
      if (piece.size == 0) break;
      const bool skipped = piece.zero && sink_.is_sparse();
      const MutableBytes bytes = skipped ? MutableBytes() : buffer.bytes().first(piece.size);
      if (piece.zero && !skipped) std::memset(bytes.data(), 0, bytes.size());
      if (!piece.zero) {
        AGRO_CO_TRY_OK(co_await device_.read(piece.offset, bytes));
        data_size_ += piece.size;
      }
      if (!skipped) AGRO_CO_TRY_OK(co_await put(piece, bytes));
      progress_.add(piece.size);
    }
    co_return Result<void>();
  }

 private:
  struct Piece {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;  // 0: the end
    bool zero = false;
  };

  Task<Piece> take() {
    const AsyncMutex::Guard guard = co_await taking_.lock();
    const std::uint64_t end = device_.size_bytes();
    if (next_ >= end) co_return Piece{};
    while (extents_next_ < extents_.size() && extents_[extents_next_].size == 0) ++extents_next_;
    if (extents_next_ == extents_.size()) {
      AGRO_CO_TRY(extents_, co_await device_.status(next_, end - next_));
      extents_next_ = 0;
    }
    StatusExtent& extent = extents_[extents_next_];
    const std::uint64_t size_max = extent.zero && sink_.is_sparse() ? kHoleSize : kPieceSize;
    const Piece piece{next_, std::min(extent.size, size_max), extent.zero};
    extent.size -= piece.size;
    next_ += piece.size;
    co_return piece;
  }

  /// A stream gets its pieces in order, however the reads ended.
  Task<void> put(Piece piece, ConstBytes bytes) {
    if (!sink_.is_stream()) co_return co_await sink_.write(piece.offset, bytes);
    while (written_ != piece.offset && !failed()) co_await changed().wait();
    if (failed()) co_return Result<void>();
    AGRO_CO_TRY_OK(co_await sink_.write(piece.offset, bytes));
    written_ += piece.size;
    changed().notify_all();
    co_return Result<void>();
  }

  BlockDevice& device_;
  ImageSink& sink_;
  AsyncMutex taking_;
  std::uint64_t next_ = 0;
  std::uint64_t written_ = 0;  // of a stream
  std::vector<StatusExtent> extents_;
  std::size_t extents_next_ = 0;
};

Job work_job(Transfer& transfer) {
  Result<void> done = co_await transfer.work();
  if (!done.has_value()) transfer.fail_with(std::move(done).error());
  transfer.changed().notify_all();
}

/// Waits for the workers, and shows how far they are, until all ended or `deadline`.
Awaitable<void> watch(SystemEnv& system, TaskGroup& workers, Transfer& transfer, Progress& progress,
                      TimePoint deadline) {
  Clock& clock = system.env().clock;
  while (workers.count() > 0 && clock.now() < deadline) {
    co_await wait_until(transfer.changed(), clock, clock.now() + std::chrono::milliseconds(100));
    progress.show();
    const bool news = system.stop_requested() && !transfer.failed();
    if (!news) continue;
    transfer.fail_with({Errc::closed, "interrupted"});
    break;
  }
}

}  // namespace

std::unique_ptr<Transfer> make_load(BlockDevice& device, ImageSource& source, bool blank,
                                    Progress& progress) {
  return std::make_unique<Load>(device, source, blank, progress);
}

std::unique_ptr<Transfer> make_dump(BlockDevice& device, ImageSink& sink, Progress& progress) {
  return std::make_unique<Dump>(device, sink, progress);
}

Task<void> run_transfer(SystemEnv& system, Transfer& transfer, Progress& progress,
                        std::function<Task<void>(bool moved)> release) {
  Clock& clock = system.env().clock;
  TaskGroup workers(system.env().executor);
  for (std::size_t worker = 0; worker < kWorkerCount; ++worker) workers.spawn(work_job(transfer));
  co_await watch(system, workers, transfer, progress, TimePoint::max());
  if (transfer.failed()) {
    // What only reads and writes ends soon; what waits in the device ends when that is released.
    transfer.cancel();
    co_await watch(system, workers, transfer, progress, clock.now() + std::chrono::seconds(1));
  }
  progress.finish();
  Task<void> releasing = release(!transfer.failed());
  const Result<void> released = co_await std::move(releasing);
  co_await workers.join();
  co_return transfer.failed() ? transfer.result() : released;
}

Task<bool> is_blank(BlockDevice& device) {
  std::uint64_t offset = 0;
  while (offset < device.size_bytes()) {
    AGRO_CO_TRY(const std::vector<StatusExtent> extents,
                co_await device.status(offset, device.size_bytes() - offset));
    for (const StatusExtent& extent : extents) {
      if (!extent.hole) co_return false;
      offset += extent.size;
    }
  }
  co_return true;
}

}  // namespace agro
