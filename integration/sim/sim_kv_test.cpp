// The connection to the metadata store fails as told, and only so.
#include "sim_kv.hpp"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "metadata/temp/temp_kv.hpp"
#include "sim/sim_loop.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kAlways = 1'000'000;

class SimKvTest : public ::testing::Test {
 protected:
  Result<KvTxnResult> put(const std::string& key) { return put(kv_, key); }
  Result<KvTxnResult> put(Kv& kv, const std::string& key) {
    std::vector<KvOp> ops{{.kind = KvOp::Kind::put, .key = key, .value = "1", .lease = 0}};
    return sim_.run(kv.transact({}, std::move(ops)));
  }
  /// As a connection without faults sees it.
  bool present(const std::string& key) { return sim_.run(truth_->get(key)).value().has_value(); }

  SimLoop sim_;
  TempKvStore store_{sim_.clock()};
  std::unique_ptr<Kv> truth_ = store_.connect();
  SimKv kv_{store_.connect(), sim_.clock(), Random(1)};
};

// Goal: each fault gives the errors that kv.hpp allows, and does or does not what it says.
TEST_F(SimKvTest, EachFaultAlone) {
  struct Case {
    const char* name;
    SimKvFaults faults;
    std::vector<Errc> transaction;
    std::vector<Errc> get;
    bool done;
  };
  for (const Case& each : {
           Case{"none", {}, {Errc::ok}, {Errc::ok}, true},
           Case{"slow", {.latency_min = seconds(1), .latency_max = seconds(2)}, {Errc::ok}, {Errc::ok}, true},
           Case{"down", {.down = true}, {Errc::unavailable}, {Errc::unavailable}, false},
           Case{"refused", {.refuse_ppm = kAlways}, {Errc::unavailable, Errc::timed_out},
                {Errc::unavailable, Errc::timed_out}, false},
           Case{"question lost", {.lose_question_ppm = kAlways}, {Errc::outcome_unknown}, {Errc::timed_out}, false},
           Case{"answer lost", {.lose_answer_ppm = kAlways}, {Errc::outcome_unknown}, {Errc::timed_out}, true},
       }) {
    SCOPED_TRACE(each.name);
    kv_.set_faults(each.faults);
    std::set<Errc> transactions;
    std::set<Errc> gets;
    for (int round = 0; round < 16; ++round) {
      transactions.insert(put(std::string(each.name) + std::to_string(round)).code());
      gets.insert(sim_.run(kv_.get("a")).code());
      EXPECT_EQ(present(std::string(each.name) + std::to_string(round)), each.done);
    }
    EXPECT_EQ(transactions, std::set<Errc>(each.transaction.begin(), each.transaction.end()));
    EXPECT_EQ(gets, std::set<Errc>(each.get.begin(), each.get.end()));
  }
  EXPECT_EQ(kv_.counts().lost_answers, 32U);
}

// Goal: without faults no time passes; with a latency it does, half of it before the store sees the
// call.
TEST_F(SimKvTest, Latency) {
  const TimePoint start = sim_.clock().now();
  ASSERT_TRUE(put("a"));
  EXPECT_EQ(sim_.clock().now(), start);
  kv_.set_faults({.latency_min = milliseconds(10), .latency_max = milliseconds(10)});
  ASSERT_TRUE(put("b"));
  EXPECT_EQ(sim_.clock().now(), start + milliseconds(10));
}

Job put_and_tell(SimKv& kv, std::string key, std::shared_ptr<Errc> told) {
  std::vector<KvOp> ops{{.kind = KvOp::Kind::put, .key = std::move(key), .value = "1", .lease = 0}};
  const Result<KvTxnResult> result = co_await kv.transact({}, std::move(ops));
  *told = result.code();
}

// Goal: an outage that begins while a transaction is on its way makes its outcome unknown: not done
// before the store saw it, done after. A death at the same moment answers closed, done or not.
TEST_F(SimKvTest, OutageAndDeathOnTheWay) {
  kv_.set_faults({.latency_min = milliseconds(10), .latency_max = milliseconds(10)});
  for (const auto& [key, begin_ms, done] : {std::tuple{"early", 2, false}, {"late", 8, true}}) {
    auto told = std::make_shared<Errc>(Errc::ok);
    spawn(sim_.executor(), put_and_tell(kv_, key, told));
    sim_.run_for(milliseconds(begin_ms));
    kv_.set_down(true);
    sim_.run_for(seconds(1));
    EXPECT_EQ(*told, Errc::outcome_unknown) << key;
    EXPECT_EQ(present(key), done) << key;
    kv_.set_down(false);
  }
  int done_count = 0;
  for (int round = 0; round < 20; ++round) {
    SimKv dying(store_.connect(), sim_.clock(), Random(static_cast<std::uint64_t>(round)));
    dying.set_faults(kv_.faults());
    auto told = std::make_shared<Errc>(Errc::ok);
    const std::string key = "dying" + std::to_string(round);
    spawn(sim_.executor(), put_and_tell(dying, key, told));
    sim_.run_for(milliseconds(2));
    dying.cut();
    sim_.run_for(seconds(1));
    EXPECT_EQ(*told, Errc::closed);
    EXPECT_EQ(sim_.run(dying.get("x")).code(), Errc::closed);
    done_count += present(key) ? 1 : 0;
  }
  EXPECT_GT(done_count, 0);
  EXPECT_LT(done_count, 20);
}

