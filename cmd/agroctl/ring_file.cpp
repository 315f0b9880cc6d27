#include "agroctl/ring_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "ring/ring.hpp"

namespace agro {
namespace {

using Json = nlohmann::json;

tl::unexpected<Error> bad(const std::string& why) {
  return fail(Errc::invalid_argument, "the ring file " + why);
}

/// A whole number up to `max`; `otherwise` when the field is not there.
Result<std::uint64_t> number(const Json& json, const char* field, std::uint64_t otherwise,
                             std::uint64_t max) {
  const auto found = json.find(field);
  if (found == json.end()) return otherwise;
  if (!found->is_number_unsigned() || found->get<std::uint64_t>() > max) {
    return bad(fmt::format("needs a whole number up to {} as '{}'", max, field));
  }
  return found->get<std::uint64_t>();
}

Result<std::string> text(const Json& json, const char* field) {
  const auto found = json.find(field);
  if (found == json.end()) return std::string();
  if (!found->is_string()) return bad(fmt::format("needs a text as '{}'", field));
  return found->get<std::string>();
}

/// The array under `field`; empty when there is none.
Result<Json> array(const Json& json, const char* field) {
  const auto found = json.find(field);
  if (found == json.end()) return Json::array();
  if (!found->is_array()) return bad(fmt::format("needs a list as '{}'", field));
  return *found;
}

Result<PeerId> peer_id(const Json& json) {
  if (!json.is_string()) return bad("needs UUIDs as peers");
  const Result<Uuid> id = parse_uuid(json.get<std::string>());
  if (!id.has_value()) return bad(fmt::format("names '{}', which is no UUID", json.get<std::string>()));
  return *id;
}

Result<RingMember> member_of(const Json& json) {
  if (!json.is_object() || !json.contains("id")) return bad("needs members with an 'id'");
  RingMember member;
  AGRO_TRY(member.id, peer_id(json["id"]));
  AGRO_TRY(member.weight, number(json, "weight", 1, UINT64_MAX));
  AGRO_TRY(member.labels.zone, text(json, "zone"));
  AGRO_TRY(member.labels.rack, text(json, "rack"));
  AGRO_TRY(member.labels.host, text(json, "host"));
  return member;
}

/// Shape: the members of `spec` are sorted by id.
Result<RingOverride> override_of(const Json& json, const RingSpec& spec) {
  if (!json.is_object() || !json.contains("group")) return bad("needs overrides with a 'group'");
  RingOverride one;
  AGRO_TRY(const std::uint64_t group, number(json, "group", 0, UINT32_MAX - 1));
  one.group = static_cast<std::uint32_t>(group);
  AGRO_TRY(const Json members, array(json, "members"));
  for (const Json& name : members) {
    AGRO_TRY(const PeerId id, peer_id(name));
    const auto found = std::find_if(spec.members.begin(), spec.members.end(),
                                    [&id](const RingMember& member) { return member.id == id; });
    if (found == spec.members.end()) {
      return bad(fmt::format("gives group {} to {}, which is no member", group, id.to_string()));
    }
    one.members.push_back(static_cast<std::uint16_t>(found - spec.members.begin()));
  }
  return one;
}

}  // namespace

Result<RingSpec> parse_ring_json(std::string_view bytes) {
  const Json json = Json::parse(bytes, nullptr, false);
  if (json.is_discarded() || !json.is_object()) {
    return bad("is no JSON object; 'agroctl ring get --json' prints one");
  }
  RingSpec spec;
  AGRO_TRY(const std::string kind, text(json, "kind"));
  AGRO_TRY(spec.kind, parse_ring_kind(kind));
  AGRO_TRY(const std::uint64_t replication, number(json, "replication", 0, UINT32_MAX));
  AGRO_TRY(const std::uint64_t groups, number(json, "group_count", 0, UINT32_MAX));
  spec.replication = static_cast<std::uint32_t>(replication);
  spec.group_count = static_cast<std::uint32_t>(groups);
  AGRO_TRY(const Json members, array(json, "members"));
  for (const Json& one : members) {
    AGRO_TRY(RingMember member, member_of(one));
    spec.members.push_back(std::move(member));
  }
  std::sort(spec.members.begin(), spec.members.end());
  AGRO_TRY(const Json overrides, array(json, "overrides"));
  for (const Json& one : overrides) {
    AGRO_TRY(RingOverride added, override_of(one, spec));
    spec.overrides.push_back(std::move(added));
  }
  std::sort(spec.overrides.begin(), spec.overrides.end(),
            [](const RingOverride& a, const RingOverride& b) { return a.group < b.group; });
  return spec;
}

Result<RingSpec> read_ring_file(const std::string& path) {
  std::ostringstream bytes;
  if (path == "-") {
    bytes << std::cin.rdbuf();
    return parse_ring_json(bytes.str());
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(Errc::not_found, fmt::format("{}: {}", path, std::strerror(errno)));
  bytes << file.rdbuf();
  if (file.bad() || bytes.bad()) return fail(Errc::io_error, path + ": cannot be read");
  return parse_ring_json(bytes.str());
}

}  // namespace agro
