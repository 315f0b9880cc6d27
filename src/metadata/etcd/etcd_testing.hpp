// A real etcd for tests: its processes, and a loop in real time that tests use as they use SimLoop.
//
// Each etcd has free ports of the loopback address and a directory of its own, which go with it;
// it dies with the test's process. Nothing here touches an etcd that the system runs.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/executor_work_guard.hpp>
#include <memory>
#include <string>
#include <vector>

#include "metadata/etcd/etcd_kv.hpp"
#include "metadata/test_support.hpp"

namespace agro {

/// SimLoop's interface in real time.
class RealLoop {
 public:
  static constexpr Duration kLimit = std::chrono::seconds(60);

  asio::io_context& loop() { return loop_; }
  Executor executor() { return loop_.get_executor(); }
  SystemClock& clock() { return clock_; }

  void poll() {
    loop_.restart();
    loop_.poll();
  }
  bool run_until(const std::function<bool()>& done, Duration limit = kLimit) {
    const TimePoint deadline = clock_.now() + std::min(limit, kLimit);
    while (true) {
      poll();
      if (done()) return true;
      if (clock_.now() > deadline) return false;
      loop_.restart();
      loop_.run_one_for(std::chrono::milliseconds(20));
    }
  }
  /// A sixth longer than asked: etcd looks for ended leases twice a second.
  void run_for(Duration duration) {
    run_until([] { return false; }, duration + duration / 6);
  }
  template <class T>
  Result<T> run(Task<T> task, Duration limit = kLimit) {
    auto result = std::make_shared<std::optional<Result<T>>>();
    spawn(executor(), store_result<T>(std::move(task), result));
    if (!run_until([&] { return result->has_value(); }, limit)) {
      return fail(Errc::timed_out, "the task did not end in time");
    }
    return std::move(**result);
  }
  bool run_job(Job job, Duration limit = kLimit) {
    auto done = std::make_shared<bool>(false);
    spawn(executor(), note_end(std::move(job), done));
    return run_until([&] { return *done; }, limit);
  }

 private:
  template <class T>
  static Job store_result(Task<T> task, std::shared_ptr<std::optional<Result<T>>> out) {
    Result<T> result = co_await std::move(task);
    out->emplace(std::move(result));
  }
  static Job note_end(Job job, std::shared_ptr<bool> done) {
    co_await std::move(job);
    *done = true;
  }

  asio::io_context loop_{1};
  asio::executor_work_guard<Executor> work_{loop_.get_executor()};
  SystemClock clock_{loop_};
};

using RealTestEnv = BasicTestEnv<RealLoop>;

/// A process of the test's; killed when it goes.
class ChildProcess {
 public:
  ChildProcess() = default;
  ~ChildProcess() { kill(); }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  /// Shape: not running. Its output goes to `log`.
  void start(const std::vector<std::string>& arguments, const std::string& log);
  /// SIGKILL, and waits for the end.
  void kill();
  /// SIGSTOP has stopped it when this returns.
  void signal(int number) const;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

/// A file of `contents` with arguments for each member; TLS and the like.
struct EtcdServerOptions {
  unsigned member_count = 1;
  std::string scheme = "http";
  std::vector<std::string> arguments;
};

/// An etcd of one or more members, started at construction.
class EtcdServer {
 public:
  explicit EtcdServer(EtcdServerOptions options = {});
  ~EtcdServer();

  std::vector<std::string> endpoints() const;
  unsigned member_count() const { return static_cast<unsigned>(members_.size()); }
  ChildProcess& process(unsigned member) { return members_[member]->process; }
  void start(unsigned member);
  /// Number of the member that leads; waits for one. 0 and a test failure when there is none.
  unsigned leader();
  /// Runs etcdctl at `member`; a test failure when it fails. Returns its output.
  std::string etcdctl(const std::string& arguments, unsigned member = 0);
  /// The same, told whether it worked.
  bool try_etcdctl(const std::string& arguments, std::string& output, unsigned member = 0);
  std::string path(const std::string& name) const { return directory_ / name; }

 private:
  struct Member {
    std::string name;
    std::uint16_t client_port = 0;
    std::uint16_t peer_port = 0;
    ChildProcess process;
  };
  TestDirectory directory_;
  EtcdServerOptions options_;
  std::vector<std::unique_ptr<Member>> members_;
};

/// Options for `server`'s members, patient enough for its start.
EtcdOptions etcd_options(const EtcdServer& server);

/// What the suites are run over.
class EtcdBackend {
 public:
  RealTestEnv test;
  EtcdServer server;
  EtcdOptions options = etcd_options(server);

  std::unique_ptr<Kv> connect() { return test.must(open_etcd_kv(test.env, options)); }
  void forget_history(std::uint64_t revision) {
    server.etcdctl("compact " + std::to_string(revision));
  }
};

}  // namespace agro
