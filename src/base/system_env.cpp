#include "base/system_env.hpp"

#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdlib>
#include <optional>

#include "base/system_loop.hpp"

namespace agro {

struct SystemEnv::Impl {
  Impl() : signals(system.loop, SIGINT, SIGTERM) {
    std::signal(SIGPIPE, SIG_IGN);
    wait_for_signal();
  }

  void wait_for_signal() {
    signals.async_wait([this](const boost::system::error_code& problem, int number) {
      if (problem) return;
      if (stop_requested) std::_Exit(128 + number);
      stop_requested = true;
      stop_event.notify_all();
      wait_for_signal();
    });
  }

  SystemLoop system;
  asio::signal_set signals;
  bool stop_requested = false;
  Event stop_event;
};

SystemEnv::SystemEnv() : impl_(std::make_unique<Impl>()) {}
SystemEnv::~SystemEnv() = default;

Env& SystemEnv::env() { return impl_->system.env; }
bool SystemEnv::stop_requested() const { return impl_->stop_requested; }
Event& SystemEnv::stop_event() { return impl_->stop_event; }

void SystemEnv::set_busy_poll(Duration most) { impl_->system.busy_poll = most; }

namespace {

Job run_main(Task<void> main, asio::io_context& loop, std::optional<Result<void>>& result) {
  result.emplace(co_await std::move(main));
  loop.stop();
}

}  // namespace

Result<void> SystemEnv::run(Task<void> main) {
  std::optional<Result<void>> result;
  impl_->system.loop.restart();
  spawn(impl_->system.loop.get_executor(), run_main(std::move(main), impl_->system.loop, result));
  impl_->system.run();
  AGRO_ASSERT(result.has_value());
  return std::move(*result);
}

}  // namespace agro
