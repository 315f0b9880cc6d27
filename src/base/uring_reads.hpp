// Cold reads through io_uring: no thread is woken, many go to the kernel in one call.
//
// Invariants: what a turn of the loop asks for is submitted in one call at its end; completions are
// reaped on the loop. Threading: one loop.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <memory>

#include "base/async.hpp"
#include "base/bytes.hpp"

struct io_uring;

namespace agro {

class UringReads : public std::enable_shared_from_this<UringReads> {
 public:
  /// Null where the kernel has no io_uring or forbids it (containers often do).
  static std::shared_ptr<UringReads> make(asio::io_context& loop);
  ~UringReads();
  UringReads(const UringReads&) = delete;
  UringReads& operator=(const UringReads&) = delete;

  /// Reads once; bytes read, or -errno. Shape: `out` outlives the await.
  Awaitable<int> read(int descriptor, std::uint64_t offset, MutableBytes out);

 private:
  struct Op {
    int result = 0;
    UniqueFunction resume;
  };

  UringReads(asio::io_context& loop, std::unique_ptr<io_uring> ring, int event_descriptor);
  void submit_soon();
  void wait_for_completions();
  void reap();

  Executor executor_;
  std::unique_ptr<io_uring> ring_;
  asio::posix::basic_stream_descriptor<Executor> event_;
  bool submit_posted_ = false;
};

}  // namespace agro
