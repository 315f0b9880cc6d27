// Volumes over a cluster in a map: what they promise as devices, through crashes and failures.
#include "block/volume.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "block/volume_fixture.hpp"
#include "block/write_history.hpp"

namespace agro {
namespace {

std::vector<std::byte> pattern(std::size_t size, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
  return bytes;
}

std::vector<std::byte> read_all(VolumeFixture& fixture) {
  std::vector<std::byte> bytes(fixture.size_bytes);
  const Result<void> done = fixture.loop.run(fixture.volume->read(0, bytes));
  EXPECT_TRUE(done.has_value()) << done.error().to_string();
  return bytes;
}

// Goal: peers keep in memory what is written in small pieces, and not what is written in long runs.
TEST(VolumeTest, StreamsAreNotKept) {
  VolumeFixture fixture(1);
  fixture.block_size = 256 * 1024;
  ASSERT_TRUE(fixture.open().has_value());
  const std::vector<std::byte> data = pattern(fixture.size_bytes, 1);
  const std::span<const std::byte> bytes(data);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, bytes)).has_value());
  ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  EXPECT_LT(fixture.blocks.kept, fixture.size_bytes / 32);  // short ends
  for (std::uint64_t offset = 0; offset < fixture.size_bytes; offset += 8 * kSectorSize) {
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(offset, bytes.first(kSectorSize))).has_value());
  }
  ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  EXPECT_GT(fixture.blocks.kept, fixture.size_bytes / 8);
  ASSERT_TRUE(fixture.close().has_value());
}

// Goal: what was overwritten goes as soon as its successors are durable, without a checkpoint, if the last one covers it;
// what came after that stays, for it is the log. Method: peers' blocks after the whole volume is overwritten twice, a crash.
TEST(VolumeTest, CoveredBlocksGoWithoutACheckpoint) {
  VolumeFixture fixture(1);
  fixture.options.checkpoint_after_bytes = fixture.options.checkpoint_after_blocks = UINT64_MAX;
  fixture.options.dead_bytes_max = 2 * fixture.size_bytes;  // a checkpoint for their sake
  ASSERT_TRUE(fixture.open().has_value());
  std::vector<std::byte> data;
  for (std::uint64_t round = 0; round < 3; ++round) {
    data = pattern(fixture.size_bytes, round);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, data)).has_value());
    ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
    if (round > 0) continue;
    EXPECT_GT(fixture.blocks.used(), fixture.size_bytes);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->checkpoint()).has_value());
  }
  fixture.loop.run_for(std::chrono::milliseconds(100));  // deletions
  const LogHead head = fixture.head;
  EXPECT_LT(fixture.blocks.used(), fixture.size_bytes * 5 / 2);  // two writings and what a batch holds back, not three
  EXPECT_GT(fixture.blocks.used(), fixture.size_bytes * 2);
  fixture.crash();
  EXPECT_EQ(fixture.head, head) << "there was a checkpoint";
  ASSERT_TRUE(fixture.open().has_value());
  EXPECT_EQ(read_all(fixture), data);
}

// Goal: the cleaner fills its blocks, for one that is not full takes the space of one that is. Method: users who fill theirs
// overwrite at random; of the blocks at the peers few are short.
TEST(VolumeTest, CleanedBlocksAreFull) {
  VolumeFixture fixture(1, 32 * 1024 * 1024);
  fixture.blocks.capacity = fixture.size_bytes * 10 / 7;
  fixture.blocks.reserve = fixture.blocks.capacity / 50;
  fixture.options.in_flight_size_max = 128 * 1024;  // so that the cleaner need not take of the reserve
  ASSERT_TRUE(fixture.open().has_value());
  const std::vector<std::byte> sector = pattern(kSectorSize, 1);
  Random random(2);
  const std::uint64_t sector_count = fixture.size_bytes / kSectorSize;
  for (std::uint64_t count = 0; count < 4 * sector_count; ++count) {
    const std::uint64_t lba = count < sector_count ? count : random.below(sector_count);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(lba * kSectorSize, sector)).has_value());
  }
  EXPECT_GT(fixture.volume->info().cleaned_bytes, fixture.size_bytes);
  std::size_t block_count = 0;
  std::size_t short_count = 0;
  for (const auto& [ref, block] : fixture.blocks.blocks) {
    if (ref.type != BlockType::data) continue;
    ++block_count;
    if (block.bytes.size() < fixture.block_size * 3 / 4) ++short_count;
  }
  EXPECT_LT(short_count, block_count / 20) << "of " << block_count;
  ASSERT_TRUE(fixture.close().has_value());
}

