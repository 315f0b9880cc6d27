// Differences between states of a volume, against the models of those states.
#include "block/snapshot_difference.hpp"

#include "base/parallel.hpp"
#include "block/snapshot_fixture.hpp"

namespace agro {
namespace {

struct Difference {
  std::vector<ChangedRange> ranges;
  std::uint64_t compared_page_count = 0;
};

Difference difference(VolumeFixture& fixture, std::shared_ptr<SnapshotDevice> from,
                      std::shared_ptr<SnapshotDevice> to) {
  SnapshotDifference changes(std::move(from), std::move(to));
  Difference all;
  while (true) {
    const auto range = fixture.loop.run(changes.next());
    EXPECT_TRUE(range.has_value()) << range.error().to_string();
    if (!range.has_value() || !range->has_value()) break;
    all.ranges.push_back(**range);
  }
  all.compared_page_count = changes.compared_page_count();
  return all;
}

Difference difference(VolumeFixture& fixture, const Opened& volume, const std::string& from,
                      const std::string& to) {
  return difference(fixture, *volume.snapshot_device(from), *volume.snapshot_device(to));
}

/// What a copy of `from` becomes when `ranges` are copied from `to`.
Model patched(const Model& from, const Model& to, const std::vector<ChangedRange>& ranges) {
  Model result = from;
  std::uint64_t end = 0;
  for (const ChangedRange& range : ranges) {
    EXPECT_GE(range.offset, end);  // ascending, not overlapping
    EXPECT_GT(range.size, 0U);
    end = range.offset + range.size;
    for (std::uint64_t lba = range.offset / kSectorSize; lba < end / kSectorSize; ++lba) {
      const auto found = to.find(lba);
      EXPECT_EQ(found == to.end(), range.zero) << "sector " << lba;
      result.erase(lba);
      if (found != to.end()) result[lba] = found->second;
    }
  }
  return result;
}

void expect_difference(VolumeFixture& fixture, const Opened& volume, const std::string& from,
                       const std::string& to) {
  SCOPED_TRACE(from + " to " + to);
  const Difference found = difference(fixture, volume, from, to);
  const Model& old = volume.snapshots.at(from).model;
  const Model& fresh = volume.snapshots.at(to).model;
  EXPECT_EQ(patched(old, fresh, found.ranges), fresh);
  for (const ChangedRange& range : found.ranges) {
    // Values are random, so what was written since is different; zeros may have been zeros meanwhile.
    for (std::uint64_t lba = range.offset / kSectorSize; lba < (range.offset + range.size) / kSectorSize; ++lba) {
      const auto before = old.find(lba);
      const auto after = fresh.find(lba);
      EXPECT_FALSE(before == old.end() && after == fresh.end()) << "sector " << lba << " was zeros and is";
      if (before == old.end() || after == fresh.end()) continue;
      EXPECT_NE(before->second, after->second) << "sector " << lba << " did not change";
    }
  }
}

// Goal: between any two snapshots, in either direction, exactly what changed is told, whatever checkpoints,
// cleaner, crashes and reopenings did between them.
TEST(SnapshotDifferenceTest, IsWhatChanged) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    VolumeFixture fixture(seed);
    Opened volume(fixture, VolumeId{7}, {}, 0);
    Random random(seed * 41);
    ASSERT_TRUE(volume.open().has_value());
    volume.snapshot("s0");
    for (int round = 1; round <= 5; ++round) {
      volume.work(random, 40 << round);
      volume.snapshot("s" + std::to_string(round));
      for (int from = 0; from <= round; ++from) {
        expect_difference(fixture, volume, "s" + std::to_string(from), "s" + std::to_string(round));
        expect_difference(fixture, volume, "s" + std::to_string(round), "s" + std::to_string(from));
      }
      if (random.chance(1, 2)) {
        ASSERT_TRUE(fixture.loop.run(volume.volume().flush()).has_value());
        volume.crash();
      } else {
        volume.close();
      }
      ASSERT_TRUE(volume.open().has_value());
      fixture.loop.run_for(std::chrono::seconds(10));  // sweep, cleaner, checkpoint
    }
    EXPECT_TRUE(difference(fixture, volume, "s3", "s3").ranges.empty());
  }
}

// Goal: without a base, all that has data; a range goes on across map pages.
TEST(SnapshotDifferenceTest, FromNothing) {
  VolumeFixture fixture(2);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  volume.size = 3 * std::uint64_t{ExtentMap::kSectorsPerPage} * kSectorSize;
  ASSERT_TRUE(volume.open().has_value());
  volume.snapshot("empty");
  for (std::uint64_t lba = 1000; lba < 1100; ++lba) volume.write(lba, lba);
  ASSERT_TRUE(fixture.loop.run(volume.volume().write_zeroes(0, kSectorSize, false)).has_value());
  volume.snapshot("full");
  const std::vector<ChangedRange> wanted = {{1000 * kSectorSize, 100 * kSectorSize, false}};
  EXPECT_EQ(difference(fixture, nullptr, *volume.snapshot_device("full")).ranges, wanted);
  EXPECT_EQ(difference(fixture, volume, "empty", "full").ranges, wanted);
  EXPECT_TRUE(difference(fixture, nullptr, *volume.snapshot_device("empty")).ranges.empty());
}

