// Scrubs in the simulated cluster: rot below the page cache is found, repaired, and gone.
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "base/log.hpp"
#include "block/write_history.hpp"
#include "sim_cluster.hpp"
#include "storage/store_format.hpp"

namespace agro {
namespace {

constexpr const char* kStoreFile = "/data/blocks";

class ScrubTest : public ::testing::Test {
 protected:
  void start(std::uint64_t seed) {
    set_log_sink({});
    random_ = Random(seed + 5);
    cluster_ = std::make_unique<SimCluster>(seed, SimCluster::Options{});
    cluster_->background().scrub.interval = Duration(0);
    cluster_->background().scrub.rate = 0;
    ASSERT_TRUE(cluster_->start().has_value());
    Result<std::shared_ptr<BlockDevice>> device = cluster_->open_volume();
    ASSERT_TRUE(device.has_value()) << device.error().to_string();
    device_ = *device;
    writers_ = std::make_unique<TaskGroup>(cluster_->client_env(0).executor);
  }
  void TearDown() override {
    stop_writing();
    device_.reset();
    cluster_.reset();
  }

  void start_writing() {
    stopped_ = false;
    writers_->spawn(write_numbered(*device_, history_, random_, sector_count(), stopped_));
  }
  void stop_writing() {
    stopped_ = true;
    if (cluster_ == nullptr) return;
    ASSERT_TRUE(
        cluster_->loop.run_until([&] { return writers_->count() == 0; }, std::chrono::minutes(1)));
  }
  void write_for(Duration duration) {
    start_writing();
    cluster_->loop.run_for(duration);
    stop_writing();
    ASSERT_TRUE(cluster_->loop.run(device_->flush()).has_value());
  }
  std::uint64_t sector_count() const { return device_->size_bytes() / kSectorSize; }
  void expect_device_is_right() {
    std::vector<std::byte> bytes(device_->size_bytes());
    const Result<void> done = cluster_->loop.run(device_->read(0, bytes));
    ASSERT_TRUE(done.has_value()) << done.error().to_string();
    EXPECT_EQ(numbers_of(bytes), history_.replay(history_.writes.size(), sector_count()));
  }

  BlockStore& store(std::size_t peer) { return cluster_->node(peer).service()->store(); }
  ScrubReport report(std::size_t peer) { return cluster_->node(peer).service()->report().scrub; }

  /// Flips a bit of each block at a random place, below the page cache. A block is found by its
  /// last page, whose checksums are salted with its name; it may lie in dead space as well.
  void rot(std::size_t peer, const std::vector<BlockInfo>& blocks) {
    SimDisk& disk = cluster_->disk(peer);
    std::vector<std::string> pages;
    for (std::uint64_t at = 0; at < disk.size_of(kStoreFile); at += kPageSize) {
      pages.push_back(disk.contents(kStoreFile, at, kPageSize));
    }
    for (const BlockInfo& block : blocks) {
      std::string bytes(block.size, '\0');
      const Result<void> read =
          cluster_->loop.run(store(peer).read(block.ref, 0, std::as_writable_bytes(std::span(bytes))));
      if (read.code() == Errc::not_found) continue;  // deleted since it was picked
      ASSERT_TRUE(read.has_value()) << read.error().to_string();
      const std::uint64_t back = random_.below(block.size);
      const auto mask = std::byte(1U << random_.below(8));
      EXPECT_GT(rot_copies(disk, pages, bytes, back, mask), 0);
    }
  }
  /// Flips a bit of the byte that is `back` before the block's last, wherever the block lies. Of a packed one
  /// (docs/formats/store.md, "Log") in the pages before its last, of which only the ends are stored. Returns the number of places.
  static int rot_copies(SimDisk& disk, const std::vector<std::string>& pages, const std::string& block, std::uint64_t back,
                        std::byte mask) {
    const std::string last = block.substr(block.size() - kPageSize);
    const PackedTail tail = find_tail(as_bytes(block), kPackedTailMax);
    const std::string ends = last.substr(0, tail.head_size()) + last.substr(kPageSize - tail.end_size());
    int count = 0;
    for (std::uint64_t page = 0; page < pages.size(); ++page) {
      const std::uint64_t at = page * kPageSize;
      if (pages[page] == last) {
        disk.rot(kStoreFile, at + kPageSize - 1 - back, mask);
      } else if (tail.is_some() && pages[page].ends_with(ends)) {
        disk.rot(kStoreFile, at + kPageSize + back % (block.size() - kPageSize), mask);
      } else {
        continue;
      }
      ++count;
    }
    return count;
  }
  std::vector<BlockInfo> pick(std::size_t peer, std::size_t count) {
    std::vector<BlockInfo> blocks = store(peer).list({});
    while (blocks.size() > count) {
      blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(random_.below(blocks.size())));
    }
    return blocks;
  }
  ScrubReport scrub(std::size_t peer) {
    EXPECT_TRUE(cluster_->node(peer).service()->start(WorkKind::scrub).has_value());
    cluster_->loop.poll();
    EXPECT_TRUE(
        cluster_->loop.run_until([&] { return !report(peer).running; }, std::chrono::hours(1)));
    return report(peer);
  }

