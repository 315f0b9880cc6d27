// Snapshot note: what the metadata know of a snapshot, in a block of type inode, for when the metadata are lost.
//
// Written before the snapshot is recorded, so a note alone proves nothing: of a snapshot that was refused or
// deleted it may stay until gc finds that nobody needs it.
// Threading: none. Format: docs/formats/inode.md, "Snapshot notes".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "core/state_id.hpp"

namespace agro {

struct SnapshotNote {
  VolumeId volume;
  Epoch epoch;             // of the log, and of the note's block
  Epoch checkpoint_epoch;  // of the root
  std::uint64_t root_index = 0;
  std::uint64_t sequence = 0;  // covered by the checkpoint
  std::uint64_t log_end = 0;
  std::uint64_t size_bytes = 0;
  std::int64_t created_unix_ms = 0;
  std::optional<StateId> origin = {};  // as in the metadata
  std::string name;
  bool operator==(const SnapshotNote&) const = default;
};

/// Shape: a name of at most 255 bytes.
std::vector<std::byte> encode_snapshot_note(const SnapshotNote& note);
/// Whether a payload of a block of type inode is a note, by its first bytes.
bool is_snapshot_note(ConstBytes payload);
/// Errors: corrupt; not_supported (version).
Result<SnapshotNote> decode_snapshot_note(ConstBytes payload);

}  // namespace agro
