// A simulated cluster with users at work on its volume, for tests of what they notice.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "base/log.hpp"
#include "exercise.hpp"
#include "sim_cluster.hpp"

namespace agro {

/// A cluster with users at work on its volume.
class BusyCluster {
 public:
  BusyCluster(std::uint64_t seed, SimCluster::Options options) : cluster(seed, options) {
    set_log_sink({});
    const Result<void> started = cluster.start();
    EXPECT_TRUE(started.has_value()) << started.error().to_string();
    open(seed);
    cluster.loop.run_for(std::chrono::seconds(1));
    users->take_longest();
  }
  ~BusyCluster() { stop(); }

  void open(std::uint64_t seed) {
    Result<std::shared_ptr<BlockDevice>> opened = cluster.open_volume();
    ASSERT_TRUE(opened.has_value()) << opened.error().to_string();
    users = std::make_unique<Users>(cluster.client_env(0).executor, cluster.loop.clock(),
                                    std::move(*opened), seed);
  }
  /// Runs for so long and returns the longest that a user waited meanwhile.
  Duration longest_in(Duration duration) {
    cluster.loop.run_for(duration);
    return users->take_longest();
  }
  /// Ends the users' work; everything they wait for must come.
  void stop() {
    if (users == nullptr) return;
    users->stop();
    EXPECT_TRUE(cluster.loop.run_until([&] { return users->ended(); }, std::chrono::minutes(1)));
    EXPECT_THAT(users->seen().errors, testing::IsEmpty());
    users.reset();
  }

  SimCluster cluster;
  std::unique_ptr<Users> users;
};

/// A cluster whose client writes numbered sectors and notes what it wrote and flushed, until stopped.
class NumberedCluster {
 public:
  explicit NumberedCluster(std::uint64_t seed)
      : cluster(seed, {.store_size = 512 * 1024 * 1024}), random(seed) {
    set_log_sink({});
    const Result<void> started = cluster.start();
    EXPECT_TRUE(started.has_value()) << started.error().to_string();
    device = cluster.open_volume().value();
    writer_ = std::make_unique<TaskGroup>(cluster.client_env(0).executor);
    writer_->spawn(
        write_numbered(*device, history, random, device->size_bytes() / kSectorSize, stopped_));
    cluster.loop.run_for(std::chrono::milliseconds(100 + random.below(300)));
  }
  /// All that `other`, the same volume opened by another, reads: it must have what was flushed.
  std::vector<std::byte> expect_survivors(BlockDevice& other) {
    std::vector<std::byte> bytes(other.size_bytes());
    EXPECT_TRUE(cluster.loop.run(other.read(0, bytes)).has_value());
    History seen = history;
    EXPECT_TRUE(keep_survivors(seen, numbers_of(bytes))) << "what was flushed is not all there";
    return bytes;
  }
  void stop() {
    stopped_ = true;
    EXPECT_TRUE(
        cluster.loop.run_until([&] { return writer_->count() == 0; }, std::chrono::seconds(60)));
  }

  SimCluster cluster;
  Random random;
  History history;
  std::shared_ptr<BlockDevice> device;

 private:
  bool stopped_ = false;
  std::unique_ptr<TaskGroup> writer_;
};

}  // namespace agro
