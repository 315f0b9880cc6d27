// A file descriptor that closes itself, locks on files, and space in them.
//
// Threading: lock_file(), allocate_space() and Patience block; on a worker thread only.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/result.hpp"

namespace agro {

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  /// Whoever gets the number closes it.
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

/// Waits for what a process that has just ended still holds: the kernel gives its files back only when
/// it is done with its io_uring, a moment after the process is gone.
class Patience {
 public:
  /// False: it took too long; whoever holds it is alive.
  bool wait();

 private:
  int waits_left_ = 200;  // of 5 ms
};

/// Locks the file for this process alone. Errors: locked.
Result<void> lock_file(const Descriptor& file, const std::string& path);

/// Reserves space as File::allocate() does; where the file system cannot, by writing zeros, over which
/// nothing may have been written yet. Shape: whole pages. Errors: out_of_space, io_error.
Result<void> allocate_space(const Descriptor& file, const std::string& path, std::uint64_t offset,
                            std::uint64_t size);

}  // namespace agro
