// Placement must never change: blocks lie where it once said. testdata/placements.txt says where.
//
// Its lines: "ring KIND REPLICATION WEIGHT...", where member i has the id of i+1 repeated 16 times
// (placement: 64 groups, members of odd number in zone "a", the others in "b");
// "union REPLICATION" joins the two rings above it; "VOLUME EPOCH INDEX TYPE: MEMBER..." is a
// placement by the last ring. AGRO_REWRITE_GOLDEN=1 writes the placements anew (for added rings
// only).
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "ring/ring.hpp"

namespace agro {
namespace {

std::string golden_path() { return AGRO_SOURCE_DIR "/src/ring/testdata/placements.txt"; }

class Script {
 public:
  /// The line as it should be.
  std::string run(const std::string& line) {
    std::istringstream words(line);
    if (line.empty() || line[0] == '#') return line;
    std::string word;
    words >> word;
    if (word == "ring" || word == "union") {
      EXPECT_TRUE(word == "ring" ? read_ring(words) : read_union(words)) << line;
      return line;
    }
    std::istringstream fields(line.substr(0, line.find(':')));
    BlockRef ref;
    unsigned type = 0;
    fields >> ref.volume.value >> ref.epoch.value >> ref.index >> type;
    EXPECT_FALSE(fields.fail()) << line;
    ref.type = static_cast<BlockType>(type);
    std::string result = fields.str() + ":";
    std::vector<std::uint32_t> order;
    ring_->permutation(ref, order);
    for (const std::uint32_t member : order) {
      result += fmt::format(" {}", ring_->members()[member].id.bytes[0] - 1);
    }
    return result;
  }

 private:
  bool read_ring(std::istringstream& words) {
    std::string kind;
    RingSpec spec;
    words >> kind >> spec.replication;
    const auto parsed = parse_ring_kind(kind);
    if (!parsed.has_value()) return false;
    spec.kind = *parsed;
    std::uint64_t weight = 0;
    for (std::uint8_t number = 1; words >> weight; ++number) {
      if (weight == 0) continue;  // not a member
      RingMember member{.id = {}, .weight = weight};
      member.id.bytes.fill(number);
      spec.members.push_back(member);
    }
    if (spec.kind == RingKind::placement) {
      spec.group_count = 64;
      for (RingMember& one : spec.members) one.labels.zone = one.id.bytes[0] % 2 == 1 ? "a" : "b";
    }
    return use(std::move(spec));
  }

  bool read_union(std::istringstream& words) {
    if (specs_.size() < 2) return false;
    RingSpec spec;
    spec.kind = RingKind::union_;
    words >> spec.replication;
    spec.parts = {specs_[specs_.size() - 2], specs_.back()};
    return use(std::move(spec));
  }

  bool use(RingSpec spec) {
    specs_.push_back(spec);
    const auto ring = make_ring(std::move(spec));
    if (ring.has_value()) ring_ = *ring;
    return ring.has_value();
  }

  std::vector<RingSpec> specs_;
  std::shared_ptr<const Ring> ring_;
};

TEST(RingGoldenTest, PlacementsNeverChange) {
  std::ifstream file(golden_path());
  ASSERT_TRUE(file.good()) << golden_path();
  Script script;
  std::string line;
  std::string rewritten;
  int placement_count = 0;
  const bool rewrite = std::getenv("AGRO_REWRITE_GOLDEN") != nullptr;
  while (std::getline(file, line)) {
    const std::string expected = script.run(line);
    EXPECT_TRUE(rewrite || line == expected) << "it says " << line << "\nand is   " << expected;
    placement_count += line.find(':') != std::string::npos ? 1 : 0;
    rewritten += expected + "\n";
  }
  EXPECT_GE(placement_count, 30);
  if (rewrite) std::ofstream(golden_path()) << rewritten;
}

}  // namespace
}  // namespace agro
