#include "blockset/blockset.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

// Goal: specs parse to themselves or fail with a reason. Method: a table.
TEST(BlocksetTest, SpecsRoundTrip) {
  for (const char* text : {"base", "crc,base", "crc,replication=3,base", "replication=1,base"}) {
    const Result<BlocksetSpec> spec = parse_blockset_spec(text);
    ASSERT_TRUE(spec.has_value()) << text;
    EXPECT_EQ(spec->to_string(), text);
  }
  for (const char* text : {"", "crc", "base,crc", "crc,crc,base", "crc,,base", "base,", ",base",
                           "replication=0,base", "replication=17,base", "replication=,base",
                           "replication=2x,base", "CRC,base", "crc, base"}) {
    EXPECT_EQ(parse_blockset_spec(text).code(), Errc::invalid_argument) << text;
  }
  EXPECT_EQ(parse_blockset_spec("ec=4+2,base").code(), Errc::not_supported);
}

}  // namespace
}  // namespace agro
