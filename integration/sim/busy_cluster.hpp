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

}  // namespace agro
