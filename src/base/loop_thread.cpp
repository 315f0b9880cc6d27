#include "base/loop_thread.hpp"

#include <fmt/format.h>
#include <pthread.h>

#include <boost/asio/executor_work_guard.hpp>
#include <csignal>
#include <thread>

#include "base/system_loop.hpp"

namespace agro {

struct LoopThread::Impl {
  explicit Impl(Duration busy_poll) : work(system.loop.get_executor()) {
    system.busy_poll = busy_poll;
  }

  SystemLoop system;
  asio::executor_work_guard<Executor> work;  // it waits for tasks, rather than end without any
  std::thread thread;
};

LoopThread::LoopThread(unsigned number, Duration busy_poll) : impl_(std::make_unique<Impl>(busy_poll)) {
  impl_->thread = std::thread([&system = impl_->system] { system.run(); });
  const std::string name = fmt::format("agro-loop-{}", number);
  (void)::pthread_setname_np(impl_->thread.native_handle(), name.c_str());  // for `top -H` only
}

LoopThread::~LoopThread() {
  impl_->system.loop.stop();
  impl_->thread.join();
}

Env& LoopThread::env() { return impl_->system.env; }

}  // namespace agro