// Goal: a lease ends when its renewals fail, and not before.
TEST_F(SimKvTest, LeaseEndsWithoutRenewals) {
  const std::uint64_t lease = sim_.run(kv_.grant_lease(seconds(2))).value();
  std::vector<KvOp> ops{{.kind = KvOp::Kind::put, .key = "held", .value = "1", .lease = lease}};
  ASSERT_TRUE(sim_.run(kv_.transact({}, std::move(ops))));
  sim_.run_for(seconds(1));
  ASSERT_TRUE(sim_.run(kv_.keep_alive(lease)));
  kv_.set_faults({.fail_keep_alives = true});
  EXPECT_EQ(sim_.run(kv_.keep_alive(lease)).code(), Errc::unavailable);
  sim_.run_for(milliseconds(1500));
  EXPECT_TRUE(present("held"));
  sim_.run_for(seconds(1));
  EXPECT_FALSE(present("held"));
  kv_.set_faults({});
  EXPECT_EQ(sim_.run(kv_.keep_alive(lease)).code(), Errc::not_found);
}

Job watch_all(KvWatch& watch, std::shared_ptr<std::vector<std::string>> seen,
              std::shared_ptr<Errc> end) {
  while (true) {
    const Result<std::vector<KvEvent>> events = co_await watch.next();
    if (!events.has_value()) {
      *end = events.code();
      co_return;
    }
    for (const KvEvent& event : *events) seen->push_back(event.entry.key);
  }
}

// Goal: events come late, after an outage, in order; or the watch says that it missed some.
TEST_F(SimKvTest, WatchLagsAndIsCompacted) {
  const std::unique_ptr<KvWatch> watch = std::move(sim_.run(kv_.watch("", 0)).value());
  auto seen = std::make_shared<std::vector<std::string>>();
  auto end = std::make_shared<Errc>(Errc::ok);
  spawn(sim_.executor(), watch_all(*watch, seen, end));
  kv_.set_faults({.watch_lag_min = seconds(1), .watch_lag_max = seconds(1)});
  ASSERT_TRUE(put("a"));
  ASSERT_TRUE(put("b"));
  sim_.run_for(milliseconds(900));
  EXPECT_TRUE(seen->empty());
  sim_.run_for(seconds(2));
  EXPECT_EQ(*seen, (std::vector<std::string>{"a", "b"}));
  kv_.set_faults({});
  kv_.set_down(true);
  ASSERT_TRUE(put(*truth_, "c"));
  sim_.run_for(seconds(1));
  EXPECT_EQ(seen->size(), 2U);
  kv_.set_down(false);
  sim_.run_for(seconds(1));
  EXPECT_EQ(seen->size(), 3U);
  kv_.set_faults({.watch_compaction_ppm = kAlways});
  ASSERT_TRUE(put("d"));
  sim_.poll();
  EXPECT_EQ(*end, Errc::outcome_unknown);
  EXPECT_EQ(seen->size(), 3U);
  EXPECT_EQ(sim_.run(watch->next()).code(), Errc::closed);
}

// Goal: closing ends a watch that holds events back.
TEST_F(SimKvTest, ClosingEndsALaggingWatch) {
  kv_.set_faults({.watch_lag_min = seconds(100), .watch_lag_max = seconds(100)});
  const std::unique_ptr<KvWatch> watch = std::move(sim_.run(kv_.watch("", 0)).value());
  auto seen = std::make_shared<std::vector<std::string>>();
  auto end = std::make_shared<Errc>(Errc::ok);
  spawn(sim_.executor(), watch_all(*watch, seen, end));
  ASSERT_TRUE(put("a"));
  sim_.run_for(milliseconds(10));
  watch->close();
  sim_.poll();
  EXPECT_EQ(*end, Errc::closed);
}

}  // namespace
}  // namespace agro
