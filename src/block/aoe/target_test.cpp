#include "block/aoe/target.hpp"

#include <gtest/gtest.h>

#include "block/aoe/fake_ether.hpp"
#include "internal/nbd/memory_device.hpp"
#include "sim/sim_loop.hpp"

namespace agro::aoe {
namespace {

MacAddress mac(int last) { return {std::byte{0x52}, std::byte{0x54}, {}, {}, {}, static_cast<std::byte>(last)}; }

/// A target on an Ethernet in memory, and an initiator by hand.
class TargetTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kSize = 1 << 20;

  ~TargetTest() override { stop(); }

  void start(TargetOptions options = {}) {
    options.major = 7;
    options.minor = 2;
    options.name = "web";
    target.emplace(loop.executor(), ether, device, metrics, std::move(options), [this](std::string text) { return keep(std::move(text)); });
    jobs.emplace(loop.executor());
    jobs->spawn(serve());
    settle();
    ASSERT_EQ(ether.sent.size(), 1U) << "it says that it is here";
    ether.sent.clear();
  }
  void stop() {
    if (!target.has_value()) return;
    device.heal();
    device.release();
    target->stop();
    EXPECT_TRUE(loop.run_until([this] { return outcome.has_value(); }, std::chrono::minutes(1)));
    target.reset();
  }
  Job serve() { outcome = co_await target->run(); }
  Task<void> keep(std::string text) {
    co_await yield_to_loop();
    if (keep_fails) co_return fail(Errc::unavailable, "no metadata store");
    kept = std::move(text);
    co_return Result<void>();
  }
  void settle() {
    loop.poll();
  }

  static std::vector<std::byte> frame(Command command, std::vector<std::byte> argument, std::uint32_t tag = 1, int from = 1,
                                      std::uint16_t major = 7, std::uint8_t minor = 2, std::uint8_t version = 1) {
    std::vector<std::byte> bytes(kHeaderSize);
    encode_header(bytes, {.destination = {}, .source = mac(from), .version = version, .flags = 0, .error = {}, .major = major,
                          .minor = minor, .command = command, .tag = tag});
    bytes.insert(bytes.end(), argument.begin(), argument.end());
    return bytes;
  }
  static std::vector<std::byte> ata(AtaCommand command, std::uint64_t lba, std::uint8_t count, std::uint8_t flags,
                                    const std::vector<std::byte>& data = {}) {
    std::vector<std::byte> bytes(kAtaHeaderSize);
    encode_ata(bytes, {.flags = flags, .error_or_feature = 0, .count = count, .command_or_status = static_cast<std::uint8_t>(command), .lba = lba});
    bytes.insert(bytes.end(), data.begin(), data.end());
    return bytes;
  }
  static std::vector<std::byte> sectors(std::size_t count, int value) {
    return std::vector<std::byte>(count * kAtaSectorSize, static_cast<std::byte>(value));
  }

  struct Answer {
    Header header;
    std::vector<std::byte> argument;
    AtaHeader ata() const { return *decode_ata(argument); }
  };
  /// Puts frames in together; what has been answered when nothing more can happen by itself.
  std::vector<Answer> ask(std::vector<std::vector<std::byte>> frames) {
    for (auto& one : frames) ether.put(std::move(one));
    settle();
    return answers();
  }
  std::vector<Answer> answers() {
    std::vector<Answer> all;
    for (const auto& one : std::exchange(ether.sent, {})) {
      EXPECT_GE(one.size(), 60U) << "shorter than Ethernet's least";
      const Result<Header> header = decode_header(one);
      EXPECT_TRUE(header.has_value());
      EXPECT_TRUE((header->flags & kFlagResponse) != 0 && header->major == 7 && header->minor == 2);
      EXPECT_EQ(header->source, ether.address());
      all.push_back({*header, {one.begin() + kHeaderSize, one.end()}});
    }
    return all;
  }
  Answer ask_one(std::vector<std::byte> one) {
    const std::vector<Answer> all = ask({std::move(one)});
    EXPECT_EQ(all.size(), 1U);
    return all.empty() ? Answer{} : all.front();
  }
  std::uint64_t counted(const char* name) const { return metrics.value(name); }

