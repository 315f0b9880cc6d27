#include "ring/rings.hpp"

#include <algorithm>

#include "base/assert.hpp"
#include "base/bytes.hpp"

namespace agro {
namespace {

/// The finaliser of splitmix64 (public domain). Placement depends on it: never change it.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

/// Where the point `number` of a member lies.
std::uint64_t point_hash(const PeerId& id, std::uint64_t number) {
  const ConstBytes bytes = std::as_bytes(std::span(id.bytes));
  const std::uint64_t first = mix(load<std::uint64_t>(bytes) + 0x9E3779B97F4A7C15);
  const std::uint64_t both = mix(first ^ load<std::uint64_t>(bytes.subspan(8)));
  return mix(both + 0x9E3779B97F4A7C15 * (number + 1));
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

std::vector<RingMember> merge(const Ring& older, const Ring& newer) {
  std::vector<RingMember> members = newer.members();  // first: on both sides, the new weight counts
  members.insert(members.end(), older.members().begin(), older.members().end());
  std::stable_sort(members.begin(), members.end(),
                   [](const RingMember& a, const RingMember& b) { return a.id < b.id; });
  members.erase(std::unique(members.begin(), members.end(),
                            [](const RingMember& a, const RingMember& b) { return a.id == b.id; }),
                members.end());
  return members;
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

ModRing::ModRing(RingSpec spec) : BasicRing(spec, spec.members) {}

void ModRing::permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  out.clear();
  const std::uint32_t count = member_count();
  if (count == 0) return;
  std::uint32_t member = static_cast<std::uint32_t>(hash_block_ref(ref) % count);
  for (std::uint32_t step = 0; step < count; ++step) {
    out.push_back(member);
    member = member + 1 == count ? 0 : member + 1;
  }
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
  walk(0, row);
  for (std::size_t point = hashes_.size(); point-- > 0;) {
    const auto owner = std::find(row.begin(), row.end(), owners_[point]);
    std::rotate(row.begin(), owner, owner + 1);
    std::copy(row.begin(), row.end(), table_.begin() + static_cast<std::ptrdiff_t>(point * width));
  }
}

void KetamaRing::walk(std::size_t point, std::vector<std::uint32_t>& out) const {
  out.clear();
  Seen seen(members().size());
  while (out.size() < members().size()) {
    if (seen.insert(owners_[point])) out.push_back(owners_[point]);
    point = point + 1 == owners_.size() ? 0 : point + 1;
  }
}

void KetamaRing::permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  const auto found = std::lower_bound(hashes_.begin(), hashes_.end(), hash_block_ref(ref));
  const std::size_t point =
      found == hashes_.end() ? 0 : static_cast<std::size_t>(found - hashes_.begin());
  if (table_.empty()) return walk(point, out);
  const std::uint16_t* row = table_.data() + point * members().size();
  out.assign(row, row + members().size());
}

UnionRing::UnionRing(RingSpec spec, std::shared_ptr<const Ring> older,
                     std::shared_ptr<const Ring> newer)
    : BasicRing(std::move(spec), merge(*older, *newer)),
      older_(std::move(older)),
      newer_(std::move(newer)),
      older_index_(index_in(members(), *older_)),
      newer_index_(index_in(members(), *newer_)) {}

void UnionRing::permutation(const BlockRef& ref, std::vector<std::uint32_t>& out) const {
  thread_local std::vector<std::uint32_t> old_order;
  thread_local std::vector<std::uint32_t> new_order;
  older_->permutation(ref, old_order);
  newer_->permutation(ref, new_order);
  const std::size_t new_owner_count =
      std::min<std::size_t>(newer_->replication(), new_order.size());
  const std::size_t old_owner_count =
      std::min<std::size_t>(older_->replication(), old_order.size());
  out.clear();
  Seen seen(members().size());
  const auto append = [&](const std::vector<std::uint32_t>& order,
                          const std::vector<std::uint32_t>& index, std::size_t from,
                          std::size_t to) {
    for (std::size_t place = from; place < to; ++place) {
      const std::uint32_t member = index[order[place]];
      if (seen.insert(member)) out.push_back(member);
    }
  };
  append(new_order, newer_index_, 0, new_owner_count);
  append(old_order, older_index_, 0, old_owner_count);
  append(new_order, newer_index_, new_owner_count, new_order.size());
  append(old_order, older_index_, old_owner_count, old_order.size());
}

}  // namespace agro
