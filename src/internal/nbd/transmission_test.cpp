#include "internal/nbd/transmission.hpp"

#include <gtest/gtest.h>

#include <set>

#include "internal/nbd/test_client.hpp"

namespace agro::nbd {
namespace {

constexpr std::uint64_t kSize = (1U << 20) + 1000;  // not whole sectors

/// A fixture with one volume and one attached client.
struct Attached {
  explicit Attached(bool structured, std::uint64_t size = kSize, bool read_only = false)
      : device(fixture.provider.add("volume", size, read_only)), client(fixture) {
    client.attach("volume", structured);
  }
  ServerFixture fixture;
  std::shared_ptr<MemoryDevice> device;
  TestClient client;
};

class NbdTransmissionTest : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Replies, NbdTransmissionTest, testing::Bool(),
                         [](const auto& param) { return param.param ? "structured" : "simple"; });

// Goal: what was written is read, at every kind of offset and size.
TEST_P(NbdTransmissionTest, WriteThenRead) {
  Attached test(GetParam());
  std::uint64_t cookie = 0x1000;
  for (const std::uint32_t size :
       {1U, 2U, 511U, 512U, 4095U, 4096U, 4097U, 65536U, 65537U, 262116U, 262117U, 300000U}) {
    for (const std::uint64_t offset :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4096}, kSize - size}) {
      SCOPED_TRACE(testing::Message() << size << " at " << offset);
      const std::string data = pattern(size, ++cookie);
      const Answer written = test.client.ask(
          {.command = Command::write, .cookie = cookie, .offset = offset, .size = size}, data);
      EXPECT_EQ(written.error, WireError::none);
      EXPECT_EQ(written.cookie, cookie);
      const Answer read = test.client.ask(
          {.command = Command::read, .cookie = ++cookie, .offset = offset, .size = size});
      EXPECT_EQ(read.error, WireError::none);
      EXPECT_EQ(read.cookie, cookie);
      EXPECT_EQ(read.structured, GetParam());
      EXPECT_TRUE(read.data == data);
    }
  }
}

// Goal: each illegal request gets its error and the connection goes on.
TEST_P(NbdTransmissionTest, IllegalRequests) {
  Attached test(GetParam());
  constexpr std::uint32_t kSector = 4096;
  const struct {
    Command command;
    unsigned flags;
    std::uint64_t offset;
    std::uint32_t size;
    WireError error;
  } cases[] = {
      {Command::read, 0, kSize, 1, WireError::einval},
      {Command::read, 0, kSize - 1, 2, WireError::einval},
      {Command::read, 0, ~std::uint64_t{0}, 2, WireError::einval},
      {Command::read, 0, 0, kPayloadSizeMax + 1, WireError::einval},
      {Command::read, kNoHole, 0, kSector, WireError::einval},
      {Command::read, 1 << 5, 0, kSector, WireError::einval},
      {Command::write, 0, kSize - 1, 2, WireError::enospc},
      {Command::write, 0, ~std::uint64_t{0} - 1, 2, WireError::enospc},
      {Command::write, kDontFragment, 0, kSector, WireError::einval},
      {Command::write_zeroes, 0, kSize, kSector, WireError::enospc},
      {Command::write_zeroes, kReqOne, 0, kSector, WireError::einval},
      {Command::trim, 0, kSize, kSector, WireError::einval},
      {Command::trim, kNoHole, 0, kSector, WireError::einval},
      {Command::cache, 0, kSize, 1, WireError::einval},
      {Command::flush, 0, 1, 0, WireError::einval},
      {Command::flush, 0, 0, 1, WireError::einval},
      {Command::block_status, 0, 0, 0, WireError::einval},
      {Command::block_status, 0, kSize, 1, WireError::einval},
      {static_cast<Command>(8), 0, 0, 0, WireError::einval},
      {static_cast<Command>(0xFFFF), 0, 0, 4096, WireError::einval},
  };
  std::uint64_t cookie = 1;
  for (const auto& [command, flags, offset, size, error] : cases) {
    SCOPED_TRACE(testing::Message() << static_cast<unsigned>(command) << " flags " << flags
                                    << " of " << size << " at " << offset);
    const std::string payload(command == Command::write ? size : 0, 'w');
    const Answer answer = test.client.ask({.flags = static_cast<std::uint16_t>(flags),
                                           .command = command,
                                           .cookie = ++cookie,
                                           .offset = offset,
                                           .size = size},
                                          payload);
    EXPECT_EQ(answer.cookie, cookie);
    EXPECT_EQ(answer.error, error);
    EXPECT_EQ(answer.structured, GetParam());
  }
  EXPECT_EQ(test.device->write_count(), 0U);
  EXPECT_EQ(test.client.ask({.command = Command::read, .cookie = 1, .offset = 0, .size = 1}).error,
            WireError::none);
}