// Goal: any mix of sizes and alignments reads back as from an array, over reopenings.
TEST(VolumeTest, EqualsAnArray) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    VolumeFixture fixture(seed);
    ASSERT_TRUE(fixture.open().has_value());
    std::vector<std::byte> model(fixture.size_bytes);
    Random random(seed * 77);
    for (int step = 0; step < 300; ++step) {
      std::uint64_t size = 1 + random.below(random.chance(1, 4) ? 200000 : 9000);
      std::uint64_t offset = random.below(fixture.size_bytes);
      size = std::min(size, fixture.size_bytes - offset);
      const std::uint64_t kind = random.below(10);
      if (kind < 6) {
        if (random.chance(1, 2)) {
          offset = round_down(offset, kSectorSize);
          size = std::min(round_up(size, kSectorSize), fixture.size_bytes - offset);
        }
        const std::vector<std::byte> data = pattern(size, random.next());
        ASSERT_TRUE(fixture.loop.run(fixture.volume->write(offset, data)).has_value());
        std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
      } else if (kind < 8) {
        ASSERT_TRUE(fixture.loop.run(fixture.volume->write_zeroes(offset, size, kind == 6)).has_value());
        std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), size, std::byte{0});
      } else if (kind == 8) {
        ASSERT_TRUE(fixture.loop.run(fixture.volume->trim(offset, size)).has_value());
        const std::uint64_t begin = round_up(offset, kSectorSize);
        const std::uint64_t end = round_down(offset + size, kSectorSize);
        if (begin < end) std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(begin), end - begin, std::byte{0});
      } else {
        std::vector<std::byte> out(size);
        ASSERT_TRUE(fixture.loop.run(fixture.volume->read(offset, out)).has_value());
        ASSERT_TRUE(std::equal(out.begin(), out.end(), model.begin() + static_cast<std::ptrdiff_t>(offset)));
      }
      if (random.chance(1, 15)) ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
      if (random.chance(1, 80)) {
        ASSERT_TRUE(fixture.close().has_value());
        ASSERT_TRUE(fixture.open().has_value());
      }
    }
    EXPECT_EQ(read_all(fixture), model);
    ASSERT_TRUE(fixture.close().has_value());
    ASSERT_TRUE(fixture.open().has_value());
    EXPECT_EQ(read_all(fixture), model);
  }
}

void crash_once(std::uint64_t seed) {
  SCOPED_TRACE("replay with AGRO_SEED=" + std::to_string(seed));
  VolumeFixture fixture(seed, 2 * 1024 * 1024);
  const std::uint64_t sector_count = fixture.size_bytes / kSectorSize;
  Random random(seed + 1000003);
  History history;
  ASSERT_TRUE(fixture.open().has_value());
  for (int life = 0; life < 3; ++life) {
    bool stopped = false;
    TaskGroup group(fixture.loop.executor());
    group.spawn(write_numbered(*fixture.volume, history, random, sector_count, stopped));
    fixture.loop.run_for(std::chrono::microseconds(random.below(1500000)));
    stopped = true;
    fixture.crash();
    ASSERT_TRUE(fixture.loop.run_until([&] { return group.count() == 0; }));
    const Result<void> opened = fixture.open();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    const std::vector<std::uint64_t> found = numbers_of(read_all(fixture));
    ASSERT_TRUE(keep_survivors(history, found)) << "life " << life << ": no prefix of "
        << history.writes.size() << " writes with the " << history.flushed_count
        << " flushed ones is on the device";
  }
}

