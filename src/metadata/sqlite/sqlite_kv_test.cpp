#include "metadata/sqlite/sqlite_kv.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "metadata/kv_conformance.hpp"
#include "metadata/open.hpp"
#include "metadata/sqlite/sqlite_store.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;

INSTANTIATE_TYPED_TEST_SUITE_P(Sqlite, KvConformance, SqliteBackend);

/// The file with nothing but agro's tables, opened directly.
std::unique_ptr<SqliteStore> must_open(const std::string& path, bool create = true) {
  auto store = SqliteStore::open(path, create, std::make_shared<SystemProcesses>());
  if (!store.has_value()) {
    ADD_FAILURE() << store.error().to_string();
    return nullptr;
  }
  return std::move(*store);
}

Error open_error(const std::string& path, bool create = false) {
  const auto store = SqliteStore::open(path, create, std::make_shared<SystemProcesses>());
  return store.has_value() ? Error{Errc::ok, "it opened"} : store.error();
}

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}
void write_all(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

/// A forked child; `body` returns whether all went well. It works on files of its own opening only.
class Child {
 public:
  template <class Body>
  explicit Child(Body body) : pid_(::fork()) {
    if (pid_ == 0) ::_exit(body() ? 0 : 1);
  }
  pid_t pid() const { return pid_; }
  /// Returns once it has ended, and leaves it a zombie.
  void wait_for_end() const {
    siginfo_t info;
    EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT), 0);
  }
  /// Whether `body` returned true.
  bool join() const {
    int status = -1;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  pid_t pid_;
};

std::string value_of(SqliteStore& store, const std::string& key) {
  const auto entry = store.get(key, 0);
  if (!entry.has_value()) return entry.error().to_string();
  return *entry ? (*entry)->value : "(none)";
}

bool put(SqliteStore& store, const std::string& key, const std::string& value,
         std::uint64_t lease = 0) {
  const auto result = store.transact({}, {keys::put(key, value, lease)}, 0);
  return result.has_value() && result->committed;
}

// Goal: contents, revisions and lease numbers outlive the process. Method: reopen.
TEST(SqliteKvTest, Reopens) {
  const TestDirectory directory;
  const std::string path = directory / "meta.db";
  auto store = must_open(path);
  ASSERT_TRUE(put(*store, "/a", "1"));
  const auto lease = store->grant_lease(milliseconds(1000), 0);
  store.reset();
  store = must_open(path, false);
  EXPECT_EQ(value_of(*store, "/a"), "1");
  EXPECT_EQ(store->list("", 0)->revision, 1U);
  EXPECT_EQ(store->grant_lease(milliseconds(1000), 0), *lease + 1);
}

// Goal: a missing file says what to do, and is not made by looking.
TEST(SqliteKvTest, MissingFile) {
  const TestDirectory directory;
  const std::string path = directory / "meta.db";
  EXPECT_EQ(open_error(path).code, Errc::not_found);
  EXPECT_NE(open_error(path).message.find("agroctl -C sqlite:" + path + " init"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path));
  write_all(path, "");
  EXPECT_EQ(open_error(path).code, Errc::not_found);
  EXPECT_EQ(std::filesystem::file_size(path), 0U);
  EXPECT_NE(must_open(path), nullptr);
  EXPECT_EQ(open_error(directory / "no/such/meta.db", true).code, Errc::io_error);
}

// Goal: a damaged file is refused at opening. Method: garbage, truncations, a wiped page.
TEST(SqliteKvTest, DamagedFile) {
  const TestDirectory directory;
  const std::string path = directory / "meta.db";
  auto store = must_open(path);
  for (int index = 0; index < 200; ++index) {
    ASSERT_TRUE(put(*store, "/key/" + std::to_string(index), std::string(200, 'x')));
  }
  store.reset();
  const std::string good = read_all(path);
  ASSERT_GT(good.size(), 20 * 4096U);
  EXPECT_EQ(open_error(path).code, Errc::ok);
  std::string wiped = good;
  wiped.replace(4096, 4096, std::string(4096, '\0'));
  std::string header = good;
  header[5] = 'X';
  const std::vector<std::pair<const char*, std::string>> cases = {
      {"text", "this is no database, whatever its name says\n" + std::string(2000, 'x')},
      {"half", good.substr(0, good.size() / 2)},
      {"one page", good.substr(0, 4096)},
      {"header", header},
      {"wiped page", wiped},
      {"short", good.substr(0, 50)}};
  for (const auto& [name, bytes] : cases) {
    SCOPED_TRACE(name);
    for (const bool create : {false, true}) {
      write_all(path, bytes);
      const Error error = open_error(path, create);
      EXPECT_EQ(error.code, Errc::corrupt) << error.message;
      EXPECT_NE(error.message.find(path), std::string::npos) << error.message;
      EXPECT_EQ(error.message.find('\n'), std::string::npos) << error.message;
      EXPECT_EQ(read_all(path), bytes);
    }
  }
}