// Goal: only what changed costs: map pages that both INodes have in one place are not looked at.
TEST(SnapshotDifferenceTest, SamePagesArePassedOver) {
  VolumeFixture fixture(3);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  constexpr std::uint64_t kPages = 40;
  volume.size = kPages * ExtentMap::kSectorsPerPage * kSectorSize;
  ASSERT_TRUE(volume.open().has_value());
  for (std::uint64_t page = 0; page < kPages; ++page) volume.write(page * ExtentMap::kSectorsPerPage, page + 1);
  ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
  volume.snapshot("a");
  volume.write(5 * ExtentMap::kSectorsPerPage, 99);
  volume.write(7 * ExtentMap::kSectorsPerPage + 1, 98);
  ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
  volume.write(9 * ExtentMap::kSectorsPerPage, 97);  // which only the snapshot's log has
  volume.snapshot("b");
  const Difference found = difference(fixture, volume, "a", "b");
  EXPECT_EQ(found.ranges.size(), 3U);
  EXPECT_EQ(found.compared_page_count, 3U);
  expect_difference(fixture, volume, "a", "b");
}

// Goal: however large the map, a device takes no more memory for it than it may. Method: almost none; reads and
// differences, several at once, are right all the same.
TEST(SnapshotDifferenceTest, MapMemoryIsBounded) {
  VolumeFixture fixture(6);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  constexpr std::uint64_t kPages = 30;
  volume.size = kPages * ExtentMap::kSectorsPerPage * kSectorSize;
  Random random(8);
  ASSERT_TRUE(volume.open().has_value());
  volume.work(random, 3000);
  ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
  volume.snapshot("a");
  volume.work(random, 300);
  ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
  volume.snapshot("b");
  const auto from = *volume.snapshot_device("a");
  const auto to = *volume.snapshot_device("b");
  from->set_map_memory(4096);
  to->set_map_memory(4096);
  const std::vector<ChangedRange> ranges = difference(fixture, from, to).ranges;
  EXPECT_EQ(patched(volume.snapshots["a"].model, volume.model, ranges), volume.model);
  EXPECT_EQ(ranges, difference(fixture, volume, "a", "b").ranges);
  EXPECT_LE(to->map_memory_bytes(), 8192U);
  volume.expect(*to, volume.model);
  std::vector<std::vector<std::byte>> parts(64);
  const std::uint64_t step = volume.size / parts.size();
  const auto read = [&](std::size_t index) -> Task<void> {
    parts[index].resize(step);
    return to->read(index * step, parts[index]);
  };
  ASSERT_TRUE(fixture.loop.run(for_each_parallel(parts.size(), 16, read)).has_value());
  for (const auto& [lba, value] : volume.model) {
    const std::uint64_t offset = lba * kSectorSize;
    ASSERT_EQ(load<std::uint64_t>(ConstBytes(parts[offset / step]).subspan(offset % step)), value) << lba;
  }
  EXPECT_LE(to->map_memory_bytes(), 64 * 1024U);
}

// Goal: a clone is compared with what it came from, and sizes may differ.
TEST(SnapshotDifferenceTest, ClonesAndSizes) {
  VolumeFixture fixture(4);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  Random random(9);
  ASSERT_TRUE(volume.open().has_value());
  volume.work(random, 300);
  volume.snapshot("start");
  auto clone = clone_of(fixture, volume, "start", VolumeId{8});
  ASSERT_TRUE(clone->open().has_value());
  clone->snapshot("same");
  const auto start = *volume.snapshot_device("start");
  EXPECT_TRUE(difference(fixture, start, *clone->snapshot_device("same")).ranges.empty());
  clone->size *= 3;
  clone->volume().grow(clone->size);
  clone->work(random, 300);
  clone->snapshot("larger");
  const auto larger = *clone->snapshot_device("larger");
  const auto ranges = difference(fixture, *volume.snapshot_device("start"), larger).ranges;
  EXPECT_EQ(patched(volume.model, clone->model, ranges), clone->model);
  EXPECT_GT(ranges.back().offset, volume.size);
  for (const ChangedRange& range : difference(fixture, larger, start).ranges) {
    EXPECT_LE(range.offset + range.size, volume.size);
  }
}

// Goal: a map page that cannot be read is an error, not a part that did not change.
TEST(SnapshotDifferenceTest, UnreadablePagesAreErrors) {
  VolumeFixture fixture(5);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  ASSERT_TRUE(volume.open().has_value());
  volume.write(1, 11);
  ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
  volume.snapshot("a");
  SnapshotDifference changes(nullptr, *volume.snapshot_device("a"));
  volume.backend().fail_with(Errc::unavailable);
  EXPECT_EQ(fixture.loop.run(changes.next()).code(), Errc::unavailable);
  volume.backend().fail_with(Errc::ok);
}

}  // namespace
}  // namespace agro