// Goal: FUA is taken on everything, DF where replies are structured, and empty requests are fine.
TEST_P(NbdTransmissionTest, LegalOddities) {
  Attached test(GetParam());
  for (const Command command : {Command::read, Command::write, Command::trim, Command::cache,
                                Command::write_zeroes, Command::flush}) {
    const Answer answer =
        test.client.ask({.flags = kFua, .command = command, .cookie = 5, .offset = 0, .size = 0});
    EXPECT_EQ(answer.error, WireError::none) << static_cast<unsigned>(command);
  }
  const Answer unfragmented = test.client.ask(
      {.flags = kDontFragment, .command = Command::read, .cookie = 6, .offset = 0, .size = 65536});
  EXPECT_EQ(unfragmented.error, GetParam() ? WireError::none : WireError::einval);
}

TEST_P(NbdTransmissionTest, ReadOnlyExport) {
  Attached test(GetParam(), kSize, true);
  for (const Command command : {Command::write, Command::trim, Command::write_zeroes}) {
    EXPECT_EQ(test.client
                  .ask({.command = command, .cookie = 1, .offset = 0, .size = 10},
                       command == Command::write ? "0123456789" : "")
                  .error,
              WireError::eperm);
  }
  for (const Command command : {Command::read, Command::cache}) {
    EXPECT_EQ(test.client.ask({.command = command, .cookie = 1, .offset = 0, .size = 10}).error,
              WireError::none);
  }
  EXPECT_EQ(test.client.ask({.command = Command::flush, .cookie = 1}).error, WireError::none);
}

// Goal: every failure of the device is an error to the client, with its text where there is room.
TEST_P(NbdTransmissionTest, DeviceErrors) {
  const std::pair<Errc, WireError> codes[] = {
      {Errc::io_error, WireError::eio},         {Errc::corrupt, WireError::eio},
      {Errc::fenced, WireError::eio},           {Errc::out_of_space, WireError::enospc},
      {Errc::closed, WireError::eshutdown},     {Errc::timed_out, WireError::eio},
      {Errc::not_supported, WireError::enotsup}};
  for (const auto& [code, wire] : codes) {
    for (const bool slow : {false, true}) {
      Attached test(GetParam());
      test.device->fail_range(0, 1, {code, "block data:1:2:3 is bad"});
      test.device->fail_flushes({code, "block data:1:2:3 is bad"});
      for (const Command command : {Command::read, Command::write, Command::trim, Command::cache,
                                    Command::write_zeroes, Command::flush}) {
        for (const std::uint32_t size : {4096U, 100000U}) {
          SCOPED_TRACE(testing::Message() << static_cast<unsigned>(command) << " " << slow);
          if (slow) test.device->hold(0, kSize);
          const bool is_flush = command == Command::flush;
          test.client.send_request(
              {.command = command, .cookie = 1, .offset = 0, .size = is_flush ? 0 : size},
              command == Command::write ? std::string(size, 'x') : "");
          test.fixture.run();
          test.device->release();
          const Answer answer = test.client.receive_answer(size);
          EXPECT_EQ(answer.error, wire);
          EXPECT_EQ(answer.message, GetParam() ? "block data:1:2:3 is bad" : "");
        }
      }
      test.device->heal();
      EXPECT_EQ(test.client.ask({.command = Command::flush, .cookie = 1}).error, WireError::none);
    }
  }
}

