#include "ring/balance.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

#include "base/assert.hpp"
#include "ring/failure_domains.hpp"
#include "ring/placement.hpp"

namespace agro {
namespace {

using Row = std::vector<std::uint16_t>;  // the owners of a group

bool contains(const Row& row, std::uint16_t member) {
  return std::find(row.begin(), row.end(), member) != row.end();
}

RingSpec without_overrides(RingSpec spec) {
  spec.overrides.clear();
  return spec;
}

std::vector<Row> rows_of(const PlacementRing& ring) {
  std::vector<Row> rows;
  for (std::uint32_t group = 0; group < ring.group_count(); ++group) {
    const auto owners = ring.owners_of(group);
    rows.emplace_back(owners.begin(), owners.end());
  }
  return rows;
}

std::vector<PeerId> ids_of(const std::vector<RingMember>& members) {
  std::vector<PeerId> ids;
  for (const RingMember& member : members) ids.push_back(member.id);
  return ids;
}

class Balancer {
 public:
  Balancer(const RingSpec& target, const RingSpec* previous)
      : ring_(without_overrides(target)),
        domains_(ring_.members()),
        owner_count_(ring_.owners_of(0).size()),
        base_(rows_of(ring_)) {
    if (previous != nullptr && previous->kind == RingKind::placement &&
        previous->group_count == ring_.group_count()) {
      keep(PlacementRing(*previous));
    } else {
      rows_ = base_;
      before_ = base_;
    }
    for (const Row& row : base_) least_collisions_.push_back(domains_.collisions(row));
  }

  std::vector<RingOverride> run() {
    count_loads();
    choose_quotas();
    for (std::size_t group = 0; group < rows_.size(); ++group) drop_extra(group);
    for (const bool base_only : {true, false}) {
      for (std::size_t group = 0; group < rows_.size(); ++group) fill(group, base_only);
    }
    for (std::size_t group = 0; group < rows_.size(); ++group) separate(group);
    level(0);
    level_by_chains(0);
    for (int pass = 1; pass < kPassCount; ++pass) level(pass);
    level_by_chains(kPassCount - 1);
    return overrides();
  }

 private:
  /// A replica of `group` that goes from the member at `place` to `to`.
  struct Move {
    std::size_t group = 0;
    std::size_t place = 0;
    std::uint16_t to = 0;
  };

  std::uint16_t member_count() const { return static_cast<std::uint16_t>(quotas_.size()); }
  std::int64_t surplus(std::uint16_t member) const { return loads_[member] - quotas_[member]; }

  /// Starts with what the members that stay hold now.
  void keep(const PlacementRing& previous) {
    const std::vector<PeerId> ids = ids_of(ring_.members());
    std::vector<std::optional<std::uint16_t>> index;
    for (const RingMember& member : previous.members()) {
      const auto found = std::lower_bound(ids.begin(), ids.end(), member.id);
      const bool stays = found != ids.end() && *found == member.id;
      index.push_back(stays ? std::optional(static_cast<std::uint16_t>(found - ids.begin()))
                            : std::nullopt);
    }
    for (std::uint32_t group = 0; group < previous.group_count(); ++group) {
      Row row;
      for (const std::uint16_t owner : previous.owners_of(group)) {
        if (index[owner].has_value()) row.push_back(*index[owner]);
      }
      rows_.push_back(std::move(row));
    }
    before_ = rows_;
  }

  void count_loads() {
    loads_.assign(ring_.members().size(), 0);
    for (const Row& row : rows_) {
      for (const std::uint16_t member : row) ++loads_[member];
    }
  }

  /// Whole numbers next to the fair shares, of the same sum in each domain too; who holds more now
  /// keeps it.
  void choose_quotas() {
    quotas_.assign(loads_.size(), 0);
    FailureDomains::Some all(loads_.size());
    std::iota(all.begin(), all.end(), std::uint16_t{0});
    share_out(all, 0, static_cast<std::int64_t>(rows_.size() * owner_count_),
              fair_replica_counts(ring_.spec()));
  }

  void share_out(const FailureDomains::Some& some, std::size_t level, std::int64_t total,
                 const std::vector<double>& shares) {
    if (level > FailureDomains::kLevelCount) {
      quotas_[some.front()] = total;
      return;
    }
    struct Child {
      FailureDomains::Some members;
      double rest = 0;  // of the share, above the quota
      std::int64_t quota = 0;
      std::int64_t load = 0;
    };
    std::vector<Child> children;
    for (FailureDomains::Some& members : domains_.split(some, level)) {
      Child child{.members = std::move(members)};
      for (const std::uint16_t member : child.members) {
        child.rest += shares[member];
        child.load += loads_[member];
      }
      child.quota = static_cast<std::int64_t>(std::floor(child.rest + 1e-6));
      child.rest -= static_cast<double>(child.quota);
      total -= child.quota;
      children.push_back(std::move(child));
    }
    std::stable_sort(children.begin(), children.end(), [](const Child& a, const Child& b) {
      const auto rank = [](const Child& child) {
        return std::tuple(child.rest > 1e-6, child.load > child.quota, child.rest);
      };
      return rank(a) > rank(b);
    });
    for (Child& child : children) {
      const std::int64_t more = total > 0 ? 1 : 0;
      total -= more;
      share_out(child.members, level + 1, child.quota + more, shares);
    }
  }

