// etcd when things go wrong, with real processes: members killed, frozen and restarted, busy loops,
// TLS and passwords.
#include <signal.h>

#include <ctime>
#include <fstream>

#include "metadata/etcd/etcd_testing.hpp"
#include "metadata/keys.hpp"
#include "metadata/lease.hpp"
#include "metadata/metadata.hpp"
#include "metadata/open.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class EtcdFailureTest : public ::testing::Test {
 protected:
  void start(EtcdServerOptions wanted) {
    server = std::make_unique<EtcdServer>(std::move(wanted));
    EtcdOptions options = etcd_options(*server);
    kv = test.must(open_etcd_kv(test.env, options));
    ASSERT_NE(kv, nullptr);
  }
  void TearDown() override {
    if (kv != nullptr) test.must(kv->close());
  }
  void put(std::string key, std::string value, std::uint64_t lease = 0) {
    std::vector<KvOp> ops = {keys::put(std::move(key), std::move(value), lease)};
    test.must(kv->transact({}, std::move(ops)));
  }
  std::string value(std::string key) {
    const auto entry = test.must(kv->get(std::move(key)));
    return entry ? entry->value : "(none)";
  }
  std::uint64_t revision() { return test.must(kv->list("/")).revision; }
  /// "key=value " of the next events.
  std::string next(KvWatch& watch) {
    std::string text;
    for (const KvEvent& event : test.must(watch.next())) {
      text += event.entry.key + "=" + event.entry.value + " ";
    }
    return text;
  }
  /// The text of why `uri` cannot be opened.
  std::string refusal(const std::string& uri) {
    const auto opened = test.run(open_kv(test.env, uri, false));
    return opened.has_value() ? "(it opened)" : opened.error().message;
  }

  RealTestEnv test;
  std::unique_ptr<EtcdServer> server;
  std::unique_ptr<Kv> kv;
};

Job create_volumes(Metadata& metadata, std::string prefix, int count, int* created) {
  for (int index = 0; index < count; ++index) {
    NewVolume wanted{
        .name = prefix + std::to_string(index), .size = 4096, .block_spec = "", .replication = 0};
    const auto made = co_await metadata.create_volume(std::move(wanted));
    if (!made.has_value()) {
      ADD_FAILURE() << made.error().to_string();
      co_return;
    }
    ++*created;
  }
}

// Goal: while the leader of three dies, calls go on, no transaction is lost or done twice, and a
// watch misses nothing. Method: volumes are made the whole time; each gets an id of its own.
TEST_F(EtcdFailureTest, LeaderDies) {
  start({.member_count = 3, .scheme = "http", .arguments = {}});
  Metadata metadata(test.env, *kv);
  ClusterRecord cluster;
  cluster.block_spec = "base";
  RingSpec ring;
  ring.version = 1;
  test.must(metadata.init_cluster(cluster, ring));
  const auto watch = test.must(kv->watch(std::string(keys::kVolumes), revision()));
  int created = 0;
  TaskGroup jobs(test.env.executor);
  jobs.spawn(create_volumes(metadata, "a", 100, &created));
  jobs.spawn(create_volumes(metadata, "b", 100, &created));
  ASSERT_TRUE(test.sim.run_until([&] { return created >= 20; }));
  server->process(server->leader()).kill();
  const TimePoint killed = test.sim.clock().now();
  const int before = created;
  ASSERT_TRUE(test.sim.run_until([&] { return created > before; }));
  const auto stalled = std::chrono::duration_cast<milliseconds>(test.sim.clock().now() - killed);
  RecordProperty("stalled_ms", static_cast<int>(stalled.count()));
  ASSERT_TRUE(test.sim.run_until([&] { return jobs.count() == 0; }));
  EXPECT_EQ(created, 200);
  std::set<std::uint64_t> ids;
  for (const VolumeRecord& volume : test.must(metadata.list_volumes())) ids.insert(volume.id.value);
  EXPECT_EQ(ids.size(), 200U);
  EXPECT_EQ(*ids.rbegin(), 200U);
  std::size_t seen = 0;
  while (seen < 200) {
    const auto events = test.must(watch->next());
    ASSERT_FALSE(events.empty());
    seen += events.size();
  }
  EXPECT_EQ(seen, 200U);
}

// Goal: a member that is up and silent is passed over.
TEST_F(EtcdFailureTest, MemberFreezes) {
  start({.member_count = 3, .scheme = "http", .arguments = {}});
  put("/a", "1");
  const unsigned leader = server->leader();
  server->process(0).signal(SIGSTOP);  // the one that is asked first
  if (leader == 0) {
    // The others elect one first; whether this was done is then not known.
    std::vector<KvOp> ops = {keys::put("/b", "2")};
    const auto done = test.run(kv->transact({}, std::move(ops)));
    EXPECT_TRUE(done.has_value() || done.code() == Errc::outcome_unknown);
  }
  EXPECT_EQ(value("/a"), "1");
  put("/a", "2");
  EXPECT_EQ(value("/a"), "2");
  server->process(0).signal(SIGCONT);
}

