#include "ring/placement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <set>

#include "base/assert.hpp"
#include "base/bytes.hpp"
#include "ring/failure_domains.hpp"

namespace agro {
namespace {

constexpr int kLogBits = 8;        // of the mantissa, that choose the table's entry
constexpr int kFractionBits = 48;  // of a logarithm

/// log2(1 + index / 256), by squaring: each square's first bit is the next bit of the logarithm.
constexpr std::uint64_t table_log2(std::uint64_t index) {
  unsigned __int128 value = ((std::uint64_t{1} << kLogBits) + index) << (62 - kLogBits);
  std::uint64_t result = 0;
  for (int bit = 0; bit < kFractionBits; ++bit) {
    value = (value * value) >> 62;
    result <<= 1;
    if (value >= (std::uint64_t{1} << 63)) {
      value >>= 1;
      result |= 1;
    }
  }
  return result;
}

constexpr auto make_log_table() {
  std::array<std::uint64_t, (1 << kLogBits) + 1> table{};
  for (std::uint64_t index = 0; index < table.size() - 1; ++index) table[index] = table_log2(index);
  table.back() = std::uint64_t{1} << kFractionBits;
  return table;
}

constexpr auto kLogTable = make_log_table();

/// A member as it stands in a group's ranking: the lowest key first.
struct Ranked {
  std::uint64_t key;
  std::uint16_t member;
  auto operator<=>(const Ranked&) const = default;
};

/// What does not depend on the group.
struct Candidate {
  std::uint64_t hash;            // of the id
  std::uint64_t inverse_weight;  // 2^63 / weight
};

std::vector<Candidate> candidates_of(const std::vector<RingMember>& members) {
  std::vector<Candidate> candidates;
  for (const RingMember& member : members) {
    const ConstBytes bytes = std::as_bytes(std::span(member.id.bytes));
    const std::uint64_t first = ring_mix(load<std::uint64_t>(bytes) + 0x9E3779B97F4A7C15);
    candidates.push_back({ring_mix(first ^ load<std::uint64_t>(bytes.subspan(8))),
                          (std::uint64_t{1} << 63) / member.weight});
  }
  return candidates;
}

/// The first `count` of them are in order, the others behind in any.
void rank(const std::vector<Candidate>& candidates, std::uint32_t group, std::size_t count,
          std::vector<Ranked>& out) {
  out.clear();
  const std::uint64_t group_hash = ring_mix(group + 0xD1B54A32D192ED03);
  for (std::size_t member = 0; member < candidates.size(); ++member) {
    const std::uint64_t hash = ring_mix(candidates[member].hash ^ group_hash);
    const unsigned __int128 product = static_cast<unsigned __int128>(negative_log2(hash)) *
                                      candidates[member].inverse_weight;
    out.push_back(
        {static_cast<std::uint64_t>(product >> 53), static_cast<std::uint16_t>(member)});
  }
  const auto end = out.begin() + static_cast<std::ptrdiff_t>(count);
  if (end != out.end()) std::nth_element(out.begin(), end, out.end());
  std::sort(out.begin(), end);
}

/// Moves to the front, one after the other, the first of those that are farthest from the ones
/// before.
void spread(const FailureDomains& domains, std::size_t count, std::vector<std::uint16_t>& order) {
  for (std::size_t place = 1; place < count; ++place) {
    const std::span<const std::uint16_t> chosen(order.data(), place);
    auto best = order.begin() + static_cast<std::ptrdiff_t>(place);
    std::uint32_t best_collisions = UINT32_MAX;
    for (auto one = best; one != order.end() && best_collisions > 0; ++one) {
      const std::uint32_t collisions = domains.collisions(chosen, *one);
      if (collisions >= best_collisions) continue;
      best = one;
      best_collisions = collisions;
    }
    std::rotate(order.begin() + static_cast<std::ptrdiff_t>(place), best, best + 1);
  }
}

/// Puts the members of an override in front; the others keep their order.
void put_first(const std::vector<std::uint16_t>& first, std::vector<std::uint16_t>& order) {
  for (std::size_t place = 0; place < first.size(); ++place) {
    const auto begin = order.begin() + static_cast<std::ptrdiff_t>(place);
    const auto found = std::find(begin, order.end(), first[place]);
    std::rotate(begin, found, found + 1);
  }
}

tl::unexpected<Error> bad(const std::string& why) {
  return fail(Errc::invalid_argument, "a placement ring " + why);
}

}  // namespace

std::uint64_t negative_log2(std::uint64_t hash) {
  hash |= 1;
  const int zeros = std::countl_zero(hash);
  const std::uint64_t mantissa = hash << zeros << 1;  // the leading 1 is shifted out
  const std::uint64_t index = mantissa >> (64 - kLogBits);
  const std::uint64_t rest = mantissa << kLogBits >> kLogBits;  // of 2^56
  const std::uint64_t step = kLogTable[index + 1] - kLogTable[index];
  const auto between =
      static_cast<std::uint64_t>((static_cast<unsigned __int128>(step) * rest) >> (64 - kLogBits));
  const std::uint64_t whole = static_cast<std::uint64_t>(zeros + 1) << kFractionBits;
  return whole - kLogTable[index] - between;
}

PlacementRing::PlacementRing(RingSpec given)
    : BasicRing(given, given.members),
      group_mask_(spec().group_count - 1),
      owner_count_(std::min<std::size_t>(replication(), member_count())),
      row_size_(std::min<std::size_t>(kRowSizeMax, member_count())) {
  AGRO_ASSERT(std::has_single_bit(spec().group_count));
  fill_table();
}

void PlacementRing::fill_table() {
  const std::vector<Candidate> candidates = candidates_of(members());
  const FailureDomains domains(members());
  const std::size_t spread_count =
      domains.trivial() ? 0 : std::min<std::size_t>(2 * replication(), member_count());
  // Labels may call for any member; without them only an override does, and it is put in front.
  const std::size_t ranked_count = spread_count == 0 ? row_size_ : member_count();
  table_.reserve(group_count() * row_size_);
  std::vector<Ranked> ranked;
  std::vector<std::uint16_t> order;
  auto next_override = spec().overrides.begin();
  for (std::uint32_t group = 0; group < group_count(); ++group) {
    rank(candidates, group, ranked_count, ranked);
    order.clear();
    for (const Ranked& one : ranked) order.push_back(one.member);
    spread(domains, spread_count, order);
    if (next_override != spec().overrides.end() && next_override->group == group) {
      put_first(next_override->members, order);
      ++next_override;
    }
    table_.insert(table_.end(), order.begin(),
                  order.begin() + static_cast<std::ptrdiff_t>(row_size_));
  }
}

void PlacementRing::permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  const std::uint16_t* row = table_.data() + group_of(ref) * row_size_;
  out.resize(members().size());
  std::uint32_t* to = out.data();
  for (std::size_t place = 0; place < row_size_; ++place) to[place] = row[place];
  if (row_size_ == members().size()) return;
  thread_local std::vector<bool> seen;
  seen.assign(members().size(), false);
  for (std::size_t place = 0; place < row_size_; ++place) seen[row[place]] = true;
  std::size_t place = row_size_;
  for (std::uint32_t member = 0; member < member_count(); ++member) {
    if (!seen[member]) to[place++] = member;
  }
}

