#include "block/limited_device.hpp"

#include <gtest/gtest.h>

#include "internal/nbd/memory_device.hpp"
#include "sim/sim_loop.hpp"

namespace agro {
namespace {

class LimitedDeviceTest : public testing::Test {
 protected:
  ~LimitedDeviceTest() override {
    stop_ = true;
    device.set_limits({});
    EXPECT_TRUE(loop.run_until([this] { return running_ == 0; }, std::chrono::minutes(1)));
  }
  Job use(std::size_t size, bool writes) {
    ++running_;
    std::vector<std::byte> data(size);
    while (!stop_) {
      Result<void> done;
      if (writes) done = co_await device.write(0, data);
      else done = co_await device.read(0, data);
      EXPECT_TRUE(done.has_value());
      ++(writes ? writes_ : reads_);
    }
    --running_;
  }
  /// Done in so many simulated seconds by `users`, half of which write.
  std::uint64_t done_in(std::int64_t seconds, std::size_t size, int users) {
    if (jobs_ == nullptr) {
      jobs_ = std::make_unique<TaskGroup>(loop.executor());
      for (int user = 0; user < users; ++user) jobs_->spawn(use(size, user % 2 == 0));
    }
    const std::uint64_t before = reads_ + writes_;
    loop.run_for(std::chrono::seconds(seconds));
    return reads_ + writes_ - before;
  }

  SimLoop loop;
  nbd::MemoryDevice inner{1 << 20};
  LimitedDevice device{loop.clock(), inner};
  std::uint64_t reads_ = 0;
  std::uint64_t writes_ = 0;

 private:
  std::unique_ptr<TaskGroup> jobs_;
  bool stop_ = false;
  int running_ = 0;
};

TEST_F(LimitedDeviceTest, RequestsASecond) {
  device.set_limits({.iops_max = 100, .bandwidth_max = 0});
  EXPECT_NEAR(static_cast<double>(done_in(10, 4096, 6)), 1000, 20);
  EXPECT_NEAR(static_cast<double>(reads_), static_cast<double>(writes_), 10) << "reads and writes get the same";
}

TEST_F(LimitedDeviceTest, BytesASecond) {
  device.set_limits({.iops_max = 0, .bandwidth_max = 1 << 20});
  EXPECT_NEAR(static_cast<double>(done_in(10, 65536, 4)), 160, 8);
}

// Goal: new limits hold at once, for those who wait, too. Method: one request an hour, and then many.
TEST_F(LimitedDeviceTest, NewLimitsHoldAtOnce) {
  device.set_limits({.iops_max = 1, .bandwidth_max = 1});
  EXPECT_LE(done_in(100, 65536, 4), 2U) << "a byte a second";
  device.set_limits({.iops_max = 500, .bandwidth_max = 0});
  EXPECT_NEAR(static_cast<double>(done_in(2, 65536, 4)), 1000, 60);
}

TEST_F(LimitedDeviceTest, WithoutLimitsNothingWaits) {
  std::vector<std::byte> data(4096);
  EXPECT_TRUE(device.try_write(0, data).has_value());
  EXPECT_TRUE(device.try_read(0, data).has_value());
  device.set_limits({.iops_max = 10, .bandwidth_max = 0});
  EXPECT_FALSE(device.try_read(0, data).has_value()) << "the long way is counted";
  const TimePoint before = loop.clock().now();
  EXPECT_TRUE(loop.run(device.flush()).has_value());
  EXPECT_TRUE(loop.run(device.trim(0, 4096)).has_value());
  EXPECT_EQ(loop.clock().now(), before) << "a flush passes, and the first of a tenth of a second";
}

}  // namespace
}  // namespace agro
