// Tests of what a rebuild finds on peers: whole volumes, deleted ones, and what is missing.
#include "node/volume_search.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "block/volume_fixture.hpp"
#include "distributor/peer_service.hpp"
#include "metadata/keys.hpp"
#include "models/codec.hpp"
#include "node/metadata_rebuild.hpp"
#include "ring/ring.hpp"
#include "storage/temp_store.hpp"

namespace agro {
namespace {

constexpr VolumeId kVolume = VolumeFixture::kVolume;

/// A volume that was written, checkpointed and written again; its blocks on two peers.
class VolumeSearchTest : public ::testing::Test {
 protected:
  VolumeSearchTest() {
    volume_.options.description = {"demo", "crc,base", 0};
    EXPECT_TRUE(volume_.open().has_value());
    write(0);
    EXPECT_TRUE(volume_.loop.run(volume_.volume->checkpoint()).has_value());
    write(1);
    snap();
    write(2);
    EXPECT_TRUE(volume_.loop.run(volume_.volume->checkpoint()).has_value());
    write(3);
    volume_.crash();
    for (std::uint8_t number = 1; number <= 2; ++number) {
      stores_.push_back(make_temp_store({64 * 1024 * 1024, kBlockSizeMin}));
      const PeerId id{{number}};
      auto service = std::make_shared<PeerService>(id, *stores_.back(), volume_.env.metrics);
      peers_.push_back({std::make_shared<LocalPeer>(std::move(service)), "store", stores_.back().get()});
      members_.push_back({.id = id});
    }
  }

  void write(std::uint64_t part) {
    const std::vector<std::byte> data(kBlockSizeMin, std::byte{7});
    EXPECT_TRUE(volume_.loop.run(volume_.volume->write(part * kBlockSizeMin, data)).has_value());
    EXPECT_TRUE(volume_.loop.run(volume_.volume->flush()).has_value());
  }
  /// As VolumeManager does.
  void snap() {
    head_ = *volume_.loop.run(volume_.volume->take_snapshot());
    SnapshotNote note{kVolume,         head_.epoch,   head_.checkpoint_epoch, head_.root_index,
                      head_.sequence,  head_.log_end, volume_.size_bytes,     1'000,
                      StateId{{}, {3}, {4}, 5}, "monday"};
    head_.note_index = *volume_.loop.run(volume_.volume->note_snapshot(note));
  }
  void put_blocks() {
    for (const auto& [ref, block] : volume_.blocks.blocks) {
      for (const auto& store : stores_) {
        EXPECT_TRUE(volume_.loop.run(store->put(ref, block, {})).has_value());
      }
    }
  }
  FoundCluster search(bool fence = false) {
    const std::shared_ptr<const Ring> ring = *make_ring(*rebuilt_ring(members_, 1));
    VolumeSearch search(volume_.env, kBlockSizeMin, ring, peers_);
    Result<FoundCluster> found = volume_.loop.run(search.search());
    EXPECT_TRUE(found.has_value());
    if (fence) EXPECT_TRUE(volume_.loop.run(search.fence_volumes(*found)).has_value());
    EXPECT_TRUE(volume_.loop.run(stop(search)).has_value());
    return *found;
  }
  static Task<void> stop(VolumeSearch& search) {
    co_await search.stop();
    co_return Result<void>();
  }
  bool has_key(const FoundCluster& found, const std::string& key) {
    const std::vector<KvOp> ops = rebuilt_keys({}, *rebuilt_ring(members_, 2), found,
                                               rebuilt_volumes(found, 1));
    return std::any_of(ops.begin(), ops.end(), [&](const KvOp& op) { return op.key == key; });
  }

