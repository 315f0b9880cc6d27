#include "base/direct_file.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/parallel.hpp"

namespace agro {
namespace {

constexpr std::size_t kWritesAtOnce = 8;

bool is_aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % kPageSize == 0; }

/// Drops `count` bytes from the front.
void advance(std::vector<iovec>& parts, std::size_t count) {
  std::size_t whole = 0;
  while (whole < parts.size() && count >= parts[whole].iov_len) count -= parts[whole++].iov_len;
  parts.erase(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(whole));
  if (count == 0) return;
  parts.front().iov_base = static_cast<char*>(parts.front().iov_base) + count;
  parts.front().iov_len -= count;
}

class DirectFile final : public File {
 public:
  DirectFile(std::shared_ptr<Uring> uring, Offload& workers, DirectTarget target)
      : uring_(std::move(uring)),
        workers_(workers),
        file_(std::make_shared<DirectTarget>(std::move(target))),
        target_(uring_->add(file_->descriptor.get())),
        size_(file_->size) {}

  ~DirectFile() override {
    if (file_ != nullptr) uring_->forget(target_);
  }

  Task<void> write(FileWrite one) override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    co_return co_await write_whole(std::move(one), false);
  }

  Task<void> write_durably(FileWrite one) override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    co_return co_await write_whole(std::move(one), true);
  }

  Task<void> write_and_sync(std::vector<FileWrite> writes) override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    if (writes.size() == 1 && writes.front().parts.size() <= IOV_MAX) {
      co_return co_await write_one_and_sync(std::move(writes.front()));
    }
    AGRO_CO_TRY_OK(co_await for_each_parallel(
        writes.size(), kWritesAtOnce, [&](std::size_t index) { return write_whole(std::move(writes[index]), false); }));
    co_return co_await sync_now();
  }

  Task<void> sync() override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    co_return co_await sync_now();
  }

  Task<void> read(std::uint64_t offset, MutableBytes out) override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    const std::uint64_t begin = round_down(offset, kPageSize);
    const std::uint64_t end = round_up(offset + out.size(), kPageSize);
    if (begin == offset && end == offset + out.size() && is_aligned(out.data())) {
      co_return co_await read_pages(offset, out);
    }
    const std::unique_ptr<Uring::FixedBuffer> fixed =
        end - begin <= Uring::kFixedSize ? uring_->take_buffer() : nullptr;
    AlignedBuffer own(fixed != nullptr ? 0 : end - begin);
    const MutableBytes window = (fixed != nullptr ? fixed->bytes() : own.bytes()).first(end - begin);
    // The last page of a file may end early; the bytes asked for may not.
    const std::uint64_t there = std::min(end, std::max(size_, begin));
    if (offset + out.size() > there) co_return beyond_the_end();
    AGRO_CO_TRY_OK(co_await read_pages(begin, window.first(round_up(there - begin, kPageSize))));
    std::memcpy(out.data(), window.data() + (offset - begin), out.size());
    co_return Result<void>();
  }

  Task<void> read_stored(std::uint64_t offset, MutableBytes out) override { return read(offset, out); }

  std::optional<Result<void>> try_read(std::uint64_t, MutableBytes) override {
    if (closing_) return Result<void>(fail(Errc::closed, "the file is closed"));
    return std::nullopt;
  }

  std::uint64_t size() const override { return size_; }

  Task<void> resize(std::uint64_t size) override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    if (file_->is_device) co_return fail(Errc::not_supported, file_->path + ": a device has one size");
    const std::shared_ptr<DirectTarget> file = file_;
    Task<void> resized = on_worker([file, size]() -> Result<void> {
      if (::ftruncate(file->descriptor.get(), static_cast<off_t>(size)) == 0) return {};
      return fail(errno_error("resize " + file->path, errno));
    });
    AGRO_CO_TRY_OK(co_await std::move(resized));
    size_ = size;
    co_return Result<void>();
  }

  Task<void> allocate(std::uint64_t offset, std::uint64_t size) override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    if (file_->is_device) co_return fail(Errc::not_supported, file_->path + ": a device has one size");
    const std::shared_ptr<DirectTarget> file = file_;
    Task<void> allocated = on_worker(
        [file, offset, size] { return allocate_space(file->descriptor, file->path, offset, size); });
    AGRO_CO_TRY_OK(co_await std::move(allocated));
    note_written(offset + size);
    co_return Result<void>();
  }

  Task<void> discard(std::uint64_t offset, std::uint64_t size) override {
    const Call call(*this);
    AGRO_CO_TRY_OK(check_open());
    const std::shared_ptr<DirectTarget> file = file_;
    co_return co_await on_worker([file, offset, size]() -> Result<void> {
      std::uint64_t range[2] = {offset, size};
      const int result = file->is_device
                             ? ::ioctl(file->descriptor.get(), BLKDISCARD, range)
                             : ::fallocate(file->descriptor.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                           static_cast<off_t>(offset), static_cast<off_t>(size));
      if (result == 0 || errno == EOPNOTSUPP) return {};
      return fail(errno_error("discard " + file->path, errno));
    });
  }

  Awaitable<void> close() override {
    closing_ = true;
    while (running_count_ > 0) co_await idle_.wait();
    if (file_ != nullptr) uring_->forget(target_);
    file_.reset();
  }

 private:
  /// Counts a call under way, for close().
  class Call {
   public:
    explicit Call(DirectFile& file) : file_(file) { ++file.running_count_; }
    ~Call() {
      if (--file_.running_count_ == 0) file_.idle_.notify_all();
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    DirectFile& file_;
  };

  Result<void> check_open() const {
    if (closing_) return fail(Errc::closed, "the file is closed");
    return {};
  }

  Result<void> beyond_the_end() const { return fail(Errc::io_error, "read " + file_->path + ": beyond the end"); }

  template <class Function>
  Task<void> on_worker(Function function) {
    return run_blocking(workers_, std::move(function));
  }

  Result<std::vector<iovec>> vectors_of(const FileWrite& write) {
    AGRO_ASSERT(write.offset % kPageSize == 0);
    std::vector<iovec> parts;
    parts.reserve(write.parts.size());
    std::uint64_t end = write.offset;
    for (const ConstBytes part : write.parts) {
      AGRO_ASSERT(part.size() % kPageSize == 0 && is_aligned(part.data()));
      if (part.empty()) continue;
      parts.push_back({const_cast<std::byte*>(part.data()), part.size()});
      end += part.size();
    }
    if (file_->is_device && end > size_) {
      return fail(Errc::out_of_space, "write " + file_->path + ": beyond the end of the device");
    }
    return parts;
  }

  void note_written(std::uint64_t end) { size_ = std::max(size_, end); }

  Task<void> write_whole(FileWrite write, bool durable) {
    AGRO_CO_TRY(std::vector<iovec> parts, vectors_of(write));
    co_return co_await write_rest(write.offset, std::move(parts), durable);
  }

  Task<void> write_rest(std::uint64_t offset, std::vector<iovec> parts, bool durable) {
    std::vector<iovec> some;
    while (!parts.empty()) {
      some.assign(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(
                                                     std::min<std::size_t>(parts.size(), IOV_MAX)));
      const int count = co_await uring_->write(target_, offset, some, durable);
      if (count == -EINTR || count == -EAGAIN) continue;
      if (count < 0) co_return fail(errno_error("write " + file_->path, -count));
      if (count == 0) co_return fail(Errc::io_error, "write " + file_->path + ": nothing was written");
      advance(parts, static_cast<std::size_t>(count));
      offset += static_cast<std::uint64_t>(count);
      note_written(offset);
    }
    co_return Result<void>();
  }

  Task<void> write_one_and_sync(FileWrite write) {
    AGRO_CO_TRY(std::vector<iovec> parts, vectors_of(write));
    if (parts.empty()) co_return co_await sync_now();
    const Uring::Written done = co_await uring_->write_and_sync(target_, write.offset, parts);
    if (done.written < 0 && done.written != -EINTR && done.written != -EAGAIN) {
      co_return fail(errno_error("write " + file_->path, -done.written));
    }
    const auto count = static_cast<std::size_t>(std::max(done.written, 0));
    advance(parts, count);
    note_written(write.offset + count);
    if (parts.empty() && done.synced == 0) co_return Result<void>();
    if (parts.empty() && done.synced != -ECANCELED) {
      co_return fail(errno_error("sync " + file_->path, -done.synced));
    }
    // The kernel wrote less than it was told, and then does not go on to the sync.
    AGRO_CO_TRY_OK(co_await write_rest(write.offset + count, std::move(parts), false));
    co_return co_await sync_now();
  }

  Task<void> sync_now() {
    const int result = co_await uring_->sync_data(target_);
    if (result < 0) co_return fail(errno_error("sync " + file_->path, -result));
    co_return Result<void>();
  }

  Task<void> read_pages(std::uint64_t offset, MutableBytes out) {
    const std::uint64_t end = std::min(offset + out.size(), round_up(size_, kPageSize));
    if (offset + out.size() > end) co_return beyond_the_end();
    while (!out.empty()) {
      const int count = co_await uring_->read(target_, offset, out);
      if (count == -EINTR || count == -EAGAIN) continue;
      if (count < 0) co_return fail(errno_error("read " + file_->path, -count));
      offset += static_cast<std::uint64_t>(count);
      out = out.subspan(static_cast<std::size_t>(count));
      if (out.empty() || offset >= size_) break;  // the end, within its page
      if (count == 0 || offset % kPageSize != 0) {
        co_return fail(Errc::io_error, "read " + file_->path + ": it became shorter");
      }
    }
    co_return Result<void>();
  }

  std::shared_ptr<Uring> uring_;
  Offload& workers_;
  std::shared_ptr<DirectTarget> file_;
  Uring::Target target_;
  std::uint64_t size_;
  bool closing_ = false;
  std::size_t running_count_ = 0;
  Event idle_;
};