// Goal: FUA answers after a flush that covers its write, and fails when that flush does.
TEST_P(NbdTransmissionTest, FuaIsDurable) {
  Attached test(GetParam());
  for (const bool slow : {false, true}) {
    for (const Command command : {Command::write, Command::write_zeroes, Command::trim}) {
      const std::string payload(command == Command::write ? 4096 : 0, 'f');
      const Request request{
          .flags = kFua, .command = command, .cookie = 1, .offset = 4096, .size = 4096};
      const std::uint64_t flush_count = test.device->flush_count();
      if (slow) test.device->hold(0, kSize);
      test.device->hold_flushes();
      test.client.send_request(request, payload);
      EXPECT_EQ(test.client.pending(), "");
      test.device->release();
      EXPECT_EQ(test.client.receive_answer().error, WireError::none);
      EXPECT_EQ(test.device->flush_count(), flush_count + 1);
      EXPECT_EQ(test.device->flushed_write_count(), test.device->write_count());
      test.device->fail_flushes({Errc::io_error, "disk gone"});
      EXPECT_EQ(test.client.ask(request, payload).error, WireError::eio);
      test.device->heal();
    }
  }
}

// Goal: slow requests hold up nobody. Method: held reads and writes among quick ones.
TEST_P(NbdTransmissionTest, RepliesOutOfOrder) {
  Attached test(GetParam());
  test.device->hold(0, 8192);
  const std::string data = pattern(4096, 3);
  test.client.send_request({.command = Command::read, .cookie = 1, .offset = 0, .size = 4096});
  test.client.send_request({.command = Command::write, .cookie = 2, .offset = 4096, .size = 4096},
                           data);
  for (std::uint64_t cookie = 10; cookie < 20; ++cookie) {
    test.client.send_request(
        {.command = Command::cache, .cookie = cookie, .offset = 8192, .size = 1});
  }
  std::set<std::uint64_t> answered;
  for (int count = 0; count < 10; ++count) answered.insert(test.client.receive_answer().cookie);
  EXPECT_EQ(answered.size(), 10U);
  EXPECT_EQ(answered.count(1) + answered.count(2), 0U);
  EXPECT_EQ(test.client.pending(), "");
  test.device->release();
  const Answer first = test.client.receive_answer(4096);
  EXPECT_EQ(first.cookie, 1U);
  EXPECT_TRUE(first.data == std::string(4096, '\0'));
  EXPECT_EQ(test.client.receive_answer().cookie, 2U);
  EXPECT_TRUE(as_text(test.device->bytes().subspan(4096, 4096)) == data);
}

// Goal: a round of requests costs one send. Method: count the stream's write calls.
TEST(NbdTransmissionBatchTest, OneSendARound) {
  ServerFixture fixture;
  fixture.provider.add("volume", kSize);
  auto to_server = std::make_shared<MemoryPipe>(1U << 20);
  auto from_server = std::make_shared<MemoryPipe>(1U << 20);
  auto stream = std::make_unique<MemoryStream>(to_server, from_server);
  const MemoryStream& watched = *stream;
  fixture.server->serve(std::move(stream));
  std::byte option[kOptionHeaderSize];
  encode_option_header(option, {.option = Option::export_name, .size = 6});
  to_server->bytes = std::string("\0\0\0\3", 4) + std::string(as_text(option)) + "volume";
  fixture.run();
  const std::size_t before = watched.write_call_count();
  for (std::uint64_t cookie = 0; cookie < 32; ++cookie) {
    std::byte request[kRequestSize];
    encode_request(request,
                   {.command = Command::read, .cookie = cookie, .offset = 0, .size = 4096});
    to_server->bytes += as_text(request);
  }
  to_server->changed.notify_all();
  fixture.run();
  EXPECT_EQ(watched.write_call_count(), before + 1);
  EXPECT_EQ(from_server->view().size(), kGreetingSize + 10 + 32 * (kSimpleReplySize + 4096));
  to_server->closed = true;
  to_server->changed.notify_all();
}

