#include "base/system_disk.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/descriptor.hpp"
#include "base/direct_file.hpp"
#include "base/offload.hpp"
#include "base/uring.hpp"

namespace agro {

/// Reads go through io_uring, or where there is none have threads of their own: a commit must not
/// wait behind cold reads.
struct SystemDisk::Workers {
  static constexpr unsigned kReaderCount = 8;
  explicit Workers(asio::io_context& loop)
      : writers(loop, 4),
        uring(Uring::make(loop)),
        readers(loop, uring != nullptr ? 0 : kReaderCount) {}
  ThreadOffload writers;
  std::shared_ptr<Uring> uring;
  ThreadOffload readers;
};

namespace {

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<void> sync_directory(const std::string& path) {
  const Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open()) return fail(errno_error("open " + path, errno));
  if (::fsync(directory.get()) != 0 && errno != EINVAL) {
    return fail(errno_error("sync " + path, errno));
  }
  return {};
}

/// What the workers need of a file; it lives as long as any call on it.
struct OpenFile {
  std::string path;
  Descriptor buffered;  // reads, syncs, locks
  Descriptor direct;    // writes; not open where O_DIRECT is refused
  int write_number(bool keep = false) const {
    return direct.is_open() && !keep ? direct.get() : buffered.get();
  }
};

Result<void> write_vector(const OpenFile& file, std::uint64_t offset, std::vector<iovec> vectors,
                          bool keep) {
  std::size_t first = 0;
  while (first < vectors.size()) {
    const int count = static_cast<int>(std::min<std::size_t>(vectors.size() - first, IOV_MAX));
    const ssize_t written = ::pwritev(file.write_number(keep), vectors.data() + first, count,
                                      static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail(errno_error("write " + file.path, errno));
    if (written == 0) return fail(Errc::io_error, "write " + file.path + ": nothing was written");
    offset += static_cast<std::uint64_t>(written);
    auto left = static_cast<std::size_t>(written);
    while (first < vectors.size() && left >= vectors[first].iov_len) {
      left -= vectors[first++].iov_len;
    }
    if (left > 0) {
      vectors[first].iov_base = static_cast<char*>(vectors[first].iov_base) + left;
      vectors[first].iov_len -= left;
    }
  }
  return {};
}

std::vector<iovec> vectors_of(const std::vector<ConstBytes>& parts) {
  std::vector<iovec> vectors;
  vectors.reserve(parts.size());
  for (const ConstBytes part : parts) {
    if (part.empty()) continue;
    vectors.push_back({const_cast<std::byte*>(part.data()), part.size()});
  }
  return vectors;
}

Result<void> write_parts(const OpenFile& file, const FileWrite& write) {
  return write_vector(file, write.offset, vectors_of(write.parts), write.keep);
}

Result<void> sync_data(const OpenFile& file) {
  if (::fdatasync(file.buffered.get()) != 0) return fail(errno_error("sync " + file.path, errno));
  return {};
}

Result<void> read_bytes(const OpenFile& file, int number, std::uint64_t offset, MutableBytes out) {
  while (!out.empty()) {
    const ssize_t count = ::pread(number, out.data(), out.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(errno_error("read " + file.path, errno));
    if (count == 0) return fail(Errc::io_error, "read " + file.path + ": beyond the end");
    offset += static_cast<std::uint64_t>(count);
    out = out.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

void check_shape(std::uint64_t offset, const std::vector<ConstBytes>& parts) {
  AGRO_ASSERT(offset % kPageSize == 0);
  for (const ConstBytes part : parts) {
    AGRO_ASSERT(part.size() % kPageSize == 0);
    AGRO_ASSERT(reinterpret_cast<std::uintptr_t>(part.data()) % kPageSize == 0);
  }
}

std::uint64_t total_size(const std::vector<ConstBytes>& parts) {
  std::uint64_t size = 0;
  for (const ConstBytes part : parts) size += part.size();
  return size;
}

class SystemFile final : public File {
 public:
  SystemFile(std::shared_ptr<SystemDisk::Workers> workers, std::shared_ptr<OpenFile> file,
             std::uint64_t size)
      : workers_(std::move(workers)), file_(std::move(file)), size_(size) {}

  Task<void> write(FileWrite write) override {
    std::vector<FileWrite> writes;
    writes.push_back(std::move(write));
    return submit_writes(std::move(writes), false);
  }

  Task<void> write_and_sync(std::vector<FileWrite> writes) override {
    return submit_writes(std::move(writes), true);
  }

  /// One trip to the disk without a thread: 137 us for two files at once, where a write and then a sync
  /// on threads take 240 (docs/performance.md).
  Task<void> write_durably(FileWrite write) override {
    if (closing_) co_return fail(Errc::closed, "the file is closed");
    const std::shared_ptr<OpenFile> file = file_;
    const std::shared_ptr<Uring> uring = workers_->uring;
    if (uring != nullptr && file->direct.is_open() && write.parts.size() <= IOV_MAX) {
      check_shape(write.offset, write.parts);
      const std::vector<iovec> vectors = vectors_of(write.parts);
      const std::uint64_t size = total_size(write.parts);
      ++running_count_;
      const int count = co_await uring->write({file->direct.get()}, write.offset, vectors, true);
      if (--running_count_ == 0) idle_.notify_all();
      if (count > 0 && static_cast<std::uint64_t>(count) == size) {
        size_ = std::max(size_, write.offset + size);
        co_return Result<void>();
      }
      const bool again = count >= 0 || count == -EINTR || count == -EAGAIN || count == -EOPNOTSUPP;
      if (!again) co_return fail(errno_error("write " + file->path, -count));
    }
    std::vector<FileWrite> writes;
    writes.push_back(std::move(write));
    co_return co_await submit_writes(std::move(writes), true);
  }

  Task<void> sync() override { return submit_writes({}, true); }

  Task<void> read(std::uint64_t offset, MutableBytes out) override {
    if (closing_) return refuse();
    return read_from(file_->buffered.get(), offset, out);
  }

  Task<void> read_stored(std::uint64_t offset, MutableBytes out) override {
    AGRO_ASSERT(offset % kPageSize == 0);
    AGRO_ASSERT(out.size() % kPageSize == 0);
    AGRO_ASSERT(reinterpret_cast<std::uintptr_t>(out.data()) % kPageSize == 0);
    if (closing_) return refuse();
    // O_DIRECT; where that is refused, out of the page cache with it first.
    if (!file_->direct.is_open()) {
      ::posix_fadvise(file_->buffered.get(), static_cast<off_t>(offset),
                      static_cast<off_t>(out.size()), POSIX_FADV_DONTNEED);
    }
    return read_from(file_->write_number(), offset, out);
  }

  std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) override {
    if (closing_) return Result<void>(fail(Errc::closed, "the file is closed"));
    iovec vector{out.data(), out.size()};
    if (nowait_works_) {
      const ssize_t count =
          ::preadv2(file_->buffered.get(), &vector, 1, static_cast<off_t>(offset), RWF_NOWAIT);
      if (count == static_cast<ssize_t>(out.size())) return Result<void>();
      if (count >= 0 || errno != EOPNOTSUPP) return std::nullopt;  // read() finds out why
      nowait_works_ = false;
    }
    if (!in_memory_) return std::nullopt;
    return read_bytes(*file_, file_->buffered.get(), offset, out);
  }

  std::uint64_t size() const override { return size_; }

  Task<void> resize(std::uint64_t size) override {
    if (closing_) co_return fail(Errc::closed, "the file is closed");
    const std::shared_ptr<OpenFile> file = file_;
    Task<void> resized = run(workers_->writers, [file, size]() -> Result<void> {
      if (::ftruncate(file->buffered.get(), static_cast<off_t>(size)) == 0) return {};
      return fail(errno_error("resize " + file->path, errno));
    });
    AGRO_CO_TRY_OK(co_await std::move(resized));
    size_ = size;
    co_return Result<void>();
  }

  Task<void> allocate(std::uint64_t offset, std::uint64_t size) override {
    if (closing_) co_return fail(Errc::closed, "the file is closed");
    const std::shared_ptr<OpenFile> file = file_;
    Task<void> allocated = run(workers_->writers, [file, offset, size] {
      return allocate_space(file->buffered, file->path, offset, size);
    });
    AGRO_CO_TRY_OK(co_await std::move(allocated));
    size_ = std::max(size_, offset + size);
    co_return Result<void>();
  }

  Task<void> discard(std::uint64_t offset, std::uint64_t size) override {
    if (closing_) return refuse();
    return run(workers_->writers, [file = file_, offset, size]() -> Result<void> {
      const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
      if (::fallocate(file->buffered.get(), mode, static_cast<off_t>(offset),
                      static_cast<off_t>(size)) == 0 ||
          errno == EOPNOTSUPP) {
        return {};
      }
      return fail(errno_error("discard " + file->path, errno));
    });
  }

  Awaitable<void> close() override {
    closing_ = true;
    while (running_count_ > 0) co_await idle_.wait();
    file_.reset();
  }

  void set_in_memory() { in_memory_ = true; }

 private:
  static Task<void> refuse() { co_return fail(Errc::closed, "the file is closed"); }

  Task<void> read_from(int number, std::uint64_t offset, MutableBytes out) {
    if (workers_->uring != nullptr) return read_by_uring(number, offset, out);
    return run(workers_->readers, [file = file_, number, offset, out] {
      return read_bytes(*file, number, offset, out);
    });
  }

  Task<void> read_by_uring(int number, std::uint64_t offset, MutableBytes out) {
    const std::shared_ptr<OpenFile> file = file_;
    const std::shared_ptr<Uring> uring = workers_->uring;
    const Uring::Target target{number, -1};
    ++running_count_;
    Result<void> result;
    while (!out.empty() && result.has_value()) {
      const int count = co_await uring->read(target, offset, out);
      if (count == -EINTR || count == -EAGAIN) continue;
      if (count < 0) result = fail(errno_error("read " + file->path, -count));
      if (count == 0) result = fail(Errc::io_error, "read " + file->path + ": beyond the end");
      if (count <= 0) break;
      offset += static_cast<std::uint64_t>(count);
      out = out.subspan(static_cast<std::size_t>(count));
    }
    if (--running_count_ == 0) idle_.notify_all();
    co_return result;
  }

  template <class Function>
  Task<void> run(Offload& offload, Function function) {
    ++running_count_;
    Result<void> result = co_await run_blocking(offload, std::move(function));
    if (--running_count_ == 0) idle_.notify_all();
    co_return result;
  }

  Task<void> submit_writes(std::vector<FileWrite> writes, bool sync) {
    if (closing_) co_return fail(Errc::closed, "the file is closed");
    std::uint64_t end = 0;
    for (const FileWrite& each : writes) {
      check_shape(each.offset, each.parts);
      end = std::max(end, each.offset + total_size(each.parts));
    }
    const std::shared_ptr<OpenFile> file = file_;
    Task<void> written =
        run(workers_->writers, [file, writes = std::move(writes), sync]() -> Result<void> {
          for (const FileWrite& each : writes) {
            AGRO_TRY_OK(write_parts(*file, each));
          }
          return sync ? sync_data(*file) : Result<void>();
        });
    AGRO_CO_TRY_OK(co_await std::move(written));
    size_ = std::max(size_, end);
    co_return Result<void>();
  }

  std::shared_ptr<SystemDisk::Workers> workers_;
  std::shared_ptr<OpenFile> file_;
  std::uint64_t size_;
  bool nowait_works_ = true;
  bool in_memory_ = false;  // a file system without a disk, where a plain read never waits
  bool closing_ = false;
  std::size_t running_count_ = 0;
  Event idle_;
};

struct Opened {
  std::shared_ptr<OpenFile> file;
  std::uint64_t size = 0;
  bool in_memory = false;
};

Result<Opened> open_now(const std::string& path, OpenOptions options) {
  Descriptor buffered(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!buffered.is_open() && errno == ENOENT && options.create) {
    buffered = Descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (buffered.is_open()) AGRO_TRY_OK(sync_directory(parent_of(path)));
  }
  if (!buffered.is_open()) return fail(errno_error("open " + path, errno));
  if (options.exclusive) AGRO_TRY_OK(lock_file(buffered, path));
  struct stat about {};
  if (::fstat(buffered.get(), &about) != 0) return fail(errno_error("stat " + path, errno));
  // Each read asks for what it wants; readahead would only read what nobody asked for.
  ::posix_fadvise(buffered.get(), 0, 0, POSIX_FADV_RANDOM);
  Descriptor direct(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  auto file = std::make_shared<OpenFile>(
      OpenFile{path, std::move(buffered), std::move(direct)});
  struct statfs system {};
  const bool in_memory =
      ::fstatfs(file->buffered.get(), &system) == 0 && system.f_type == TMPFS_MAGIC;
  return Opened{std::move(file), static_cast<std::uint64_t>(about.st_size), in_memory};
}

bool is_directory(const std::string& path) {
  struct stat about {};
  return ::stat(path.c_str(), &about) == 0 && S_ISDIR(about.st_mode);
}

Result<void> make_directories_now(const std::string& path) {
  if (is_directory(path)) return {};
  const std::string parent = parent_of(path);
  if (parent != path && parent != ".") AGRO_TRY_OK(make_directories_now(parent));
  if (::mkdir(path.c_str(), 0755) == 0) return sync_directory(parent);
  if (errno != EEXIST) return fail(errno_error("make directory " + path, errno));
  if (is_directory(path)) return {};  // somebody else made it just now
  return fail(Errc::already_exists, path + " is there and is not a directory");
}

Result<std::vector<std::string>> list_now(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) return fail(errno_error("list " + path, errno));
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  const int problem = errno;
  ::closedir(directory);
  if (problem != 0) return fail(errno_error("list " + path, problem));
  std::sort(names.begin(), names.end());
  return names;
}

Result<void> remove_now(const std::string& path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno != EISDIR) return fail(errno_error("remove " + path, errno));
    if (::rmdir(path.c_str()) != 0) return fail(errno_error("remove " + path, errno));
  }
  return sync_directory(parent_of(path));
}

Result<std::uint64_t> free_space_now(const std::string& directory) {
  struct statfs usage {};
  if (::statfs(directory.c_str(), &usage) != 0) return fail(errno_error("look at the space of " + directory, errno));
  return std::uint64_t{usage.f_bavail} * static_cast<std::uint64_t>(usage.f_bsize);
}

Result<std::string> read_file_now(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return fail(errno_error("open " + path, errno));
  std::string contents;
  char chunk[16 * 1024];
  while (true) {
    const ssize_t count = ::read(file.get(), chunk, sizeof chunk);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(errno_error("read " + path, errno));
    if (count == 0) return contents;
    contents.append(chunk, static_cast<std::size_t>(count));
  }
}

Result<void> write_file_now(const std::string& path, std::string_view contents) {
  const std::string temporary = path + ".new";
  {
    const Descriptor file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file.is_open()) return fail(errno_error("create " + temporary, errno));
    while (!contents.empty()) {
      const ssize_t count = ::write(file.get(), contents.data(), contents.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return fail(errno_error("write " + temporary, errno));
      contents.remove_prefix(static_cast<std::size_t>(count));
    }
    if (::fsync(file.get()) != 0) return fail(errno_error("sync " + temporary, errno));
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return fail(errno_error("rename " + temporary, errno));
  }
  return sync_directory(parent_of(path));
}

}  // namespace

SystemDisk::SystemDisk(asio::io_context& loop) : loop_(loop) {}
SystemDisk::~SystemDisk() = default;

const std::shared_ptr<SystemDisk::Workers>& SystemDisk::workers() {
  if (workers_ == nullptr) workers_ = std::make_shared<Workers>(loop_);
  return workers_;
}

Task<std::unique_ptr<File>> SystemDisk::open(std::string path, OpenOptions options) {
  const std::shared_ptr<Workers> workers = this->workers();
  if (options.direct) co_return co_await open_past_cache(std::move(path), options);
  Result<Opened> opened = co_await run_blocking(
      workers->writers, [&path, options] { return open_now(path, options); });
  if (!opened.has_value()) co_return fail(std::move(opened).error());
  auto file = std::make_unique<SystemFile>(workers, opened->file, opened->size);
  if (opened->in_memory) file->set_in_memory();
  co_return std::unique_ptr<File>(std::move(file));
}

Task<std::unique_ptr<File>> SystemDisk::open_past_cache(std::string path, OpenOptions options) {
  const std::shared_ptr<Workers> workers = this->workers();
  if (workers->uring == nullptr) {
    co_return fail(Errc::not_supported, "this kernel or container allows no io_uring: allow it, or use '--storage mmap'");
  }
  Result<DirectTarget> target =
      co_await run_blocking(workers->writers, [&path, options]() -> Result<DirectTarget> {
        AGRO_TRY(DirectTarget opened, open_direct(path, options));
        if (options.create) AGRO_TRY_OK(sync_directory(parent_of(path)));
        return opened;
      });
  if (!target.has_value()) co_return fail(std::move(target).error());
  co_return make_direct_file(workers->uring, workers->writers, std::move(*target));
}

Task<void> SystemDisk::make_directories(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  co_return co_await run_blocking(workers()->writers, [&path] { return make_directories_now(path); });
}

Task<std::vector<std::string>> SystemDisk::list(std::string path) {
  co_return co_await run_blocking(workers()->writers, [&path] { return list_now(path); });
}

Task<void> SystemDisk::remove(std::string path) {
  co_return co_await run_blocking(workers()->writers, [&path] { return remove_now(path); });
}

Task<std::string> SystemDisk::read_file(std::string path) {
  co_return co_await run_blocking(workers()->writers, [&path] { return read_file_now(path); });
}

Task<void> SystemDisk::write_file(std::string path, std::string contents) {
  co_return co_await run_blocking(workers()->writers,
                                  [&] { return write_file_now(path, contents); });
}

Task<std::uint64_t> SystemDisk::free_space(std::string directory) {
  co_return co_await run_blocking(workers()->writers, [&directory] { return free_space_now(directory); });
}

}  // namespace agro