// Goal: members without a majority say so, and all goes on when it is back.
TEST_F(EtcdFailureTest, NoMajority) {
  start({.member_count = 3, .scheme = "http", .arguments = {}});
  put("/a", "1");
  test.must(kv->close());
  EtcdOptions options = etcd_options(*server);
  options.attempt_timeout = milliseconds(1000);
  options.call_timeout = milliseconds(4000);
  kv = test.must(open_etcd_kv(test.env, options));
  server->process(0).kill();
  server->process(1).kill();
  const auto answer = test.run(kv->get("/a"));
  EXPECT_TRUE(answer.code() == Errc::unavailable || answer.code() == Errc::timed_out)
      << static_cast<int>(answer.code());
  server->start(0);
  ASSERT_TRUE(server->leader() < 3);
  EXPECT_EQ(value("/a"), "1");
}

// Goal: compaction disturbs no watch that is up to date, nor a list.
TEST_F(EtcdFailureTest, CompactionUnderAWatch) {
  start({});
  put("/w/1", "a");
  const auto watch = test.must(kv->watch("/w/", revision()));
  put("/w/2", "b");
  EXPECT_EQ(next(*watch), "/w/2=b ");
  for (int round = 0; round < 3; ++round) put("/elsewhere", "x");
  server->etcdctl("compact " + std::to_string(revision()));
  put("/w/3", "c");
  EXPECT_EQ(next(*watch), "/w/3=c ");
  EXPECT_EQ(test.must(kv->list("/w/")).entries.size(), 3U);
}

// Goal: after a restart of etcd a watch goes on where it was, and a lease is still held.
TEST_F(EtcdFailureTest, RestartUnderWatchAndLease) {
  start({});
  std::unique_ptr<Lease> lease = test.must(Lease::grant(test.env, *kv, seconds(10)));
  put("/l", "held", lease->id());
  const auto watch = test.must(kv->watch("/w/", revision()));
  put("/w/1", "a");
  EXPECT_EQ(next(*watch), "/w/1=a ");
  server->process(0).kill();
  test.sim.run_for(seconds(1));
  server->start(0);
  put("/w/2", "b");
  EXPECT_EQ(next(*watch), "/w/2=b ");
  const TimePoint until = lease->valid_until();
  ASSERT_TRUE(test.sim.run_until([&] { return lease->valid_until() > until; }, seconds(20)));
  EXPECT_TRUE(lease->valid(test.sim.clock().now()));
  EXPECT_FALSE(lease->lost());
  EXPECT_EQ(value("/l"), "held");
  EXPECT_TRUE(test.sim.run_job(lease->stop()));
  EXPECT_EQ(value("/l"), "(none)");
}

// Goal: a lease is kept while the loop is busy for longer than its ttl. Method: the loop does not
// run; meanwhile somebody else asks etcd.
TEST_F(EtcdFailureTest, LeaseOutlivesABusyLoop) {
  start({});
  std::unique_ptr<Lease> lease = test.must(Lease::grant(test.env, *kv, seconds(3)));
  put("/l", "held", lease->id());
  const TimePoint busy_until = test.sim.clock().now() + seconds(5);
  while (test.sim.clock().now() < busy_until) server->etcdctl("endpoint health");
  EXPECT_TRUE(lease->valid(test.sim.clock().now()));
  EXPECT_NE(server->etcdctl("get --prefix /test").find("held"), std::string::npos);
  EXPECT_TRUE(test.sim.run_job(lease->stop()));
  EXPECT_TRUE(lease->lost());
}

// Goal: a loop that is silent for too long loses its lease, and is told when it goes on.
TEST_F(EtcdFailureTest, LeaseOfASilentLoopEnds) {
  start({});
  std::unique_ptr<Lease> lease = test.must(Lease::grant(test.env, *kv, seconds(1)));
  put("/l", "held", lease->id());
  const TimePoint limit = test.sim.clock().now() + seconds(30);
  while (server->etcdctl("get --prefix /test").find("held") != std::string::npos) {
    ASSERT_LT(test.sim.clock().now(), limit);
  }
  EXPECT_TRUE(test.sim.run_until([&] { return lease->lost(); }, seconds(10)));
  EXPECT_TRUE(test.sim.run_job(lease->stop()));
}

// Goal: a lease revoked by somebody else is reported lost; while its holder still has it nothing keeps
// the machine busy, and others are granted and renewed.
TEST_F(EtcdFailureTest, LeaseIsLost) {
  start({});
  std::unique_ptr<Lease> lease = test.must(Lease::grant(test.env, *kv, seconds(3)));
  test.must(kv->revoke_lease(lease->id()));
  EXPECT_TRUE(test.sim.run_until([&] { return lease->lost(); }, seconds(10)));
  EXPECT_FALSE(lease->valid(test.sim.clock().now()));
  std::unique_ptr<Lease> other = test.must(Lease::grant(test.env, *kv, seconds(3)));
  const std::clock_t cpu_before = std::clock();
  test.sim.run_for(seconds(4));
  EXPECT_LT(std::clock() - cpu_before, 2 * CLOCKS_PER_SEC);
  EXPECT_TRUE(other->valid(test.sim.clock().now()));
  EXPECT_TRUE(test.sim.run_job(other->stop()));
  EXPECT_TRUE(test.sim.run_job(lease->stop()));
}

