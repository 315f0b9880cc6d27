#include "gc/collect.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/random.hpp"

namespace agro {
namespace {

constexpr VolumeId kVolume{7};

BlockRef data(std::uint64_t epoch, std::uint64_t index) {
  return {kVolume, {epoch}, index, BlockType::data};
}
BlockRef inode(std::uint64_t epoch, std::uint64_t index) {
  return {kVolume, {epoch}, index, BlockType::inode};
}

// Goal: only what a head covers and its INode does not name is dead. Method: a table by hand.
TEST(CollectTest, DeadIsCoveredAndNotNamed) {
  VolumeProof proof{
      {3}, 10, {3}, 5, {data(1, 2), data(3, 9), inode(2, 3), inode(3, 4), inode(3, 5)}};
  std::sort(proof.live.begin(), proof.live.end());
  const std::vector<std::pair<BlockRef, bool>> cases = {
      {data(1, 1), true},    // older epoch, not named
      {data(1, 2), false},   // older epoch, named
      {data(2, 99), true},   // beyond the head's sequence, but of an older epoch: a log cut short
      {data(3, 10), true},   // covered
      {data(3, 9), false},   // covered and named
      {data(3, 11), false},  // the tail
      {data(4, 1), false},   // a newer writer
      {inode(2, 2), true},  {inode(2, 3), false},
      {inode(3, 3), true},  {inode(3, 4), false},
      {inode(3, 5), false},  // the root
      {inode(3, 6), false},  // a checkpoint on its way
      {inode(4, 1), false}, {{kVolume, {1}, 1, BlockType::ecc}, false}};
  for (const auto& [ref, dead] : cases) {
    SCOPED_TRACE(ref.to_string());
    EXPECT_EQ(is_dead(ref, proof), dead);
  }
  const VolumeProof never_written{};
  EXPECT_FALSE(is_dead(data(1, 1), never_written));
  EXPECT_FALSE(is_dead(inode(1, 1), never_written));
}

// Goal: a volume is gone only when its id was given away and nobody knows it.
TEST(CollectTest, DeletedNeedsTheCounter) {
  const VolumeCensus census{5, 0, {{2}, {4}}};
  const VolumeCensus rebuilt{5, 3, {{2}, {4}}};
  EXPECT_FALSE(is_deleted({1}, rebuilt)) << "a rebuild may not have found it";
  EXPECT_TRUE(is_deleted({3}, rebuilt));
  for (const auto& [id, deleted] : {std::pair{0, false},
                                    {1, true},
                                    {2, false},
                                    {3, true},
                                    {4, false},
                                    {5, false},
                                    {9, false}}) {
    SCOPED_TRACE(id);
    EXPECT_EQ(is_deleted(VolumeId{static_cast<std::uint64_t>(id)}, census), deleted);
  }
  EXPECT_FALSE(is_deleted({1}, VolumeCensus{}));
  const std::vector<BlockRef> refs = {data(1, 1), {{1}, {9}, 1, BlockType::inode}};
  EXPECT_TRUE(plan_collect(refs, VolumeCensus{}, {}).empty());
  EXPECT_EQ(plan_collect(refs, census, {}), (std::vector<BlockRef>{refs[1]}));
  // 7 is not below the counter, but there is proof about its blocks.
  const VolumeProof proof{{2}, 0, {2}, 1, {}};
  EXPECT_EQ(plan_collect(refs, census, {{kVolume, proof}}), refs);
}

/// A volume as gc sees it: heads, INodes and blocks by name only.
class Model {
 public:
  explicit Model(std::uint64_t seed) : random_(seed) { open(); }

  void step() {
    switch (random_.below(10)) {
      case 0:
        return open();
      case 1:
      case 2:
        return checkpoint(random_.chance(3, 4));
      case 3:
      case 4:
      case 5:
        return overwrite();
      default:
        return write();
    }
  }

  /// What the writer, or whoever opens the volume next, needs now.
  std::set<BlockRef> needed() const {
    std::set<BlockRef> all = live_;
    for (const BlockRef& ref : made_) {
      const bool tail =
          ref.type == BlockType::data && ref.epoch == head_.epoch && ref.index > head_.sequence;
      if (tail) all.insert(ref);
    }
    all.insert(inode_.begin(), inode_.end());
    all.insert(head_.live.begin(), head_.live.end());
    return all;
  }
  const VolumeProof& head() const { return head_; }
  const std::set<BlockRef>& made() const { return made_; }