// Goal: after a crash at any instant the device is a prefix of the write history that contains every
// flushed write. Method: numbered writes, trims and flushes with cleaner and checkpoints running, a
// crash at a random instant, three lives a seed.
TEST(VolumeTest, CrashLeavesAPrefixWithAllThatWasFlushed) {
  if (const char* seed = std::getenv("AGRO_SEED")) return crash_once(std::strtoull(seed, nullptr, 10));
  for (std::uint64_t seed = 1; seed <= 150 && !testing::Test::HasFailure(); ++seed) crash_once(seed);
}

// Goal: used space returns to what is live. Method: overwrite many times, then wait.
TEST(VolumeTest, CleanerKeepsSpaceBounded) {
  VolumeFixture fixture(5);
  ASSERT_TRUE(fixture.open().has_value());
  Random random(6);
  const std::uint64_t sector_count = fixture.size_bytes / kSectorSize;
  for (int step = 0; step < 12000; ++step) {
    const std::vector<std::byte> data = numbered(1, static_cast<std::uint64_t>(step) + 1);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(random.below(sector_count) * kSectorSize, data)).has_value());
    if (step % 7 == 0) ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  }
  fixture.loop.run_for(std::chrono::seconds(30));
  const VolumeStatus info = fixture.volume->info();
  EXPECT_GT(info.cleaned_bytes, 0U);
  EXPECT_LT(fixture.blocks.used(), 2 * fixture.size_bytes + 2 * 1024 * 1024);
}

// Goal: a full cluster makes writes wait, loses nothing flushed, and goes on when there is room.
TEST(VolumeTest, FullStoresSuspendAndResume) {
  VolumeFixture fixture(9);
  fixture.blocks.capacity = 5 * 1024 * 1024 / 2;
  fixture.blocks.reserve = 1024 * 1024;
  ASSERT_TRUE(fixture.open().has_value());
  bool wrote_all = false;
  History history;
  TaskGroup group(fixture.loop.executor());
  struct Writer {
    static Job run(Volume& volume, bool& done) {
      for (std::uint64_t lba = 0; lba < 1024; ++lba) {
        const std::vector<std::byte> data = numbered(1, lba + 1);
        EXPECT_TRUE((co_await volume.write(lba * kSectorSize, data)).has_value());
      }
      EXPECT_TRUE((co_await volume.flush()).has_value());
      done = true;
    }
  };
  group.spawn(Writer::run(*fixture.volume, wrote_all));
  fixture.loop.run_for(std::chrono::seconds(20));
  EXPECT_FALSE(wrote_all);
  EXPECT_FALSE(fixture.volume->info().suspended.empty() && fixture.blocks.used() < 1024 * 1024);
  fixture.blocks.capacity = 100 * 1024 * 1024;
  ASSERT_TRUE(fixture.loop.run_until([&] { return wrote_all; }, std::chrono::minutes(1)));
  const std::vector<std::uint64_t> found = numbers_of(read_all(fixture));
  for (std::uint64_t lba = 0; lba < 1024; ++lba) ASSERT_EQ(found[lba], lba + 1);
}

// Goal: volumes without checksums keep what was flushed, too.
TEST(VolumeTest, PlainBlocksSurviveCrashes) {
  VolumeFixture fixture(17);
  fixture.spec = "base";
  ASSERT_TRUE(fixture.open().has_value());
  for (std::uint64_t life = 0; life < 3; ++life) {
    for (std::uint64_t lba = 0; lba < 256; lba += 8) {
      const std::vector<std::byte> data = numbered(8, lba + life + 1);
      ASSERT_TRUE(fixture.loop.run(fixture.volume->write(lba * kSectorSize, data)).has_value());
    }
    ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
    fixture.crash();
    const Result<void> opened = fixture.open();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    const std::vector<std::uint64_t> found = numbers_of(read_all(fixture));
    for (std::uint64_t lba = 0; lba < 256; lba += 8) ASSERT_EQ(found[lba], lba + life + 1);
  }
}

