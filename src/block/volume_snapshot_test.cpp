// Snapshots, clones, restored volumes and growth.
// Method: a model of every state that was taken; the memory backend; cleaner and checkpoints on.
#include "block/snapshot_fixture.hpp"

namespace agro {
namespace {

// Goal: snapshots never change, whatever the volume does after them, through crashes and
// reopenings.
TEST(VolumeSnapshotTest, NeverChange) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    VolumeFixture fixture(seed);
    Opened volume(fixture, VolumeId{7}, {}, 0);
    Random random(seed * 17);
    ASSERT_TRUE(volume.open().has_value());
    for (int round = 0; round < 8; ++round) {
      volume.work(random, 300);
      volume.snapshot("s" + std::to_string(round));
      if (random.chance(1, 3)) volume.snapshots.erase(volume.snapshots.begin());
      volume.work(random, 300);
      volume.expect_all();
      if (random.chance(1, 2)) {
        ASSERT_TRUE(fixture.loop.run(volume.volume().flush()).has_value());
        volume.crash();
      } else {
        volume.close();
      }
      ASSERT_TRUE(volume.open().has_value());
      fixture.loop.run_for(std::chrono::seconds(10));  // sweep, cleaner, checkpoint
      volume.expect_all();
    }
  }
}

// Goal: a clone starts as its snapshot; neither sees what the other writes; clones of clones work
// alike.
TEST(VolumeSnapshotTest, Clones) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(seed);
    VolumeFixture fixture(seed);
    Random random(seed * 29);
    std::vector<std::unique_ptr<Opened>> family;
    family.push_back(std::make_unique<Opened>(fixture, VolumeId{7}, LogHead{}, 0));
    ASSERT_TRUE(family[0]->open().has_value());
    for (std::uint64_t depth = 1; depth <= 4; ++depth) {
      Opened& parent = *family.back();
      parent.work(random, 400);
      parent.snapshot("start");
      parent.work(random, 200);  // which the clone must not see
      auto child = clone_of(fixture, parent, "start", VolumeId{7 + depth});
      ASSERT_TRUE(child->open().has_value());
      child->expect_all();
      family.push_back(std::move(child));
      for (const auto& one : family) one->work(random, 300);
      for (const auto& one : family) one->expect_all();
      for (const auto& one : family) {
        one->close();
        ASSERT_TRUE(one->open().has_value());
      }
      fixture.loop.run_for(std::chrono::seconds(10));
      for (const auto& one : family) one->expect_all();
    }
    EXPECT_EQ(family.back()->ancestors().size(), 4U);
  }
}

// Goal: a restored volume is the snapshot, whatever was written since; the snapshots of then stay.
TEST(VolumeSnapshotTest, Restored) {
  VolumeFixture fixture(3);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  Random random(5);
  ASSERT_TRUE(volume.open().has_value());
  volume.work(random, 500);
  volume.snapshot("early");
  volume.work(random, 500);
  volume.snapshot("late");
  volume.work(random, 500);
  volume.close();
  // As Metadata::restore_snapshot(): its head, under a new epoch.
  Opened restored(fixture, VolumeId{7}, volume.snapshots["early"].head, 50);
  restored.snapshots = volume.snapshots;
  restored.model = volume.snapshots["early"].model;
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(restored.open().has_value());
    restored.expect_all();
    restored.work(random, 400);
    restored.expect_all();
    restored.close();
  }
}

// Goal: a snapshot keeps no more than what it needs: without it, what died is deleted.
TEST(VolumeSnapshotTest, SpaceComesBack) {
  VolumeFixture fixture(9);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  ASSERT_TRUE(volume.open().has_value());
  const auto fill = [&](std::uint64_t value) {
    for (std::uint64_t lba = 0; lba < volume.size / kSectorSize; ++lba)
      volume.write(lba, value + lba);
    ASSERT_TRUE(fixture.loop.run(volume.volume().flush()).has_value());
    ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
    fixture.loop.run_for(std::chrono::seconds(10));
  };
  fill(1'000'000);
  const std::size_t once = fixture.blocks.used();
  volume.snapshot("a");
  fill(2'000'000);
  EXPECT_GE(fixture.blocks.used(), 2 * once - once / 4);
  volume.expect_all();
  // gc's part, which knows by the INodes what is needed, is tested with the collector.
  volume.volume().set_pinned_heads({});
  EXPECT_FALSE(volume.volume().has_pinned_heads());
  volume.snapshots.clear();
  volume.close();
  ASSERT_TRUE(volume.open().has_value());
  fixture.loop.run_for(std::chrono::seconds(10));  // the sweep
  EXPECT_LE(fixture.blocks.used(), once + once / 4);
  volume.expect_all();
}

