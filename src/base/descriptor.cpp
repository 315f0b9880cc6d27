#include "base/descriptor.hpp"

#include <poll.h>
#include <sys/file.h>

#include <cerrno>

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

}  // namespace agro
