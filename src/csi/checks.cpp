#include "csi/checks.hpp"

#include <fmt/format.h>

#include "base/bytes.hpp"
#include "base/units.hpp"
#include "blockset/blockset.hpp"

namespace agro::csi {
namespace {

using Mode = v1::VolumeCapability::AccessMode;
constexpr std::uint64_t kDefaultSize = 10 * kGiB;  // where nobody says anything; a volume takes only what is written
constexpr std::uint64_t kSizeMax = kTiB * 1024;
constexpr std::size_t kPathMax = 4096;
constexpr std::uint32_t kCopiesMax = 16;

tl::unexpected<Error> bad(std::string text) { return fail(Errc::invalid_argument, std::move(text)); }

Result<std::uint64_t> parse_limit(const std::string& key, const std::string& text) {
  if (text == "none") return std::uint64_t{0};
  const Result<std::uint64_t> number = parse_size(text);
  if (number.has_value() && *number > 0) return *number;
  return bad(fmt::format("{}: '{}' is no limit: give a number above zero, or none", key, text));
}

}  // namespace

Result<void> check_capability(const v1::VolumeCapability& capability) {
  if (!capability.has_block() && !capability.has_mount()) return bad("a volume capability needs block or mount");
  if (!capability.has_access_mode() || capability.access_mode().mode() == Mode::UNKNOWN)
    return bad("a volume capability needs an access mode");
  switch (capability.access_mode().mode()) {
    case Mode::SINGLE_NODE_WRITER:
    case Mode::SINGLE_NODE_READER_ONLY:
    case Mode::SINGLE_NODE_SINGLE_WRITER:
    case Mode::SINGLE_NODE_MULTI_WRITER:
      break;
    default:
      return bad("a volume of agro is for one node at a time (ReadWriteOnce, ReadWriteOncePod)");
  }
  if (capability.has_block()) return {};
  const std::string type = fs_type_of(capability);
  if (type == "ext4" || type == "ext3" || type == "xfs") return {};
  return bad(fmt::format("'{}' is no file system that agrocsi makes: use ext4, ext3 or xfs", type));
}

Result<void> check_capabilities(const google::protobuf::RepeatedPtrField<v1::VolumeCapability>& capabilities) {
  if (capabilities.empty()) return bad("volume_capabilities are missing");
  bool block = false;
  bool mount = false;
  for (const v1::VolumeCapability& one : capabilities) {
    AGRO_TRY_OK(check_capability(one));
    (one.has_block() ? block : mount) = true;
  }
  if (block && mount) return bad("a volume is either block or has a file system");
  return {};
}

bool is_read_only(const v1::VolumeCapability& capability) {
  return capability.access_mode().mode() == Mode::SINGLE_NODE_READER_ONLY;
}

std::string fs_type_of(const v1::VolumeCapability& capability) {
  return capability.mount().fs_type().empty() ? "ext4" : capability.mount().fs_type();
}

Result<std::uint64_t> choose_size(const v1::CapacityRange& range, std::uint64_t floor) {
  if (range.required_bytes() < 0 || range.limit_bytes() < 0) return bad("a capacity cannot be negative");
  const auto required = static_cast<std::uint64_t>(range.required_bytes());
  const std::uint64_t limit = range.limit_bytes() == 0 ? kSizeMax : static_cast<std::uint64_t>(range.limit_bytes());
  std::uint64_t size = std::max(required, floor);
  if (size == 0) size = std::min(kDefaultSize, limit / kPageSize * kPageSize);
  if (size <= kSizeMax) size = std::max<std::uint64_t>(round_up(size, kPageSize), kPageSize);
  if (size <= limit && size <= kSizeMax) return size;
  return fail(Errc::too_large, fmt::format("no size fits: at least {} bytes in multiples of 4096 are needed, {} are allowed", size,
                                           std::min(limit, kSizeMax)));
}

bool fits(const v1::CapacityRange& range, std::uint64_t size) {
  const auto signed_size = static_cast<std::int64_t>(size);
  return signed_size >= range.required_bytes() && (range.limit_bytes() == 0 || signed_size <= range.limit_bytes());
}

Result<CreateParameters> parse_parameters(const Parameters& parameters) {
  CreateParameters parsed;
  for (const auto& [key, value] : parameters) {
    if (key.starts_with("csi.storage.k8s.io/")) continue;
    if (key == "replication") {
      const Result<std::uint64_t> copies = parse_size(value);
      if (!copies.has_value() || *copies == 0 || *copies > kCopiesMax)
        return bad(fmt::format("replication: '{}' is no number of copies, 1 to {}", value, kCopiesMax));
      parsed.replication = static_cast<std::uint32_t>(*copies);
    } else if (key == "blockSpec") {
      AGRO_TRY(const BlocksetSpec spec, parse_blockset_spec(value));
      parsed.block_spec = spec.to_string();
    } else {
      return bad(fmt::format("there is no parameter '{}'; there are replication and blockSpec", key));
    }
  }
  return parsed;
}

Result<VolumeChange> parse_mutable_parameters(const Parameters& parameters) {
  VolumeChange change;
  for (const auto& [key, value] : parameters) {
    if (key == "iops") {
      AGRO_TRY(change.iops_max, parse_limit(key, value));
    } else if (key == "bandwidth") {
      AGRO_TRY(change.bandwidth_max, parse_limit(key, value));
    } else {
      return bad(fmt::format("there is no mutable parameter '{}'; there are iops and bandwidth", key));
    }
  }
  return change;
}

Result<void> check_path(const std::string& path, const char* field) {
  AGRO_TRY_OK(check_given(path, field));
  const bool good = path.size() < kPathMax && path[0] == '/' && path.find('\0') == std::string::npos &&
                    path.find("/../") == std::string::npos && !path.ends_with("/..");
  if (good) return {};
  return bad(fmt::format("{} must be an absolute path without '..'", field));
}

Result<void> check_given(const std::string& text, const char* field) {
  if (text.empty()) return bad(fmt::format("{} is missing", field));
  return {};
}

Result<Underway::Hold> Underway::begin(std::string key) {
  if (!keys_.insert(key).second) return fail(Errc::conflict, fmt::format("a call about {} is under way; try again", key));
  return Hold(this, std::move(key));
}

}  // namespace agro::csi