  void replace(const Move& move) {
    std::uint16_t& member = rows_[move.group][move.place];
    --loads_[member];
    ++loads_[move.to];
    member = move.to;
  }

  /// The group's collisions grow by this if the move is made.
  std::int64_t worsening(const Move& move) const {
    const Row& row = rows_[move.group];
    const std::uint16_t from = row[move.place];
    std::uint32_t with_from = domains_.collisions(row, from);
    std::uint32_t with_to = domains_.collisions(row, move.to);
    const std::uint16_t one[] = {from};
    with_to -= domains_.collisions(one, move.to);
    return static_cast<std::int64_t>(with_to) - static_cast<std::int64_t>(with_from);
  }

  bool allowed(const Move& move) const {
    if (contains(rows_[move.group], move.to)) return false;
    return domains_.trivial() || worsening(move) <= 0;
  }

  void drop_extra(std::size_t group) {
    Row& row = rows_[group];
    while (row.size() > owner_count_) {
      const auto badness = [&](std::uint16_t member) {
        return std::tuple(domains_.collisions(row, member), surplus(member),
                          !contains(base_[group], member));
      };
      const auto worst =
          std::max_element(row.begin(), row.end(), [&](std::uint16_t a, std::uint16_t b) {
            return badness(a) < badness(b);
          });
      --loads_[*worst];
      row.erase(worst);
    }
  }

  /// Gives a group the members it misses. First those of the base ring that have room, in all
  /// groups: they need no override.
  void fill(std::size_t group, bool base_only) {
    Row& row = rows_[group];
    while (row.size() < owner_count_) {
      std::optional<std::uint16_t> best;
      const auto goodness = [&](std::uint16_t member) {
        return std::tuple(-static_cast<std::int64_t>(domains_.collisions(row, member)),
                          -surplus(member), contains(base_[group], member));
      };
      for (std::uint16_t member = 0; member < member_count(); ++member) {
        if (contains(row, member)) continue;
        if (base_only && (surplus(member) >= 0 || !contains(base_[group], member))) continue;
        if (!best.has_value() || goodness(member) > goodness(*best)) best = member;
      }
      if (!best.has_value()) return;
      ++loads_[*best];
      row.push_back(*best);
    }
  }

  /// Moves replicas apart while the group's lie closer together than they need to.
  void separate(std::size_t group) {
    if (domains_.trivial()) return;
    while (domains_.collisions(rows_[group]) > least_collisions_[group]) {
      std::optional<Move> best;
      std::tuple<std::int64_t, std::int64_t> best_cost{0, 0};
      for (std::size_t place = 0; place < rows_[group].size(); ++place) {
        for (std::uint16_t to = 0; to < member_count(); ++to) {
          const Move move{group, place, to};
          if (contains(rows_[group], to)) continue;
          const std::tuple cost(worsening(move), surplus(to) - surplus(rows_[group][place]));
          if (std::get<0>(cost) >= 0 || (best.has_value() && cost >= best_cost)) continue;
          best = move;
          best_cost = cost;
        }
      }
      if (!best.has_value()) return;
      replace(*best);
    }
  }

  /// What a pass of level() may move, the cheapest first: what must be copied anyway; what comes
  /// nearer to the base ring; what is no override made worse; anything.
  static constexpr int kPassCount = 4;
  bool wanted(const Move& move, int pass) const {
    const Row& base = base_[move.group];
    const std::uint16_t from = rows_[move.group][move.place];
    switch (pass) {
      case 0:
        return !contains(before_[move.group], from);
      case 1:
        return contains(base, move.to) && !contains(base, from);
      case 2:
        return contains(base, move.to) || !contains(base, from);
      default:
        return true;
    }
  }

  /// Moves replicas from members that hold too many to such as hold too few, one move each.
  void level(int pass) {
    for (std::size_t group = 0; group < rows_.size(); ++group) {
      for (std::size_t place = 0; place < rows_[group].size(); ++place) {
        if (surplus(rows_[group][place]) <= 0) continue;
        std::optional<std::uint16_t> best;
        for (std::uint16_t to = 0; to < member_count(); ++to) {
          const Move move{group, place, to};
          if (surplus(to) >= 0 || !wanted(move, pass) || !allowed(move)) continue;
          if (!best.has_value() || surplus(to) < surplus(*best)) best = to;
        }
        if (best.has_value()) replace({group, place, *best});
      }
    }
  }

