#include "csi/node_state.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "csi/names.hpp"

namespace agro::csi {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kFormat = "agro-csi-node";
constexpr int kVersion = 1;

tl::unexpected<Error> bad(std::string_view what) { return fail(Errc::corrupt, fmt::format("the state of the node is damaged: {}", what)); }

Json volume_json(const StagedVolume& volume) {
  Json targets = Json::array();
  for (const PublishedTarget& target : volume.targets) targets.push_back({{"path", target.path}, {"read_only", target.read_only}});
  return {{"id", volume_id_text(volume.volume)}, {"name", volume.name},           {"staging_path", volume.staging_path},
          {"device", volume.device},             {"block", volume.block},         {"read_only", volume.read_only},
          {"fs_type", volume.fs_type},           {"mount_flags", volume.mount_flags}, {"ready", volume.ready},
          {"targets", std::move(targets)}};
}

/// Throws what nlohmann throws.
Result<StagedVolume> volume_from(const Json& json) {
  StagedVolume volume;
  AGRO_TRY(volume.volume, parse_volume_id(json.at("id").get<std::string>()));
  volume.name = json.at("name").get<std::string>();
  volume.staging_path = json.at("staging_path").get<std::string>();
  volume.device = json.at("device").get<std::string>();
  volume.block = json.at("block").get<bool>();
  volume.read_only = json.at("read_only").get<bool>();
  volume.fs_type = json.at("fs_type").get<std::string>();
  volume.mount_flags = json.at("mount_flags").get<std::vector<std::string>>();
  volume.ready = json.at("ready").get<bool>();
  for (const Json& target : json.at("targets"))
    volume.targets.push_back({target.at("path").get<std::string>(), target.at("read_only").get<bool>()});
  return volume;
}

Result<NodeState> state_from(const Json& json) {
  if (json.at("format").get<std::string>() != kFormat) return bad("it is another file");
  if (json.at("version").get<int>() != kVersion) return bad("it is of another version of agrocsi");
  NodeState state;
  state.boot_id = json.at("boot_id").get<std::string>();
  for (const Json& one : json.at("volumes")) {
    AGRO_TRY(StagedVolume volume, volume_from(one));
    const VolumeId id = volume.volume;
    if (!state.volumes.emplace(id, std::move(volume)).second) return bad("a volume is there twice");
  }
  return state;
}

/// Spaces and the like are \ooo in it.
std::string unescaped(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const std::size_t end = std::min(line.find(' '), line.size());
    if (end > 0) words.push_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return words;
}

}  // namespace

std::string encode(const NodeState& state) {
  Json volumes = Json::array();
  for (const auto& [id, volume] : state.volumes) volumes.push_back(volume_json(volume));
  const Json json = {{"format", kFormat}, {"version", kVersion}, {"boot_id", state.boot_id}, {"volumes", std::move(volumes)}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<NodeState> decode_node_state(std::string_view text) {
  try {
    return state_from(Json::parse(text));
  } catch (const nlohmann::json::exception& problem) {
    return bad(problem.what());
  }
}

std::vector<MountEntry> parse_mounts(std::string_view text) {
  std::vector<MountEntry> mounts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::vector<std::string_view> words = words_of(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    // 36 35 98:0 ROOT PATH OPTIONS optional... - TYPE SOURCE SUPER_OPTIONS
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (dash - words.begin() < 6 || words.end() - dash < 3) continue;
    MountEntry mount;
    mount.root = unescaped(words[3]);
    mount.path = unescaped(words[4]);
    mount.read_only = words[5] == "ro" || words[5].starts_with("ro,");
    mount.fs_type = std::string(dash[1]);
    mount.source = unescaped(dash[2]);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

}  // namespace agro::csi
