#include "base/units.hpp"

#include <gtest/gtest.h>

namespace agro {
namespace {

// Goal: sizes read as people write them. Method: a table of good and bad texts.
TEST(UnitsTest, ParsesSizes) {
  for (const auto& [text, size] : {std::pair<const char*, std::uint64_t>{"0", 0},
                                   {"512", 512},
                                   {"18446744073709551615", UINT64_MAX},
                                   {"4K", 4096},
                                   {"10GiB", 10 * kGiB},
                                   {"5G", 5 * kGiB},
                                   {"1.5MiB", 3 * kMiB / 2},
                                   {"2 TiB", 2 * kTiB},
                                   {"3kB", 3000}}) {
    SCOPED_TRACE(text);
    const Result<std::uint64_t> parsed = parse_size(text);
    ASSERT_TRUE(parsed.has_value());
    EXPECT_EQ(*parsed, size);
  }
  for (const char* text : {"", "G", "-1", "1.3B", "10GiBs", "1e3", "nan", "inf", "9999999999999T",
                           "18446744073709551616", " 5", "0x10", "5 G B"}) {
    SCOPED_TRACE(text);
    EXPECT_EQ(parse_size(text).code(), Errc::invalid_argument);
  }
}

TEST(UnitsTest, FormatsSizes) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1536), "1.5 KiB");
  EXPECT_EQ(format_size(10 * kGiB), "10.0 GiB");
}

TEST(UnitsTest, ParsesDurations) {
  EXPECT_EQ(parse_duration("250ms")->count(), 250);
  EXPECT_EQ(parse_duration("1.5s")->count(), 1500);
  EXPECT_EQ(parse_duration("7d")->count(), 7 * 86400000);
  EXPECT_EQ(parse_duration("10").code(), Errc::invalid_argument);
  EXPECT_EQ(parse_duration("10 weeks").code(), Errc::invalid_argument);
  EXPECT_EQ(std::chrono::nanoseconds(*parse_duration("10000d")).count(), 864'000'000'000'000'000);
  EXPECT_EQ(parse_duration("10001d").code(), Errc::invalid_argument);  // 200,000 d would wrap in ns
}

}  // namespace
}  // namespace agro