  /// Where no single move helps, a chain may: a gives to b in one group, b to c in another.
  void level_by_chains(int pass) {
    std::int64_t budget = 64;
    for (std::uint16_t member = 0; member < member_count(); ++member) {
      budget += 2 * std::max<std::int64_t>(surplus(member), 0);
    }
    while (budget-- > 0) {
      std::vector<Move> chain = find_chain(pass);
      if (chain.empty()) return;
      for (const Move& move : chain) {  // from its end: each makes room for the one before
        if (!allowed(move)) break;
        replace(move);
      }
    }
  }

  /// The shortest chain, of moves that a pass may make, from any member that holds too many to one
  /// that holds too few; its last move first; empty when there is none.
  std::vector<Move> find_chain(int pass) const {
    std::vector<std::optional<Move>> reached_by(member_count());
    std::vector<bool> seen(member_count(), false);
    std::vector<std::uint16_t> queue;
    for (std::uint16_t member = 0; member < member_count(); ++member) {
      seen[member] = surplus(member) > 0;
      if (seen[member]) queue.push_back(member);
    }
    for (std::size_t next = 0; next < queue.size(); ++next) {
      for (std::size_t group = 0; group < rows_.size(); ++group) {
        const auto found = std::find(rows_[group].begin(), rows_[group].end(), queue[next]);
        if (found == rows_[group].end()) continue;
        const auto place = static_cast<std::size_t>(found - rows_[group].begin());
        for (std::uint16_t to = 0; to < member_count(); ++to) {
          const Move move{group, place, to};
          if (seen[to] || !wanted(move, pass) || !allowed(move)) continue;
          seen[to] = true;
          reached_by[to] = move;
          queue.push_back(to);
          if (surplus(to) < 0) return chain_to(to, reached_by);
        }
      }
    }
    return {};
  }

  std::vector<Move> chain_to(std::uint16_t end,
                             const std::vector<std::optional<Move>>& reached_by) const {
    std::vector<Move> chain;
    for (std::uint16_t at = end; reached_by[at].has_value();) {
      chain.push_back(*reached_by[at]);
      at = rows_[chain.back().group][chain.back().place];
    }
    return chain;
  }

  /// The order of the base ring, with others in the places of those that are not owners.
  std::vector<RingOverride> overrides() const {
    std::vector<RingOverride> result;
    for (std::size_t group = 0; group < rows_.size(); ++group) {
      Row order;
      Row others;
      for (const std::uint16_t member : rows_[group]) {
        if (!contains(base_[group], member)) others.push_back(member);
      }
      if (others.empty()) continue;
      auto next = others.begin();
      for (const std::uint16_t member : base_[group]) {
        order.push_back(contains(rows_[group], member) ? member : *next++);
      }
      result.push_back({static_cast<std::uint32_t>(group), std::move(order)});
    }
    return result;
  }

  PlacementRing ring_;
  FailureDomains domains_;
  std::size_t owner_count_;
  std::vector<Row> base_;    // what rendezvous hashing says
  std::vector<Row> before_;  // what need not be copied
  std::vector<Row> rows_;    // what is to be
  std::vector<std::uint32_t> least_collisions_;
  std::vector<std::int64_t> loads_;
  std::vector<std::int64_t> quotas_;
};

RingSpec sorted(RingSpec spec) {
  std::sort(spec.members.begin(), spec.members.end(),
            [](const RingMember& a, const RingMember& b) { return a.id < b.id; });
  return spec;
}

}  // namespace

RingSpec balance(RingSpec target, const RingSpec* previous) {
  AGRO_ASSERT(target.kind == RingKind::placement);
  target.overrides.clear();
  target = sorted(std::move(target));
  const std::optional<RingSpec> before =
      previous != nullptr ? std::optional(sorted(*previous)) : std::nullopt;
  target.overrides = Balancer(target, before ? &*before : nullptr).run();
  return target;
}

std::vector<double> fair_replica_counts(const RingSpec& spec) {
  AGRO_ASSERT(spec.kind == RingKind::placement);
  std::vector<double> counts = FailureDomains(spec.members).shares(spec.members, spec.replication);
  for (double& count : counts) count *= spec.group_count;
  return counts;
}

std::vector<std::uint64_t> replica_counts(const RingSpec& spec) {
  const PlacementRing ring(sorted(spec));
  std::vector<std::uint64_t> counts(ring.members().size(), 0);
  for (std::uint32_t group = 0; group < ring.group_count(); ++group) {
    for (const std::uint16_t member : ring.owners_of(group)) ++counts[member];
  }
  return counts;
}

std::uint64_t moved_replica_count(const RingSpec& from, const RingSpec& to) {
  const PlacementRing before(sorted(from));
  const PlacementRing after(sorted(to));
  AGRO_ASSERT(before.group_count() == after.group_count());
  std::uint64_t moved = 0;
  for (std::uint32_t group = 0; group < after.group_count(); ++group) {
    for (const std::uint16_t owner : after.owners_of(group)) {
      const PeerId& id = after.members()[owner].id;
      const auto had = before.owners_of(group);
      moved += std::none_of(had.begin(), had.end(), [&](std::uint16_t one) {
        return before.members()[one].id == id;
      });
    }
  }
  return moved;
}

}  // namespace agro