TEST_P(NbdTransmissionTest, LargestPayloads) {
  Attached test(GetParam(), 64U << 20);
  const std::string data = pattern(kPayloadSizeMax, 4);
  const Request write{
      .command = Command::write, .cookie = 1, .offset = 12345, .size = kPayloadSizeMax};
  for (const bool slow : {false, true}) {
    if (slow) test.device->hold(0, 1U << 20);
    test.client.send_request(write, data);
    test.client.send_request({.command = Command::cache, .cookie = 2, .offset = 0, .size = 0});
    test.fixture.run();
    test.device->release();
    EXPECT_EQ(test.client.receive_answer().error, WireError::none);
    EXPECT_EQ(test.client.receive_answer().error, WireError::none);
    if (slow) test.device->hold(0, 1U << 20);
    test.client.send_request(
        {.command = Command::read, .cookie = 3, .offset = 12345, .size = kPayloadSizeMax});
    test.fixture.run();
    test.device->release();
    EXPECT_TRUE(test.client.receive_answer(kPayloadSizeMax).data == data);
    std::memset(test.device->bytes().data(), 0, test.device->bytes().size());
  }
}

// Goal: long reads come in pieces where the protocol allows it, in one where the client says so,
// and the rest of one that must wait, or fails, is one more chunk.
TEST_P(NbdTransmissionTest, LongReadsInPieces) {
  Attached test(GetParam(), 2U << 20);
  const std::string data = pattern(2U << 20, 5);
  std::memcpy(test.device->bytes().data(), data.data(), data.size());
  const Request read{.command = Command::read, .cookie = 7, .offset = 1000, .size = 1U << 20};
  const std::string expected = data.substr(1000, 1U << 20);
  const Answer whole = test.client.ask(read);
  EXPECT_TRUE(whole.data == expected);
  EXPECT_EQ(whole.data_chunk_count, GetParam() ? 4U : 0U);
  if (GetParam()) {
    Request unfragmented = read;
    unfragmented.flags = kDontFragment;
    const Answer one = test.client.ask(unfragmented);
    EXPECT_TRUE(one.data == expected);
    EXPECT_EQ(one.data_chunk_count, 1U);
  }
  test.device->hold(400000, 1);
  test.client.send_request(read);
  const std::string_view waiting = test.client.pending();
  EXPECT_EQ(waiting.size() > 100000, GetParam());
  test.fixture.start_stop();  // must let it finish
  test.fixture.run();
  test.device->release();
  const Answer late = test.client.receive_answer(1U << 20);
  EXPECT_EQ(late.cookie, 7U);
  EXPECT_TRUE(late.data == expected);
  EXPECT_EQ(late.data_chunk_count, GetParam() ? 2U : 0U);
  EXPECT_TRUE(test.client.closed());
}

TEST_P(NbdTransmissionTest, LongReadThatFailsInTheMiddle) {
  Attached test(GetParam(), 2U << 20);
  for (const bool slow : {false, true}) {
    test.device->fail_range(700000, 1, {Errc::corrupt, "block data:1:2:3 is bad"});
    if (slow) test.device->hold(700000, 1);
    test.client.send_request(
        {.command = Command::read, .cookie = 7, .offset = 0, .size = 1U << 20});
    test.fixture.run();
    test.device->release();
    EXPECT_EQ(test.client.receive_answer().error, WireError::eio);
    test.device->heal();
    EXPECT_EQ(
        test.client.ask({.command = Command::read, .cookie = 8, .offset = 5, .size = 9}).error,
        WireError::none);
  }
}

