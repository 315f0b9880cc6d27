#include "ring/rings.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "base/assert.hpp"
#include "base/bytes.hpp"

namespace agro {
namespace {

/// Up to so many owners are compared with each other; more are marked.
constexpr std::size_t kFewOwners = 16;

/// Where the point `number` of a member lies.
std::uint64_t point_hash(const PeerId& id, std::uint64_t number) {
  const ConstBytes bytes = std::as_bytes(std::span(id.bytes));
  const std::uint64_t first = ring_mix(load<std::uint64_t>(bytes) + 0x9E3779B97F4A7C15);
  const std::uint64_t both = ring_mix(first ^ load<std::uint64_t>(bytes.subspan(8)));
  return ring_mix(both + 0x9E3779B97F4A7C15 * (number + 1));
}

/// max(1, round(kPointsPerMember * weight / average weight)), in whole numbers.
std::uint64_t points_of(std::uint64_t weight, unsigned __int128 weight_sum, std::size_t count) {
  const unsigned __int128 share =
      static_cast<unsigned __int128>(KetamaRing::kPointsPerMember) * weight * count;
  return std::max<std::uint64_t>(1,
                                 static_cast<std::uint64_t>((share + weight_sum / 2) / weight_sum));
}

/// Marks members that are in a permutation already. One per thread, so that lookups need no memory.
class Seen {
 public:
  explicit Seen(std::size_t count) : marks_(marks()) { marks_.assign(count, false); }
  bool insert(std::uint32_t member) {
    if (marks_[member]) return false;
    marks_[member] = true;
    return true;
  }

 private:
  static std::vector<bool>& marks() {
    thread_local std::vector<bool> kept;
    return kept;
  }
  std::vector<bool>& marks_;
};

/// Of all parts, sorted; of a member of several, the last part's weight counts.
std::vector<RingMember> merge(const std::vector<std::shared_ptr<const Ring>>& parts) {
  std::vector<RingMember> members;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    members.insert(members.end(), (*part)->members().begin(), (*part)->members().end());
  }
  std::stable_sort(members.begin(), members.end(),
                   [](const RingMember& a, const RingMember& b) { return a.id < b.id; });
  members.erase(std::unique(members.begin(), members.end(),
                            [](const RingMember& a, const RingMember& b) { return a.id == b.id; }),
                members.end());
  return members;
}

/// The least that any part with members keeps.
std::uint32_t least_copies(const std::vector<std::shared_ptr<const Ring>>& parts) {
  std::uint32_t least = parts.back()->replication();
  for (const auto& part : parts) {
    if (!part->members().empty()) least = std::min(least, part->replication());
  }
  return least;
}

std::vector<std::uint32_t> index_in(const std::vector<RingMember>& all, const Ring& part) {
  std::vector<std::uint32_t> index;
  for (const RingMember& member : part.members()) {
    const auto found =
        std::lower_bound(all.begin(), all.end(), member,
                         [](const RingMember& a, const RingMember& b) { return a.id < b.id; });
    index.push_back(static_cast<std::uint32_t>(found - all.begin()));
  }
  return index;
}

}  // namespace

void Ring::owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  permutation(ref, out);
  out.resize(std::min<std::size_t>(out.size(), replication()));
}

ModRing::ModRing(RingSpec spec) : BasicRing(spec, spec.members) {}

void ModRing::permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  walk(ref, member_count(), out);
}

void ModRing::owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  walk(ref, std::min(replication(), member_count()), out);
}

void ModRing::walk(const BlockRef& ref, std::uint32_t count, std::vector<std::uint32_t>& out) const {
  out.clear();
  if (count == 0) return;
  std::uint32_t member = static_cast<std::uint32_t>(hash_block_ref(ref) % member_count());
  for (std::uint32_t step = 0; step < count; ++step) {
    out.push_back(member);
    member = member + 1 == member_count() ? 0 : member + 1;
  }
}

/// One set for each first member; with as many copies as members or more, one in all.
std::vector<std::vector<std::uint32_t>> ModRing::replica_sets() const {
  std::vector<std::vector<std::uint32_t>> sets;
  const std::uint32_t count = member_count();
  const std::uint32_t owner_count = std::min(replication(), count);
  for (std::uint32_t first = 0; first < (owner_count == count ? std::min(1U, count) : count); ++first) {
    std::vector<std::uint32_t> one;
    for (std::uint32_t step = 0; step < owner_count; ++step) one.push_back((first + step) % count);
    std::sort(one.begin(), one.end());
    sets.push_back(std::move(one));
  }
  std::sort(sets.begin(), sets.end());
  return sets;
}