void PlacementRing::owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  const std::uint16_t* row = table_.data() + group_of(ref) * row_size_;
  out.resize(owner_count_);
  for (std::size_t place = 0; place < owner_count_; ++place) out[place] = row[place];
}

std::vector<std::vector<std::uint32_t>> PlacementRing::replica_sets() const {
  std::set<std::vector<std::uint32_t>> sets;
  for (std::uint32_t group = 0; group < group_count(); ++group) {
    const auto owners = owners_of(group);
    std::vector<std::uint32_t> one(owners.begin(), owners.end());
    std::sort(one.begin(), one.end());
    sets.insert(std::move(one));
  }
  return {sets.begin(), sets.end()};
}

Result<void> check_placement(const RingSpec& spec) {
  if (!std::has_single_bit(spec.group_count) || spec.group_count > kGroupCountMax) {
    return bad(fmt::format("has a power of two of groups, up to {}, not {}", kGroupCountMax,
                           spec.group_count));
  }
  if (spec.replication > kPlacementCopiesMax) {
    return bad(fmt::format("keeps at most {} copies, not {}", kPlacementCopiesMax,
                           spec.replication));
  }
  const std::size_t owner_count = std::min<std::size_t>(spec.replication, spec.members.size());
  std::uint64_t next_group = 0;
  for (const RingOverride& one : spec.overrides) {
    if (one.group < next_group || one.group >= spec.group_count) {
      return bad(fmt::format("has overrides in order of their groups, below {}; {} is not",
                             spec.group_count, one.group));
    }
    next_group = std::uint64_t{one.group} + 1;
    const std::set<std::uint16_t> distinct(one.members.begin(), one.members.end());
    if (one.members.size() != owner_count || distinct.size() != owner_count ||
        *distinct.rbegin() >= spec.members.size()) {
      return bad(fmt::format("overrides a group with {} distinct members; group {} differs",
                             owner_count, one.group));
    }
  }
  return {};
}

}  // namespace agro