// Goal: a long write is one request to its client, whatever becomes of its pieces.
TEST_P(NbdTransmissionTest, LongWrites) {
  const std::string data = pattern(1U << 20, 6);
  for (const std::uint64_t offset : {0U, 4096U, 1001U}) {
    for (const std::uint64_t held : {std::uint64_t{0}, std::uint64_t{500000}, kSize}) {
      Attached test(GetParam(), 2U << 20);
      if (held != kSize) test.device->hold(offset + held, 1);
      const Request write{.flags = kFua,
                          .command = Command::write,
                          .cookie = 7,
                          .offset = offset,
                          .size = 1U << 20};
      test.client.send_request(write, data);
      test.client.send_request({.command = Command::cache, .cookie = 8, .offset = 0, .size = 0});
      test.fixture.run();
      test.device->release();
      std::set<std::uint64_t> cookies;
      for (int count = 0; count < 2; ++count) {
        const Answer answer = test.client.receive_answer();
        EXPECT_EQ(answer.error, WireError::none);
        cookies.insert(answer.cookie);
      }
      EXPECT_EQ(cookies, (std::set<std::uint64_t>{7, 8}));
      EXPECT_TRUE(as_text(test.device->bytes().subspan(offset, 1U << 20)) == data);
      EXPECT_EQ(test.device->flushed_write_count(), test.device->write_count());
    }
  }
}

// Goal: a long write that is refused or fails is answered once, and its payload is no request.
TEST_P(NbdTransmissionTest, LongWritesThatFail) {
  const std::string data = pattern(1U << 20, 6);
  for (const bool read_only : {true, false}) {
    Attached test(GetParam(), 2U << 20, read_only);
    test.device->fail_range(700000, 1, {Errc::out_of_space, "full"});
    for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{3U << 20}}) {
      const Answer answer = test.client.ask(
          {.command = Command::write, .cookie = 7, .offset = offset, .size = 1U << 20}, data);
      EXPECT_EQ(answer.error, read_only ? WireError::eperm : WireError::enospc);
      EXPECT_EQ(
          test.client.ask({.command = Command::read, .cookie = 8, .offset = 5, .size = 9}).error,
          WireError::none);
    }
  }
}

// Goal: clients that go in the middle of a long read leave nothing behind.
TEST_P(NbdTransmissionTest, DisconnectInALongRead) {
  ServerFixture fixture;
  fixture.provider.add("volume", 8U << 20);
  for (const std::size_t taken : {0U, 10U, 100000U, 200000U, 500000U}) {
    TestClient client(fixture, 70000);
    client.attach("volume", GetParam());
    client.send_request({.command = Command::read, .cookie = 7, .offset = 0, .size = 8U << 20});
    EXPECT_EQ(client.receive(taken).size(), taken);
    client.close();
    fixture.run();
    EXPECT_EQ(fixture.server->connection_count(), 0U);
  }
}

TEST_P(NbdTransmissionTest, TooLargeAWriteCloses) {
  Attached test(GetParam());
  test.client.send_request(
      {.command = Command::write, .cookie = 1, .offset = 0, .size = kPayloadSizeMax + 1});
  EXPECT_TRUE(test.client.closed());
  EXPECT_EQ(test.fixture.metrics.value("agro_nbd_protocol_errors_total"), 1U);
}

TEST_P(NbdTransmissionTest, BadMagicClosesThatConnectionOnly) {
  Attached test(GetParam());
  TestClient other(test.fixture);
  other.attach("volume", GetParam());
  test.device->hold(0, 1);
  test.client.send_request({.command = Command::read, .cookie = 1, .offset = 0, .size = 1});
  test.client.send(std::string(kRequestSize, 'x'));
  EXPECT_TRUE(test.client.closed());
  test.device->release();
  EXPECT_EQ(other.ask({.command = Command::read, .cookie = 1, .offset = 0, .size = 4}).error,
            WireError::none);
  EXPECT_EQ(test.fixture.server->connection_count(), 1U);
}

