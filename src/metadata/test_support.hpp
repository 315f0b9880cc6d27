// What the tests of this package stand on: an Env on simulated time, and the stores to run over.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/env.hpp"
#include "metadata/kv.hpp"
#include "metadata/sqlite/sqlite_kv.hpp"
#include "metadata/temp/temp_kv.hpp"
#include "sim/sim_loop.hpp"

namespace agro {

/// Only make_directories() and read_file() work; no test here needs more.
class DirectoriesOnlyDisk final : public Disk {
 public:
  Task<std::unique_ptr<File>> open(std::string, OpenOptions) override { co_return none(); }
  Task<void> make_directories(std::string path) override {
    std::error_code problem;
    std::filesystem::create_directories(path, problem);
    if (problem) co_return fail(errno_error(path, problem.value()));
    co_return Result<void>();
  }
  Task<std::vector<std::string>> list(std::string) override { co_return none(); }
  Task<void> remove(std::string) override { co_return none(); }
  Task<std::string> read_file(std::string path) override {
    std::ifstream file(path);
    if (!file) co_return fail(Errc::not_found, "open " + path + ": No such file or directory");
    co_return std::string(std::istreambuf_iterator<char>(file), {});
  }
  Task<void> write_file(std::string, std::string) override { co_return none(); }
  Task<std::uint64_t> free_space(std::string) override { co_return none(); }

 private:
  static tl::unexpected<Error> none() { return fail(Errc::not_supported, "no such disk"); }
};

class NoNetwork final : public Network {
 public:
  Task<std::unique_ptr<Stream>> connect(Address, TimePoint) override { co_return none(); }
  Task<std::unique_ptr<Listener>> listen(Address) override { co_return none(); }

 private:
  static tl::unexpected<Error> none() { return fail(Errc::not_supported, "no such network"); }
};

/// An Env over `Loop`: simulated time, or real time for stores that are processes of their own.
template <class Loop>
class BasicTestEnv {
 public:
  Loop sim;
  Random random{1};
  DirectoriesOnlyDisk disk;
  NoNetwork network;
  InlineOffload offload{sim.executor()};
  Metrics metrics;
  Env env{sim.executor(), sim.clock(), random, disk, network, offload, metrics};

  template <class T>
  Result<T> run(Task<T> task) {
    return sim.run(std::move(task), std::chrono::minutes(10));
  }
  /// The value, or a test failure and a default one.
  template <class T>
  T must(Task<T> task) {
    Result<T> result = run(std::move(task));
    if (!result.has_value()) {
      ADD_FAILURE() << result.error().to_string();
      return T();
    }
    return std::move(*result);
  }
  void must(Task<void> task) {
    const Result<void> result = run(std::move(task));
    if (!result.has_value()) ADD_FAILURE() << result.error().to_string();
  }
};
using TestEnv = BasicTestEnv<SimLoop>;

/// A directory that goes with the test.
class TestDirectory {
 public:
  explicit TestDirectory(const std::string& in = ::testing::TempDir()) {
    std::string path = in + "/agro_metadata_XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << path;
    path_ = path;
  }
  ~TestDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// Processes that are gone when told. Each client is one of its own, pid 1, 2, ...
class FakeProcesses final : public Processes {
 public:
  struct World {
    std::int64_t next_pid = 1;
    std::set<std::int64_t> gone;
  };
  explicit FakeProcesses(std::shared_ptr<World> world)
      : world_(std::move(world)), pid_(world_->next_pid++) {}
  Result<ProcessIdentity> self() override {
    return ProcessIdentity{.pid = pid_, .start_time = 1, .boot_id = "boot", .pid_namespace = "ns"};
  }
  bool surely_gone(const ProcessIdentity& process) override {
    return world_->gone.contains(process.pid);
  }

 private:
  std::shared_ptr<World> world_;
  std::int64_t pid_;
};

/// Short, so that tests can fall behind it.
inline constexpr std::size_t kTestHistoryCount = 200;

/// One store and any number of clients; what the suites are run over.
class TempBackend {
 public:
  TestEnv test;
  std::unique_ptr<Kv> connect() { return store_.connect(); }
  /// Forgets changes up to `revision`, where the store does not by itself.
  void forget_history(std::uint64_t /*revision*/) {}

 private:
  TempKvStore store_{test.sim.clock(), kTestHistoryCount};
};

class SqliteBackend {
 public:
  TestEnv test;
  std::shared_ptr<FakeProcesses::World> processes = std::make_shared<FakeProcesses::World>();

  std::string path() const { return directory_ / "meta.db"; }
  /// A client as a process of its own would be.
  std::unique_ptr<Kv> connect() {
    SqliteKvOptions options;
    options.path = path();
    options.create = true;
    options.history_count = kTestHistoryCount;
    options.processes = std::make_shared<FakeProcesses>(processes);
    return test.must(open_sqlite_kv(test.env, std::move(options)));
  }
  void forget_history(std::uint64_t /*revision*/) {}

 private:
  TestDirectory directory_;
};

}  // namespace agro