  VolumeFixture volume_{1};
  LogHead head_;  // of the snapshot
  std::vector<std::unique_ptr<BlockStore>> stores_;
  std::vector<SearchedPeer> peers_;
  std::vector<RingMember> members_;
};

TEST_F(VolumeSearchTest, FindsCheckpointAndTail) {
  put_blocks();
  const FoundCluster found = search();
  ASSERT_EQ(found.volumes.size(), 1U);
  const FoundVolume& one = found.volumes.front();
  EXPECT_EQ(found.copy_count, 2U);
  EXPECT_EQ(found.last_volume, kVolume);
  EXPECT_EQ(one.description.name, "demo");
  EXPECT_EQ(one.head.root_index, volume_.head.root_index);
  EXPECT_EQ(one.head.epoch, volume_.head.epoch);
  EXPECT_EQ(one.head.sequence, volume_.head.sequence);
  EXPECT_EQ(one.head.size, volume_.size_bytes);
  EXPECT_GT(one.epoch, volume_.head.epoch);
  EXPECT_GT(one.tail_count, 0U);
  EXPECT_TRUE(one.doubts.empty());
  EXPECT_TRUE(has_key(found, keys::name("demo")));
}

TEST_F(VolumeSearchTest, WhatAPeerKnowsToBeDeletedStaysDeleted) {
  put_blocks();
  ASSERT_TRUE(volume_.loop.run(stores_[1]->fence(kVolume, Epoch{UINT64_MAX})).has_value());
  const FoundCluster at_once = search();
  EXPECT_TRUE(at_once.volumes.front().deleted);
  // A peer elsewhere does not tell its fences before it is asked to raise them.
  peers_[1].store = nullptr;
  EXPECT_FALSE(search().volumes.front().deleted);
  const FoundCluster found = search(true);
  EXPECT_TRUE(found.volumes.front().deleted);
  EXPECT_FALSE(has_key(found, keys::volume(kVolume)));
  EXPECT_TRUE(has_key(found, keys::tombstone(kVolume)));
}

TEST_F(VolumeSearchTest, MissingBlocksAreTold) {
  // The first data block is needed by the checkpoint.
  const auto data = std::find_if(
      volume_.blocks.blocks.begin(), volume_.blocks.blocks.end(),
      [](const auto& entry) { return entry.first.type == BlockType::data; });
  ASSERT_NE(data, volume_.blocks.blocks.end());
  volume_.blocks.blocks.erase(data);
  put_blocks();
  EXPECT_EQ(search().volumes.front().doubts.size(), 1U);
}

// Goal: a snapshot comes back as it was recorded, and only when all of it is there.
TEST_F(VolumeSearchTest, SnapshotsComeBack) {
  put_blocks();
  const FoundCluster found = search();
  const FoundVolume& volume = found.volumes.front();
  EXPECT_TRUE(volume.doubts.empty());
  ASSERT_EQ(volume.snapshots.size(), 1U);
  const SnapshotRecord wanted{"monday",
                              {head_.epoch, head_.checkpoint_epoch, head_.root_index, head_.sequence,
                               volume_.size_bytes, head_.log_end},
                              1'000,
                              StateId{{}, {3}, {4}, 5},
                              head_.note_index};
  EXPECT_EQ(volume.snapshots.front(), wanted);
  EXPECT_TRUE(has_key(found, keys::snapshot(kVolume, "monday")));
}

/// Leaves one block out, and tells how many snapshots come back.
class SnapshotBlocksTest : public VolumeSearchTest {
 protected:
  std::size_t count_without(const BlockRef& missing) {
    EXPECT_EQ(volume_.blocks.blocks.erase(missing), 1U) << missing.to_string();
    put_blocks();
    return search().volumes.front().snapshots.size();
  }
};

TEST_F(SnapshotBlocksTest, NotWithoutItsLog) {
  EXPECT_EQ(count_without({kVolume, head_.epoch, head_.log_end - 1, BlockType::data}), 0U);
}

TEST_F(SnapshotBlocksTest, NotWithoutItsRoot) {
  EXPECT_EQ(count_without({kVolume, head_.checkpoint_epoch, head_.root_index, BlockType::inode}), 0U);
}

TEST_F(SnapshotBlocksTest, NotWithoutItsNote) {
  EXPECT_EQ(count_without({kVolume, head_.epoch, head_.note_index, BlockType::inode}), 0U);
}

TEST_F(VolumeSearchTest, WithoutACheckpointNothingComesBack) {
  std::erase_if(volume_.blocks.blocks,
                [](const auto& entry) { return entry.first.type == BlockType::inode; });
  put_blocks();
  const FoundCluster found = search();
  EXPECT_FALSE(found.volumes.front().has_checkpoint);
  EXPECT_FALSE(found.volumes.front().doubts.empty());
  EXPECT_TRUE(rebuilt_volumes(found, 1).empty());
}

TEST(MetadataRebuildTest, NoTwoVolumesGetOneName) {
  FoundCluster found;
  for (const char* name : {"web", "web", "", "-bad"}) {
    FoundVolume volume;
    volume.id = {found.volumes.size() + 1};
    volume.description.name = name;
    volume.has_checkpoint = true;
    found.volumes.push_back(volume);
  }
  const std::vector<VolumeRecord> records = rebuilt_volumes(found, 1);
  ASSERT_EQ(records.size(), 4U);
  EXPECT_EQ(records[0].name, "web-0000000001");
  EXPECT_EQ(records[1].name, "web");
  EXPECT_EQ(records[2].name, "recovered-0000000003");
  EXPECT_EQ(records[3].name, "recovered-0000000004");
}

}  // namespace
}  // namespace agro
