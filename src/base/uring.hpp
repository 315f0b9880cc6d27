// io_uring on a loop: reads, writes and syncs without a thread, many in one call to the kernel.
//
// Invariants: what a turn of the loop asks for is submitted in one call at its end; completions are
// reaped on the loop. A registered buffer is the kernel's for good: no pages are pinned per read.
// Threading: one loop.
#pragma once

#include <sys/uio.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/async.hpp"
#include "base/bytes.hpp"

struct io_uring;
struct io_uring_sqe;

namespace agro {

class Uring : public std::enable_shared_from_this<Uring> {
 public:
  /// Pages that read() can go to without pinning any, one buffer each.
  static constexpr std::uint32_t kFixedSize = 64 * 1024;
  static constexpr unsigned kFixedCount = 64;

  /// Null where the kernel has no io_uring or forbids it (containers often do).
  static std::shared_ptr<Uring> make(asio::io_context& loop);
  ~Uring();
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;

  /// A descriptor that the kernel need not look up at each call. Registered for the life of the
  /// ring or until forget(); when all places are taken, one that is looked up.
  struct Target {
    int descriptor = -1;
    int place = -1;
  };
  Target add(int descriptor);
  void forget(const Target& target);

  /// Each returns what the system call of the name would: bytes, or -errno. Shape: memory outlives the await.
  Awaitable<int> read(Target target, std::uint64_t offset, MutableBytes out);
  /// `durable`: what was written is on stable storage when it returns (RWF_DSYNC).
  Awaitable<int> write(Target target, std::uint64_t offset, const std::vector<iovec>& parts, bool durable);
  Awaitable<int> sync_data(Target target);
  /// The write, and when it was whole the sync, in one trip. -ECANCELED for the sync: it did not run.
  struct Written {
    int written = 0;
    int synced = 0;
  };
  Awaitable<Written> write_and_sync(Target target, std::uint64_t offset, const std::vector<iovec>& parts);

  /// A registered, page-aligned buffer of kFixedSize bytes; null when all are taken. It returns when the
  /// handle goes.
  class FixedBuffer {
   public:
    FixedBuffer(std::shared_ptr<Uring> uring, unsigned number) : uring_(std::move(uring)), number_(number) {}
    FixedBuffer(const FixedBuffer&) = delete;
    FixedBuffer& operator=(const FixedBuffer&) = delete;
    ~FixedBuffer() { uring_->free_buffers_.push_back(number_); }
    MutableBytes bytes() const {
      return uring_->arena_.bytes().subspan(std::size_t{number_} * kFixedSize, kFixedSize);
    }

   private:
    std::shared_ptr<Uring> uring_;
    unsigned number_;
  };
  std::unique_ptr<FixedBuffer> take_buffer();

 private:
  /// What one coroutine waits for: all of its entries.
  struct Wait {
    unsigned remaining = 0;
    UniqueFunction resume;
  };
  struct Op {
    Wait* wait = nullptr;
    int result = 0;
  };

  Uring(asio::io_context& loop, std::unique_ptr<io_uring> ring, int event_descriptor);
  void register_places_and_buffers();
  /// Room for `count` entries that the kernel will see together.
  void make_room(unsigned count);
  io_uring_sqe* next_entry();
  static void aim(io_uring_sqe* entry, const Target& target, Op& op);
  Awaitable<void> finish(Wait& wait);
  void submit_soon();
  void wait_for_completions();
  void reap();

  Executor executor_;
  std::unique_ptr<io_uring> ring_;
  asio::posix::basic_stream_descriptor<Executor> event_;
  std::vector<int> free_places_;
  AlignedBuffer arena_;
  std::vector<unsigned> free_buffers_;
  bool submit_posted_ = false;
};

}  // namespace agro
