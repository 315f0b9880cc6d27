#include "internal/nbd_kernel/netlink_message.hpp"

#include <gtest/gtest.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>

#include "base/random.hpp"

namespace agro::nbd_kernel {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

/// As the kernel lays it out, which is how NetlinkRequest does, too.
std::vector<std::byte> family_answer() {
  NetlinkRequest answer(GENL_ID_CTRL, CTRL_CMD_NEWFAMILY, 7);
  answer.add(CTRL_ATTR_FAMILY_NAME, std::string_view("nbd"));
  answer.add(CTRL_ATTR_FAMILY_ID, std::uint32_t{33});
  const std::size_t groups = answer.begin(CTRL_ATTR_MCAST_GROUPS);
  const std::size_t group = answer.begin(1);
  answer.add(CTRL_ATTR_MCAST_GRP_NAME, std::string_view(NBD_GENL_MCAST_GROUP_NAME));
  answer.add(CTRL_ATTR_MCAST_GRP_ID, std::uint32_t{9});
  answer.end(group);
  answer.end(groups);
  const ConstBytes bytes = answer.bytes();
  return {bytes.begin(), bytes.end()};
}

// Goal: requests are what the kernel expects. Method: one written down by hand from the headers (little endian).
TEST(NetlinkMessageTest, GoldenReconfigure) {
  NetlinkRequest request(0x21, NBD_CMD_RECONFIGURE, 5);
  request.add(NBD_ATTR_INDEX, std::uint32_t{3});
  request.add(NBD_ATTR_SIZE_BYTES, std::uint64_t{0x40000000});
  request.add(NBD_ATTR_BACKEND_IDENTIFIER, std::string_view("agro:a"));
  const std::size_t list = request.begin(NBD_ATTR_SOCKETS);
  const std::size_t item = request.begin(NBD_SOCK_ITEM);
  request.add(NBD_SOCK_FD, std::uint32_t{8});
  request.end(item);
  request.end(list);
  const std::vector<std::byte> golden = bytes_of({
      68, 0, 0, 0, 0x21, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0,   // length, family, REQUEST|ACK, sequence, any port
      3, 1, 0, 0,                                           // command, version
      8, 0, 1, 0, 3, 0, 0, 0,                               // index
      12, 0, 2, 0, 0, 0, 0, 0x40, 0, 0, 0, 0,               // size
      11, 0, 10, 0, 'a', 'g', 'r', 'o', ':', 'a', 0, 0,     // backend, its zero, padding
      16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 8, 0, 0, 0,  // sockets { item { descriptor } }
  });
  const ConstBytes bytes = request.bytes();
  EXPECT_EQ(std::vector<std::byte>(bytes.begin(), bytes.end()), golden);
}

TEST(NetlinkMessageTest, FamilyIsFound) {
  const std::vector<std::byte> answer = family_answer();
  const auto messages = parse_netlink(answer);
  ASSERT_TRUE(messages.has_value()) << messages.error().to_string();
  ASSERT_EQ(messages->size(), 1U);
  EXPECT_EQ(messages->front().sequence, 7U);
  const Result<NbdFamily> family = parse_family(messages->front());
  ASSERT_TRUE(family.has_value());
  EXPECT_EQ(family->id, 33);
  EXPECT_EQ(family->events_group, 9U);
  NetlinkMessage without = messages->front();
  std::erase_if(without.attributes, [](const auto& one) { return one.type == CTRL_ATTR_MCAST_GROUPS; });
  EXPECT_EQ(parse_family(without).code(), Errc::protocol_error);
}

TEST(NetlinkMessageTest, AcknowledgmentsAndErrors) {
  for (const int number : {0, EBUSY}) {
    std::vector<std::byte> bytes = bytes_of({36, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0});
    const std::int32_t negative = -number;
    bytes.resize(36);
    std::memcpy(bytes.data() + 16, &negative, sizeof negative);
    const auto messages = parse_netlink(bytes);
    ASSERT_TRUE(messages.has_value());
    EXPECT_EQ(messages->front().error, number);
  }
}

// Goal: nothing that comes in is read beyond its end. Method: cut anywhere, and damaged at random (ASan looks on).
TEST(NetlinkMessageTest, CutAndDamaged) {
  const std::vector<std::byte> good = family_answer();
  for (std::size_t size = 1; size < good.size(); ++size) {
    EXPECT_EQ(parse_netlink(ConstBytes(good).first(size)).code(), Errc::protocol_error) << size;
  }
  Random random(1);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bad = good;
    bad[random.below(bad.size())] = static_cast<std::byte>(random.below(256));
    const auto messages = parse_netlink(bad);
    if (!messages.has_value() || messages->empty() || !parse_family(messages->front()).has_value()) ++refused;
  }
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace agro::nbd_kernel
