#include "internal/nbd_kernel/kernel_devices.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace agro::nbd_kernel {
namespace {

class KernelDevicesTest : public testing::Test {
 protected:
  KernelDevicesTest() {
    std::string pattern = testing::TempDir() + "sysblockXXXXXX";
    root_ = mkdtemp(pattern.data());
  }
  ~KernelDevicesTest() override { std::filesystem::remove_all(root_); }

  void put(const std::string& path, const std::string& text) {
    const std::filesystem::path whole = std::filesystem::path(root_) / path;
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text << "\n";
  }

  std::string root_;
};

// Goal: only connected devices are listed, by index, and ours are known. Method: a /sys/block by hand.
TEST_F(KernelDevicesTest, ConnectedOnes) {
  put("nbd10/pid", "4711");
  put("nbd10/size", "2097152");
  put("nbd10/backend", "agro:web");
  put("nbd10/ro", "1");
  put("nbd2/pid", "12");
  put("nbd2/size", "8");
  put("nbd0/size", "0");
  put("nbdx/pid", "1");
  put("sda/size", "100");
  const std::vector<KernelDevice> devices = connected_devices(root_);
  ASSERT_EQ(devices.size(), 2U);
  EXPECT_EQ(devices[0].path(), "/dev/nbd2");
  EXPECT_EQ(devices[0].volume(), "");
  EXPECT_EQ(devices[1].path(), "/dev/nbd10");
  EXPECT_EQ(devices[1].volume(), "web");
  EXPECT_EQ(devices[1].size_bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(devices[1].pid, 4711U);
  EXPECT_TRUE(devices[1].read_only);
  EXPECT_TRUE(connected_devices(root_ + "/nowhere").empty());
}

TEST(DevicePathTest, Parsed) {
  EXPECT_EQ(parse_device_path("/dev/nbd12").value(), 12U);
  for (const char* bad : {"/dev/nbd", "/dev/nbdx", "/dev/sda", "nbd0", "/dev/nbd1p1", "/dev/nbd-1", ""}) {
    EXPECT_EQ(parse_device_path(bad).code(), Errc::invalid_argument) << bad;
  }
}

}  // namespace
}  // namespace agro::nbd_kernel