TEST_P(NbdTransmissionTest, TrimZeroesAndStatus) {
  Attached test(GetParam());
  const std::string data(65536, 'd');
  test.client.ask({.command = Command::write, .cookie = 1, .offset = 0, .size = 65536}, data);
  EXPECT_EQ(
      test.client.ask({.command = Command::trim, .cookie = 2, .offset = 4096, .size = 8192}).error,
      WireError::none);
  EXPECT_EQ(test.client
                .ask({.flags = kNoHole,
                      .command = Command::write_zeroes,
                      .cookie = 3,
                      .offset = 16384,
                      .size = 4096})
                .error,
            WireError::none);
  EXPECT_EQ(test.client
                .ask({.flags = kFastZero | kFua,
                      .command = Command::write_zeroes,
                      .cookie = 4,
                      .offset = 20480,
                      .size = 4096})
                .error,
            WireError::none);
  const Answer read =
      test.client.ask({.command = Command::read, .cookie = 5, .offset = 0, .size = 65536});
  std::string expected = data;
  expected.replace(4096, 8192, 8192, '\0');
  expected.replace(16384, 8192, 8192, '\0');
  EXPECT_TRUE(read.data == expected);
  const Request status{.command = Command::block_status, .cookie = 6, .offset = 100, .size = 70000};
  if (!GetParam()) {
    EXPECT_EQ(test.client.ask(status).error, WireError::einval);
    return;
  }
  const auto flatten = [](const Answer& answer) {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> flat;
    for (const StatusDescriptor& one : answer.extents) flat.emplace_back(one.size, one.flags);
    return flat;
  };
  using Flat = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
  constexpr std::uint32_t kHole = kStateHole | kStateZero;
  EXPECT_EQ(flatten(test.client.ask(status)),
            (Flat{{3996, 0}, {8192, kHole}, {8192, 0}, {4096, kHole}, {40960, 0}, {4564, kHole}}));
  Request one = status;
  one.flags = kReqOne;
  EXPECT_EQ(flatten(test.client.ask(one)), (Flat{{3996, 0}}));
  test.device->fail_range(0, 4096, {Errc::io_error, "no map"});
  EXPECT_EQ(test.client.ask(status).error, WireError::eio);
}

// Goal: bytes may arrive in any pieces. Method: one at a time, and in odd chunks.
TEST_P(NbdTransmissionTest, FragmentedRequests) {
  for (const std::size_t step : {1U, 7U, 1000U}) {
    Attached test(GetParam());
    const std::string data = pattern(5000, 8);
    std::string bytes;
    std::byte request[kRequestSize];
    encode_request(request, {.command = Command::write, .cookie = 1, .offset = 3, .size = 5000});
    bytes += std::string(as_text(request)) + data;
    encode_request(request, {.command = Command::read, .cookie = 2, .offset = 3, .size = 5000});
    bytes += as_text(request);
    for (std::size_t at = 0; at < bytes.size(); at += step) {
      test.client.send(bytes.substr(at, step));
      test.fixture.run();
    }
    EXPECT_EQ(test.client.receive_answer().cookie, 1U);
    EXPECT_TRUE(test.client.receive_answer(5000).data == data);
  }
}

TEST_P(NbdTransmissionTest, DiscAnswersWhatIsUnderWay) {
  Attached test(GetParam());
  test.device->hold(0, 1);
  test.client.send_request({.command = Command::read, .cookie = 1, .offset = 0, .size = 1});
  test.client.send_request({.command = Command::disconnect});
  EXPECT_FALSE(test.client.closed());
  test.device->release();
  EXPECT_EQ(test.client.receive_answer(1).cookie, 1U);
  EXPECT_TRUE(test.client.closed());
  EXPECT_EQ(test.fixture.metrics.value("agro_nbd_protocol_errors_total"), 0U);
}