// Goal: what peers had before they refused a block does not let writes go on, which would use up the reserve,
// one write after the other. Found by the simulator, seed 501603.
TEST(VolumeTest, OldNewsOfSpaceDoNotEatTheReserve) {
  VolumeFixture fixture(10);
  ASSERT_TRUE(fixture.open().has_value());
  fixture.blocks.reserve = 1024 * 1024;
  fixture.blocks.capacity = fixture.blocks.used() + fixture.blocks.reserve + 512 * 1024;
  fixture.backend->freeze_space();
  const TimePoint end = fixture.loop.clock().now() + std::chrono::seconds(1);
  for (std::uint64_t lba = 0; lba < 1024 && fixture.loop.clock().now() < end; lba += 8) {
    const Duration left = end - fixture.loop.clock().now();
    const Result<void> written = fixture.loop.run(fixture.volume->write(lba * kSectorSize, numbered(8, lba + 1)), left);
    if (!written.has_value()) break;
    if (!fixture.loop.run(fixture.volume->flush(), left).has_value()) break;
  }
  EXPECT_GE(fixture.loop.clock().now(), end);
  EXPECT_LT(fixture.blocks.used() + fixture.blocks.reserve / 2, fixture.blocks.capacity);
}

// Goal: on full stores a trim is not held up, and what it frees lets the writes go on.
TEST(VolumeTest, TrimFreesFullStores) {
  VolumeFixture fixture(10);
  fixture.blocks.capacity = 5 * 1024 * 1024 / 2;
  fixture.blocks.reserve = 1024 * 1024;
  ASSERT_TRUE(fixture.open().has_value());
  struct Writer {
    static Job run(Volume& volume, std::uint64_t& next, std::uint64_t end) {
      for (; next < end; ++next) {
        const std::vector<std::byte> data = numbered(1, next + 1);
        EXPECT_TRUE((co_await volume.write(next * kSectorSize, data)).has_value());
      }
    }
  };
  std::uint64_t next = 0;
  TaskGroup group(fixture.loop.executor());
  group.spawn(Writer::run(*fixture.volume, next, 600));
  fixture.loop.run_for(std::chrono::seconds(20));
  ASSERT_GT(next, 100U);
  ASSERT_LT(next, 600U);
  EXPECT_FALSE(fixture.volume->info().suspended.empty());
  const std::uint64_t before = next;
  const Result<void> trimmed =
      fixture.loop.run(fixture.volume->trim(0, 100 * kSectorSize), std::chrono::seconds(10));
  ASSERT_TRUE(trimmed.has_value());
  ASSERT_TRUE(fixture.loop.run_until([&] { return next > before + 40; }, std::chrono::minutes(1)));
  // And what remains is right.
  ASSERT_TRUE(fixture.loop.run(fixture.volume->trim(100 * kSectorSize, 200 * kSectorSize)).has_value());
  ASSERT_TRUE(fixture.loop.run_until([&] { return next == 600; }, std::chrono::minutes(1)));
  EXPECT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  const std::vector<std::uint64_t> found = numbers_of(read_all(fixture));
  for (std::uint64_t lba = 0; lba < 600; ++lba) ASSERT_EQ(found[lba], lba < 300 ? 0 : lba + 1);
}

