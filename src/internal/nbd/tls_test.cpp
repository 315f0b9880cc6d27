#include "internal/nbd/tls.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "internal/nbd/test_certificates.hpp"
#include "internal/nbd/test_client.hpp"

namespace agro::nbd {
namespace {

template <typename T>
Job keep(Task<T> task, std::optional<Result<T>>& result) {
  result = co_await std::move(task);
}

/// A server's and a client's end of a connection of few bytes.
class TlsTest : public testing::Test {
 protected:
  void connect(std::shared_ptr<const TlsContext> server, std::shared_ptr<const TlsContext> client) {
    to_server_ = std::make_shared<MemoryPipe>(1000);
    to_client_ = std::make_shared<MemoryPipe>(700);
    server_ = std::make_unique<TlsStream>(std::make_unique<MemoryStream>(to_server_, to_client_), std::move(server));
    client_ = std::make_unique<TlsStream>(std::make_unique<MemoryStream>(to_client_, to_server_), std::move(client));
  }
  void start_both() {
    server_started_.reset();
    client_started_.reset();
    spawn(loop_.get_executor(), keep(server_->start(), server_started_));
    spawn(loop_.get_executor(), keep(client_->start(), client_started_));
    run();
  }
  void run() {
    loop_.restart();
    loop_.poll();
  }
  template <typename T>
  Result<T> run(Task<T> task) {
    std::optional<Result<T>> result;
    spawn(loop_.get_executor(), keep(std::move(task), result));
    run();
    return result.has_value() ? std::move(*result) : fail(Errc::timed_out, "it waits");
  }
  std::shared_ptr<const TlsContext> server(bool verify = false) { return *TlsContext::for_server(ours_.folder(), verify); }
  std::shared_ptr<const TlsContext> client() { return *TlsContext::for_client(ours_.folder()); }

