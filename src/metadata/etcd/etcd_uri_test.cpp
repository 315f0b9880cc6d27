#include "metadata/etcd/etcd_uri.hpp"

#include <gtest/gtest.h>

#include "metadata/etcd/etcd_requests.hpp"
#include "metadata/keys.hpp"

namespace agro {
namespace {

// Goal: each part of a URI is found. Method: a table.
TEST(EtcdUriTest, Parts) {
  EtcdUri plain;
  plain.endpoints = {"a:1"};
  EtcdUri full;
  full.endpoints = {"a:2379", "[::1]:2380", "10.0.0.1:3"};
  full.prefix = "/team/one";
  full.tls = true;
  full.ca = "/c";
  full.certificate = "/d.crt";
  full.key = "/d.key";
  full.user = "u";
  full.password_file = "/p";
  EtcdUri secure;
  secure.endpoints = {"a:2379"};
  secure.tls = true;
  for (const auto& [text, wanted] :
       {std::pair<std::string, EtcdUri>{"etcd://a:1", plain},
        {"etcd://a:1/", plain},
        {"etcd://a,[::1]:2380,10.0.0.1:3/team/one/?ca=/c&cert=/d.crt&key=/d.key&user=u&"
         "password-file=/p",
         full},
        {"etcds://a", secure}}) {
    SCOPED_TRACE(text);
    const auto parsed = parse_etcd_uri(text);
    ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
    EXPECT_EQ(*parsed, wanted);
  }
}

TEST(EtcdUriTest, Mistakes) {
  for (const auto& [text, why] :
       {std::pair<std::string, std::string>{"etcd://", "host"},
        {"etcd://a:", "port"},
        {"etcd://a:0", "port"},
        {"etcd://a:70000", "port"},
        {"etcd://a:1x", "port"},
        {"etcd://:1", "host"},
        {"etcd://a,,b", "host"},
        {"etcd://[::1", "']'"},
        {"http://a", "etcd://"},
        {"etcd://a?x=1", "'x'"},
        {"etcd://a?ca=", "'ca'"},
        {"etcd://a?cert=/c", "both"},
        {"etcd://a?password-file=/p", "user"},
        {"etcd://a?user=u&password=geheim", "password-file"}}) {
    SCOPED_TRACE(text);
    const auto parsed = parse_etcd_uri(text);
    ASSERT_FALSE(parsed.has_value());
    EXPECT_EQ(parsed.code(), Errc::invalid_argument);
    EXPECT_NE(parsed.error().message.find(why), std::string::npos) << parsed.error().message;
    EXPECT_EQ(parsed.error().message.find("geheim"), std::string::npos);
  }
}

/// "+key" and "-first..end" of what etcd is asked to do.
std::string ops_text(const std::vector<KvOp>& ops) {
  std::string text;
  const auto txn = etcd::txn_of("/p", {}, ops);
  for (const auto& op : txn.success()) {
    if (op.has_request_put()) {
      text += "+" + op.request_put().key() + "=" + op.request_put().value() + " ";
      continue;
    }
    const auto& range = op.request_delete_range();
    text += "-" + range.key() + (range.range_end().empty() ? "" : ".." + range.range_end()) + " ";
  }
  for (char& letter : text) letter = letter == '\0' ? '0' : letter;
  return text;
}

// Goal: etcd gets each key once, with the effect of all operations in order. Method: a table.
TEST(EtcdRequestsTest, LastChangeWins) {
  using keys::put;
  using keys::remove;
  using keys::remove_prefix;
  const std::vector<std::pair<std::vector<KvOp>, std::string>> cases = {
      {{put("/a", "1"), put("/b", "2"), remove("/c")}, "+/p/a=1 +/p/b=2 -/p/c "},
      {{put("/a", "1"), put("/a", "2")}, "+/p/a=2 "},
      {{put("/a", "1"), remove("/a")}, "-/p/a "},
      {{remove("/a"), put("/a", "1")}, "+/p/a=1 "},
      {{put("/d/1", "1"), remove_prefix("/d/"), put("/d/2", "2")},
       "-/p/d/../p/d/2 -/p/d/20../p/d0 +/p/d/2=2 "},
      {{remove_prefix(""), put("/a", "1")}, "-/p../p/a -/p/a0../q +/p/a=1 "},
      {{put("/a", "1"), remove_prefix("/a"), put("/b", "2")}, "-/p/a../p/b +/p/b=2 "}};
  for (const auto& [ops, wanted] : cases) EXPECT_EQ(ops_text(ops), wanted);
}

TEST(EtcdRequestsTest, RangeOfPrefix) {
  const std::string end("\0", 1);
  EXPECT_EQ(etcd::range_of_prefix("/a"), (etcd::KeyRange{"/a", "/b"}));
  EXPECT_EQ(etcd::range_of_prefix("/a\xff\xff"), (etcd::KeyRange{"/a\xff\xff", "/b"}));
  EXPECT_EQ(etcd::range_of_prefix("\xff"), (etcd::KeyRange{"\xff", end}));
  EXPECT_EQ(etcd::range_of_prefix(""), (etcd::KeyRange{end, end}));
}

}  // namespace
}  // namespace agro
