#include "distributor/peer_address.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

// Goal: addresses are read as they are printed. Method: a table of texts.
TEST(PeerAddressTest, ParsesAndPrints) {
  for (const auto& [text, printed] : {std::pair{"adp://10.0.0.1:4711", "adp://10.0.0.1:4711"},
                                      {"adp://[::1]:1", "adp://[::1]:1"},
                                      {"adp://host.name:65535/", "adp://host.name:65535"},
                                      {"adp+unix:/run/a", "adp+unix:/run/a"},
                                      {"adp+unix:rel/a.sock", "adp+unix:rel/a.sock"},
                                      {"adp+unix:///run/a", "adp+unix:/run/a"},
                                      {"adp+unix://///run/a", "adp+unix:/run/a"},
                                      {"grpc://10.0.0.1:4711/", "grpc://10.0.0.1:4711"},
                                      {"grpc+unix:/run/a", "grpc+unix:/run/a"}}) {
    SCOPED_TRACE(text);
    const Result<PeerAddress> address = parse_peer_address(text);
    ASSERT_TRUE(address.has_value());
    const bool is_grpc = std::string_view(text).starts_with("grpc");
    EXPECT_EQ(address->protocol, is_grpc ? PeerProtocol::grpc : PeerProtocol::adp);
    EXPECT_EQ(format_peer_address(*address), printed);
  }
}

TEST(PeerAddressTest, RefusesWithAHint) {
  for (const char* text : {"", "adp:", "adp://", "adp://host", "adp://host:", "adp://host:x",
                           "adp://host:70000", "grpc://a", "grpc:a:1", "tcp:a:1", "://a:1", "+unix:/a", "adp+unix:",
                           "adp://[[::1]]:1", "adp://a]:1"}) {
    SCOPED_TRACE(text);
    const Result<PeerAddress> address = parse_peer_address(text);
    ASSERT_EQ(address.code(), Errc::invalid_argument);
    EXPECT_NE(address.error().message.find("write adp://HOST:PORT"), std::string::npos);
  }
  const Result<PeerAddress> longest = parse_peer_address("adp+unix:/" + std::string(200, 'x'));
  ASSERT_EQ(longest.code(), Errc::invalid_argument);
  EXPECT_NE(longest.error().message.find("longer than"), std::string::npos);
}

}  // namespace
}  // namespace agro
