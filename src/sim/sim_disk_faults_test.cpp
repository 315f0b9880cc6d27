// What disks get wrong: each fault does what it says, once or by chance, and is counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "sim/sim_disk.hpp"
#include "sim/sim_loop.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kAlways = 1'000'000;
constexpr std::uint64_t kPageCount = 8;

AlignedBuffer filled(std::size_t size, char value) {
  AlignedBuffer buffer(size);
  std::memset(buffer.data(), value, size);
  return buffer;
}

/// A file of pages 'a', 'b', 'c' and so on, synced.
class SimDiskFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = open();
    for (std::uint64_t page = 0; page < kPageCount; ++page) {
      ASSERT_TRUE(write(page, static_cast<char>('a' + page)));
    }
    ASSERT_TRUE(sim_.run(file_->sync()));
  }
  std::unique_ptr<File> open() {
    return std::move(sim_.run(disk_.open("f", {.create = true})).value());
  }
  Result<void> write(std::uint64_t page, char value) {
    const AlignedBuffer bytes = filled(kPageSize, value);
    return sim_.run(file_->write(page * kPageSize, {bytes.bytes()}));
  }
  /// The first letter of each page as it is stored.
  std::string stored() {
    std::string letters;
    for (std::uint64_t page = 0; page < kPageCount; ++page) {
      letters += disk_.contents("f", page * kPageSize, 1);
    }
    return letters;
  }
  Result<std::string> read(std::uint64_t page) {
    AlignedBuffer out(kPageSize);
    AGRO_TRY_OK(sim_.run(file_->read(page * kPageSize, out.bytes())));
    return std::string(1, static_cast<char>(out.bytes()[0]));
  }

  SimLoop sim_;
  SimDisk disk_{sim_.clock(), Random(1)};
  std::unique_ptr<File> file_;
};

// Goal: a misdirected read gives other bytes of the file, once; the file is as it was.
TEST_F(SimDiskFaultsTest, MisdirectedRead) {
  disk_.arm("f", SimMishap::misdirected_read);
  const std::string wrong = read(2).value();
  EXPECT_NE(wrong, "c");
  EXPECT_NE(stored().find(wrong), std::string::npos);
  EXPECT_EQ(read(2).value(), "c");
  EXPECT_EQ(stored(), "abcdefgh");
  disk_.set_faults({.misdirected_read_ppm = kAlways});
  std::set<std::string> seen;
  for (int round = 0; round < 100; ++round) seen.insert(read(2).value());
  EXPECT_EQ(seen, (std::set<std::string>{"a", "b", "d", "e", "f", "g", "h"}));
  EXPECT_EQ(disk_.counts().misdirected_reads, 101U);
}

// Goal: a misdirected write succeeds, leaves the old bytes where it belongs and destroys others, once;
// a sync makes that durable.
TEST_F(SimDiskFaultsTest, MisdirectedWrite) {
  disk_.arm("f", SimMishap::misdirected_write);
  ASSERT_TRUE(write(2, 'X'));
  const std::string now = stored();
  EXPECT_EQ(now[2], 'c');
  EXPECT_EQ(std::count(now.begin(), now.end(), 'X'), 1);
  ASSERT_TRUE(write(2, 'Y'));
  EXPECT_EQ(stored()[2], 'Y');
  ASSERT_TRUE(sim_.run(file_->sync()));
  const std::string before = stored();
  Random random(1);
  disk_.crash(random);
  EXPECT_EQ(stored(), before);
  EXPECT_EQ(disk_.counts().misdirected_writes, 1U);
}

// Goal: a stale read gives what the last write replaced, also within a longer read; one of a page
// that was written once does not happen.
TEST_F(SimDiskFaultsTest, StaleRead) {
  disk_.arm("f", SimMishap::stale_read);
  EXPECT_EQ(read(3).value(), "d");  // it waits
  ASSERT_TRUE(write(3, 'X'));
  ASSERT_TRUE(write(3, 'Y'));
  AlignedBuffer out(3 * kPageSize);
  ASSERT_TRUE(sim_.run(file_->read(2 * kPageSize, out.bytes())));
  EXPECT_EQ(static_cast<char>(out.bytes()[0]), 'c');
  EXPECT_EQ(static_cast<char>(out.bytes()[kPageSize]), 'X');
  EXPECT_EQ(static_cast<char>(out.bytes()[2 * kPageSize]), 'e');
  EXPECT_EQ(read(3).value(), "Y");
  EXPECT_EQ(disk_.counts().stale_reads, 1U);
}

