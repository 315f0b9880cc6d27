#include "distributor/rebalance/plan.hpp"

#include <gtest/gtest.h>

#include <string>

#include "distributor/rebalance/down_times.hpp"

namespace agro {
namespace {

/// "Op om S-": upper case O/S is an owner or self; p present, m missing, s silent, d dead. Here:
/// each peer is two letters: who (o owner, x other, S self and owner, s self alone) and holding.
std::vector<AskedPeer> asked(const std::string& text) {
  std::vector<AskedPeer> peers;
  for (std::size_t at = 0; at + 1 < text.size(); at += 3) {
    AskedPeer peer;
    peer.owner = text[at] == 'o' || text[at] == 'S';
    peer.self = text[at] == 'S' || text[at] == 's';
    switch (text[at + 1]) {
      case 'p':
        peer.holding = Holding::present;
        break;
      case 'm':
        peer.holding = Holding::missing;
        break;
      case 's':
        peer.holding = Holding::silent;
        break;
      default:
        peer.holding = Holding::dead;
    }
    peers.push_back(peer);
  }
  return peers;
}

struct Case {
  const char* name;
  const char* peers;
  std::uint32_t attempt;
  bool covered;
  std::vector<std::size_t> push_to;
  bool give_up;
  bool settled;
};

TEST(RebalancePlanTest, AsATable) {
  const std::vector<Case> cases = {
      {"all is well", "Sp op op", 0, true, {}, false, true},
      {"an owner lacks it, we are first", "Sp om op", 0, true, {1}, false, false},
      {"another holder is first", "op Sp om", 0, true, {}, false, false},
      {"the first holder may be slow", "op Sp om", 9, true, {}, false, false},
      {"the first holder did not help", "op Sp om", 10, true, {2}, false, false},
      {"two lack it", "Sp om om", 0, true, {1, 2}, false, false},
      {"all owners have it, we are none", "op op sp", 0, true, {}, true, true},
      {"the same in the log's tail", "op op sp", 0, false, {}, false, true},
      {"moving to new owners", "om om sp", 0, true, {0, 1}, false, false},
      {"the old owner before us moves it", "om om xp sp", 0, true, {}, false, false},
      {"an owner is silent", "op os sp", 0, true, {}, false, false},
      {"an owner is silent, we are one", "Sp os op", 0, true, {}, false, false},
      {"an owner is dead: kept, and nothing left to do", "op od sp", 0, true, {}, false, true},
      {"an owner is dead, we are one", "Sp od op", 0, true, {}, false, true},
      {"dead and lacking", "od om sp", 0, true, {1}, false, false},
      {"an old owner's silence does not matter", "op op xs sp", 0, true, {}, true, true},
      {"no owner at all", "sp", 0, false, {}, false, true},
  };
  for (const Case& one : cases) {
    const BlockPlan plan = plan_block(asked(one.peers), one.attempt, one.covered);
    EXPECT_EQ(plan.push_to, one.push_to) << one.name;
    EXPECT_EQ(plan.give_up, one.give_up) << one.name;
    EXPECT_EQ(plan.settled, one.settled) << one.name;
    EXPECT_EQ(plan.is_short, std::string_view(one.peers).find("od") != std::string_view::npos)
        << one.name;
  }
}

// Goal: no combination of answers makes a copy go while an owner is not known to hold one, or while
// the block may be in a log's tail. Method: every combination of up to four peers.
TEST(RebalancePlanTest, NeverGivesUpWithoutProof) {
  const Holding all[] = {Holding::missing, Holding::present, Holding::silent, Holding::dead};
  int given_up = 0;
  for (int code = 0; code < 8 * 8 * 8 * 2; ++code) {
    std::vector<AskedPeer> peers;
    for (int index = 0, rest = code / 2; index < 3; ++index, rest /= 8) {
      peers.push_back({(rest & 4) != 0, false, all[rest & 3]});
    }
    peers.push_back({false, true, Holding::present});
    const bool covered = code % 2 == 1;
    bool proof = covered;
    for (const AskedPeer& peer : peers) {
      if (peer.owner && peer.holding != Holding::present) proof = false;
    }
    const BlockPlan plan = plan_block(peers, 99, covered);
    EXPECT_TRUE(!plan.give_up || proof) << code;
    given_up += plan.give_up ? 1 : 0;
    peers.back().owner = true;
    EXPECT_FALSE(plan_block(peers, 99, covered).give_up) << code;
  }
  EXPECT_GT(given_up, 0);
}

TEST(DownTimesTest, CountsOnlyWithoutInterruption) {
  using std::chrono::seconds;
  const TimePoint start{};
  PeerId a, b;
  a.bytes[0] = 1;
  b.bytes[0] = 2;
  DownTimes times;
  times.observe({a, b}, start);
  times.observe({a}, start + seconds(5));
  times.observe({a, b}, start + seconds(6));
  EXPECT_EQ(times.longer_than(seconds(10), start + seconds(9)), std::vector<PeerId>{});
  EXPECT_EQ(times.longer_than(seconds(10), start + seconds(10)), std::vector<PeerId>{a});
  EXPECT_EQ(times.longer_than(seconds(10), start + seconds(16)), (std::vector<PeerId>{a, b}));
  times.observe({}, start + seconds(17));
  EXPECT_EQ(times.longer_than(seconds(0), start + seconds(17)), std::vector<PeerId>{});
}

}  // namespace
}  // namespace agro
