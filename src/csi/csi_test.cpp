// Ids, names, tokens, sizes, the node's state: all that the driver reads and that others may get wrong.
#include <gtest/gtest.h>

#include <fstream>

#include "csi/checks.hpp"
#include "csi/mounter.hpp"
#include "csi/names.hpp"
#include "csi/node_state.hpp"
#include "csi/process.hpp"

namespace agro::csi {
namespace {

TEST(CsiNamesTest, IdsAreOneToOne) {
  EXPECT_EQ(volume_id_text({0x1a}), "000000001a");
  EXPECT_EQ(parse_volume_id("000000001a").value(), VolumeId{0x1a});
  for (const char* bad : {"", "1a", "000000001A", "0000000000", "00000000001a", "000000001g", "-00000001a", "0x0000001a"})
    EXPECT_EQ(parse_volume_id(bad).code(), Errc::invalid_argument) << bad;
  const SnapshotId id{{7}, "snapshot-1"};
  EXPECT_EQ(snapshot_id_text(id), "0000000007@snapshot-1");
  EXPECT_EQ(parse_snapshot_id("0000000007@snapshot-1").value(), id);
  for (const char* bad : {"", "@", "0000000007", "0000000007@", "0000000007@@0000000008", "7@a", "0000000007@a/b"})
    EXPECT_EQ(parse_snapshot_id(bad).code(), Errc::invalid_argument) << bad;
  EXPECT_EQ(parse_volume_token("x").code(), Errc::conflict);
  EXPECT_EQ(parse_snapshot_token("0000000007").code(), Errc::conflict);
}

// Goal: every name that an orchestrator may give becomes a volume name, and no two the same.
TEST(CsiNamesTest, NamesBecomeOurs) {
  EXPECT_EQ(our_name("pvc-8a1c").value(), "pvc-8a1c");
  EXPECT_EQ(our_name("a b").value(), "csi_YSBi");
  EXPECT_EQ(our_name("csi_YSBi").value(), "csi_Y3NpX1lTQmk");
  EXPECT_EQ(our_name("csi-clone-x").value().substr(0, 4), "csi_");
  EXPECT_EQ(our_name("-a").value(), "csi_LWE");
  const std::string longest(128, '\xfe');
  EXPECT_TRUE(check_volume_name(our_name(longest).value()).has_value());
  EXPECT_EQ(our_name("").code(), Errc::invalid_argument);
  EXPECT_EQ(our_name(longest + "x").code(), Errc::invalid_argument);
  EXPECT_EQ(our_name("a\nb").code(), Errc::invalid_argument);
}

TEST(CsiNamesTest, Endpoints) {
  EXPECT_EQ(parse_endpoint("unix:///csi/csi.sock").value(), "/csi/csi.sock");
  EXPECT_EQ(parse_endpoint("unix:csi.sock").value(), "csi.sock");
  EXPECT_EQ(parse_endpoint("/csi.sock").value(), "/csi.sock");
  for (const std::string& bad : {std::string(), std::string("unix://"), std::string("tcp://0.0.0.0:1"), std::string("tcp:a:1"),
                                 std::string(200, 'a')})
    EXPECT_EQ(parse_endpoint(bad).code(), Errc::invalid_argument) << bad;
}

TEST(CsiChecksTest, SizesFit) {
  struct Case {
    std::int64_t required, limit;
    std::uint64_t floor;
    Errc code;
    std::uint64_t size;
  };
  constexpr std::int64_t kPiB = std::int64_t{1} << 50;
  for (const Case& c : {Case{0, 0, 0, Errc::ok, std::uint64_t{10} << 30}, Case{1, 0, 0, Errc::ok, 4096}, Case{4097, 8192, 0, Errc::ok, 8192},
                        Case{4097, 8191, 0, Errc::too_large, 0}, Case{0, 8192, 0, Errc::ok, 8192}, Case{0, 100, 0, Errc::too_large, 0},
                        Case{4096, 0, 12288, Errc::ok, 12288}, Case{4096, 8192, 12288, Errc::too_large, 0},
                        Case{kPiB, 0, 0, Errc::ok, 1ULL << 50}, Case{kPiB + 1, 0, 0, Errc::too_large, 0},
                        Case{INT64_MAX, 0, 0, Errc::too_large, 0}, Case{-1, 0, 0, Errc::invalid_argument, 0},
                        Case{0, -1, 0, Errc::invalid_argument, 0}}) {
    SCOPED_TRACE(testing::Message() << c.required << " " << c.limit << " " << c.floor);
    v1::CapacityRange range;
    range.set_required_bytes(c.required);
    range.set_limit_bytes(c.limit);
    const Result<std::uint64_t> size = choose_size(range, c.floor);
    ASSERT_EQ(size.code(), c.code);
    if (size.has_value()) EXPECT_EQ(*size, c.size);
  }
}

TEST(CsiChecksTest, ParametersAndPaths) {
  EXPECT_EQ(parse_parameters({{"replication", "3"}, {"csi.storage.k8s.io/pvc/name", "x"}}).value().replication, 3U);
  EXPECT_EQ(parse_parameters({{"replication", "17"}}).code(), Errc::invalid_argument);
  EXPECT_EQ(parse_parameters({{"blockSpec", "nonsense"}}).code(), Errc::invalid_argument);
  EXPECT_EQ(parse_parameters({{"Replication", "3"}}).code(), Errc::invalid_argument);
  EXPECT_EQ(parse_mutable_parameters({{"iops", "none"}, {"bandwidth", "10MiB"}}).value().bandwidth_max, 10U << 20);
  EXPECT_EQ(parse_mutable_parameters({{"iops", "0"}}).code(), Errc::invalid_argument);
  EXPECT_EQ(parse_mutable_parameters({{"size", "1"}}).code(), Errc::invalid_argument);
  EXPECT_TRUE(check_path("/a/..b/c", "p").has_value());
  for (const char* bad : {"", "a", "/a/../b", "/a/.."}) EXPECT_EQ(check_path(bad, "p").code(), Errc::invalid_argument) << bad;
}

TEST(CsiNodeStateTest, IsReadAsItWasWritten) {
  NodeState state;
  state.boot_id = "boot";
  state.volumes[{1}] = {.volume = {1}, .name = "a", .staging_path = "/s", .device = "/dev/nbd0", .block = false, .read_only = true,
                        .fs_type = "xfs", .mount_flags = {"noatime"}, .ready = true, .targets = {{"/t", true}}};
  const std::string text = encode(state);
  EXPECT_EQ(decode_node_state(text).value(), state);
  // The bytes of docs/formats/csi.md.
  EXPECT_EQ(encode(NodeState{.boot_id = "b", .volumes = {}}),
            "{\n \"format\": \"agro-csi-node\",\n \"version\": 1,\n \"boot_id\": \"b\",\n \"volumes\": []\n}\n");
  for (const std::string& bad : {std::string(), std::string("{}"), std::string("[]"), text.substr(0, text.size() / 2),
                                 std::string("{\"format\":\"agro-csi-node\",\"version\":2,\"boot_id\":\"\",\"volumes\":[]}"),
                                 std::string("{\"format\":\"x\",\"version\":1,\"boot_id\":\"\",\"volumes\":[]}")})
    EXPECT_EQ(decode_node_state(bad).code(), Errc::corrupt) << bad;
}

TEST(CsiNodeStateTest, MountsAsTheKernelWritesThem) {
  const auto mounts = parse_mounts(
      "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "nonsense\n"
      "37 35 0:5 /nbd0 /t ro - devtmpfs udev rw\n");
  ASSERT_EQ(mounts.size(), 2U);
  EXPECT_EQ(mounts[0].path, "/mnt 2");
  EXPECT_EQ(mounts[0].fs_type, "ext3");
  EXPECT_FALSE(mounts[0].read_only);
  EXPECT_EQ(mounts[1].root, "/nbd0");
  EXPECT_TRUE(mounts[1].read_only);
}

TEST(CsiProcessTest, ToolsEndAndTell) {
  const Result<ToolOutput> output = run_tool({"sh", "-c", "echo out; echo err >&2; exit 3"}, std::chrono::seconds(20));
  ASSERT_TRUE(output.has_value());
  EXPECT_EQ(output->status, 3);
  EXPECT_EQ(output->text, "out\nerr\n");
  EXPECT_EQ(run_tool({"no-such-program-of-agro"}, std::chrono::seconds(20)).code(), Errc::not_found);
  EXPECT_EQ(run_tool({"sleep", "1000"}, std::chrono::milliseconds(1)).code(), Errc::timed_out);
  // Who says no more may still not end.
  const std::vector<std::string> silent = {"sh", "-c", "exec >/dev/null 2>&1; exec sleep 1000"};
  EXPECT_EQ(run_tool(silent, std::chrono::milliseconds(50)).code(), Errc::timed_out);
  const Result<std::string> failed = must_run({"sh", "-c", "echo why; exit 1"}, std::chrono::seconds(20));
  ASSERT_EQ(failed.code(), Errc::io_error);
  EXPECT_NE(failed.error().message.find("why"), std::string::npos);
}

TEST(CsiProcessTest, AProcessStaysUntilItIsAskedToEnd) {
  const std::string log = testing::TempDir() + "/csi_process_test.log";
  std::string line;
  Result<StayingProcess> process = StayingProcess::start({"sh", "-c", "echo ready; exec sleep 1000"}, log, std::chrono::seconds(20), line);
  ASSERT_TRUE(process.has_value());
  EXPECT_EQ(line, "ready");
  EXPECT_TRUE(process->is_running());
  process->ask_to_end();
  EXPECT_TRUE(process->wait(std::chrono::seconds(20)));
  const Result<StayingProcess> ended = StayingProcess::start({"sh", "-c", "echo no luck >&2"}, log, std::chrono::seconds(20), line);
  ASSERT_EQ(ended.code(), Errc::io_error);
  EXPECT_NE(ended.error().message.find("no luck"), std::string::npos);
}

// Goal: what is empty may be formatted, what cannot be read may not. Method: a file of zeros, a folder and nothing at all; to
// blkid they are one.
TEST(CsiMounterTest, OnlyWhatCanBeReadIsEmpty) {
  const std::string path = testing::TempDir() + "/csi_mounter_test.img";
  std::ofstream(path, std::ios::binary) << std::string(2 << 20, 0);
  const std::unique_ptr<Mounter> mounter = make_tool_mounter();
  const Result<std::optional<std::string>> empty = mounter->file_system_of(path);
  ASSERT_TRUE(empty.has_value()) << empty.error().to_string();
  EXPECT_FALSE(empty->has_value());
  EXPECT_EQ(mounter->file_system_of(path + ".none").code(), Errc::io_error);
  EXPECT_EQ(mounter->file_system_of(testing::TempDir()).code(), Errc::io_error);
}

}  // namespace
}  // namespace agro::csi