// Goal: errors come about as often as told, of that kind alone.
TEST_F(SimDiskFaultsTest, ErrorsByChance) {
  struct Case {
    SimDiskFaults faults;
    std::uint64_t SimDiskCounts::*count;
  };
  for (const Case& each : {Case{{.read_error_ppm = kAlways / 4}, &SimDiskCounts::read_errors},
                           Case{{.write_error_ppm = kAlways / 4}, &SimDiskCounts::write_errors},
                           Case{{.sync_error_ppm = kAlways / 4}, &SimDiskCounts::sync_errors}}) {
    disk_.set_faults(each.faults);
    const SimDiskCounts before = disk_.counts();
    std::uint64_t failed = 0;
    for (int round = 0; round < 200; ++round) {
      for (const Errc code : {write(1, 'b').code(), sim_.run(file_->sync()).code(), read(5).code()}) {
        EXPECT_TRUE(code == Errc::ok || code == Errc::io_error);
        failed += code == Errc::io_error ? 1 : 0;
      }
    }
    EXPECT_GT(failed, 20U);
    EXPECT_LT(failed, 100U);
    EXPECT_EQ(disk_.counts().*each.count - before.*each.count, failed);
  }
}

// Goal: a disk that lies about syncs loses what they covered in a crash; an honest sync later covers
// all of it.
TEST_F(SimDiskFaultsTest, LyingSync) {
  int lost = 0;
  for (std::uint64_t seed = 0; seed < 32; ++seed) {
    const bool honest = seed % 2 == 0;
    disk_.set_faults({.lying_sync = true});
    ASSERT_TRUE(write(0, 'X'));
    ASSERT_TRUE(sim_.run(file_->sync()));
    disk_.set_faults({});
    if (honest) ASSERT_TRUE(sim_.run(file_->sync()));
    Random random(seed);
    disk_.crash(random);
    file_ = open();
    lost += stored()[0] == 'a' ? 1 : 0;
    if (honest) EXPECT_EQ(stored()[0], 'X') << seed;
    ASSERT_TRUE(write(0, 'a'));
    ASSERT_TRUE(sim_.run(file_->sync()));
  }
  EXPECT_GT(lost, 3);
  EXPECT_EQ(disk_.counts().lies, 32U);
}

// Goal: what a lying disk wrote back meanwhile a crash keeps, and no more.
TEST_F(SimDiskFaultsTest, LyingDisksWriteBackNowAndThen) {
  int lost = 0;
  disk_.set_faults({.lying_sync = true});
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    ASSERT_TRUE(write(0, 'X'));
    disk_.write_back();
    ASSERT_TRUE(write(1, 'Y'));
    ASSERT_TRUE(sim_.run(file_->sync()));
    Random random(seed);
    disk_.crash(random);
    file_ = open();
    EXPECT_EQ(stored()[0], 'X') << seed;
    lost += stored()[1] == 'b' ? 1 : 0;
    ASSERT_TRUE(write(0, 'a'));
    ASSERT_TRUE(write(1, 'b'));
    disk_.write_back();
  }
  EXPECT_GT(lost, 1);
}

// Goal: another disk has nothing of the one before, and who had that open hears so.
TEST_F(SimDiskFaultsTest, ReplacedDisksAreEmpty) {
  disk_.replace();
  EXPECT_TRUE(disk_.files().empty());
  EXPECT_EQ(write(0, 'X').code(), Errc::closed);
  EXPECT_EQ(sim_.run(disk_.open("f", {})).code(), Errc::not_found);
  file_ = open();
  EXPECT_EQ(file_->size(), 0U);
  ASSERT_TRUE(write(0, 'X'));
  ASSERT_TRUE(sim_.run(file_->sync()));
}

// Goal: a slow disk takes so much longer; a stalled one answers when it goes on, and not before.
TEST_F(SimDiskFaultsTest, SlowAndStalled) {
  disk_.set_options({.latency_min = milliseconds(1), .latency_max = milliseconds(1), .slowness = 50});
  TimePoint start = sim_.clock().now();
  ASSERT_TRUE(write(0, 'a'));
  EXPECT_EQ(sim_.clock().now() - start, milliseconds(50));
  disk_.set_options({});
  start = sim_.clock().now();
  disk_.stall_for(seconds(3));
  AlignedBuffer out(kPageSize);
  EXPECT_EQ(file_->try_read(0, out.bytes()), std::nullopt);
  ASSERT_TRUE(read(0).has_value());
  EXPECT_EQ(sim_.clock().now() - start, seconds(3));
  ASSERT_TRUE(write(0, 'a'));
  EXPECT_EQ(sim_.clock().now() - start, seconds(3));
}

// Goal: while nobody runs on the machine, no call changes anything.
TEST_F(SimDiskFaultsTest, DetachedDiskRefusesAll) {
  disk_.set_detached(true);
  EXPECT_EQ(write(0, 'X').code(), Errc::closed);
  EXPECT_EQ(sim_.run(disk_.write_file("g", "x")).code(), Errc::closed);
  EXPECT_EQ(sim_.run(disk_.remove("f")).code(), Errc::closed);
  EXPECT_EQ(sim_.run(disk_.open("f", {})).code(), Errc::closed);
  EXPECT_EQ(disk_.files(), (std::vector<std::string>{"f"}));
  EXPECT_EQ(stored(), "abcdefgh");
  disk_.set_detached(false);
  EXPECT_TRUE(write(0, 'X'));
}

}  // namespace
}  // namespace agro
