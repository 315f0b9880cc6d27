// A volume by id with a model of each of its states, over blocks that other volumes share, for tests of snapshots.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "block/snapshot_device.hpp"
#include "block/volume_fixture.hpp"

namespace agro {

using Model = std::map<std::uint64_t, std::uint64_t>;  // value by sector; absent: zeros

inline std::vector<std::byte> sector_of(std::uint64_t value) {
  std::vector<std::byte> bytes(kSectorSize);
  store(MutableBytes(bytes), value);
  return bytes;
}

/// A volume by id, opened and reopened over blocks that others share.
class Opened {
 public:
  Opened(VolumeFixture& fixture, VolumeId id, LogHead head, std::uint64_t epoch,
         std::vector<VolumeAncestor> ancestors = {})
      : fixture_(fixture), id_(id), head_(head), epoch_(epoch), ancestors_(std::move(ancestors)) {}
  ~Opened() {
    if (volume_ != nullptr) close();
  }

  Result<void> open() {
    VolumeOptions options = fixture_.options;
    options.description.ancestors = ancestors_;
    options.checkpoint_size_bytes = checkpoint_size_;
    for (const auto& [name, snapshot] : snapshots) options.pinned_heads.push_back(snapshot.head);
    for (const LogHead& head : pinned_by_clones) options.pinned_heads.push_back(head);
    backend_ = std::make_unique<MemoryBackend>(fixture_.blocks, fixture_.loop.clock(),
                                               fixture_.random.next(), fixture_.block_size);
    lease_ = std::make_unique<TestLease>(head_, Epoch{++epoch_});
    lease_->commit_fails = fixture_.commits_fail;
    AGRO_TRY(volume_, fixture_.loop.run(Volume::open(fixture_.env, *backend_,
                                                     *parse_blockset_spec("crc,base"), id_, size,
                                                     head_, *lease_, options)));
    checkpoint_size_ = size;
    return {};
  }
  void close() {
    EXPECT_TRUE(fixture_.loop.run(volume_->close()).has_value());
    checkpoint_size_ = size;
    volume_.reset();
  }
  /// Of a volume that is closed: its next opening cuts it.
  void shrink(std::uint64_t new_size) {
    size = new_size;
    model.erase(model.lower_bound(new_size / kSectorSize), model.end());
  }
  void crash() {
    backend_->crash();
    lease_->crash();
    (void)fixture_.loop.run(volume_->close());
    volume_.reset();
  }
  void write(std::uint64_t lba, std::uint64_t value) {
    ASSERT_TRUE(fixture_.loop.run(volume_->write(lba * kSectorSize, sector_of(value))).has_value());
    model[lba] = value;
  }
  void trim(std::uint64_t lba) {
    ASSERT_TRUE(fixture_.loop.run(volume_->trim(lba * kSectorSize, kSectorSize)).has_value());
    model.erase(lba);
  }
  void work(Random& random, int steps) {
    for (int step = 0; step < steps; ++step) {
      const std::uint64_t lba = random.below(size / kSectorSize);
      if (random.chance(1, 12))
        trim(lba);
      else
        write(lba, random.next());
      if (random.chance(1, 15)) ASSERT_TRUE(fixture_.loop.run(volume_->flush()).has_value());
      if (random.chance(1, 150)) ASSERT_TRUE(fixture_.loop.run(volume_->checkpoint()).has_value());
    }
  }
  void snapshot(const std::string& name) {
    Result<LogHead> head = fixture_.loop.run(volume_->take_snapshot());
    ASSERT_TRUE(head.has_value()) << head.error().to_string();
    SnapshotNote note;
    note.epoch = head->epoch;
    note.checkpoint_epoch = head->checkpoint_epoch;
    note.root_index = head->root_index;
    note.sequence = head->sequence;
    note.log_end = head->log_end;
    note.size_bytes = size;
    note.name = name;
    const Result<std::uint64_t> noted = fixture_.loop.run(volume_->note_snapshot(note));
    ASSERT_TRUE(noted.has_value()) << noted.error().to_string();
    head->note_index = *noted;
    snapshots[name] = {*head, size, model};
  }
  void expect(BlockDevice& device, const Model& wanted) const {
    std::vector<std::byte> bytes(device.size_bytes());
    const Result<void> read = fixture_.loop.run(device.read(0, bytes));
    ASSERT_TRUE(read.has_value()) << read.error().to_string();
    for (std::uint64_t lba = 0; lba < device.size_bytes() / kSectorSize; ++lba) {
      const auto found = wanted.find(lba);
      const auto value = load<std::uint64_t>(ConstBytes(bytes).subspan(lba * kSectorSize));
      ASSERT_EQ(value, found == wanted.end() ? 0 : found->second) << "sector " << lba;
    }
  }
  /// The volume, and each snapshot through a device of its own.
  void expect_all() const {
    expect(*volume_, model);
    for (const auto& [name, snapshot] : snapshots) {
      SCOPED_TRACE(name);
      const auto device = snapshot_device(name);
      ASSERT_TRUE(device.has_value()) << device.error().to_string();
      expect(**device, snapshot.model);
    }
  }
  Result<std::shared_ptr<SnapshotDevice>> snapshot_device(const std::string& name) const {
    const Taken& snapshot = snapshots.at(name);
    return fixture_.loop.run(SnapshotDevice::open(*backend_, *parse_blockset_spec("crc,base"),
                                                  Lineage(id_, ancestors_), snapshot.head,
                                                  snapshot.size));
  }
  Volume& volume() { return *volume_; }
  MemoryBackend& backend() { return *backend_; }
  TestLease& lease() { return *lease_; }
  const std::vector<VolumeAncestor>& ancestors() const { return ancestors_; }
  VolumeId id() const { return id_; }
  LogHead& head() { return head_; }

  struct Taken {
    LogHead head;
    std::uint64_t size = 0;
    Model model;
  };
  Model model;
  std::map<std::string, Taken> snapshots;
  std::vector<LogHead> pinned_by_clones;
  std::uint64_t size = 4 * 1024 * 1024;

 private:
  VolumeFixture& fixture_;
  VolumeId id_;
  LogHead head_;
  std::uint64_t epoch_;
  std::vector<VolumeAncestor> ancestors_;
  std::uint64_t checkpoint_size_ = 0;  // as the head in the metadata says
  std::unique_ptr<MemoryBackend> backend_;
  std::unique_ptr<TestLease> lease_;
  std::unique_ptr<Volume> volume_;
};

inline std::unique_ptr<Opened> clone_of(VolumeFixture& fixture, Opened& origin, const std::string& name,
                                 VolumeId id) {
  const Opened::Taken& start = origin.snapshots.at(name);
  std::vector<VolumeAncestor> ancestors = origin.ancestors();
  ancestors.push_back({origin.id(), start.head.epoch});
  origin.pinned_by_clones.push_back(start.head);
  auto clone = std::make_unique<Opened>(fixture, id, start.head, start.head.epoch.value,
                                        std::move(ancestors));
  clone->model = start.model;
  clone->size = start.size;
  return clone;
}

}  // namespace agro