// Goal: before the volume says that all has its copies again, so have the blocks that snapshots
// alone need.
TEST(VolumeSnapshotTest, CopiesAreMadeForSnapshotsToo) {
  VolumeFixture fixture(10);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  ASSERT_TRUE(volume.open().has_value());
  volume.backend().set_missing(2);
  for (std::uint64_t lba = 0; lba < 64; ++lba) volume.write(lba, 100 + lba);
  ASSERT_TRUE(fixture.loop.run(volume.volume().flush()).has_value());
  volume.snapshot("a");
  ASSERT_EQ(volume.lease().degraded, 1U);
  for (std::uint64_t lba = 0; lba < 64; ++lba) volume.write(lba, 200 + lba);
  ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
  const auto thin_count = [&fixture] {
    return std::count_if(
        fixture.blocks.copies.begin(), fixture.blocks.copies.end(),
        [&fixture](const auto& entry) { return fixture.blocks.blocks.contains(entry.first); });
  };
  EXPECT_GT(thin_count(), 0);
  volume.backend().set_missing(0);
  EXPECT_TRUE(fixture.loop.run_until([&] { return volume.lease().degraded == 0; },
                                     std::chrono::seconds(60)));
  EXPECT_EQ(thin_count(), 0);
  volume.expect_all();
}

TEST(VolumeSnapshotTest, GrowsWhileOpen) {
  VolumeFixture fixture(11);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  ASSERT_TRUE(volume.open().has_value());
  Random random(2);
  volume.work(random, 300);
  volume.snapshot("small");
  volume.size *= 5;
  volume.volume().grow(volume.size);
  EXPECT_EQ(volume.volume().size_bytes(), volume.size);
  volume.expect_all();
  volume.work(random, 600);
  volume.snapshot("large");
  volume.expect_all();
  volume.close();
  ASSERT_TRUE(volume.open().has_value());
  volume.expect_all();
}

// Goal: what is beyond the end of a volume that was made smaller is gone for good, wherever the end lies in a map
// page, and nothing else is; snapshots keep their size. Method: shrink, reopen, crash, grow again.
TEST(VolumeSnapshotTest, ShrinksAndGrowsAgain) {
  constexpr std::uint64_t kPage = std::uint64_t{ExtentMap::kSectorsPerPage} * kSectorSize;
  for (const std::uint64_t end : {kPage * 2, kPage * 2 + kSectorSize, kPage * 3 - kSectorSize, std::uint64_t{kSectorSize}}) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      SCOPED_TRACE(fmt::format("{} {}", end, seed));
      VolumeFixture fixture(seed);
      Opened volume(fixture, VolumeId{7}, {}, 0);
      volume.size = 4 * kPage;
      Random random(seed * 3);
      ASSERT_TRUE(volume.open().has_value());
      volume.work(random, 400);
      volume.snapshot("large");
      volume.work(random, 200);
      volume.close();
      volume.shrink(end);
      ASSERT_TRUE(volume.open().has_value());
      EXPECT_EQ(volume.volume().size_bytes(), end);
      volume.expect_all();
      std::vector<std::byte> beyond(kSectorSize);
      EXPECT_EQ(fixture.loop.run(volume.volume().read(end, beyond)).code(), Errc::invalid_argument);
      if (random.chance(1, 2)) {
        ASSERT_TRUE(fixture.loop.run(volume.volume().flush()).has_value());
        volume.crash();
        ASSERT_TRUE(volume.open().has_value());
      }
      volume.snapshot("small");
      volume.size = 5 * kPage;
      volume.volume().grow(volume.size);
      volume.expect_all();
      volume.work(random, 400);
      volume.expect_all();
      volume.close();
      ASSERT_TRUE(volume.open().has_value());
      fixture.loop.run_for(std::chrono::seconds(10));
      volume.expect_all();
    }
  }
}

