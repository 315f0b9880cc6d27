// The suite that every Kv passes. Instantiate it over a backend (test_support.hpp shows two):
// `test` (a BasicTestEnv), `forget_history()` and `connect()`, which gives another client of the same, at first empty,
// store.
#pragma once

#include <gtest/gtest.h>

#include "metadata/keys.hpp"
#include "metadata/test_support.hpp"

namespace agro {

template <class Backend>
class KvConformance : public ::testing::Test {
 protected:
  using Events = std::vector<KvEvent>;

  void TearDown() override {
    test().must(kv->close());
    test().must(other->close());
  }
  auto& test() { return backend.test; }

  static KvCompare compare(KvCompare::Kind kind, std::string key, std::uint64_t revision = 0,
                           std::string value = "") {
    return {
        .kind = kind, .key = std::move(key), .mod_revision = revision, .value = std::move(value)};
  }
  KvTxnResult transact(std::vector<KvCompare> compares, std::vector<KvOp> ops) {
    return test().must(kv->transact(std::move(compares), std::move(ops)));
  }
  std::uint64_t put(std::string key, std::string value, std::uint64_t lease = 0) {
    const KvTxnResult result = transact({}, {keys::put(key, std::move(value), lease)});
    EXPECT_TRUE(result.committed);
    return result.revision;
  }
  /// As the other client sees it.
  std::string value(std::string key) {
    const auto entry = test().must(other->get(std::move(key)));
    return entry ? entry->value : "(none)";
  }
  std::string list(std::string prefix) {
    std::string text;
    for (const KeyValue& entry : test().must(other->list(std::move(prefix))).entries) {
      text += entry.key + "=" + entry.value + " ";
    }
    return text;
  }
  static std::string text_of(const Events& events) {
    std::string text;
    for (const KvEvent& event : events) {
      text += std::to_string(event.entry.mod_revision) + (event.removed ? "-" : "+") +
              event.entry.key + (event.removed ? "" : "=" + event.entry.value) + " ";
    }
    return text;
  }
  /// All events up to and with the one of `revision`.
  std::string events_until(KvWatch& watch, std::uint64_t revision) {
    std::string text;
    std::uint64_t seen = 0;
    while (seen < revision) {
      const Events events = test().must(watch.next());
      if (events.empty()) return text + "(stuck)";
      text += text_of(events);
      seen = events.back().entry.mod_revision;
    }
    return text;
  }

