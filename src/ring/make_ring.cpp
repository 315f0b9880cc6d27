#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/assert.hpp"
#include "ring/placement.hpp"
#include "ring/rings.hpp"

namespace agro {
namespace {

constexpr std::array<std::string_view, 6> kKindNames = {"empty",  "single", "mod",
                                                        "ketama", "union",  "placement"};

tl::unexpected<Error> bad(const RingSpec& spec, std::string_view why) {
  return fail(Errc::invalid_argument, fmt::format("a {} ring {}", ring_kind_name(spec.kind), why));
}

/// Sorts the members by id. Errors: invalid_argument.
Result<void> check_members(RingSpec& spec) {
  // Overrides name members by their place.
  const auto by_id = [](const RingMember& a, const RingMember& b) { return a.id < b.id; };
  if (!spec.overrides.empty() &&
      !std::is_sorted(spec.members.begin(), spec.members.end(), by_id)) {
    return bad(spec, "with overrides has its members in order of their ids");
  }
  std::sort(spec.members.begin(), spec.members.end(), by_id);
  for (std::size_t index = 0; index < spec.members.size(); ++index) {
    const RingMember& member = spec.members[index];
    const std::string name = member.id.to_string();
    if (member.id.is_nil()) return bad(spec, "cannot have the nil peer as a member");
    if (member.weight == 0) {
      return bad(spec, "cannot give weight 0 to peer " + name + "; leave it out instead");
    }
    if (member.weight > kRingWeightMax) {
      return bad(spec,
                 fmt::format("cannot give a weight above {} to peer {}", kRingWeightMax, name));
    }
    if (index > 0 && spec.members[index - 1].id == member.id) {
      return bad(spec, "names peer " + name + " twice");
    }
  }
  return {};
}

/// What only some kinds have. Errors: invalid_argument.
Result<void> check_fields(const RingSpec& spec) {
  const bool is_placement = spec.kind == RingKind::placement;
  const bool becomes_placement =
      spec.kind == RingKind::empty && spec.planned_kind == RingKind::placement;
  if (spec.kind != RingKind::empty && spec.planned_kind != RingKind::empty) {
    return bad(spec, "becomes no other kind; only an empty ring does");
  }
  if (spec.planned_kind == RingKind::union_) return bad(spec, "cannot become a union");
  if (!is_placement && !spec.overrides.empty()) return bad(spec, "has no overrides");
  if (!is_placement && !becomes_placement && spec.group_count != 0) {
    return bad(spec, "has no groups");
  }
  return {};
}

Result<void> check_plain(RingSpec& spec) {
  AGRO_TRY_OK(check_members(spec));
  if (!spec.parts.empty()) return bad(spec, "has no parts");
  AGRO_TRY_OK(check_fields(spec));
  const std::size_t count = spec.members.size();
  if (count > kRingMemberCountMax) {
    return bad(spec, fmt::format("has at most {} members, not {}", kRingMemberCountMax, count));
  }
  if (spec.kind == RingKind::empty) {
    return count == 0 ? Result<void>() : bad(spec, "has no members; use mod or ketama");
  }
  if (count == 0) return bad(spec, "needs a member; use empty for none");
  if (spec.kind == RingKind::single && count != 1) {
    return bad(spec, fmt::format("has one member, not {}", count));
  }
  // More copies than members is a cluster that still grows: until then its writes have no quorum.
  if (spec.kind == RingKind::single && spec.replication > 1) {
    return bad(spec, "holds one copy");
  }
  return {};
}

Result<std::shared_ptr<const Ring>> make_union(RingSpec spec) {
  if (spec.parts.size() < 2 || spec.parts.size() > kUnionPartsMax) {
    return bad(spec, fmt::format("has two parts or more, up to {}, the last is the target; not {}",
                                 kUnionPartsMax, spec.parts.size()));
  }
  AGRO_TRY_OK(check_fields(spec));
  if (!spec.members.empty()) return bad(spec, "takes its members from its parts; name none");
  std::vector<std::shared_ptr<const Ring>> parts(spec.parts.size());
  for (std::size_t index = 0; index < parts.size(); ++index) {
    if (spec.parts[index].kind == RingKind::union_)
      return bad(spec, "cannot have a union as a part");
    AGRO_TRY(parts[index], make_ring(spec.parts[index]));
    spec.parts[index] = parts[index]->spec();
  }
  if (spec.replication != parts.back()->replication()) {
    return bad(spec, fmt::format("has as many copies as its last part, {}",
                                 parts.back()->replication()));
  }
  return std::make_shared<const UnionRing>(std::move(spec), std::move(parts));
}

}  // namespace

std::string_view ring_kind_name(RingKind kind) {
  const auto index = static_cast<std::size_t>(kind);
  return index < kKindNames.size() ? kKindNames[index] : "unknown";
}

Result<RingKind> parse_ring_kind(std::string_view name) {
  const auto found = std::find(kKindNames.begin(), kKindNames.end(), name);
  if (found != kKindNames.end()) return static_cast<RingKind>(found - kKindNames.begin());
  return fail(
      Errc::invalid_argument,
      fmt::format("'{}' is no kind of ring: use placement, ketama, mod, single, empty or union", name));
}

std::string BasicRing::describe() const {
  std::string text = fmt::format("ring {}: {}, {} {}", version(), ring_kind_name(kind()),
                                 replication(), replication() == 1 ? "copy" : "copies");
  for (const RingMember& member : members_) {
    text += fmt::format("{}{}*{}", &member == members_.data() ? ", members " : " ",
                        member.id.to_string(), member.weight);
  }
  return text;
}

LossRisk loss_risk(const Ring& ring) {
  const Ring& target = ring.target();
  LossRisk risk;
  risk.set_count = target.replica_sets().size();
  double combinations = 1;  // of so many members
  const std::size_t member_count = target.members().size();
  for (std::size_t taken = 0; taken < target.replication() && taken < member_count; ++taken) {
    combinations *= static_cast<double>(member_count - taken) / static_cast<double>(taken + 1);
  }
  risk.chance = member_count == 0 ? 0 : static_cast<double>(risk.set_count) / combinations;
  return risk;
}

Result<std::shared_ptr<const Ring>> make_ring(RingSpec spec) {
  if (spec.replication == 0) return bad(spec, "keeps at least one copy, not 0");
  if (spec.kind == RingKind::union_) return make_union(std::move(spec));
  AGRO_TRY_OK(check_plain(spec));
  std::shared_ptr<const Ring> ring;
  switch (spec.kind) {
    case RingKind::empty:
    case RingKind::single:
    case RingKind::mod:
      ring = std::make_shared<const ModRing>(std::move(spec));
      break;
    case RingKind::ketama:
      ring = std::make_shared<const KetamaRing>(std::move(spec));
      break;
    case RingKind::placement:
      AGRO_TRY_OK(check_placement(spec));
      ring = std::make_shared<const PlacementRing>(std::move(spec));
      break;
    case RingKind::union_:
      break;
  }
  if (ring == nullptr)
    return fail(Errc::not_supported, "a ring of a kind this version does not know");
  return ring;
}

}  // namespace agro