// Goal: files of others and of later versions are refused and left alone.
TEST(SqliteKvTest, ForeignFile) {
  const TestDirectory directory;
  for (const auto& [sql, text] :
       {std::pair{"CREATE TABLE photos(id)", "another application"},
        {"PRAGMA application_id = 77", "another application"},
        {"PRAGMA application_id = 1095193167; PRAGMA user_version = 2", "format 2"}}) {
    const std::string path = directory / "foreign.db";
    std::filesystem::remove(path);
    {
      auto database = Database::open(path, Database::Mode::create);
      ASSERT_TRUE((*database)->execute(sql).has_value());
    }
    const std::string before = read_all(path);
    for (const bool create : {false, true}) {
      const Error error = open_error(path, create);
      EXPECT_EQ(error.code, Errc::not_supported);
      EXPECT_NE(error.message.find(text), std::string::npos) << error.message;
    }
    EXPECT_EQ(read_all(path), before);
  }
}

// Goal: a process is recognised, by all four of its marks.
TEST(SqliteKvTest, ProcessIdentity) {
  SystemProcesses processes;
  const ProcessIdentity self = *processes.self();
  EXPECT_EQ(self.pid, ::getpid());
  EXPECT_FALSE(processes.surely_gone(self));
  ProcessIdentity reused = self;
  reused.start_time -= 1;
  EXPECT_TRUE(processes.surely_gone(reused));
  ProcessIdentity rebooted = self;
  rebooted.boot_id = "another";
  EXPECT_TRUE(processes.surely_gone(rebooted));
  ProcessIdentity container = reused;
  container.pid_namespace = "pid:[1]";
  EXPECT_FALSE(processes.surely_gone(container));
  const Child child([] { return true; });
  child.wait_for_end();
  ProcessIdentity ended = self;
  ended.pid = child.pid();
  EXPECT_TRUE(processes.surely_gone(ended));
  EXPECT_TRUE(child.join());
}