// Goal: a client that goes at any moment leaves nothing behind, and others are served.
// Method: cut a stream of requests of all kinds after each of many lengths, devices held.
TEST_P(NbdTransmissionTest, DisconnectAnywhere) {
  ServerFixture fixture;
  const std::shared_ptr<MemoryDevice> device = fixture.provider.add("volume", kSize);
  std::string bytes;
  for (const Command command : {Command::write, Command::read, Command::flush, Command::trim,
                                Command::cache, Command::write_zeroes, Command::block_status}) {
    for (const std::uint64_t offset : {0U, 600000U}) {
      std::byte request[kRequestSize];
      const std::uint32_t size = command == Command::flush ? 0 : 3000;
      encode_request(request, {.flags = kFua,
                               .command = command,
                               .cookie = 1,
                               .offset = command == Command::flush ? 0 : offset,
                               .size = size});
      bytes += as_text(request);
      if (command == Command::write) bytes += std::string(size, 'w');
    }
  }
  for (std::size_t size = 0; size <= bytes.size(); size += size < bytes.size() - 500 ? 61 : 1) {
    TestClient client(fixture);
    client.attach("volume", GetParam());
    device->hold(0, 4096);
    if (size % 2 == 0) device->hold_flushes();
    client.send(bytes.substr(0, size));
    if (size % 3 != 0) fixture.run();
    if (size % 5 == 0) {
      client.close_sending();
    } else {
      client.close();
    }
    fixture.run();
    device->release();
    fixture.run();
    ASSERT_EQ(fixture.server->connection_count(), 0U) << size;
  }
}

// Goal: a client that sends and never reads is held back, in bounded memory, and harms nobody.
TEST_P(NbdTransmissionTest, BackpressureBoundsMemory) {
  ServerFixture fixture;
  fixture.provider.add("volume", 32U << 20);
  TestClient deaf(fixture, 1000);
  deaf.attach("volume", GetParam());
  for (std::uint64_t cookie = 0; cookie < 200; ++cookie) {
    deaf.send_request({.command = Command::read, .cookie = cookie, .offset = 0, .size = 1U << 20});
  }
  fixture.run();
  EXPECT_LE(fixture.metrics.value("agro_nbd_reads_total"), 70U);
  TestClient other(fixture);
  other.attach("volume", GetParam());
  EXPECT_EQ(other.ask({.command = Command::read, .cookie = 1, .offset = 0, .size = 4}).error,
            WireError::none);
  for (std::uint64_t cookie = 0; cookie < 200; ++cookie) {
    const Answer answer = deaf.receive_answer(1U << 20);
    ASSERT_EQ(answer.error, WireError::none) << cookie;
    ASSERT_EQ(answer.cookie, cookie);
  }
}

// Goal: the number of waiting requests is bounded, and all of them end.
TEST_P(NbdTransmissionTest, ManySlowRequests) {
  Attached test(GetParam());
  test.device->hold(0, kSize);
  for (std::uint64_t cookie = 1; cookie <= 1000; ++cookie) {
    test.client.send_request({.command = Command::write, .cookie = cookie, .offset = 0, .size = 1},
                             "w");
  }
  test.fixture.run();
  EXPECT_EQ(test.fixture.metrics.value("agro_nbd_writes_total"), 256U);
  test.device->release();
  std::set<std::uint64_t> answered;
  for (int count = 0; count < 1000; ++count) answered.insert(test.client.receive_answer().cookie);
  EXPECT_EQ(answered.size(), 1000U);
  EXPECT_EQ(*answered.begin(), 1U);
}

}  // namespace
}  // namespace agro::nbd
