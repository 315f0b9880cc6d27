// What the CSI driver calls things: ids of volumes and snapshots, names, paging tokens, its endpoint.
//
// Invariants: an id says which volume it is for ever, whatever its name; two names given by an orchestrator never become the
// same name of ours. Format: docs/formats/csi.md.
#pragma once

#include <string>
#include <string_view>

#include "base/result.hpp"
#include "core/block_ref.hpp"

namespace agro::csi {

/// Ten lower-case hexadecimal digits.
std::string volume_id_text(VolumeId volume);
/// Errors: invalid_argument. Whoever looks for a volume answers not_found to that, as the specification wants.
Result<VolumeId> parse_volume_id(std::string_view text);

/// A snapshot by its volume and its own name: "VOLUME_ID@NAME".
struct SnapshotId {
  VolumeId volume;
  std::string name;
  auto operator<=>(const SnapshotId&) const = default;
};
std::string snapshot_id_text(const SnapshotId& id);
/// Errors: invalid_argument.
Result<SnapshotId> parse_snapshot_id(std::string_view text);

/// What the snapshots are called that exist while a clone of a volume is made; before the clone's name.
inline constexpr std::string_view kPassing = "csi-clone-";

/// The name of ours for one that an orchestrator made up: the same, when it is a volume name that starts with neither
/// "csi_" nor "csi-clone-", else "csi_" and its bytes in base64url. Errors: invalid_argument, when it is empty, above 128 bytes, or has control
/// characters.
Result<std::string> our_name(std::string_view name);

/// A paging token is the id of the last thing on the page before. Errors: conflict (the specification's ABORTED).
Result<VolumeId> parse_volume_token(std::string_view token);
Result<SnapshotId> parse_snapshot_token(std::string_view token);

/// The path of "unix:///csi/csi.sock", "unix:PATH" or "/csi/csi.sock". Errors: invalid_argument.
Result<std::string> parse_endpoint(std::string_view text);

}  // namespace agro::csi
