#include "base/uring_reads.hpp"

#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace agro {
namespace {

constexpr unsigned kQueueDepth = 256;

}  // namespace

std::shared_ptr<UringReads> UringReads::make(asio::io_context& loop) {
  auto ring = std::make_unique<io_uring>();
  if (io_uring_queue_init(kQueueDepth, ring.get(), 0) != 0) return nullptr;
  const int event = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (event < 0 || io_uring_register_eventfd(ring.get(), event) != 0) {
    if (event >= 0) ::close(event);
    io_uring_queue_exit(ring.get());
    return nullptr;
  }
  std::shared_ptr<UringReads> reads(new UringReads(loop, std::move(ring), event));
  reads->wait_for_completions();
  return reads;
}

UringReads::UringReads(asio::io_context& loop, std::unique_ptr<io_uring> ring, int event_descriptor)
    : executor_(loop.get_executor()), ring_(std::move(ring)), event_(executor_, event_descriptor) {}

UringReads::~UringReads() { io_uring_queue_exit(ring_.get()); }

Awaitable<int> UringReads::read(int descriptor, std::uint64_t offset, MutableBytes out) {
  io_uring_sqe* entry = io_uring_get_sqe(ring_.get());
  while (entry == nullptr) {
    io_uring_submit(ring_.get());
    entry = io_uring_get_sqe(ring_.get());
  }
  Op op;
  io_uring_prep_read(entry, descriptor, out.data(), static_cast<unsigned>(out.size()), offset);
  io_uring_sqe_set_data(entry, &op);
  submit_soon();
  co_await suspend([&op](UniqueFunction resume) { op.resume = std::move(resume); });
  co_return op.result;
}

void UringReads::submit_soon() {
  if (submit_posted_) return;
  submit_posted_ = true;
  asio::post(executor_, [self = shared_from_this()] {
    self->submit_posted_ = false;
    io_uring_submit(self->ring_.get());
    self->reap();  // what the page cache had is done already
  });
}

void UringReads::wait_for_completions() {
  event_.async_wait(asio::posix::descriptor_base::wait_read,
                    [weak = weak_from_this()](const boost::system::error_code& problem) {
                      const std::shared_ptr<UringReads> self = weak.lock();
                      if (self == nullptr || problem) return;
                      eventfd_t count = 0;
                      (void)eventfd_read(self->event_.native_handle(), &count);
                      self->reap();
                      self->wait_for_completions();
                    });
}

void UringReads::reap() {
  io_uring_cqe* completion = nullptr;
  while (io_uring_peek_cqe(ring_.get(), &completion) == 0) {
    Op* op = static_cast<Op*>(io_uring_cqe_get_data(completion));
    op->result = completion->res;
    io_uring_cqe_seen(ring_.get(), completion);
    op->resume();
  }
}

}  // namespace agro