  SimLoop loop;
  Metrics metrics;
  FakeEther ether;
  nbd::MemoryDevice device{kSize};
  std::optional<Target> target;
  std::optional<TaskGroup> jobs;
  std::optional<Result<void>> outcome;
  std::string kept;
  bool keep_fails = false;
};

TEST_F(TargetTest, ReadsAndWrites) {
  start();
  for (const bool extended : {false, true}) {
    const std::uint8_t flags = extended ? kAtaExtended : 0;
    const int value = extended ? 5 : 6;
    const Answer wrote = ask_one(frame(Command::ata, ata(extended ? AtaCommand::write_extended : AtaCommand::write, 100, 2, flags | kAtaWrite, sectors(2, value)), 77));
    EXPECT_EQ(wrote.header.tag, 77U);
    EXPECT_EQ(wrote.header.destination, mac(1));
    EXPECT_EQ(wrote.ata().command_or_status, kAtaReady);
    EXPECT_EQ(device.flushed_write_count(), device.write_count()) << "durable before it was answered";
    const Answer read = ask_one(frame(Command::ata, ata(extended ? AtaCommand::read_extended : AtaCommand::read, 101, 1, flags)));
    EXPECT_EQ(read.ata().command_or_status, kAtaReady);
    ASSERT_GE(read.argument.size(), kAtaHeaderSize + 512);
    EXPECT_EQ(read.argument[kAtaHeaderSize], static_cast<std::byte>(value));
  }
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::flush, 0, 0, 0))).ata().command_or_status, kAtaReady);
  const Answer who = ask_one(frame(Command::ata, ata(AtaCommand::identify, 0, 1, 0)));
  ASSERT_EQ(who.argument.size(), kAtaHeaderSize + 512);
  EXPECT_EQ(static_cast<int>(who.argument[kAtaHeaderSize + 200]) | static_cast<int>(who.argument[kAtaHeaderSize + 201]) << 8, kSize / 512);
}

// Goal: writes that come together share a flush. Method: sixteen in one batch of frames.
TEST_F(TargetTest, WritesAreCommittedTogether) {
  start();
  std::vector<std::vector<std::byte>> frames;
  for (std::uint32_t tag = 0; tag < 16; ++tag) frames.push_back(frame(Command::ata, ata(AtaCommand::write_extended, 8 * tag, 2, kAtaExtended | kAtaWrite, sectors(2, 1)), tag));
  EXPECT_EQ(ask(std::move(frames)).size(), 16U);
  EXPECT_EQ(device.flushed_write_count(), 16U);
  EXPECT_LE(device.flush_count(), 2U);
}

// Goal: nothing is answered before it is durable; a write that comes while a flush is under way waits for the next.
TEST_F(TargetTest, NoAnswerBeforeTheFlush) {
  start();
  device.hold_flushes();
  EXPECT_TRUE(ask({frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)), 1)}).empty());
  EXPECT_TRUE(ask({frame(Command::ata, ata(AtaCommand::write, 8, 1, kAtaWrite, sectors(1, 1)), 2)}).empty());
  device.release();
  settle();
  EXPECT_EQ(answers().size(), 2U);
  EXPECT_EQ(device.flush_count(), 2U);
  device.fail_flushes({Errc::io_error, "broken"});
  const Answer failed = ask_one(frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)), 3));
  EXPECT_EQ(failed.ata().command_or_status, kAtaReady | kAtaFailed);
}

TEST_F(TargetTest, WriteBackAnswersAtOnce) {
  start({.write_back = true});
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)))).ata().command_or_status, kAtaReady);
  EXPECT_EQ(device.flush_count(), 0U);
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::flush_extended, 0, 0, kAtaExtended))).ata().command_or_status, kAtaReady);
  EXPECT_EQ(device.flushed_write_count(), 1U);
}

// Goal: a retransmitted request is not done twice while it is under way, and a later write is not undone by an
// earlier one that had to wait. Method: a device that holds what touches one place.
TEST_F(TargetTest, RetransmitsAndOrder) {
  start();
  device.hold(0, 512);
  const auto first = frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)), 1);
  EXPECT_TRUE(ask({first, first}).empty());
  EXPECT_EQ(counted("agro_aoe_repeated_total"), 1U);
  // The same as the Linux driver retransmits: another tag. Then what the initiator wrote since.
  EXPECT_TRUE(ask({frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)), 2)}).empty());
  EXPECT_TRUE(ask({frame(Command::ata, ata(AtaCommand::write, 0, 2, kAtaWrite, sectors(2, 9)), 3)}).empty());
  EXPECT_EQ(ask({frame(Command::ata, ata(AtaCommand::write, 64, 1, kAtaWrite, sectors(1, 4)), 4)}).size(), 1U) << "elsewhere nothing waits";
  device.release();
  settle();
  const std::vector<Answer> all = answers();
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(device.bytes()[0], std::byte{9});
  EXPECT_EQ(device.bytes()[512], std::byte{9});
}