/// Patient as lock_file() is.
int open_patiently(const std::string& path, int flags) {
  Patience patience;
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags, 0644);
  } while (descriptor < 0 && errno == EBUSY && patience.wait());
  return descriptor;
}

Result<std::uint64_t> device_size(const DirectTarget& target) {
  std::uint64_t size = 0;
  if (::ioctl(target.descriptor.get(), BLKGETSIZE64, &size) != 0) {
    return fail(errno_error("size of " + target.path, errno));
  }
  return size;
}

}  // namespace

Result<DirectTarget> open_direct(const std::string& path, OpenOptions options) {
  struct stat about {};
  const bool there = ::stat(path.c_str(), &about) == 0;
  const bool is_device = there && S_ISBLK(about.st_mode);
  if (there && !is_device && !S_ISREG(about.st_mode)) {
    return fail(Errc::invalid_argument, path + " is neither a block device nor a file");
  }
  // Of a device, O_EXCL asks for it alone: not mounted, not in a RAID, not another store's.
  const int exclusive = is_device && options.exclusive ? O_EXCL : 0;
  const int create = options.create && !there ? O_CREAT : 0;
  DirectTarget target{path, Descriptor(open_patiently(path, O_RDWR | O_DIRECT | O_CLOEXEC | exclusive | create)),
                      0, is_device};
  if (!target.descriptor.is_open()) {
    if (errno == EBUSY) {
      return fail(Errc::locked, path + " is in use: mounted, part of a RAID or LVM, or open in another process");
    }
    if (errno == EINVAL) {
      return fail(Errc::not_supported, path + " takes no direct I/O: use a disk or a file on one, or '--storage mmap'");
    }
    return fail(errno_error("open " + path, errno));
  }
  if (options.exclusive) AGRO_TRY_OK(lock_file(target.descriptor, target.path));
  if (::fstat(target.descriptor.get(), &about) != 0) return fail(errno_error("stat " + path, errno));
  target.size = static_cast<std::uint64_t>(about.st_size);
  if (is_device) {
    AGRO_TRY(target.size, device_size(target));
  }
  return target;
}

std::unique_ptr<File> make_direct_file(std::shared_ptr<Uring> uring, Offload& workers, DirectTarget target) {
  return std::make_unique<DirectFile>(std::move(uring), workers, std::move(target));
}

}  // namespace agro
