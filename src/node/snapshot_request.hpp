// Waiting for the snapshot that was asked of whoever has the volume open.
//
// Threading: one loop. Source: docs/architecture.md, "Snapshots and clones".
#pragma once

#include <functional>
#include <string>

#include "base/clock.hpp"
#include "metadata/metadata.hpp"

namespace agro {

/// What Metadata::request_snapshot() was called with, and answered.
struct AskedSnapshot {
  VolumeId volume;
  std::string name;
  std::uint64_t token = 0;
};

inline constexpr Duration kSnapshotAnswerLimit = std::chrono::seconds(30);

/// Polls until there is an answer, for `limit` or until `stopping()`, and then takes the request back. All references outlive it.
/// Errors: the writer's; timed_out.
Task<SnapshotRecord> await_snapshot(Clock& clock, Metadata& metadata, AskedSnapshot asked, std::function<bool()> stopping,
                                    Duration limit = kSnapshotAnswerLimit);

}  // namespace agro