TEST_F(TargetTest, Discovery) {
  start({.config = "first"});
  for (const auto& [major, minor] : {std::pair{0xFFFF, 0xFF}, {7, 0xFF}, {0xFFFF, 2}, {7, 2}}) {
    const Answer answer = ask_one(frame(Command::config, encode_config({}), 1, 1, static_cast<std::uint16_t>(major), static_cast<std::uint8_t>(minor)));
    const Result<ConfigMessage> config = decode_config(answer.argument);
    ASSERT_TRUE(config.has_value());
    EXPECT_EQ(config->text, "first");
    EXPECT_EQ(config->sector_count_max, 2);
    EXPECT_EQ(config->buffer_count, 128);
  }
  ether.mtu_bytes = 9000;
  EXPECT_EQ(decode_config(ask_one(frame(Command::config, encode_config({}))).argument)->sector_count_max, 17);
  EXPECT_TRUE(ask({frame(Command::config, encode_config({}), 1, 1, 8, 2), frame(Command::config, encode_config({}), 1, 1, 7, 3)}).empty());
  EXPECT_EQ(counted("agro_aoe_foreign_total"), 2U);
}

TEST_F(TargetTest, ConfigString) {
  start();
  const auto config = [](ConfigCommand command, std::string text) {
    return frame(Command::config, encode_config({.buffer_count = 0, .firmware = 0, .sector_count_max = 0, .command = command, .text = std::move(text)}));
  };
  EXPECT_EQ(ask_one(config(ConfigCommand::set, "mine")).header.error, ErrorCode::none);
  EXPECT_EQ(kept, "mine");
  EXPECT_EQ(ask_one(config(ConfigCommand::set, "mine")).header.error, ErrorCode::none) << "it is that already";
  const Answer refused = ask_one(config(ConfigCommand::set, "yours"));
  EXPECT_EQ(refused.header.error, ErrorCode::config_present);
  EXPECT_EQ(refused.header.flags, kFlagResponse | kFlagError);
  EXPECT_EQ(decode_config(refused.argument)->text, "mine");
  EXPECT_EQ(ask({config(ConfigCommand::test, "mine"), config(ConfigCommand::test, "min"), config(ConfigCommand::test_prefix, "min"), config(ConfigCommand::test_prefix, "x")}).size(), 2U);
  EXPECT_EQ(ask_one(config(ConfigCommand::force_set, "yours")).header.error, ErrorCode::none);
  EXPECT_EQ(kept, "yours");
  keep_fails = true;
  EXPECT_TRUE(ask({config(ConfigCommand::force_set, "lost")}).empty());
  EXPECT_EQ(decode_config(ask_one(config(ConfigCommand::read, "")).argument)->text, "yours");
  EXPECT_EQ(ask_one(config(static_cast<ConfigCommand>(9), "")).header.error, ErrorCode::bad_argument);
  EXPECT_TRUE(ask({config(ConfigCommand::force_set, std::string(1025, 'x'))}).empty());
}

TEST_F(TargetTest, MasksAndReservations) {
  start();
  const auto reserve = [](ReserveCommand command, std::vector<MacAddress> list, int from) {
    return frame(Command::reserve, encode_reserve({command, std::move(list)}), 1, from);
  };
  const auto read_by = [](int from) { return frame(Command::ata, ata(AtaCommand::read, 0, 1, 0), 1, from); };
  EXPECT_EQ(ask_one(reserve(ReserveCommand::set, {mac(1)}, 1)).header.error, ErrorCode::none);
  EXPECT_EQ(ask_one(read_by(1)).header.error, ErrorCode::none);
  EXPECT_EQ(ask_one(read_by(2)).header.error, ErrorCode::reserved);
  const Answer refused = ask_one(reserve(ReserveCommand::set, {mac(2)}, 2));
  EXPECT_EQ(refused.header.error, ErrorCode::reserved);
  EXPECT_EQ(decode_reserve(refused.argument)->addresses, std::vector<MacAddress>{mac(1)});
  EXPECT_EQ(ask_one(reserve(ReserveCommand::force_set, {mac(2)}, 2)).header.error, ErrorCode::none);
  EXPECT_EQ(ask_one(read_by(1)).header.error, ErrorCode::reserved);
  EXPECT_EQ(ask_one(reserve(ReserveCommand::set, {}, 2)).header.error, ErrorCode::none);
  EXPECT_EQ(ask_one(read_by(1)).header.error, ErrorCode::none);
  EXPECT_EQ(ask_one(reserve(static_cast<ReserveCommand>(5), {}, 2)).header.error, ErrorCode::bad_argument);

  const auto mask = [](MaskCommand command, MaskDirective directive, int address, int from) {
    return frame(Command::mac_mask, encode_mask({.command = command, .error = {}, .entries = {{directive, mac(address)}}}), 1, from);
  };
  EXPECT_EQ(decode_mask(ask_one(mask(MaskCommand::edit, MaskDirective::add, 1, 1)).argument)->entries.size(), 1U);
  EXPECT_TRUE(ask({read_by(2)}).empty()) << "not heard";
  EXPECT_EQ(ask_one(read_by(1)).header.error, ErrorCode::none);
  EXPECT_EQ(decode_mask(ask_one(mask(MaskCommand::edit, static_cast<MaskDirective>(7), 3, 1)).argument)->error, MaskError::bad_directive);
  EXPECT_TRUE(decode_mask(ask_one(mask(MaskCommand::edit, MaskDirective::remove, 1, 1)).argument)->entries.empty());
  EXPECT_EQ(ask_one(read_by(2)).header.error, ErrorCode::none);
}

