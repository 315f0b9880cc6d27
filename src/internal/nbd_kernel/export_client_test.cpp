#include "internal/nbd_kernel/export_client.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "internal/nbd/protocol.hpp"

namespace agro::nbd_kernel {
namespace {

/// A server that sends what it was told, whatever it gets, and hangs up when it got `expect` bytes.
class ScriptedServer {
 public:
  ScriptedServer(std::string output, std::size_t expect) {
    address_.kind = Address::Kind::unix_socket;
    address_.path = testing::TempDir() + "export_client_" + std::to_string(getpid()) + ".sock";
    ::unlink(address_.path.c_str());
    listener_ = Descriptor(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, address_.path.data(), address_.path.size());
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    thread_ = std::thread([this, output = std::move(output), expect] {
      const Descriptor client(::accept(listener_.get(), nullptr, nullptr));
      (void)::send(client.get(), output.data(), output.size(), MSG_NOSIGNAL);
      std::array<char, 4096> buffer{};
      while (received_.size() < expect) {
        const ssize_t count = ::recv(client.get(), buffer.data(), buffer.size(), 0);
        if (count <= 0) break;
        received_.append(buffer.data(), static_cast<std::size_t>(count));
      }
    });
  }
  ~ScriptedServer() {
    if (thread_.joinable()) thread_.join();
    ::unlink(address_.path.c_str());
  }
  const Address& address() const { return address_; }
  /// What the client sent, when it has hung up or sent enough.
  const std::string& received() {
    thread_.join();
    return received_;
  }

 private:
  Address address_;
  Descriptor listener_;
  std::string received_;
  std::thread thread_;
};

constexpr Duration kTimeout = std::chrono::seconds(10);

std::string greeting() {
  std::array<std::byte, nbd::kGreetingSize> out;
  nbd::encode_greeting(out, nbd::kFixedNewstyle | nbd::kNoZeroes);
  return std::string(as_text(out));
}

std::string reply(nbd::OptionReplyType type, const std::string& data) {
  std::array<std::byte, nbd::kOptionReplyHeaderSize> head;
  nbd::encode_option_reply_header(
      head, {.option = nbd::Option::go, .type = type, .size = static_cast<std::uint32_t>(data.size())});
  return std::string(as_text(head)) + data;
}

constexpr std::size_t kSentSize = nbd::kClientFlagsSize + nbd::kOptionHeaderSize + 4 + 3 + 2;  // for a name of 3

TEST(ExportClientTest, ChoosesTheExport) {
  ScriptedServer server(greeting() + reply(nbd::OptionReplyType::info, nbd::encode_info_block_size(1, 4096, 1 << 25)) +
                            reply(nbd::OptionReplyType::info, nbd::encode_info_export(1 << 30, 0x16d)) +
                            reply(nbd::OptionReplyType::ack, ""),
                        kSentSize);
  const Result<ExportConnection> made = connect_export(server.address(), "vol", kTimeout);
  ASSERT_TRUE(made.has_value()) << made.error().to_string();
  EXPECT_EQ(made->size_bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(made->transmission_flags, 0x16d);
  EXPECT_TRUE(made->socket.is_open());
  const std::string sent = server.received();
  ASSERT_EQ(sent.size(), kSentSize);
  EXPECT_EQ(sent.substr(24, 3), "vol");
}

// Goal: each way in which a server can be no good has its error. Method: scripts.
TEST(ExportClientTest, BadServers) {
  struct Case {
    std::string output;
    Errc code;
  };
  std::string no_magic = greeting();
  no_magic[0] = 'X';
  std::string old = greeting();
  old[17] = 0;
  const std::string wrong_option = [] {
    std::string one = reply(nbd::OptionReplyType::ack, "");
    one[11] = 6;
    return one;
  }();
  const std::string huge = [] {
    std::string one = reply(nbd::OptionReplyType::info, "");
    one[16] = 0x7f;
    return one;
  }();
  const std::vector<Case> cases = {
      {no_magic, Errc::protocol_error},
      {old, Errc::protocol_error},
      {greeting() + reply(nbd::OptionReplyType::error_unknown_export, "no such volume"), Errc::not_found},
      {greeting() + reply(nbd::OptionReplyType::error_policy, "locked"), Errc::unavailable},
      {greeting() + reply(nbd::OptionReplyType::ack, ""), Errc::protocol_error},
      {greeting() + wrong_option, Errc::protocol_error},
      {greeting() + huge, Errc::protocol_error},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(&one - cases.data());
    ScriptedServer server(one.output, kSentSize);
    EXPECT_EQ(connect_export(server.address(), "vol", kTimeout).code(), one.code);
  }
  ScriptedServer hangs_up(greeting(), 0);
  const Errc code = connect_export(hangs_up.address(), "vol", kTimeout).code();
  EXPECT_TRUE(code == Errc::unavailable || code == Errc::io_error);
}

TEST(ExportClientTest, NobodyThere) {
  Address nowhere;
  nowhere.path = testing::TempDir() + "nobody.sock";
  EXPECT_EQ(connect_export(nowhere, "vol", kTimeout).code(), Errc::unavailable);
  nowhere.path = std::string(200, 'x');
  EXPECT_EQ(connect_export(nowhere, "vol", kTimeout).code(), Errc::invalid_argument);
}

}  // namespace
}  // namespace agro::nbd_kernel
