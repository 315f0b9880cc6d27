#include "agroctl/image_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/units.hpp"

namespace agro {
namespace {

constexpr int kPollIntervalMs = 200;

/// Waits until a pipe is ready. Errors: closed, when cancelled.
Result<void> wait_ready(int descriptor, short events, const std::atomic<bool>& cancelled) {
  while (!cancelled) {
    pollfd entry{descriptor, events, 0};
    const int ready = poll(&entry, 1, kPollIntervalMs);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return fail(errno_error("poll", errno));
  }
  return fail(Errc::closed, "interrupted");
}

/// The end of a device, whose stat() says 0. Errors: io_error.
Result<std::uint64_t> size_of(int descriptor, const std::string& name) {
  const off_t end = lseek(descriptor, 0, SEEK_END);
  if (end < 0) return fail(errno_error(name, errno));
  return static_cast<std::uint64_t>(end);
}

/// A further one of `standard`, to be closed like any other.
Result<Descriptor> duplicate(int standard, const std::string& name) {
  Descriptor copy(fcntl(standard, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!copy.is_open()) return fail(errno_error(name, errno));
  return copy;
}

}  // namespace

Result<std::unique_ptr<ImageSource>> ImageSource::open(Offload& offload, const std::string& path) {
  std::unique_ptr<ImageSource> source(new ImageSource(offload));
  source->name_ = path == "-" ? "standard input" : path;
  if (path == "-") {
    AGRO_TRY(source->descriptor_, duplicate(STDIN_FILENO, source->name_));
    source->is_stream_ = true;
    return source;
  }
  source->descriptor_ = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  const int descriptor = source->descriptor_.get();
  if (descriptor < 0 || fstat(descriptor, &status) != 0) return fail(errno_error(path, errno));
  if (S_ISDIR(status.st_mode)) {
    return fail(Errc::invalid_argument, path + " is a directory, not an image");
  }
  source->is_device_ = S_ISBLK(status.st_mode);
  source->is_stream_ = !S_ISREG(status.st_mode) && !source->is_device_;
  if (!source->is_stream_) {
    AGRO_TRY(source->size_, size_of(descriptor, path));
  }
  return source;
}

Task<ImageSource::Run> ImageSource::run_at(std::uint64_t offset) {
  const auto look = [this, offset]() -> Result<Run> {
    const auto from = static_cast<off_t>(offset);
    const off_t data = lseek(descriptor_.get(), from, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return Run{size_ - offset, true};
    // Devices and some file systems know no holes.
    if (data < 0 && errno == EINVAL) return Run{size_ - offset, false};
    if (data < 0) return fail(errno_error(name_, errno));
    if (data > from) return Run{std::min(static_cast<std::uint64_t>(data), size_) - offset, true};
    const off_t hole = lseek(descriptor_.get(), from, SEEK_HOLE);
    if (hole <= from) return Run{size_ - offset, false};
    return Run{std::min(static_cast<std::uint64_t>(hole), size_) - offset, false};
  };
  return run_blocking(offload_, look);
}

Result<std::size_t> ImageSource::read_now(std::uint64_t offset, MutableBytes out) {
  std::size_t done = std::min(out.size(), peeked_.size());
  std::copy_n(peeked_.begin(), done, out.begin());
  peeked_.erase(peeked_.begin(), peeked_.begin() + static_cast<std::ptrdiff_t>(done));
  while (done < out.size()) {
    if (is_stream_) AGRO_TRY_OK(wait_ready(descriptor_.get(), POLLIN, cancelled_));
    const ssize_t count = is_stream_
                              ? ::read(descriptor_.get(), out.data() + done, out.size() - done)
                              : pread(descriptor_.get(), out.data() + done, out.size() - done,
                                      static_cast<off_t>(offset + done));
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return fail(errno_error("reading " + name_, errno));
    if (count == 0) break;
    done += static_cast<std::size_t>(count);
  }
  return done;
}

Task<std::size_t> ImageSource::read(std::uint64_t offset, MutableBytes out) {
  return run_blocking(offload_, [this, offset, out] { return read_now(offset, out); });
}

Task<std::size_t> ImageSource::peek(MutableBytes out) {
  AGRO_CO_TRY(const std::size_t count, co_await read(0, out));
  if (is_stream_) peeked_.assign(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(count));
  co_return count;
}

Result<std::unique_ptr<ImageSink>> ImageSink::open(Offload& offload, const std::string& path,
                                                   std::uint64_t size, std::uint64_t kept) {
  std::unique_ptr<ImageSink> sink(new ImageSink(offload));
  sink->name_ = path == "-" ? "standard output" : path;
  if (path == "-") {
    AGRO_TRY(sink->descriptor_, duplicate(STDOUT_FILENO, sink->name_));
    sink->is_stream_ = true;
    return sink;
  }
  constexpr mode_t kMode = 0600;  // it holds a whole disk, and who knows what is on it
  sink->descriptor_ = Descriptor(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, kMode));
  struct stat status {};
  const int descriptor = sink->descriptor_.get();
  if (descriptor < 0 || fstat(descriptor, &status) != 0) return fail(errno_error(path, errno));
  sink->is_sparse_ = S_ISREG(status.st_mode);
  sink->is_stream_ = !sink->is_sparse_ && !S_ISBLK(status.st_mode);
  if (sink->is_sparse_) {
    const bool sized =
        ftruncate(descriptor, static_cast<off_t>(kept)) == 0 && ftruncate(descriptor, static_cast<off_t>(size)) == 0;
    if (!sized) return fail(errno_error(path, errno));
  } else if (!sink->is_stream_) {
    AGRO_TRY(const std::uint64_t room, size_of(descriptor, path));
    if (room < size) {
      return fail(Errc::out_of_space, fmt::format("{} has {}, the volume {}", path,
                                                  format_size(room), format_size(size)));
    }
  }
  return sink;
}

Result<void> ImageSink::write_now(std::uint64_t offset, ConstBytes bytes) {
  while (!bytes.empty()) {
    if (is_stream_) AGRO_TRY_OK(wait_ready(descriptor_.get(), POLLOUT, cancelled_));
    // A pipe that is ready takes PIPE_BUF bytes without blocking, so that cancel() is heard.
    const std::size_t stream_part = std::min<std::size_t>(bytes.size(), PIPE_BUF);
    const ssize_t count = is_stream_ ? ::write(descriptor_.get(), bytes.data(), stream_part)
                                     : pwrite(descriptor_.get(), bytes.data(), bytes.size(),
                                              static_cast<off_t>(offset));
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return fail(errno_error("writing " + name_, errno));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Task<void> ImageSink::write(std::uint64_t offset, ConstBytes bytes) {
  return run_blocking(offload_, [this, offset, bytes] { return write_now(offset, bytes); });
}

Task<void> ImageSink::finish() {
  return run_blocking(offload_, [this]() -> Result<void> {
    if (is_stream_ || fsync(descriptor_.get()) == 0) return {};
    return fail(errno_error("writing " + name_, errno));
  });
}

}  // namespace agro
