// What the node half remembers across its restarts: which volumes are attached here, and where.
//
// Invariants: the state is of one boot: what an earlier boot had is gone with its kernel, and is not to be attached again on
// our own. Threading: none of its own. Format: docs/formats/csi.md, "The node's state".
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "core/block_ref.hpp"

namespace agro::csi {

struct PublishedTarget {
  std::string path;
  bool read_only = false;
  bool operator==(const PublishedTarget&) const = default;
};

struct StagedVolume {
  VolumeId volume;
  std::string name;          // under which it was attached
  std::string staging_path;
  std::string device;
  bool block = false;        // no file system
  bool read_only = false;
  std::string fs_type;       // empty with `block`
  std::vector<std::string> mount_flags;
  bool ready = false;        // staging went through; else only the device may be there
  std::vector<PublishedTarget> targets;
  bool operator==(const StagedVolume&) const = default;
};

struct NodeState {
  std::string boot_id;
  std::map<VolumeId, StagedVolume> volumes;
  bool operator==(const NodeState&) const = default;
};

std::string encode(const NodeState& state);
/// Errors: corrupt, saying what is wrong.
Result<NodeState> decode_node_state(std::string_view text);

/// One line of /proc/self/mountinfo.
struct MountEntry {
  std::string path;
  std::string root;    // what of `source` is seen there: "/" unless it is a bind mount
  std::string source;
  std::string fs_type;
  bool read_only = false;
};
/// Lines that make no sense are left out: the kernel writes none.
std::vector<MountEntry> parse_mounts(std::string_view text);

}  // namespace agro::csi