 private:
  BlockRef make(const BlockRef& ref) {
    EXPECT_TRUE(made_.insert(ref).second) << "names are used once";
    return ref;
  }
  void write() { live_.insert(make(data(epoch_, ++sequence_))); }
  void overwrite() {
    if (live_.empty()) return;
    live_.erase(std::next(live_.begin(), static_cast<std::ptrdiff_t>(random_.below(live_.size()))));
  }
  /// The writer dies, perhaps with the last blocks of its log lost; another one replays the rest.
  void open() {
    live_.clear();
    inode_.clear();
    for (const BlockRef& ref : head_.live)
      (ref.type == BlockType::data ? live_ : inode_).insert(ref);
    const std::uint64_t log_end =
        sequence_ - std::min<std::uint64_t>(sequence_ - head_.sequence, random_.below(3));
    for (std::uint64_t index = head_.sequence + 1; epoch_ == head_.epoch.value && index <= log_end;
         ++index) {
      // Replayed blocks may turn out to be overwritten already.
      if (made_.contains(data(epoch_, index)) && random_.chance(2, 3)) {
        live_.insert(data(epoch_, index));
      }
    }
    sequence_ = epoch_ == head_.epoch.value ? log_end : head_.sequence;
    if (head_.checkpoint_epoch.value != 0) next_inode_ = head_.root_index + 1;
    ++epoch_;
    checkpoint(random_.chance(4, 5));
    // Nothing is served before that commit.
    while (head_.epoch.value != epoch_) checkpoint(true);
  }
  /// New pages take the place of some old ones; the commit may fail, its blocks then stay in use.
  void checkpoint(bool commits) {
    const VolumeProof instant{{epoch_}, sequence_, {epoch_}, 0, {}};
    const std::set<BlockRef> live = live_;
    std::erase_if(inode_, [&](const BlockRef&) { return random_.chance(1, 3); });
    for (std::uint64_t count = random_.below(3); count > 0; --count) {
      inode_.insert(make(inode(epoch_, next_inode_++)));
    }
    std::erase_if(inode_, [&](const BlockRef& ref) { return ref == root_; });
    root_ = make(inode(epoch_, next_inode_++));
    for (std::uint64_t more = random_.below(3); more > 0 && head_.epoch.value == epoch_; --more) {
      random_.chance(1, 2) ? write() : overwrite();
    }
    inode_.insert(root_);
    if (!commits) return;
    head_ = instant;
    head_.root_index = root_.index;
    head_.live.assign(live.begin(), live.end());
    head_.live.insert(head_.live.end(), inode_.begin(), inode_.end());
    std::sort(head_.live.begin(), head_.live.end());
  }

  Random random_;
  std::uint64_t epoch_ = 0;
  std::uint64_t sequence_ = 0;
  std::uint64_t next_inode_ = 1;
  std::set<BlockRef> live_;   // data blocks that the writer's map points at
  std::set<BlockRef> inode_;  // blocks of the INode in the writer's memory
  BlockRef root_;
  VolumeProof head_;
  std::set<BlockRef> made_;
};

// Goal: proof of any time, used at any later time, never condemns a block that somebody needs then;
// and fresh proof condemns all the rest that it covers. Method: random lives of a volume: writes,
// overwrites, checkpoints that commit or fail with writes going on, deaths of writers; old proofs
// are kept.
TEST(CollectTest, OldProofStaysTrue) {
  std::uint64_t condemned_count = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    Model model(seed);
    std::vector<VolumeProof> proofs;
    for (int step = 0; step < 150; ++step) {
      model.step();
      proofs.push_back(model.head());
      const std::set<BlockRef> needed = model.needed();
      for (const VolumeProof& proof : proofs) {
        for (const BlockRef& ref : needed) {
          ASSERT_FALSE(is_dead(ref, proof))
              << "seed " << seed << ", step " << step << ": " << ref.to_string();
        }
      }
      for (const BlockRef& ref : model.made()) {
        const bool dead = is_dead(ref, proofs.back());
        condemned_count += dead ? 1 : 0;
        if (needed.contains(ref) || !is_covered(ref, proofs.back())) continue;
        ASSERT_TRUE(dead) << "seed " << seed << ": garbage stays: " << ref.to_string();
      }
    }
  }
  EXPECT_GT(condemned_count, 10000U);
}

}  // namespace
}  // namespace agro