// Goal: until its checkpoint is committed, a cut did not happen: the next opening finds all that it needs.
TEST(VolumeSnapshotTest, ACutThatIsNotCommittedIsRepeated) {
  constexpr std::uint64_t kPage = std::uint64_t{ExtentMap::kSectorsPerPage} * kSectorSize;
  for (const bool is_full : {false, true}) {
    SCOPED_TRACE(is_full);
    VolumeFixture fixture(21);
    Opened volume(fixture, VolumeId{7}, {}, 0);
    volume.size = 4 * kPage;
    ASSERT_TRUE(volume.open().has_value());
    for (std::uint64_t lba = 0; lba < volume.size / kSectorSize; lba += 3) volume.write(lba, lba + 1);
    volume.close();
    volume.shrink(kPage + kSectorSize);
    // The opening dies, or finds no room, before the checkpoint with the cut is there.
    if (is_full) {
      fixture.blocks.capacity = 0;
      EXPECT_EQ(volume.open().code(), Errc::out_of_space);
      fixture.blocks.capacity = UINT64_MAX;
    } else {
      fixture.commits_fail = true;
      EXPECT_FALSE(volume.open().has_value());
      fixture.commits_fail = false;
    }
    ASSERT_TRUE(volume.open().has_value());
    volume.expect_all();
    volume.size = 4 * kPage;
    volume.volume().grow(volume.size);
    volume.expect_all();
  }
}

// Goal: the blocks that only the part beyond the end needed are deleted.
TEST(VolumeSnapshotTest, ShrinkingFreesSpace) {
  VolumeFixture fixture(22);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  constexpr std::uint64_t kPage = std::uint64_t{ExtentMap::kSectorsPerPage} * kSectorSize;
  volume.size = 2 * kPage;
  ASSERT_TRUE(volume.open().has_value());
  for (std::uint64_t lba = 0; lba < volume.size / kSectorSize; ++lba) volume.write(lba, lba + 1);
  volume.close();
  const std::uint64_t before = fixture.blocks.used();
  volume.shrink(kPage / 4);
  ASSERT_TRUE(volume.open().has_value());
  fixture.loop.run_for(std::chrono::seconds(10));
  EXPECT_LT(fixture.blocks.used(), before / 4);
  volume.expect_all();
}

// Goal: an INode of a larger volume that nobody made smaller is damage.
TEST(VolumeSnapshotTest, ALargerINodeIsCorrupt) {
  VolumeFixture fixture(23);
  fixture.size_bytes = 8 << 20;
  ASSERT_TRUE(fixture.open().has_value());
  ASSERT_TRUE(fixture.close().has_value());
  fixture.size_bytes = 4 << 20;
  EXPECT_EQ(fixture.open().code(), Errc::corrupt);
  fixture.options.checkpoint_size_bytes = 8 << 20;
  EXPECT_TRUE(fixture.open().has_value());
}

// Goal: the note of a snapshot stays for as long as the snapshot, through checkpoints and reopenings, and no longer.
TEST(VolumeSnapshotTest, NotesStay) {
  VolumeFixture fixture(41);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  Random random(3);
  ASSERT_TRUE(volume.open().has_value());
  volume.work(random, 200);
  volume.snapshot("a");
  const LogHead head = volume.snapshots["a"].head;
  const BlockRef note{VolumeId{7}, head.epoch, head.note_index, BlockType::inode};
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(fixture.blocks.blocks.contains(note)) << round;
    volume.work(random, 200);
    ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
    volume.close();
    ASSERT_TRUE(volume.open().has_value());
    fixture.loop.run_for(std::chrono::seconds(10));  // sweep
    volume.expect_all();
  }
  volume.snapshots.clear();
  volume.close();
  ASSERT_TRUE(volume.open().has_value());
  fixture.loop.run_for(std::chrono::seconds(10));
  EXPECT_FALSE(fixture.blocks.blocks.contains(note));
}

// Goal: the quick way to pin all that there is ends with the totals that counting gives. Method: a random log, pinned
// now and then, with and without an open block.
TEST(VolumeSnapshotTest, PinnedTotals) {
  constexpr std::uint32_t kSectors = 16;
  const auto totals = [](const VolumeMap& map) {
    return std::array{map.pinned_stored_sector_count(), map.pinned_live_sector_count(), map.pinned_block_count()};
  };
  VolumeMap map(4096);
  Random random(5);
  for (std::uint64_t sequence = 1; sequence <= 2000; ++sequence) {
    const BlockId id = map.add_open_block({1});
    for (std::uint32_t sector = 0; sector < kSectors; ++sector) map.assign(random.below(500), 1, id, sector);
    // With the open block, that is: all below the one that is sealed next.
    if (random.chance(1, 5)) map.set_pinned({1}, sequence - 1);
    map.seal_block(id, sequence, kSectors, 4096 * kSectors);
    if (random.chance(3, 4)) map.set_durable(id);
    if (random.chance(1, 5)) map.set_pinned({1}, sequence);
    if (random.chance(1, 50)) map.set_pinned({1}, sequence / 2);
    if (random.chance(1, 20)) (void)map.take_dead(Lineage(VolumeId{7}));
    const auto quick = totals(map);
    map.recount_pinned();
    ASSERT_EQ(quick, totals(map)) << sequence;
  }
  EXPECT_GT(map.pinned_block_count(), 0U);
}