// Goal: after kill -9 a lease is over at once, whatever its ttl, even while the child is a zombie;
// while it lives it holds. Method: a real process, told by a pipe.
TEST(SqliteKvTest, LeaseEndsWithItsProcess) {
  const TestDirectory directory;
  const std::string path = directory / "meta.db";
  must_open(path).reset();
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const Child child([&] {
    const auto store = must_open(path, false);
    const auto lease = store->grant_lease(std::chrono::hours(1), 0);
    const bool good = lease.has_value() && put(*store, "/lock", "child", *lease);
    if (!good || ::write(ready[1], "r", 1) != 1) return false;
    while (true) ::pause();
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const auto store = must_open(path, false);
  EXPECT_EQ(value_of(*store, "/lock"), "child");
  ::kill(child.pid(), SIGKILL);
  child.wait_for_end();
  EXPECT_EQ(value_of(*store, "/lock"), "(none)");
  EXPECT_FALSE(child.join());
  EXPECT_EQ(store->list("", 0)->revision, 2U);  // the end is a revision, for watchers
  ::close(ready[0]);
  ::close(ready[1]);
}

bool increment(SqliteStore& store, int times) {
  while (times > 0) {
    const auto entry = store.get("/counter", 0);
    if (!entry.has_value()) return false;
    const int old = *entry ? std::stoi((*entry)->value) : 0;
    const auto result =
        store.transact({*entry ? keys::unchanged(**entry) : keys::absent("/counter")},
                       {keys::put("/counter", std::to_string(old + 1))}, 0);
    if (!result.has_value()) return false;
    if (result->committed) --times;
  }
  return true;
}

// Goal: processes that create and change one file at the same time lose no update.
TEST(SqliteKvTest, ProcessesLoseNoUpdate) {
  const TestDirectory directory;
  const std::string path = directory / "meta.db";
  constexpr int kTimes = 150;
  const auto work = [&] {
    auto store = SqliteStore::open(path, true, std::make_shared<SystemProcesses>());
    if (!store.has_value()) std::fprintf(stderr, "%s\n", store.error().to_string().c_str());
    return store.has_value() && increment(**store, kTimes);
  };
  {
    const Child first(work);
    const Child second(work);
    const Child third(work);
    EXPECT_TRUE(first.join());
    EXPECT_TRUE(second.join());
    EXPECT_TRUE(third.join());
  }
  const auto store = must_open(path, false);
  EXPECT_EQ(value_of(*store, "/counter"), std::to_string(3 * kTimes));
  EXPECT_EQ(store->list("", 0)->revision, 3U * kTimes);
}

// Goal: watchers learn of a process's end without anybody writing. Method: the fake process goes.
TEST(SqliteKvTest, WatchSeesTheEndOfAProcess) {
  SqliteBackend backend;
  const auto kv = backend.connect();     // pid 1
  const auto other = backend.connect();  // pid 2
  const std::uint64_t lease = backend.test.must(other->grant_lease(std::chrono::hours(1)));
  std::vector<KvOp> ops = {keys::put("/alive", "", lease)};
  const auto put = backend.test.must(other->transact({}, std::move(ops)));
  const auto watch = backend.test.must(kv->watch("/", put.revision));
  backend.test.sim.run_for(std::chrono::seconds(5));
  backend.processes->gone.insert(2);
  const TimePoint before = backend.test.sim.clock().now();
  const auto events = backend.test.must(watch->next());
  ASSERT_EQ(events.size(), 1U);
  EXPECT_TRUE(events[0].removed);
  EXPECT_EQ(events[0].entry.key, "/alive");
  EXPECT_LE(backend.test.sim.clock().now() - before, std::chrono::milliseconds(1200));
  EXPECT_EQ(backend.test.run(other->keep_alive(lease)).code(), Errc::not_found);
  backend.test.must(kv->close());
  backend.test.must(other->close());
}

// Goal: nothing is polled when nobody watches, and a watch that went stops it. Method: timers left.
TEST(SqliteKvTest, PollsOnlyForWatches) {
  SqliteBackend backend;
  const auto kv = backend.connect();
  EXPECT_FALSE(backend.test.sim.clock().has_timers());
  auto watch = backend.test.must(kv->watch("/", 0));
  backend.test.sim.poll();
  EXPECT_TRUE(backend.test.sim.clock().has_timers());
  watch.reset();
  backend.test.sim.run_for(std::chrono::seconds(1));
  EXPECT_FALSE(backend.test.sim.clock().has_timers());
  backend.test.must(kv->close());
}

// Goal: URIs open what they name, and wrong ones say what is right.
TEST(OpenKvTest, Uris) {
  TestEnv test;
  const TestDirectory directory;
  const std::string uri = "sqlite:" + (directory / "new/deep/meta.db");
  EXPECT_EQ(test.run(open_kv(test.env, uri, false)).code(), Errc::not_found);
  for (const std::string& good : {uri, std::string("temp:")}) {
    const auto kv = test.must(open_kv(test.env, good, true));
    ASSERT_NE(kv, nullptr);
    EXPECT_EQ(test.must(kv->list("")).revision, 0U);
    test.must(kv->close());
  }
  for (const auto& [bad, code] : {std::pair{"sqlite:", Errc::invalid_argument},
                                  {"etcd://", Errc::invalid_argument},
                                  {"", Errc::invalid_argument},
                                  {"/some/path", Errc::invalid_argument}}) {
    EXPECT_EQ(test.run(open_kv(test.env, bad, true)).code(), code) << bad;
  }
}

}  // namespace
}  // namespace agro
