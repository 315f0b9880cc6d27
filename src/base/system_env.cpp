#include "base/system_env.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdlib>
#include <optional>

#include "base/busy_poll.hpp"
#include "base/system_disk.hpp"
#include "base/system_network.hpp"

namespace agro {

struct SystemEnv::Impl {
  static constexpr unsigned kOffloadThreadCount = 2;

  Impl()
      : clock(loop),
        random(Random::from_os()),
        disk(loop),
        network(loop, clock),
        offload(loop, kOffloadThreadCount),
        env{loop.get_executor(), clock, random, disk, network, offload, metrics},
        signals(loop, SIGINT, SIGTERM) {
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

  asio::io_context loop{1};
  SystemClock clock;
  Random random;
  SystemDisk disk;
  SystemNetwork network;
  ThreadOffload offload;
  Metrics metrics;
  Env env;
  asio::signal_set signals;
  Duration busy_poll{};
  bool stop_requested = false;
  Event stop_event;
};

SystemEnv::SystemEnv() : impl_(std::make_unique<Impl>()) {}
SystemEnv::~SystemEnv() = default;

Env& SystemEnv::env() { return impl_->env; }
bool SystemEnv::stop_requested() const { return impl_->stop_requested; }
Event& SystemEnv::stop_event() { return impl_->stop_event; }

void SystemEnv::set_busy_poll(Duration most) { impl_->busy_poll = most; }

namespace {

Job run_main(Task<void> main, asio::io_context& loop, std::optional<Result<void>>& result) {
  result.emplace(co_await std::move(main));
  loop.stop();
}

}  // namespace

Result<void> SystemEnv::run(Task<void> main) {
  std::optional<Result<void>> result;
  impl_->loop.restart();
  spawn(impl_->loop.get_executor(), run_main(std::move(main), impl_->loop, result));
  BusyPoll(impl_->loop, impl_->clock, impl_->busy_poll).run();
  AGRO_ASSERT(result.has_value());
  return std::move(*result);
}

}  // namespace agro