// Goal: 1,000 snapshots of one volume: each costs a block of log and no reading, stays what it was, and opening costs
// no more reads than without. What time and memory they take: docs/snapshotting.md.
TEST(VolumeSnapshotTest, AThousand) {
  VolumeFixture fixture(31);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  Random random(1);
  ASSERT_TRUE(volume.open().has_value());
  volume.work(random, 2000);
  ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
  constexpr int kSnapshots = 1000;
  const std::uint64_t used = fixture.blocks.used();
  for (int number = 0; number < kSnapshots; ++number) {
    volume.write(random.below(volume.size / kSectorSize), random.next());
    if (number % 100 == 99) ASSERT_TRUE(fixture.loop.run(volume.volume().checkpoint()).has_value());
    fixture.blocks.reads.clear();
    volume.snapshot("s" + std::to_string(number));
    EXPECT_TRUE(fixture.blocks.reads.empty()) << number;
  }
  // A segment with a sector, the note, and a share of the checkpoints.
  EXPECT_LE(fixture.blocks.used(), used + kSnapshots * 5 * std::uint64_t{kSectorSize});
  const auto expect_some = [&] {
    for (int number = 0; number < kSnapshots; number += 97) {
      SCOPED_TRACE(number);
      const auto device = volume.snapshot_device("s" + std::to_string(number));
      ASSERT_TRUE(device.has_value()) << device.error().to_string();
      volume.expect(**device, volume.snapshots["s" + std::to_string(number)].model);
    }
    volume.expect(volume.volume(), volume.model);
  };
  expect_some();
  volume.close();
  fixture.blocks.reads.clear();
  ASSERT_TRUE(volume.open().has_value());
  EXPECT_LE(fixture.blocks.reads.size(), 16U);
  fixture.loop.run_for(std::chrono::seconds(10));  // sweep, cleaner, checkpoint
  expect_some();
}

TEST(VolumeSnapshotTest, DevicesRefuseWrites) {
  VolumeFixture fixture(12);
  Opened volume(fixture, VolumeId{7}, {}, 0);
  ASSERT_TRUE(volume.open().has_value());
  volume.write(3, 77);
  volume.snapshot("a");
  const auto device = fixture.loop.run(
      SnapshotDevice::open(volume.backend(), *parse_blockset_spec("crc,base"), Lineage(VolumeId{7}),
                           volume.snapshots["a"].head, volume.size));
  ASSERT_TRUE(device.has_value());
  EXPECT_TRUE((*device)->read_only());
  const std::vector<std::byte> data = sector_of(1);
  EXPECT_EQ(fixture.loop.run((*device)->write(0, data)).code(), Errc::not_supported);
  EXPECT_EQ((*device)->try_write(0, data)->code(), Errc::not_supported);
  EXPECT_EQ(fixture.loop.run((*device)->trim(0, kSectorSize)).code(), Errc::not_supported);
  EXPECT_EQ(fixture.loop.run((*device)->write_zeroes(0, kSectorSize, true)).code(),
            Errc::not_supported);
  std::vector<std::byte> odd(700);
  ASSERT_TRUE(fixture.loop.run((*device)->read(3 * kSectorSize - 100, odd)).has_value());
  EXPECT_EQ(load<std::uint64_t>(ConstBytes(odd).subspan(100)), 77U);
  EXPECT_EQ(fixture.loop.run((*device)->read(volume.size, odd)).code(), Errc::invalid_argument);
  const auto extents = fixture.loop.run((*device)->status(0, volume.size));
  ASSERT_TRUE(extents.has_value());
  ASSERT_EQ(extents->size(), 3U);
  EXPECT_TRUE(extents->at(0).hole && !extents->at(1).hole && extents->at(2).hole);
}

}  // namespace
}  // namespace agro
