#include "base/descriptor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>

#include <algorithm>
#include <cerrno>

#include "base/bytes.hpp"

namespace agro {

bool Patience::wait() {
  if (waits_left_ == 0) return false;
  --waits_left_;
  constexpr int kMilliseconds = 5;
  ::poll(nullptr, 0, kMilliseconds);
  return true;
}

Result<void> lock_file(const Descriptor& file, const std::string& path) {
  Patience patience;
  while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return fail(errno_error("lock " + path, errno));
    if (!patience.wait()) {
      return fail(Errc::locked, path + " is open in another process; stop that one first");
    }
  }
  return {};
}

Result<void> allocate_space(const Descriptor& file, const std::string& path, std::uint64_t offset,
                            std::uint64_t size) {
  while (::fallocate(file.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(size)) != 0) {
    if (errno == EINTR) continue;
    if (errno != EOPNOTSUPP) return fail(errno_error("reserve space in " + path, errno));
    AlignedBuffer zeros(std::min<std::uint64_t>(size, 1024 * 1024));
    std::memset(zeros.data(), 0, zeros.size());
    const std::uint64_t end = offset + size;
    while (offset < end) {
      const ssize_t count = ::pwrite(file.get(), zeros.data(), std::min<std::uint64_t>(zeros.size(), end - offset),
                                     static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return fail(errno_error("write " + path, count < 0 ? errno : EIO));
      offset += static_cast<std::uint64_t>(count);
    }
    break;
  }
  return {};
}

}  // namespace agro
