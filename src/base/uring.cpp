#include "base/uring.hpp"

#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace agro {
namespace {

constexpr unsigned kQueueDepth = 256;
constexpr unsigned kPlaces = 64;

}  // namespace

std::shared_ptr<Uring> Uring::make(asio::io_context& loop) {
  auto ring = std::make_unique<io_uring>();
  if (io_uring_queue_init(kQueueDepth, ring.get(), 0) != 0) return nullptr;
  const int event = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (event < 0 || io_uring_register_eventfd(ring.get(), event) != 0) {
    if (event >= 0) ::close(event);
    io_uring_queue_exit(ring.get());
    return nullptr;
  }
  std::shared_ptr<Uring> uring(new Uring(loop, std::move(ring), event));
  uring->wait_for_completions();
  return uring;
}

Uring::Uring(asio::io_context& loop, std::unique_ptr<io_uring> ring, int event_descriptor)
    : executor_(loop.get_executor()), ring_(std::move(ring)), event_(executor_, event_descriptor) {
  if (io_uring_register_files_sparse(ring_.get(), kPlaces) != 0) return;
  for (int place = 0; place < static_cast<int>(kPlaces); ++place) free_places_.push_back(place);
}

Uring::~Uring() { io_uring_queue_exit(ring_.get()); }

Uring::Target Uring::add(int descriptor) {
  Target target{descriptor, -1};
  if (free_places_.empty()) return target;
  if (io_uring_register_files_update(ring_.get(), static_cast<unsigned>(free_places_.back()), &descriptor, 1) == 1) {
    target.place = free_places_.back();
    free_places_.pop_back();
  }
  return target;
}

void Uring::forget(const Target& target) {
  if (target.place < 0) return;
  int none = -1;
  const bool gone = io_uring_register_files_update(ring_.get(), static_cast<unsigned>(target.place), &none, 1) == 1;
  if (gone) free_places_.push_back(target.place);
}

std::unique_ptr<Uring::FixedBuffer> Uring::take_buffer() {
  if (arena_.size() == 0) {
    // Made when the first is wanted: only files without a page cache need them.
    arena_ = AlignedBuffer(std::size_t{kFixedCount} * kFixedSize);
    std::memset(arena_.data(), 0, arena_.size());
    const iovec whole{arena_.data(), arena_.size()};
    if (io_uring_register_buffers(ring_.get(), &whole, 1) == 0) {
      for (unsigned number = 0; number < kFixedCount; ++number) free_buffers_.push_back(number);
    }
  }
  if (free_buffers_.empty()) return nullptr;
  const unsigned number = free_buffers_.back();
  free_buffers_.pop_back();
  return std::make_unique<FixedBuffer>(shared_from_this(), number);
}

void Uring::make_room(unsigned count) {
  while (io_uring_sq_space_left(ring_.get()) < count) {
    io_uring_submit(ring_.get());
    reap();  // it may be waiting for that
  }
}

io_uring_sqe* Uring::next_entry() {
  io_uring_sqe* entry = io_uring_get_sqe(ring_.get());
  AGRO_ASSERT(entry != nullptr);
  return entry;
}

void Uring::aim(io_uring_sqe* entry, const Target& target, Op& op) {
  ++op.wait->remaining;
  io_uring_sqe_set_data(entry, &op);
  if (target.place < 0) return;
  entry->fd = target.place;
  entry->flags |= IOSQE_FIXED_FILE;
}

Awaitable<void> Uring::finish(Wait& wait) {
  submit_soon();
  return suspend([&wait](UniqueFunction resume) { wait.resume = std::move(resume); });
}

Awaitable<int> Uring::read(Target target, std::uint64_t offset, MutableBytes out) {
  make_room(1);
  Wait wait;
  Op op{&wait};
  io_uring_sqe* entry = next_entry();
  const auto size = static_cast<unsigned>(out.size());
  const std::byte* arena = arena_.data();
  if (arena != nullptr && out.data() >= arena && out.data() < arena + arena_.size()) {
    io_uring_prep_read_fixed(entry, target.descriptor, out.data(), size, offset, 0);
  } else {
    io_uring_prep_read(entry, target.descriptor, out.data(), size, offset);
  }
  aim(entry, target, op);
  co_await finish(wait);
  co_return op.result;
}

Awaitable<int> Uring::write(Target target, std::uint64_t offset, const std::vector<iovec>& parts, bool durable) {
  make_room(1);
  Wait wait;
  Op op{&wait};
  io_uring_sqe* entry = next_entry();
  io_uring_prep_writev2(entry, target.descriptor, parts.data(), static_cast<unsigned>(parts.size()), offset,
                        durable ? RWF_DSYNC : 0);
  aim(entry, target, op);
  co_await finish(wait);
  co_return op.result;
}

Awaitable<int> Uring::sync_data(Target target) {
  make_room(1);
  Wait wait;
  Op op{&wait};
  io_uring_sqe* entry = next_entry();
  io_uring_prep_fsync(entry, target.descriptor, IORING_FSYNC_DATASYNC);
  aim(entry, target, op);
  co_await finish(wait);
  co_return op.result;
}

Awaitable<Uring::Written> Uring::write_and_sync(Target target, std::uint64_t offset,
                                                const std::vector<iovec>& parts) {
  make_room(2);  // a chain must be submitted whole
  Wait wait;
  Op write{&wait};
  Op sync{&wait};
  io_uring_sqe* entry = next_entry();
  io_uring_prep_writev(entry, target.descriptor, parts.data(), static_cast<unsigned>(parts.size()), offset);
  aim(entry, target, write);
  entry->flags |= IOSQE_IO_LINK;
  entry = next_entry();
  io_uring_prep_fsync(entry, target.descriptor, IORING_FSYNC_DATASYNC);
  aim(entry, target, sync);
  co_await finish(wait);
  co_return Written{write.result, sync.result};
}

void Uring::submit_soon() {
  if (submit_posted_) return;
  submit_posted_ = true;
  asio::post(executor_, [self = shared_from_this()] {
    self->submit_posted_ = false;
    io_uring_submit(self->ring_.get());
    self->reap();  // what the page cache had is done already
    if (io_uring_sq_ready(self->ring_.get()) > 0) self->submit_soon();  // short of memory: again
  });
}

void Uring::wait_for_completions() {
  event_.async_wait(asio::posix::descriptor_base::wait_read,
                    [weak = weak_from_this()](const boost::system::error_code& problem) {
                      const std::shared_ptr<Uring> self = weak.lock();
                      if (self == nullptr || problem) return;
                      eventfd_t count = 0;
                      (void)eventfd_read(self->event_.native_handle(), &count);
                      self->reap();
                      self->wait_for_completions();
                    });
}

void Uring::reap() {
  io_uring_cqe* completion = nullptr;
  while (io_uring_peek_cqe(ring_.get(), &completion) == 0) {
    Op* op = static_cast<Op*>(io_uring_cqe_get_data(completion));
    op->result = completion->res;
    io_uring_cqe_seen(ring_.get(), completion);
    if (--op->wait->remaining == 0) op->wait->resume();
  }
}

}  // namespace agro