// Goal: a checkpoint that failed is made up for though nobody writes: what died before it is deleted.
TEST(VolumeTest, FailedCheckpointIsTriedAgainWhenIdle) {
  VolumeFixture fixture(1);
  ASSERT_TRUE(fixture.open().has_value());
  const std::vector<std::byte> data = pattern(fixture.size_bytes / 2, 1);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, data)).has_value());
  ASSERT_TRUE(fixture.loop.run(fixture.volume->checkpoint()).has_value());
  const std::uint64_t used_before = fixture.blocks.used();
  ASSERT_TRUE(fixture.loop.run(fixture.volume->trim(0, data.size())).has_value());
  fixture.lease->commit_fails = true;
  EXPECT_EQ(fixture.loop.run(fixture.volume->checkpoint()).code(), Errc::unavailable);
  EXPECT_GE(fixture.blocks.used(), used_before) << "the committed INode still needs them";
  fixture.lease->commit_fails = false;
  fixture.loop.run_for(std::chrono::seconds(30));
  EXPECT_LT(fixture.blocks.used(), used_before / 4);
}

// Goal: peers that fail for a while delay, never fail, the device; fenced fails it for good.
TEST(VolumeTest, FailuresSuspendFencedFails) {
  VolumeFixture fixture(11);
  ASSERT_TRUE(fixture.open().has_value());
  const std::vector<std::byte> data = numbered(1, 5);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, data)).has_value());
  fixture.backend->fail_with(Errc::no_quorum);
  EXPECT_EQ(fixture.loop.run(fixture.volume->flush(), std::chrono::seconds(5)).code(), Errc::timed_out);
  EXPECT_FALSE(fixture.volume->info().suspended.empty());
  fixture.backend->fail_with(Errc::ok);
  EXPECT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  EXPECT_TRUE(fixture.volume->info().suspended.empty());
  fixture.blocks.fences[VolumeFixture::kVolume] = {99};
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, data)).has_value());
  EXPECT_EQ(fixture.loop.run(fixture.volume->flush()).code(), Errc::fenced);
  EXPECT_EQ(fixture.loop.run(fixture.volume->write(0, data)).code(), Errc::fenced);
  EXPECT_FALSE(fixture.volume->info().failed.empty());
}

// Goal: without a valid lease nothing is acknowledged; it goes on when the lease is back.
TEST(VolumeTest, LeaseGatesAcknowledgments) {
  VolumeFixture fixture(12);
  ASSERT_TRUE(fixture.open().has_value());
  fixture.lease->set_valid(false);
  const std::vector<std::byte> data = numbered(1, 5);
  EXPECT_EQ(fixture.loop.run(fixture.volume->write(0, data), std::chrono::seconds(3)).code(), Errc::timed_out);
  EXPECT_FALSE(fixture.volume->try_write(0, data).has_value());
  EXPECT_EQ(fixture.loop.run(fixture.volume->status(0, 4096), std::chrono::seconds(3)).code(),
            Errc::timed_out);
  fixture.lease->set_valid(true);
  EXPECT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  fixture.lease->lose();
  EXPECT_EQ(fixture.loop.run(fixture.volume->flush()).code(), Errc::fenced);
}

Job trim_into(Volume& volume, std::optional<Result<void>>& out) { out = co_await volume.trim(0, 8192); }

// Goal: no time passes between a look at the lease and the answer to a trim. Found by the simulator,
// seed 401561: a client that was stopped in between.
TEST(VolumeTest, TrimsAnswerInTheStepThatSawTheLease) {
  VolumeFixture fixture(12);
  ASSERT_TRUE(fixture.open().has_value());
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, numbered(4, 5))).has_value());
  std::optional<Result<void>> trimmed;
  spawn(fixture.loop.executor(), trim_into(*fixture.volume, trimmed));
  const bool at_once = trimmed.has_value();
  fixture.lease->lose();
  fixture.loop.run_for(std::chrono::seconds(1));
  ASSERT_TRUE(trimmed.has_value());
  EXPECT_TRUE(at_once || !trimmed->has_value());
}

