#include "internal/nbd/handshake.hpp"

#include <gtest/gtest.h>

#include "internal/nbd/test_client.hpp"

namespace agro::nbd {
namespace {

constexpr std::uint64_t kSize = 1U << 20;
constexpr unsigned kWritableFlags = kHasFlags | kSendFlush | kSendFua | kSendTrim |
                                    kSendWriteZeroes | kCanMultiConn | kSendCache | kSendFastZero;

std::uint64_t u64(std::string_view bytes, std::size_t at) {
  return load_be<std::uint64_t>(as_bytes(bytes.substr(at)));
}
unsigned u16(std::string_view bytes, std::size_t at) {
  return load_be<std::uint16_t>(as_bytes(bytes.substr(at)));
}

TEST(NbdHandshakeTest, GreetingIsFixedNewstyle) {
  ServerFixture fixture;
  TestClient client(fixture);
  const std::string greeting = client.receive(100);
  ASSERT_EQ(greeting.size(), kGreetingSize);
  EXPECT_EQ(u64(greeting, 0), kInitMagic);
  EXPECT_EQ(u64(greeting, 8), kOptionMagic);
  EXPECT_EQ(u16(greeting, 16), 3U);
}

// Goal: EXPORT_NAME answers 134 or 10 bytes, as the client's flags say, also for old clients.
TEST(NbdHandshakeTest, ExportName) {
  for (const std::uint32_t flags : {0U, 1U, 2U, 3U}) {
    SCOPED_TRACE(flags);
    ServerFixture fixture;
    fixture.provider.add("volume", kSize);
    fixture.provider.add("other", 2 * kSize);
    TestClient client(fixture);
    client.greet(flags);
    client.send_option(Option::export_name, "volume");
    const std::string reply = client.receive(1000);
    ASSERT_EQ(reply.size(), (flags & kNoZeroes) != 0 ? 10U : 134U);
    EXPECT_EQ(u64(reply, 0), kSize);
    EXPECT_EQ(u16(reply, 8), kWritableFlags);
    client.send_request(
        {.flags = 0, .command = Command::read, .cookie = 9, .offset = 0, .size = 512});
    const Answer answer = client.receive_answer(512);
    EXPECT_EQ(answer.error, WireError::none);
    EXPECT_EQ(answer.data.size(), 512U);
  }
}

// Goal: an export that cannot be had ends the connection, as EXPORT_NAME has no error reply.
TEST(NbdHandshakeTest, ExportNameThatFails) {
  for (const char* name : {"nothing", "locked", ""}) {
    ServerFixture fixture;
    fixture.provider.add("locked", kSize);
    fixture.provider.add("other", kSize);
    fixture.provider.fail_opening("locked", {Errc::locked, "open on another machine"});
    TestClient client(fixture);
    client.greet();
    client.send_option(Option::export_name, name);
    EXPECT_EQ(client.receive(1), "");
    EXPECT_TRUE(client.closed()) << name;
  }
}

TEST(NbdHandshakeTest, GoTellsAllThatWasAsked) {
  ServerFixture fixture;
  fixture.provider.add("volume", kSize, false, "a fine volume");
  TestClient client(fixture);
  client.greet();
  client.send_option(
      Option::go,
      encode_info_request({.name = "volume",
                           .types = {InfoType::block_size, InfoType::name, InfoType::description,
                                     static_cast<InfoType>(77)}}));
  const OptionAnswer export_info = client.receive_option_reply(Option::go);
  EXPECT_EQ(export_info.data, encode_info_export(kSize, kWritableFlags));
  EXPECT_EQ(client.receive_option_reply(Option::go).data,
            encode_info_block_size(1, 4096, 32U << 20));
  EXPECT_EQ(client.receive_option_reply(Option::go).data,
            encode_info_text(InfoType::name, "volume"));
  EXPECT_EQ(client.receive_option_reply(Option::go).data,
            encode_info_text(InfoType::description, "a fine volume"));
  EXPECT_EQ(client.receive_option_reply(Option::go).type, OptionReplyType::ack);
  EXPECT_EQ(client.ask({.command = Command::flush, .cookie = 1}).error, WireError::none);
}

TEST(NbdHandshakeTest, ReadOnlyFlags) {
  ServerFixture fixture;
  fixture.provider.add("snapshot", kSize, true);
  TestClient client(fixture);
  client.greet();
  client.send_option(Option::info, encode_info_request({.name = "snapshot", .types = {}}));
  EXPECT_EQ(client.receive_option_reply(Option::info).data,
            encode_info_export(
                kSize, kHasFlags | kReadOnly | kSendFlush | kSendFua | kCanMultiConn | kSendCache));
}

// Goal: INFO opens nothing and the haggling goes on; DF is offered once replies are structured.
TEST(NbdHandshakeTest, InfoThenGo) {
  ServerFixture fixture;
  fixture.provider.add("volume", kSize);
  TestClient client(fixture);
  client.greet();
  client.send_option(Option::info, encode_info_request({.name = "volume", .types = {}}));
  EXPECT_EQ(client.receive_option_reply(Option::info).type, OptionReplyType::info);
  EXPECT_EQ(client.receive_option_reply(Option::info).type, OptionReplyType::ack);
  EXPECT_EQ(fixture.provider.open_count(), 0U);
  client.send_option(Option::structured_reply);
  EXPECT_EQ(client.receive_option_reply(Option::structured_reply).type, OptionReplyType::ack);
  client.send_option(Option::go, encode_info_request({.name = "volume", .types = {}}));
  EXPECT_EQ(client.receive_option_reply(Option::go).data,
            encode_info_export(kSize, kWritableFlags | kSendDontFragment));
  EXPECT_EQ(client.receive_option_reply(Option::go).type, OptionReplyType::ack);
  EXPECT_EQ(fixture.provider.open_count(), 1U);
}

// Goal: failures of open() reach the client with their text, and the haggling goes on.
TEST(NbdHandshakeTest, OpenFailuresAreReported) {
  ServerFixture fixture;
  fixture.provider.add("a", kSize);
  fixture.provider.add("b", kSize);
  TestClient client(fixture);
  client.greet();
  const struct {
    Errc code;
    OptionReplyType type;
  } cases[] = {{Errc::locked, OptionReplyType::error_policy},
               {Errc::not_found, OptionReplyType::error_unknown_export},
               {Errc::no_quorum, OptionReplyType::error_policy},
               {Errc::closed, OptionReplyType::error_shutdown}};
  for (const auto& [code, type] : cases) {
    fixture.provider.fail_opening("a", {code, "because of that"});
    client.send_option(Option::go, encode_info_request({.name = "a", .types = {}}));
    const OptionAnswer answer = client.receive_option_reply(Option::go);
    EXPECT_EQ(answer.type, type);
    EXPECT_EQ(answer.data, "because of that");
  }
  client.send_option(Option::go, encode_info_request({.name = "c", .types = {}}));
  EXPECT_EQ(client.receive_option_reply(Option::go).type, OptionReplyType::error_unknown_export);
  client.send_option(Option::go, encode_info_request({.name = "", .types = {}}));
  const OptionAnswer no_default = client.receive_option_reply(Option::go);
  EXPECT_EQ(no_default.type, OptionReplyType::error_unknown_export);
  EXPECT_NE(no_default.data.find("2 exports"), std::string::npos) << no_default.data;
  client.send_option(Option::go, encode_info_request({.name = "b", .types = {}}));
  EXPECT_EQ(client.receive_option_reply(Option::go).type, OptionReplyType::info);
}

TEST(NbdHandshakeTest, EmptyNameIsTheOnlyVolume) {
  ServerFixture fixture;
  fixture.provider.add("volume", kSize);
  TestClient client(fixture);
  client.greet();
  client.send_option(Option::go, encode_info_request({.name = "", .types = {InfoType::name}}));
  EXPECT_EQ(client.receive_option_reply(Option::go).data,
            encode_info_export(kSize, kWritableFlags));
  EXPECT_EQ(client.receive_option_reply(Option::go).data,
            encode_info_text(InfoType::name, "volume"));
}

TEST(NbdHandshakeTest, List) {
  ServerFixture fixture;
  fixture.provider.add("one", kSize, false, "first");
  fixture.provider.add("two", kSize);
  TestClient client(fixture);
  client.greet();
  client.send_option(Option::list);
  EXPECT_EQ(client.receive_option_reply(Option::list).data, encode_server_data("one", "first"));
  EXPECT_EQ(client.receive_option_reply(Option::list).data, encode_server_data("two", ""));
  EXPECT_EQ(client.receive_option_reply(Option::list).type, OptionReplyType::ack);
  client.send_option(Option::list, "x");
  EXPECT_EQ(client.receive_option_reply(Option::list).type, OptionReplyType::error_invalid);
}

TEST(NbdHandshakeTest, AbortIsAnsweredAndCloses) {
  ServerFixture fixture;
  TestClient client(fixture);
  client.greet();
  client.send_option(Option::abort);
  EXPECT_EQ(client.receive_option_reply(Option::abort).type, OptionReplyType::ack);
  EXPECT_TRUE(client.closed());
  EXPECT_EQ(fixture.metrics.value("agro_nbd_protocol_errors_total"), 0U);
}

// Goal: options that we do not have get an error, and the haggling goes on.
TEST(NbdHandshakeTest, RefusedOptions) {
  ServerFixture fixture;
  fixture.provider.add("volume", kSize);
  TestClient client(fixture);
  client.greet();
  const struct {
    Option option;
    std::string data;
    OptionReplyType type;
  } cases[] = {
      {Option::start_tls, "", OptionReplyType::error_unsupported},
      {Option::start_tls, "x", OptionReplyType::error_invalid},
      {Option::peek_export, "", OptionReplyType::error_unsupported},
      {Option::extended_headers, "", OptionReplyType::error_unsupported},
      {static_cast<Option>(0x7FFFFFFF), "what", OptionReplyType::error_unsupported},
      {static_cast<Option>(99), std::string(65537, 'x'), OptionReplyType::error_too_big},
      {static_cast<Option>(99), std::string(2U << 20, 'x'), OptionReplyType::error_too_big},
      {static_cast<Option>(99), std::string(65536, 'x'), OptionReplyType::error_unsupported},
      {Option::structured_reply, "x", OptionReplyType::error_invalid},
      {Option::abort, "x", OptionReplyType::error_invalid},
      {Option::go, "", OptionReplyType::error_invalid},
      {Option::go, std::string(6, '\xFF'), OptionReplyType::error_invalid},
      {Option::info, std::string(5, '\0'), OptionReplyType::error_invalid},
      {Option::set_meta_context, "", OptionReplyType::error_invalid},
      {Option::list_meta_context, encode_meta_request({.name = "volume", .queries = {}}),
       OptionReplyType::error_invalid},  // no structured replies yet
  };
  for (const auto& [option, data, type] : cases) {
    client.send_option(option, data);
    EXPECT_EQ(client.receive_option_reply(option).type, type)
        << static_cast<std::uint32_t>(option) << " with " << data.size() << " bytes";
  }
  client.send_option(Option::go, encode_info_request({.name = "volume", .types = {}}));
  EXPECT_EQ(client.receive_option_reply(Option::go).type, OptionReplyType::info);
}

TEST(NbdHandshakeTest, MetaContexts) {
  const struct {
    Option option;
    std::vector<std::string> queries;
    bool matches;
  } cases[] = {{Option::list_meta_context, {}, true},
               {Option::list_meta_context, {"base:"}, true},
               {Option::list_meta_context, {"base:allocation"}, true},
               {Option::list_meta_context, {"base:other", "x-us:thing"}, false},
               {Option::set_meta_context, {}, false},
               {Option::set_meta_context, {"base:"}, false},
               {Option::set_meta_context, {"x:y", "base:allocation", "base:allocation"}, true}};
  for (const auto& [option, queries, matches] : cases) {
    ServerFixture fixture;
    fixture.provider.add("volume", kSize);
    TestClient client(fixture);
    client.greet();
    client.send_option(Option::structured_reply);
    client.receive_option_reply(Option::structured_reply);
    client.send_option(option, encode_meta_request({.name = "volume", .queries = queries}));
    if (matches) {
      const OptionAnswer answer = client.receive_option_reply(option);
      EXPECT_EQ(answer.type, OptionReplyType::meta_context);
      EXPECT_EQ(answer.data,
                encode_meta_context(option == Option::set_meta_context ? 1 : 0, kBaseAllocation));
    }
    EXPECT_EQ(client.receive_option_reply(option).type, OptionReplyType::ack);
    client.send_option(Option::go, encode_info_request({.name = "volume", .types = {}}));
    client.receive_option_reply(Option::go);
    client.receive_option_reply(Option::go);
    const Answer status =
        client.ask({.command = Command::block_status, .cookie = 1, .offset = 0, .size = 4096});
    EXPECT_EQ(status.error,
              matches && option == Option::set_meta_context ? WireError::none : WireError::einval);
  }
}

// Goal: a context selected for one export does not hold for another.
TEST(NbdHandshakeTest, MetaContextOfAnotherExport) {
  ServerFixture fixture;
  fixture.provider.add("a", kSize);
  fixture.provider.add("b", kSize);
  TestClient client(fixture);
  client.greet();
  client.send_option(Option::structured_reply);
  client.receive_option_reply(Option::structured_reply);
  client.send_option(Option::set_meta_context,
                     encode_meta_request({.name = "a", .queries = {"base:allocation"}}));
  client.receive_option_reply(Option::set_meta_context);
  client.receive_option_reply(Option::set_meta_context);
  client.send_option(Option::go, encode_info_request({.name = "b", .types = {}}));
  client.receive_option_reply(Option::go);
  client.receive_option_reply(Option::go);
  EXPECT_EQ(
      client.ask({.command = Command::block_status, .cookie = 1, .offset = 0, .size = 4096}).error,
      WireError::einval);
}

// Goal: what has no answer in the protocol closes the connection, and is counted.
TEST(NbdHandshakeTest, MalformedBytesClose) {
  std::string bad_magic(kOptionHeaderSize, 'x');
  std::byte header[kOptionHeaderSize];
  encode_option_header(header, {.option = Option::list, .size = 0xFFFFFFFF});
  const std::string huge(as_text(header));
  encode_option_header(header, {.option = Option::export_name, .size = 5000});
  const std::string long_name = std::string(as_text(header)) + std::string(5000, 'n');
  encode_option_header(header, {.option = Option::list, .size = 0});
  const std::string list(as_text(header));
  const struct {
    std::uint32_t flags;
    std::string bytes;
  } cases[] = {{3, bad_magic}, {3, huge}, {3, long_name}, {4, ""}, {0x80000003, ""}, {2, list}};
  for (const auto& [flags, bytes] : cases) {
    ServerFixture fixture;
    fixture.provider.add("volume", kSize);
    TestClient client(fixture);
    client.greet(flags);
    client.send(bytes);
    EXPECT_EQ(client.receive(1), "");
    EXPECT_TRUE(client.closed()) << flags << " " << bytes.size();
    EXPECT_EQ(fixture.metrics.value("agro_nbd_protocol_errors_total"), 1U);
  }
}

// Goal: a handshake cut anywhere leaves nothing behind. Method: every prefix of a good one.
TEST(NbdHandshakeTest, DisconnectAnywhere) {
  std::byte header[kOptionHeaderSize];
  const std::string info = encode_info_request({.name = "volume", .types = {InfoType::name}});
  encode_option_header(header,
                       {.option = Option::go, .size = static_cast<std::uint32_t>(info.size())});
  const std::string all = std::string("\0\0\0\3", 4) + std::string(as_text(header)) + info;
  ServerFixture fixture;
  fixture.provider.add("volume", kSize);
  for (std::size_t size = 0; size <= all.size(); ++size) {
    TestClient client(fixture);
    client.send(all.substr(0, size));
    fixture.run();
    EXPECT_EQ(fixture.server->connection_count(), 1U);
    client.close();
    fixture.run();
    EXPECT_EQ(fixture.server->connection_count(), 0U) << size;
  }
}

TEST(NbdHandshakeTest, HasADeadline) {
  ServerFixture fixture({.handshake_timeout = std::chrono::seconds(10)});
  fixture.provider.add("volume", kSize);
  TestClient slow(fixture);
  TestClient attached(fixture);
  attached.attach("volume");
  slow.greet();
  fixture.clock.advance(std::chrono::seconds(9));
  EXPECT_FALSE(slow.closed());
  fixture.clock.advance(std::chrono::seconds(1));
  EXPECT_TRUE(slow.closed());
  EXPECT_FALSE(attached.closed());
}

}  // namespace
}  // namespace agro::nbd