  Backend backend;
  std::unique_ptr<Kv> kv = backend.connect();
  std::unique_ptr<Kv> other = backend.connect();
};

TYPED_TEST_SUITE_P(KvConformance);

// Goal: what one client put, another reads, with its revisions; values are any bytes.
TYPED_TEST_P(KvConformance, PutAndGet) {
  EXPECT_EQ(this->value("/a"), "(none)");
  const std::uint64_t first = this->put("/a", "1");
  const std::string binary("\0\xff\n'", 4);
  const std::uint64_t second = this->put("/b", binary);
  const std::uint64_t third = this->put("/a", "");
  EXPECT_EQ(this->value("/b"), binary);
  EXPECT_EQ(this->value("/a"), "");
  EXPECT_EQ(second, first + 1);
  EXPECT_EQ(third, second + 1);
  const auto entry = this->test().must(this->other->get("/a"));
  ASSERT_TRUE(entry.has_value());
  EXPECT_EQ(entry->create_revision, first);
  EXPECT_EQ(entry->mod_revision, third);
  EXPECT_EQ(entry->lease, 0U);
  this->transact({}, {keys::remove("/a")});
  const std::uint64_t again = this->put("/a", "2");
  EXPECT_EQ(this->test().must(this->other->get("/a"))->create_revision, again);
}

// Goal: each kind of compare, held and not held; a transaction is all or nothing.
TYPED_TEST_P(KvConformance, Compares) {
  using Kind = KvCompare::Kind;
  const std::uint64_t revision = this->put("/a", "1");
  const std::vector<std::pair<KvCompare, bool>> cases = {
      {this->compare(Kind::absent, "/a"), false},
      {this->compare(Kind::absent, "/none"), true},
      {this->compare(Kind::present, "/a"), true},
      {this->compare(Kind::present, "/none"), false},
      {this->compare(Kind::mod_revision_is, "/a", revision), true},
      {this->compare(Kind::mod_revision_is, "/a", revision + 1), false},
      {this->compare(Kind::mod_revision_is, "/none", 0), false},
      {this->compare(Kind::value_is, "/a", 0, "1"), true},
      {this->compare(Kind::value_is, "/a", 0, "2"), false},
      {this->compare(Kind::value_is, "/none", 0, ""), false}};
  for (std::size_t index = 0; index < cases.size(); ++index) {
    SCOPED_TRACE(index);
    const std::uint64_t before = this->test().must(this->kv->list("/")).revision;
    const auto result =
        this->transact({cases[index].first, this->compare(Kind::present, "/a")},
                       {keys::put("/t", std::to_string(index)), keys::remove("/u")});
    EXPECT_EQ(result.committed, cases[index].second);
    EXPECT_EQ(result.revision, before + (result.committed ? 1 : 0));
    EXPECT_EQ(this->value("/t") == std::to_string(index), cases[index].second);
  }
  EXPECT_FALSE(this->transact({cases[1].first, cases[0].first}, {keys::put("/t", "x")}).committed);
  EXPECT_NE(this->value("/t"), "x");
}

// Goal: operations of one transaction apply in order, under one revision.
TYPED_TEST_P(KvConformance, OperationsInOrder) {
  this->put("/d/1", "x");
  const auto result = this->transact(
      {}, {keys::put("/d/2", "y"), keys::remove_prefix("/d/"), keys::put("/d/3", "z"),
           keys::put("/d/3", "zz"), keys::remove("/d/none")});
  EXPECT_EQ(this->list("/d/"), "/d/3=zz ");
  EXPECT_EQ(this->test().must(this->other->get("/d/3"))->mod_revision, result.revision);
  EXPECT_EQ(this->test().must(this->other->get("/d/3"))->create_revision, result.revision);
  const auto nothing = this->transact({}, {keys::remove("/none")});
  EXPECT_TRUE(nothing.committed);
  EXPECT_EQ(nothing.revision, result.revision);
}

// Goal: listing and removing by prefix, at the borders of prefixes.
TYPED_TEST_P(KvConformance, Prefixes) {
  for (const char* key : {"/a", "/a/", "/a/1", "/a/2", "/a0", "/b"}) this->put(key, "v");
  EXPECT_EQ(this->list("/a/"), "/a/=v /a/1=v /a/2=v ");
  EXPECT_EQ(this->list("/a"), "/a=v /a/=v /a/1=v /a/2=v /a0=v ");
  EXPECT_EQ(this->list("/none"), "");
  this->transact({}, {keys::remove_prefix("/a/")});
  EXPECT_EQ(this->list(""), "/a=v /a0=v /b=v ");
  this->put("/\xff\xff", "high");
  EXPECT_EQ(this->list("/\xff"), "/\xff\xff=high ");
  this->transact({}, {keys::remove_prefix("")});
  EXPECT_EQ(this->list(""), "");
}

inline Job increment(Kv& kv, int times, int* left) {
  while (times > 0) {
    const auto entry = co_await kv.get("/counter");
    if (!entry.has_value()) break;
    const int old = *entry ? std::stoi((*entry)->value) : 0;
    std::vector<KvCompare> compares = {*entry ? keys::unchanged(**entry)
                                              : keys::absent("/counter")};
    std::vector<KvOp> ops = {keys::put("/counter", std::to_string(old + 1))};
    const auto result = co_await kv.transact(std::move(compares), std::move(ops));
    if (!result.has_value()) break;
    if (result->committed) --times;
  }
  *left -= times == 0 ? 1 : 0;
}

// Goal: no update is lost between two clients that use optimistic transactions.
TYPED_TEST_P(KvConformance, TwoClientsLoseNoUpdate) {
  int left = 4;
  for (int job = 0; job < 4; ++job) {
    spawn(this->test().sim.executor(),
          increment(job % 2 == 0 ? *this->kv : *this->other, 25, &left));
  }
  ASSERT_TRUE(this->test().sim.run_until([&] { return left == 0; }));
  EXPECT_EQ(this->value("/counter"), "100");
}

// Goal: a watch gives every change under its prefix, in order, by any client, from its revision on.
TYPED_TEST_P(KvConformance, WatchInOrder) {
  this->put("/w/before", "0");
  const std::uint64_t start = this->test().must(this->kv->list("/w/")).revision;
  const std::uint64_t base = start;
  this->put("/w/1", "missed-nothing");  // before the watch is made, after its revision
  const auto watch = this->test().must(this->other->watch("/w/", start));
  this->put("/elsewhere", "x");
  this->transact({}, {keys::put("/w/2", "a"), keys::put("/x", "b"), keys::remove("/w/1")});
  this->test().must(this->other->transact({}, {keys::remove_prefix("/w/")}));
  const auto revision = [base](int after) {
    return std::to_string(base + static_cast<unsigned>(after));
  };
  EXPECT_EQ(this->events_until(*watch, start + 4),
            revision(1) + "+/w/1=missed-nothing " + revision(3) + "+/w/2=a " + revision(3) +
                "-/w/1 " + revision(4) + "-/w/2 " + revision(4) + "-/w/before ");
}

// Goal: events of one transaction come by one next().
TYPED_TEST_P(KvConformance, WatchGivesWholeTransactions) {
  const auto watch = this->test().must(this->other->watch("/w/", 0));
  std::vector<KvOp> ops;
  for (int index = 0; index < 50; ++index)
    ops.push_back(keys::put("/w/" + std::to_string(index), ""));
  this->transact({}, ops);
  EXPECT_EQ(this->test().must(watch->next()).size(), 50U);
}

// Goal: closing ends a waiting next(); so does closing the store.
TYPED_TEST_P(KvConformance, WatchCloses) {
  const auto watch = this->test().must(this->kv->watch("/w/", 0));
  const auto second = this->test().must(this->kv->watch("/w/", 0));
  std::vector<Errc> codes;
  const auto wait = [](KvWatch& waited, std::vector<Errc>& out) -> Job {
    const auto events = co_await waited.next();
    out.push_back(events.code());
  };
  spawn(this->test().sim.executor(), wait(*watch, codes));
  spawn(this->test().sim.executor(), wait(*second, codes));
  this->test().sim.poll();
  EXPECT_TRUE(codes.empty());
  watch->close();
  this->test().sim.poll();
  EXPECT_EQ(codes, (std::vector{Errc::closed}));
  this->test().must(this->kv->close());
  this->test().sim.poll();
  EXPECT_EQ(codes, (std::vector{Errc::closed, Errc::closed}));
  EXPECT_EQ(this->test().run(this->kv->get("/a")).code(), Errc::closed);
  EXPECT_EQ(this->test().run(this->kv->transact({}, {})).code(), Errc::closed);
}

// Goal: a watch that starts too far back, or a reader too slow, is told so and not left in the
// dark.
TYPED_TEST_P(KvConformance, WatchTellsWhenItMissed) {
  const std::uint64_t start = this->put("/w/1", "x");
  for (std::size_t round = 0; round < 2 * kTestHistoryCount; ++round) {
    this->put("/w/1", std::to_string(round));
  }
  this->backend.forget_history(start + kTestHistoryCount);
  const auto watch = this->test().must(this->other->watch("/w/", start));
  EXPECT_EQ(this->test().run(watch->next()).code(), Errc::outcome_unknown);
  const std::uint64_t now = this->test().must(this->other->list("/w/")).revision;
  const auto recent = this->test().must(this->other->watch("/w/", now - 100));
  EXPECT_EQ(this->test().must(recent->next()).size(), 100U);
}

// Goal: a lease's keys go when it ends, by revocation or by time, and watchers see it.
TYPED_TEST_P(KvConformance, Leases) {
  using std::chrono::milliseconds;
  const std::uint64_t lease = this->test().must(this->kv->grant_lease(milliseconds(3000)));
  const std::uint64_t second = this->test().must(this->kv->grant_lease(milliseconds(3000)));
  EXPECT_NE(lease, second);
  EXPECT_NE(lease, 0U);
  this->put("/l/1", "a", lease);
  this->put("/l/2", "b", lease);
  this->put("/l/3", "c", second);
  const std::uint64_t revision = this->put("/l/2", "free");  // no longer under the lease
  EXPECT_EQ(this->test().must(this->other->get("/l/1"))->lease, lease);
  const auto watch = this->test().must(this->other->watch("/l/", revision));
  this->test().sim.run_for(milliseconds(2000));
  this->test().must(this->kv->keep_alive(lease));
  this->test().sim.run_for(milliseconds(2000));
  EXPECT_EQ(this->list("/l/"), "/l/1=a /l/2=free ");
  EXPECT_EQ(this->test().run(this->kv->keep_alive(second)).code(), Errc::not_found);
  this->test().sim.run_for(milliseconds(2000));
  EXPECT_EQ(this->events_until(*watch, revision + 2),
            std::to_string(revision + 1) + "-/l/3 " + std::to_string(revision + 2) + "-/l/1 ");
  EXPECT_EQ(this->list("/l/"), "/l/2=free ");
  const auto late = this->test().run(
      this->kv->transact({}, {keys::put("/l/0", "x"), keys::put("/l/1", "x", lease)}));
  EXPECT_EQ(late.code(), Errc::not_found);
  EXPECT_EQ(this->value("/l/0"), "(none)");
  const std::uint64_t third = this->test().must(this->kv->grant_lease(milliseconds(3000)));
  this->put("/l/4", "d", third);
  this->test().must(this->kv->revoke_lease(third));
  this->test().must(this->kv->revoke_lease(third));
  EXPECT_EQ(this->list("/l/"), "/l/2=free ");
}

REGISTER_TYPED_TEST_SUITE_P(KvConformance, PutAndGet, Compares, OperationsInOrder, Prefixes,
                            TwoClientsLoseNoUpdate, WatchInOrder, WatchGivesWholeTransactions,
                            WatchCloses, WatchTellsWhenItMissed, Leases);

}  // namespace agro