// Goal: what changes nothing is not answered by a writer that may be one no longer. Found by the
// simulator, seed 804503: a client that was stopped answered a trim of less than a sector.
TEST(VolumeTest, NothingIsAnsweredWithoutTheLease) {
  VolumeFixture fixture(14);
  ASSERT_TRUE(fixture.open().has_value());
  fixture.lease->set_valid(false);
  EXPECT_EQ(fixture.loop.run(fixture.volume->trim(512, 1024), std::chrono::seconds(3)).code(),
            Errc::timed_out);
  EXPECT_EQ(fixture.loop.run(fixture.volume->write_zeroes(512, 0, true), std::chrono::seconds(3)).code(),
            Errc::timed_out);
}

// Goal: opening is refused when flushed data might be missed.
TEST(VolumeTest, OpenNeedsEnoughPeers) {
  VolumeFixture fixture(13);
  ASSERT_TRUE(fixture.open().has_value());
  ASSERT_TRUE(fixture.close().has_value());
  ++fixture.epoch;
  fixture.backend->set_missing(2);
  fixture.lease = std::make_unique<TestLease>(fixture.head, Epoch{fixture.epoch});
  const auto opened = fixture.loop.run(Volume::open(
      fixture.env, *fixture.backend, *parse_blockset_spec("crc,base"), VolumeFixture::kVolume,
      fixture.size_bytes, fixture.head, *fixture.lease, fixture.options));
  EXPECT_EQ(opened.code(), Errc::no_quorum);
}

// Goal: a record of few copies that was made although the call failed is taken back when nothing lacks
// copies. Method: the call fails, the record is there, and the peers come back.
TEST(VolumeTest, RecordThatMayExistIsTakenBack) {
  VolumeFixture fixture(15);
  ASSERT_TRUE(fixture.open().has_value());
  fixture.backend->set_missing(2);
  fixture.lease->degraded_fails = true;
  const std::vector<std::byte> data = numbered(16, 1);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, data)).has_value());
  EXPECT_EQ(fixture.loop.run(fixture.volume->flush(), std::chrono::seconds(2)).code(), Errc::timed_out);
  fixture.backend->set_missing(0);
  EXPECT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  fixture.lease->degraded = 1;
  fixture.lease->degraded_fails = false;
  EXPECT_TRUE(fixture.loop.run_until([&] { return fixture.lease->degraded == 0; },
                                     std::chrono::minutes(1)));
}

// Goal: what is acknowledged with few copies has them since the record says so. Found by the simulator, seed
// 950871: the one copy was on a disk that was lost before. Method: what the one peer has is lost when the
// record is made.
TEST(VolumeTest, CopiesFromBeforeTheRecordDoNotCount) {
  VolumeFixture fixture(16);
  ASSERT_TRUE(fixture.open().has_value());
  fixture.backend->set_missing(2);
  std::size_t lost_count = 0;
  fixture.lease->on_degraded = [&] {
    lost_count += std::erase_if(fixture.blocks.blocks, [&](const auto& entry) {
      return fixture.blocks.copies.contains(entry.first);
    });
  };
  const std::vector<std::byte> data = numbered(16, 1);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, data)).has_value());
  ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  ASSERT_EQ(fixture.lease->degraded, 1U);
  ASSERT_GT(lost_count, 0U);
  fixture.crash();
  fixture.options.degraded_copies = 1;
  ASSERT_TRUE(fixture.open().has_value());
  EXPECT_EQ(numbers_of(read_all(fixture))[0], 1U);
}

