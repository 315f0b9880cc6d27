#include "sim/sim_disk.hpp"

#include <gtest/gtest.h>

#include <set>

#include "sim/sim_loop.hpp"

namespace agro {
namespace {

using std::chrono::milliseconds;

AlignedBuffer filled(std::size_t size, char value) {
  AlignedBuffer buffer(size);
  std::memset(buffer.data(), value, size);
  return buffer;
}

class SimDiskTest : public ::testing::Test {
 protected:
  std::unique_ptr<File> open(OpenOptions options = {.create = true}) {
    return std::move(sim_.run(disk_.open("f", options)).value());
  }
  char at(std::uint64_t offset) { return disk_.contents("f", offset, 1)[0]; }

  SimLoop sim_;
  SimDisk disk_{sim_.clock(), Random(1)};
};

// Goal: what rots below the cache is seen by read_stored() alone, until the page is written or lost.
TEST_F(SimDiskTest, RotHidesBehindTheCache) {
  const std::unique_ptr<File> file = open();
  const AlignedBuffer bytes = filled(2 * kPageSize, 'o');
  ASSERT_TRUE(sim_.run(file->write(0, {bytes.bytes()})));
  ASSERT_TRUE(sim_.run(file->sync()));
  disk_.rot("f", kPageSize + 5, std::byte{1});
  AlignedBuffer out(2 * kPageSize);
  ASSERT_TRUE(sim_.run(file->read(3, out.bytes().first(kPageSize + 10))));
  EXPECT_EQ(static_cast<char>(out.bytes()[kPageSize + 2]), 'o');
  ASSERT_TRUE(sim_.run(file->read_stored(0, out.bytes())));
  EXPECT_EQ(static_cast<char>(out.bytes()[kPageSize + 5]), 'o' ^ 1);
  ASSERT_TRUE(sim_.run(file->write(kPageSize, {bytes.bytes().first(kPageSize)})));
  ASSERT_TRUE(sim_.run(file->read_stored(0, out.bytes())));
  EXPECT_EQ(static_cast<char>(out.bytes()[kPageSize + 5]), 'o');
  disk_.rot("f", 5, std::byte{1});
  disk_.kill();
  const std::unique_ptr<File> again = open();
  ASSERT_TRUE(sim_.run(again->read(0, out.bytes())));
  EXPECT_EQ(static_cast<char>(out.bytes()[5]), 'o' ^ 1);
}

// Goal: synced bytes survive every crash; unsynced ones survive, vanish or tear at 512 bytes.
TEST_F(SimDiskTest, CrashTearsOnlyTheUnsynced) {
  std::set<std::string> outcomes;
  for (std::uint64_t seed = 0; seed < 64; ++seed) {
    SCOPED_TRACE(seed);
    const std::unique_ptr<File> file = open();
    const AlignedBuffer old_bytes = filled(2 * kPageSize, 'o');
    const AlignedBuffer new_bytes = filled(kPageSize, 'n');
    ASSERT_TRUE(sim_.run(file->write(0, {old_bytes.bytes()})));
    ASSERT_TRUE(sim_.run(file->sync()));
    ASSERT_TRUE(sim_.run(file->write(0, {new_bytes.bytes()})));
    Random random(seed);
    disk_.crash(random);
    EXPECT_EQ(sim_.run(file->sync()).code(), Errc::closed);
    EXPECT_EQ(at(kPageSize), 'o');
    std::string pieces;
    for (std::uint64_t offset = 0; offset < kPageSize; offset += 512) {
      pieces.push_back(at(offset));
      EXPECT_EQ(disk_.contents("f", offset, 512), std::string(512, at(offset)));
    }
    outcomes.insert(pieces);
  }
  EXPECT_TRUE(outcomes.contains("oooooooo"));
  EXPECT_TRUE(outcomes.contains("nnnnnnnn"));
  EXPECT_GT(outcomes.size(), 8U);
}

Job write_page(File& file, ConstBytes bytes, std::shared_ptr<bool> done) {
  std::vector<ConstBytes> parts = {bytes};
  const Result<void> written = co_await file.write(0, std::move(parts));
  *done = written.has_value();
}

// Goal: what reads see of a failed write is durable after a sync, as any other write.
TEST_F(SimDiskTest, SyncCoversWhatIsLeftOfAFailedWrite) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    SimLoop sim;
    SimDisk disk(sim.clock(), Random(seed));
    const std::unique_ptr<File> file = sim.run(disk.open("f", {.create = true})).value();
    disk.set_fault("f", {.fail_writes = true});
    const AlignedBuffer bytes = filled(2 * kPageSize, 'x');
    EXPECT_EQ(sim.run(file->write(0, {bytes.bytes()})).code(), Errc::io_error);
    const std::string seen = disk.contents("f", 0, disk.size_of("f"));
    ASSERT_TRUE(sim.run(file->sync()).has_value());
    Random random(seed);
    disk.crash(random);
    EXPECT_EQ(disk.contents("f", 0, disk.size_of("f")), seen);
  }
}