// Goal: what makes no sense has an error where there is one, and else is dropped and counted.
TEST_F(TargetTest, BadRequests) {
  start();
  EXPECT_EQ(ask_one(frame(static_cast<Command>(9), {})).header.error, ErrorCode::unknown_command);
  EXPECT_EQ(ask_one(frame(Command::config, encode_config({}), 1, 1, 7, 2, 2)).header.error, ErrorCode::version);
  EXPECT_EQ(ask_one(frame(Command::ata, ata(static_cast<AtaCommand>(0xB0), 0, 1, 0))).ata().error_or_feature, kAtaAborted);
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::read, 0, 0, 0))).ata().error_or_feature, kAtaAborted);
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::read, 0, 3, 0))).ata().error_or_feature, kAtaAborted) << "more than a frame takes";
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::read, kSize / 512, 1, 0))).ata().error_or_feature, kAtaNotFound);
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::read_extended, 0xFFFFFFFFFFFF, 2, kAtaExtended))).ata().error_or_feature, kAtaNotFound);
  const std::uint64_t before = counted("agro_aoe_malformed_total");
  std::vector<std::byte> cut = frame(Command::ata, ata(AtaCommand::write, 0, 2, kAtaWrite, sectors(1, 1)));
  std::vector<std::byte> everybody = frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)), 1, 1, 0xFFFF, 0xFF);
  std::vector<std::byte> response = frame(Command::config, encode_config({}));
  response[14] |= std::byte{kFlagResponse};
  EXPECT_TRUE(ask({cut, everybody, response, {}, sectors(1, 0), frame(Command::ata, {}), frame(Command::config, {}), frame(Command::mac_mask, {}), frame(Command::reserve, {})}).empty());
  EXPECT_EQ(counted("agro_aoe_malformed_total"), before + 8);
  EXPECT_EQ(device.write_count(), 0U);
}

TEST_F(TargetTest, DeviceErrors) {
  start();
  device.fail_range(0, 512, {Errc::corrupt, "bad"});
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::read, 0, 1, 0))).ata().error_or_feature, kAtaUncorrectable);
  // Somebody else has the volume: his answer counts, not ours.
  device.heal();
  device.fail_range(0, 512, {Errc::fenced, "a newer writer"});
  EXPECT_TRUE(ask({frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)))}).empty());
  EXPECT_EQ(counted("agro_aoe_unanswered_total"), 1U);
}

TEST_F(TargetTest, ReadOnlyAndTooMany) {
  start({.read_only = true, .request_count_max = 2});
  EXPECT_EQ(ask_one(frame(Command::ata, ata(AtaCommand::write, 0, 1, kAtaWrite, sectors(1, 1)))).ata().error_or_feature, kAtaAborted);
  device.hold(0, 4096);
  std::vector<std::vector<std::byte>> frames;
  for (std::uint32_t tag = 0; tag < 5; ++tag) frames.push_back(frame(Command::ata, ata(AtaCommand::read, tag, 1, 0), tag));
  EXPECT_TRUE(ask(std::move(frames)).empty());
  EXPECT_EQ(counted("agro_aoe_overload_total"), 3U);
  device.release();
  settle();
  EXPECT_EQ(answers().size(), 2U);
}

}  // namespace
}  // namespace agro::aoe