  TestCertificates ours_;
  asio::io_context loop_{1};
  std::shared_ptr<MemoryPipe> to_server_;
  std::shared_ptr<MemoryPipe> to_client_;
  std::unique_ptr<TlsStream> server_;
  std::unique_ptr<TlsStream> client_;
  std::optional<Result<void>> server_started_;
  std::optional<Result<void>> client_started_;
};

Task<void> send(Stream& stream, const std::string& text) {
  const ConstBytes bytes = as_bytes(text);
  std::vector<ConstBytes> parts;  // of all sizes, an empty one among them
  parts.push_back(bytes.first(1));
  parts.push_back(bytes.subspan(1, 0));
  parts.push_back(bytes.subspan(1));
  co_return co_await stream.write(std::move(parts));
}

Task<std::string> take(Stream& stream, std::size_t size) {
  std::string text(size, 0);
  AGRO_CO_TRY_OK(co_await read_exactly(stream, std::as_writable_bytes(std::span(text))));
  co_return text;
}

// Goal: all bytes arrive, in order, both ways at once, whatever the stream's steps. Method: pipes that hold less than a record.
TEST_F(TlsTest, BothWaysAtOnce) {
  connect(server(), client());
  start_both();
  ASSERT_TRUE(server_started_.has_value() && server_started_->has_value());
  ASSERT_TRUE(client_started_.has_value() && client_started_->has_value());
  const std::string up = pattern(1 << 20, 1);
  const std::string down = pattern(777777, 2);
  std::optional<Result<void>> sent_up;
  std::optional<Result<void>> sent_down;
  std::optional<Result<std::string>> taken_up;
  std::optional<Result<std::string>> taken_down;
  spawn(loop_.get_executor(), keep(send(*client_, up), sent_up));
  spawn(loop_.get_executor(), keep(send(*server_, down), sent_down));
  spawn(loop_.get_executor(), keep(take(*server_, up.size()), taken_up));
  spawn(loop_.get_executor(), keep(take(*client_, down.size()), taken_down));
  run();
  ASSERT_TRUE(taken_up.has_value() && taken_up->has_value());
  ASSERT_TRUE(taken_down.has_value() && taken_down->has_value());
  EXPECT_TRUE(**taken_up == up);
  EXPECT_TRUE(**taken_down == down);
  EXPECT_TRUE(sent_up->has_value());
  EXPECT_TRUE(sent_down->has_value());
}

// Goal: nothing of what is said can be read on the wire.
TEST_F(TlsTest, WhatIsSentIsNotInTheClear) {
  connect(server(), client());
  start_both();
  const std::string secret = "nobody else may read this";
  ASSERT_TRUE(run(send(*client_, secret)).has_value());
  EXPECT_FALSE(to_server_->view().empty());
  EXPECT_EQ(to_server_->view().find("else may"), std::string_view::npos);
  EXPECT_EQ(run(take(*server_, secret.size())).value(), secret);
}

TEST_F(TlsTest, AnotherAuthorityIsRefused) {
  const TestCertificates theirs;
  connect(*TlsContext::for_server(theirs.folder(), false), client());
  start_both();
  ASSERT_TRUE(client_started_.has_value());
  EXPECT_EQ(client_started_->code(), Errc::protocol_error);
  ASSERT_TRUE(server_started_.has_value());
  EXPECT_EQ(server_started_->code(), Errc::protocol_error);  // it was told why
  EXPECT_NE(server_started_->error().message.find("alert"), std::string::npos) << server_started_->error().message;
}

// Goal: with verify_clients only who shows a certificate of the authority comes in.
TEST_F(TlsTest, ClientsShowCertificates) {
  connect(server(true), client());
  start_both();
  ASSERT_TRUE(server_started_.has_value());
  EXPECT_TRUE(server_started_->has_value());

  std::filesystem::remove(ours_.folder() + "/client-cert.pem");
  connect(server(true), client());
  start_both();
  ASSERT_TRUE(server_started_.has_value());
  EXPECT_EQ(server_started_->code(), Errc::protocol_error);
  EXPECT_NE(server_started_->error().message.find("certificate"), std::string::npos);
}

TEST_F(TlsTest, ConnectionsThatEnd) {
  connect(server(), client());
  std::optional<Result<void>> started;
  spawn(loop_.get_executor(), keep(server_->start(), started));
  run();
  EXPECT_FALSE(started.has_value());
  to_server_->closed = true;
  to_server_->changed.notify_all();
  run();
  ASSERT_TRUE(started.has_value());
  EXPECT_EQ(started->code(), Errc::closed);

  connect(server(), client());
  start_both();
  std::optional<Result<std::string>> read;
  spawn(loop_.get_executor(), keep(take(*server_, 1), read));
  run();
  client_->close();
  run();
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->code(), Errc::closed);
}

TEST_F(TlsTest, ARecordThatIsNone) {
  connect(server(), client());
  start_both();
  to_server_->bytes += std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x');
  EXPECT_EQ(run(take(*server_, 1)).code(), Errc::protocol_error);
}

TEST_F(TlsTest, FilesThatDoNotFit) {
  const TestCertificates theirs;
  const auto problem = [&] {
    const auto made = TlsContext::for_server(ours_.folder(), true);
    EXPECT_EQ(made.code(), Errc::invalid_argument);
    return made.has_value() ? std::string() : made.error().message;
  };
  const std::string key = ours_.folder() + "/server-key.pem";
  std::filesystem::copy_file(theirs.folder() + "/server-key.pem", key, std::filesystem::copy_options::overwrite_existing);
  EXPECT_NE(problem().find("server-key.pem is not the key of"), std::string::npos);
  std::filesystem::remove(key);
  EXPECT_NE(problem().find("cannot read " + key + ": No such file"), std::string::npos);
  std::ofstream(ours_.folder() + "/server-cert.pem") << "no certificate";
  std::filesystem::copy_file(theirs.folder() + "/server-key.pem", key);
  EXPECT_NE(problem().find("server-cert.pem is no certificate"), std::string::npos);
}

// --- in the handshake of NBD ---

struct SecureFixture {
  SecureFixture() : server(ServerOptions{.tls = *TlsContext::for_server(certificates.folder(), false)}) {
    server.provider.add("volume", 1U << 20);
  }
  TestCertificates certificates;
  ServerFixture server;
};

TEST(NbdStartTlsTest, OnlyStartTlsAndAbortInTheClear) {
  SecureFixture fixture;
  TestClient client(fixture.server);
  client.greet();
  for (const Option option : {Option::list, Option::structured_reply, Option::info, Option::go, Option::set_meta_context,
                              static_cast<Option>(99)}) {
    client.send_option(option);
    EXPECT_EQ(client.receive_option_reply(option).type, OptionReplyType::error_tls_required);
  }
  client.send_option(Option::start_tls, "data");
  EXPECT_EQ(client.receive_option_reply(Option::start_tls).type, OptionReplyType::error_invalid);
  client.send_option(Option::abort);
  EXPECT_EQ(client.receive_option_reply(Option::abort).type, OptionReplyType::ack);

  TestClient old(fixture.server);
  old.greet();
  old.send_option(Option::export_name, "volume");
  EXPECT_TRUE(old.closed());
}

TEST(NbdStartTlsTest, WithoutCertificatesThereIsNone) {
  ServerFixture fixture;
  TestClient client(fixture);
  client.greet();
  client.send_option(Option::start_tls);
  EXPECT_EQ(client.receive_option_reply(Option::start_tls).type, OptionReplyType::error_unsupported);
}

// Goal: nobody can put requests before those of the client. Source: CVE-2021-3716 (nbdkit).
TEST(NbdStartTlsTest, BytesBehindItEndTheConnection) {
  SecureFixture fixture;
  TestClient client(fixture.server);
  client.greet();
  std::string header(kOptionHeaderSize, 0);
  store_be<std::uint64_t>(std::as_writable_bytes(std::span(header)), kOptionMagic);
  store_be<std::uint32_t>(std::as_writable_bytes(std::span(header)).subspan(8), static_cast<std::uint32_t>(Option::start_tls));
  client.send(header + "x");
  EXPECT_TRUE(client.closed());
  EXPECT_EQ(client.receive(100), "");
}

TEST(NbdStartTlsTest, AClientThatIsSilentIsDropped) {
  SecureFixture fixture;
  TestClient client(fixture.server);
  client.greet();
  client.send_option(Option::start_tls);
  EXPECT_EQ(client.receive_option_reply(Option::start_tls).type, OptionReplyType::ack);
  EXPECT_FALSE(client.closed());
  fixture.server.clock.advance(std::chrono::minutes(2));
  EXPECT_TRUE(client.closed());
}

/// STARTTLS, once more, then a read of the export; what the two last answered.
Task<std::string> use_export(std::unique_ptr<Stream> stream, std::shared_ptr<const TlsContext> context) {
  const auto option_header = [](Option option, std::size_t size) {
    std::string header(kOptionHeaderSize, 0);
    const MutableBytes bytes = std::as_writable_bytes(std::span(header));
    store_be<std::uint64_t>(bytes, kOptionMagic);
    store_be<std::uint32_t>(bytes.subspan(8), static_cast<std::uint32_t>(option));
    store_be<std::uint32_t>(bytes.subspan(12), static_cast<std::uint32_t>(size));
    return header;
  };
  AGRO_CO_TRY_OK(co_await take(*stream, kGreetingSize));
  AGRO_CO_TRY_OK(co_await send(*stream, std::string("\0\0\0\3", 4) + option_header(Option::start_tls, 0)));
  AGRO_CO_TRY_OK(co_await take(*stream, kOptionReplyHeaderSize));
  TlsStream secure(std::move(stream), std::move(context));
  AGRO_CO_TRY_OK(co_await secure.start());
  AGRO_CO_TRY_OK(co_await send(secure, option_header(Option::start_tls, 0)));
  AGRO_CO_TRY(std::string again, co_await take(secure, kOptionReplyHeaderSize));
  const auto size = load_be<std::uint32_t>(as_bytes(again).subspan(16));
  AGRO_CO_TRY_OK(co_await take(secure, size));
  AGRO_CO_TRY_OK(co_await send(secure, option_header(Option::export_name, 6) + "volume"));
  AGRO_CO_TRY(std::string chosen, co_await take(secure, kExportNameReplySize));
  secure.close();
  co_return again + chosen;
}

TEST(NbdStartTlsTest, AnExportThroughTls) {
  SecureFixture fixture;
  const auto up = std::make_shared<MemoryPipe>(1 << 20);
  const auto down = std::make_shared<MemoryPipe>(1 << 20);
  fixture.server.server->serve(std::make_unique<MemoryStream>(up, down));
  std::optional<Result<std::string>> answers;
  spawn(fixture.server.loop.get_executor(),
        keep(use_export(std::make_unique<MemoryStream>(down, up), *TlsContext::for_client(fixture.certificates.folder())), answers));
  fixture.server.run();
  ASSERT_TRUE(answers.has_value());
  ASSERT_TRUE(answers->has_value()) << answers->error().to_string();
  const ConstBytes bytes = as_bytes(**answers);
  EXPECT_EQ(load_be<std::uint32_t>(bytes.subspan(12)), static_cast<std::uint32_t>(OptionReplyType::error_invalid));
  EXPECT_EQ(load_be<std::uint64_t>(bytes.subspan(kOptionReplyHeaderSize)), 1U << 20);
}

}  // namespace
}  // namespace agro::nbd