// Goal: a sync covers what completed before it started, and no more.
TEST_F(SimDiskTest, SyncCoversWhatCompletedBefore) {
  bool lost = false;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    disk_.set_options({});
    const std::unique_ptr<File> file = open();
    const AlignedBuffer old_bytes = filled(kPageSize, 'o');
    const AlignedBuffer new_bytes = filled(kPageSize, 'n');
    ASSERT_TRUE(sim_.run(file->write(0, {old_bytes.bytes()})));
    ASSERT_TRUE(sim_.run(file->sync()));
    disk_.set_options({.latency_min = milliseconds(1), .latency_max = milliseconds(1)});
    auto write = std::make_shared<bool>(false);
    spawn(sim_.executor(), write_page(*file, new_bytes.bytes(), write));
    sim_.poll();  // the write is flying while the sync starts and ends
    ASSERT_TRUE(sim_.run(file->sync()));
    EXPECT_TRUE(*write);
    Random random(seed);
    disk_.crash(random);
    lost = lost || at(0) == 'o';
  }
  EXPECT_TRUE(lost);
}

TEST_F(SimDiskTest, FaultsAndLimits) {
  const std::unique_ptr<File> file = open({.create = true, .exclusive = true});
  EXPECT_EQ(sim_.run(disk_.open("f", {.exclusive = true})).code(), Errc::locked);
  const AlignedBuffer bytes = filled(kPageSize, 'x');
  ASSERT_TRUE(sim_.run(file->write(0, {bytes.bytes()})));
  disk_.set_options({.capacity = kPageSize});
  EXPECT_EQ(sim_.run(file->write(kPageSize, {bytes.bytes()})).code(), Errc::out_of_space);
  EXPECT_EQ(sim_.run(file->resize(2 * kPageSize)).code(), Errc::out_of_space);
  EXPECT_TRUE(sim_.run(file->write(0, {bytes.bytes()})));
  disk_.set_fault("f", {.fail_reads = true});
  AlignedBuffer out(kPageSize);
  EXPECT_EQ(sim_.run(file->read(0, out.bytes())).code(), Errc::io_error);
  disk_.set_fault("f", {.fail_syncs = true});
  EXPECT_EQ(sim_.run(file->sync()).code(), Errc::io_error);
  disk_.set_fault("f", {.fail_writes = true});
  EXPECT_EQ(sim_.run(file->write(0, {bytes.bytes()})).code(), Errc::io_error);
  disk_.set_fault("f", {});
  disk_.flip("f", 1, std::byte{1});
  EXPECT_EQ(at(1), 'x' ^ 1);
  EXPECT_EQ(sim_.run(file->read(1, out.bytes())).code(), Errc::io_error);  // beyond the end
  disk_.kill();
  EXPECT_EQ(sim_.run(file->read(0, out.bytes())).code(), Errc::closed);
  EXPECT_NE(open({.exclusive = true}), nullptr);
}

// Goal: reserved space is taken from the disk at once, reads as zeros, and stays when it is synced; what is
// written there and not synced is as uncertain as anywhere.
TEST_F(SimDiskTest, SpaceIsReserved) {
  const std::unique_ptr<File> file = open();
  const AlignedBuffer bytes = filled(kPageSize, 'x');
  disk_.set_options({.capacity = 4 * kPageSize});
  EXPECT_EQ(sim_.run(file->allocate(kPageSize, 4 * kPageSize)).code(), Errc::out_of_space);
  EXPECT_EQ(file->size(), 0U);
  ASSERT_TRUE(sim_.run(file->allocate(0, 4 * kPageSize)));
  ASSERT_TRUE(sim_.run(file->allocate(0, kPageSize)));  // never shorter
  EXPECT_EQ(file->size(), 4 * kPageSize);
  ASSERT_TRUE(sim_.run(file->sync()));
  disk_.set_options({.capacity = kPageSize});
  ASSERT_TRUE(sim_.run(file->write_durably({.offset = kPageSize, .parts = {bytes.bytes()}})));
  EXPECT_EQ(disk_.raw_sync_count(), 1U);
  ASSERT_TRUE(sim_.run(file->write_durably({.offset = kPageSize, .parts = {bytes.bytes()}})));
  EXPECT_EQ(disk_.raw_sync_count(), 1U);
  ASSERT_TRUE(sim_.run(file->write(2 * kPageSize, {bytes.bytes()})));
  Random random(1);
  disk_.crash(random);
  EXPECT_EQ(disk_.size_of("f"), 4 * kPageSize);
  EXPECT_EQ(at(kPageSize), 'x');
  EXPECT_EQ(disk_.contents("f", 3 * kPageSize, kPageSize), std::string(kPageSize, '\0'));
}

TEST_F(SimDiskTest, SmallFilesAndDirectories) {
  EXPECT_EQ(sim_.run(disk_.write_file("d/a", "1")).code(), Errc::not_found);
  ASSERT_TRUE(sim_.run(disk_.make_directories("d/e")));
  ASSERT_TRUE(sim_.run(disk_.write_file("d/a", "1")));
  Random random(1);
  disk_.crash(random);
  EXPECT_EQ(sim_.run(disk_.read_file("d/a")).value(), "1");
  EXPECT_EQ(sim_.run(disk_.list("d")).value(), (std::vector<std::string>{"a", "e"}));
  disk_.set_options({.capacity = 100});
  EXPECT_EQ(sim_.run(disk_.free_space("d")).value(), 99U);
  EXPECT_EQ(sim_.run(disk_.free_space("nowhere")).code(), Errc::not_found);
  ASSERT_TRUE(sim_.run(disk_.remove("d/a")));
  EXPECT_EQ(sim_.run(disk_.read_file("d/a")).code(), Errc::not_found);
}

}  // namespace
}  // namespace agro