  std::unique_ptr<SimCluster> cluster_;
  std::shared_ptr<BlockDevice> device_;
  Random random_{1};
  History history_;
  bool stopped_ = true;
  std::unique_ptr<TaskGroup> writers_;
};

// Goal: every bad copy that a peer holds is found and repaired by one pass, though the page cache
// hides it, and the next pass finds none. Method: flip a bit in up to 100 blocks of a quiet
// cluster.
TEST_F(ScrubTest, FindsAndRepairsAll) {
  start(1);
  write_for(std::chrono::milliseconds(800));
  cluster_->loop.run_for(std::chrono::seconds(30));  // checkpoints and the cleaner come to rest
  const std::vector<BlockInfo> bad = pick(0, 100);
  ASSERT_GT(bad.size(), 20U);
  rot(0, bad);
  const ScrubReport first = scrub(0);
  EXPECT_EQ(first.bad_blocks, bad.size());
  EXPECT_EQ(first.repaired_blocks, bad.size());
  EXPECT_EQ(first.lost_blocks, 0U);
  EXPECT_EQ(first.bytes_done, first.bytes_total);
  EXPECT_GT(first.finished_unix_ms, 0);
  const ScrubReport second = scrub(0);
  EXPECT_EQ(second.bad_blocks, 0U);
  EXPECT_EQ(second.bytes_total, first.bytes_total);
  expect_device_is_right();
}

// Goal: while blocks come and go under it, a scrub repairs what is still there and invents nothing.
// Method: seeds; rot in the middle of writes, then a pass, then another one.
TEST_F(ScrubTest, BlocksComeAndGoMeanwhile) {
  for (std::uint64_t seed = 1; seed <= 10 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    history_ = {};
    start(seed);
    start_writing();
    cluster_->loop.run_for(std::chrono::milliseconds(300));
    rot(0, pick(0, 30));
    const ScrubReport first = scrub(0);
    EXPECT_GT(first.bytes_done, 0U);
    EXPECT_EQ(first.repaired_blocks, first.bad_blocks) << first.problem;
    EXPECT_EQ(first.lost_blocks, 0U);
    EXPECT_EQ(scrub(0).bad_blocks, 0U);
    stop_writing();
    ASSERT_TRUE(cluster_->loop.run(device_->flush()).has_value());
    expect_device_is_right();
    TearDown();
  }
}

// Goal: a block without a good copy is counted as lost and left as it is, and says so again.
TEST_F(ScrubTest, LostBlocksAreNamed) {
  start(3);
  write_for(std::chrono::milliseconds(300));
  cluster_->loop.run_for(std::chrono::seconds(30));
  const BlockInfo victim = store(0).list({}).front();
  std::size_t holders = 0;
  for (std::size_t peer = 0; peer < 3; ++peer) {
    if (!store(peer).find(victim.ref).has_value()) continue;
    rot(peer, {victim});
    // The page cache has good copies yet; a restart empties it.
    cluster_->crash_peer(peer);
    ASSERT_TRUE(cluster_->start_peer(peer).has_value());
    ++holders;
  }
  ASSERT_EQ(holders, 2U);
  cluster_->loop.run_for(std::chrono::seconds(5));
  for (int pass = 0; pass < 2; ++pass) {
    const ScrubReport report = scrub(0);
    EXPECT_EQ(report.bad_blocks, 1U);
    EXPECT_EQ(report.repaired_blocks, 0U);
    EXPECT_EQ(report.lost_blocks, 1U);
    EXPECT_NE(report.problem.find(victim.ref.to_string()), std::string::npos) << report.problem;
  }
  EXPECT_EQ(store(0).find(victim.ref), victim.size);
}

// Goal: a restart goes on where the pass was, one that finished is not repeated before its time,
// and then it is. Method: a slow pass, a crash in the middle of it, simulated hours.
TEST_F(ScrubTest, RestartsGoOn) {
  start(4);
  write_for(std::chrono::milliseconds(300));
  cluster_->loop.run_for(std::chrono::seconds(30));
  const std::uint64_t total = scrub(0).bytes_total;
  cluster_->crash_peer(0);
  cluster_->background().scrub.interval = std::chrono::hours(1);
  cluster_->background().scrub.rate = total / 600;  // ten minutes
  ASSERT_TRUE(cluster_->start_peer(0).has_value());
  cluster_->loop.run_for(std::chrono::minutes(50));
  EXPECT_FALSE(report(0).running);
  const std::int64_t first_finished = report(0).finished_unix_ms;
  ASSERT_TRUE(cluster_->loop.run_until(
      [&] { return report(0).bytes_done > total / 2 && report(0).running; },
      std::chrono::minutes(30)));
  EXPECT_EQ(report(0).finished_unix_ms, first_finished);
  const std::int64_t started = report(0).started_unix_ms;
  cluster_->loop.run_for(std::chrono::minutes(2));
  const std::uint64_t done = report(0).bytes_done;
  cluster_->crash_peer(0);
  ASSERT_TRUE(cluster_->start_peer(0).has_value());
  cluster_->loop.run_for(std::chrono::seconds(1));
  EXPECT_TRUE(report(0).running);
  EXPECT_EQ(report(0).started_unix_ms, started);
  EXPECT_GE(report(0).bytes_done, done - done / 3);
  ASSERT_TRUE(cluster_->loop.run_until([&] { return !report(0).running; }, std::chrono::hours(1)));
  EXPECT_EQ(report(0).bytes_done, report(0).bytes_total);
  EXPECT_GT(report(0).finished_unix_ms, first_finished);
}

}  // namespace
}  // namespace agro