KetamaRing::KetamaRing(RingSpec spec) : BasicRing(spec, spec.members) {
  unsigned __int128 weight_sum = 0;
  for (const RingMember& member : members()) weight_sum += member.weight;
  struct Point {
    std::uint64_t hash;
    std::uint16_t owner;
    auto operator<=>(const Point&) const = default;
  };
  std::vector<Point> points;
  for (std::uint16_t owner = 0; owner < member_count(); ++owner) {
    const RingMember& member = members()[owner];
    const std::uint64_t count = points_of(member.weight, weight_sum, members().size());
    for (std::uint64_t number = 0; number < count; ++number) {
      points.push_back({point_hash(member.id, number), owner});
    }
  }
  std::sort(points.begin(), points.end());  // equal hashes: the lower id is first
  for (const Point& point : points) {
    hashes_.push_back(point.hash);
    owners_.push_back(point.owner);
  }
  if (members().size() <= kTableMemberCountMax) fill_table();
}

/// The permutation from point i on is that from i + 1 on, with i's owner moved to its front.
void KetamaRing::fill_table() {
  const std::size_t width = members().size();
  table_.resize(hashes_.size() * width);
  std::vector<std::uint32_t> row;
  walk(0, width, row);
  for (std::size_t point = hashes_.size(); point-- > 0;) {
    const auto owner = std::find(row.begin(), row.end(), owners_[point]);
    std::rotate(row.begin(), owner, owner + 1);
    std::copy(row.begin(), row.end(), table_.begin() + static_cast<std::ptrdiff_t>(point * width));
  }
}

void KetamaRing::walk(std::size_t point, std::size_t count,
                      std::vector<std::uint32_t>& out) const {
  out.clear();
  // A few are looked through more quickly than all are marked as unseen.
  std::optional<Seen> seen;
  if (count > kFewOwners) seen.emplace(members().size());
  while (out.size() < count) {
    const std::uint32_t owner = owners_[point];
    const bool fresh = seen.has_value() ? seen->insert(owner)
                                        : std::find(out.begin(), out.end(), owner) == out.end();
    if (fresh) out.push_back(owner);
    point = point + 1 == owners_.size() ? 0 : point + 1;
  }
}

std::size_t KetamaRing::point_of(const BlockRef& ref) const {
  const auto found = std::lower_bound(hashes_.begin(), hashes_.end(), hash_block_ref(ref));
  return found == hashes_.end() ? 0 : static_cast<std::size_t>(found - hashes_.begin());
}

void KetamaRing::permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  const std::size_t point = point_of(ref);
  if (table_.empty()) return walk(point, members().size(), out);
  const std::uint16_t* row = table_.data() + point * members().size();
  out.assign(row, row + members().size());
}

void KetamaRing::owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  const std::size_t point = point_of(ref);
  const std::size_t count = std::min<std::size_t>(replication(), members().size());
  if (table_.empty()) return walk(point, count, out);
  const std::uint16_t* row = table_.data() + point * members().size();
  out.assign(row, row + count);
}

std::vector<std::vector<std::uint32_t>> KetamaRing::replica_sets() const {
  std::vector<std::vector<std::uint32_t>> sets(hashes_.size());
  const std::size_t count = std::min<std::size_t>(replication(), members().size());
  for (std::size_t point = 0; point < hashes_.size(); ++point) {
    walk(point, count, sets[point]);
    std::sort(sets[point].begin(), sets[point].end());
  }
  std::sort(sets.begin(), sets.end());
  sets.erase(std::unique(sets.begin(), sets.end()), sets.end());
  return sets;
}

UnionRing::UnionRing(RingSpec spec, std::vector<std::shared_ptr<const Ring>> parts)
    : BasicRing(std::move(spec), merge(parts)), sure_copies_(least_copies(parts)) {
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    parts_.push_back({*part, index_in(members(), **part)});
  }
}

void UnionRing::permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  thread_local std::array<std::vector<std::uint32_t>, kUnionPartsMax> orders;
  out.clear();
  Seen seen(members().size());
  const auto append = [&](std::size_t part, std::size_t from, std::size_t to) {
    for (std::size_t place = from; place < to; ++place) {
      const std::uint32_t member = parts_[part].index[orders[part][place]];
      if (seen.insert(member)) out.push_back(member);
    }
  };
  const auto owner_count = [&](std::size_t part) {
    return std::min<std::size_t>(parts_[part].ring->replication(), orders[part].size());
  };
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    parts_[part].ring->permutation(ref, orders[part]);
    append(part, 0, owner_count(part));
  }
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    append(part, owner_count(part), orders[part].size());
  }
}

void UnionRing::owners(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  parts_.front().ring->owners(ref, out);
  for (std::uint32_t& member : out) member = parts_.front().index[member];
}

std::vector<std::vector<std::uint32_t>> UnionRing::replica_sets() const {
  std::vector<std::vector<std::uint32_t>> sets = parts_.front().ring->replica_sets();
  for (std::vector<std::uint32_t>& one : sets) {
    for (std::uint32_t& member : one) member = parts_.front().index[member];
  }
  return sets;
}

}  // namespace agro