/// Certificates made by openssl: an authority, one for etcd at 127.0.0.1 and one for a client; and
/// an authority that signed neither.
void make_certificates(const TestDirectory& directory) {
  std::ofstream(directory / "make.sh") << R"sh(set -e
cd "$(dirname "$0")"
for ca in ca other; do
  openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj "/CN=$ca" -keyout $ca.key -out $ca.crt
done
for name in server client; do
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout $name.key -out $name.csr
  printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' > $name.ext
  openssl x509 -req -days 1 -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
    -extfile $name.ext -out $name.crt
done
)sh";
  const std::string command = "sh " + (directory / "make.sh") + " > " + (directory / "log") + " 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0) << "openssl";
}

// Goal: with the right certificates it opens, with wrong or no ones it says so in one line.
TEST_F(EtcdFailureTest, ClientCertificates) {
  const TestDirectory directory;
  make_certificates(directory);
  if (HasFailure()) return;
  server = std::make_unique<EtcdServer>(EtcdServerOptions{
      .member_count = 1,
      .scheme = "https",
      .arguments = {"--cert-file", directory / "server.crt", "--key-file", directory / "server.key",
                    "--trusted-ca-file", directory / "ca.crt", "--client-cert-auth"}});
  const std::string at = "etcds://" + server->endpoints()[0] + "/p?ca=" + (directory / "ca.crt");
  const std::string ours =
      "&cert=" + (directory / "client.crt") + "&key=" + (directory / "client.key");
  kv = test.must(open_kv(test.env, at + ours, false));
  ASSERT_NE(kv, nullptr);
  put("/a", "secret");
  EXPECT_EQ(value("/a"), "secret");
  const std::string no_certificate = refusal(at);
  EXPECT_NE(no_certificate.find("certificate"), std::string::npos) << no_certificate;
  const std::string wrong_authority =
      refusal("etcds://" + server->endpoints()[0] + "?ca=" + (directory / "other.crt") + ours);
  EXPECT_NE(wrong_authority.find("TLS"), std::string::npos) << wrong_authority;
  const std::string plain = refusal("etcd://" + server->endpoints()[0]);
  EXPECT_NE(plain.find(server->endpoints()[0]), std::string::npos) << plain;
  EXPECT_NE(refusal(at + "&cert=/none&key=/none").find("certificate of etcd"), std::string::npos);
}

// Goal: user and password are taken, wrong ones refused in one line, rights are respected, and a
// token that etcd forgot (a restart) is replaced.
TEST_F(EtcdFailureTest, UserAndPassword) {
  start({});
  for (const char* command :
       {"user add root:rootword", "user grant-role root root", "user add agro:good",
        "role add agro", "role grant-permission agro --prefix=true readwrite /ours",
        "user grant-role agro agro", "auth enable"}) {
    server->etcdctl(command);
  }
  const TestDirectory directory;
  std::ofstream(directory / "good") << "good\n";
  std::ofstream(directory / "bad") << "bad\n";
  const std::string at = "etcd://" + server->endpoints()[0];
  const std::string user = "?user=agro&password-file=";
  test.must(kv->close());
  kv = test.must(open_kv(test.env, at + "/ours" + user + (directory / "good"), false));
  ASSERT_NE(kv, nullptr);
  const auto watch = test.must(kv->watch("/", 0));
  put("/a", "1");
  EXPECT_EQ(next(*watch), "/a=1 ");
  EXPECT_NE(refusal(at + "/ours" + user + (directory / "bad")).find("refuses this user"),
            std::string::npos);
  EXPECT_NE(refusal(at + "/ours").find("wants a user and a password"), std::string::npos);
  EXPECT_NE(refusal(at + "/theirs" + user + (directory / "good")).find("may not"),
            std::string::npos);
  EXPECT_NE(refusal(at + "/ours?user=agro").find("needs a password"), std::string::npos);
  const std::uint64_t lease = test.must(kv->grant_lease(seconds(60)));
  server->process(0).kill();
  server->start(0);
  // A write over the connection that died would rightly have an unknown outcome: a read finds it dead.
  test.must(kv->get("/a"));
  put("/b", "2");
  EXPECT_EQ(next(*watch), "/b=2 ");
  test.must(kv->keep_alive(lease));
}

// Goal: when nobody answers, the error names where.
TEST_F(EtcdFailureTest, NobodyAnswers) {
  EtcdOptions options;
  options.endpoints = {"127.0.0.1:1", "127.0.0.1:2"};
  options.call_timeout = milliseconds(1000);
  const auto opened = test.run(open_etcd_kv(test.env, options));
  EXPECT_EQ(opened.code(), Errc::unavailable);
  const std::string& text = opened.error().message;
  EXPECT_NE(text.find("no etcd answers at 127.0.0.1:"), std::string::npos) << text;
  EXPECT_NE(text.find("127.0.0.1:1, 127.0.0.1:2"), std::string::npos) << text;
}

}  // namespace
}  // namespace agro