// Goal: a volume whose log lacks copies opens although the stores are full, says that it is degraded, and
// makes the copies when there is room.
TEST(VolumeTest, OpensOnFullStores) {
  VolumeFixture fixture(14);
  ASSERT_TRUE(fixture.open().has_value());
  fixture.backend->set_missing(2);
  for (std::uint64_t number = 1; number <= 8; ++number) {
    const std::vector<std::byte> data = numbered(16, number);
    ASSERT_TRUE(fixture.loop.run(fixture.volume->write(number * 16 * kSectorSize, data)).has_value());
    ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  }
  ASSERT_EQ(fixture.lease->degraded, 1U);
  fixture.crash();
  fixture.options.degraded_copies = 1;
  fixture.blocks.reserve = 64 * 1024;
  fixture.blocks.capacity = fixture.blocks.used() + fixture.blocks.reserve;
  const Result<void> opened = fixture.open();
  ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
  EXPECT_EQ(fixture.volume->info().health, "degraded: 1 of 2 copies are sure");
  const std::vector<std::uint64_t> found = numbers_of(read_all(fixture));
  for (std::uint64_t number = 1; number <= 8; ++number) ASSERT_EQ(found[number * 16], number);
  fixture.lease->degraded = 1;  // as the metadata store still says
  fixture.blocks.capacity = UINT64_MAX;
  EXPECT_TRUE(fixture.loop.run_until([&] { return fixture.lease->degraded == 0; },
                                     std::chrono::minutes(1)));
  EXPECT_EQ(fixture.volume->info().health, "");
}

// Goal: openings that find no room for their checkpoint leave nothing behind, and delete what openings that
// were killed left, so that a later one has the room.
TEST(VolumeTest, OpeningWithoutRoomLeavesNothing) {
  VolumeFixture fixture(15);
  ASSERT_TRUE(fixture.open().has_value());
  const std::vector<std::byte> data = numbered(16, 1);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(0, data)).has_value());
  ASSERT_TRUE(fixture.loop.run(fixture.volume->flush()).has_value());
  fixture.crash();
  const std::uint64_t before = fixture.blocks.used();
  fixture.blocks.capacity = before + 4096;  // a page of the checkpoint, not its root
  for (int attempt = 0; attempt < 3; ++attempt) {
    EXPECT_EQ(fixture.open().code(), Errc::out_of_space);
    EXPECT_EQ(fixture.blocks.used(), before);
  }
  // As an opening that was killed half-way leaves them.
  const BlockRef left{VolumeFixture::kVolume, Epoch{fixture.epoch}, 77, BlockType::inode};
  fixture.blocks.blocks.emplace(left, copy_shared(data));
  fixture.blocks.capacity = fixture.blocks.used() + 4096;
  EXPECT_EQ(fixture.open().code(), Errc::out_of_space);
  EXPECT_EQ(fixture.blocks.used(), before);
  const Result<void> opened = fixture.open();
  ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
  EXPECT_EQ(numbers_of(read_all(fixture))[0], 1U);
}

// Goal: ranges beyond the end are refused, status tells holes from zeros from data.
TEST(VolumeTest, RangesAndStatus) {
  VolumeFixture fixture(14);
  ASSERT_TRUE(fixture.open().has_value());
  std::vector<std::byte> data = numbered(2, 1);
  EXPECT_EQ(fixture.loop.run(fixture.volume->write(fixture.size_bytes - 4096, data)).code(), Errc::invalid_argument);
  EXPECT_EQ(fixture.loop.run(fixture.volume->read(fixture.size_bytes, data)).code(), Errc::invalid_argument);
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write(8192, data)).has_value());
  ASSERT_TRUE(fixture.loop.run(fixture.volume->write_zeroes(16384, 4096, false)).has_value());
  const auto extents = fixture.loop.run(fixture.volume->status(0, 40960));
  ASSERT_TRUE(extents.has_value());
  ASSERT_EQ(extents->size(), 4U);
  EXPECT_TRUE((*extents)[0].hole && (*extents)[0].zero && (*extents)[0].size == 8192);
  EXPECT_TRUE(!(*extents)[1].hole && !(*extents)[1].zero && (*extents)[1].size == 8192);
  EXPECT_TRUE(!(*extents)[2].hole && (*extents)[2].zero && (*extents)[2].size == 4096);
  EXPECT_TRUE((*extents)[3].hole);
}

}  // namespace
}  // namespace agro
