// PeerReport: what a peer says of its background work when asked (the peer operation `report`).
//
// It is never stored: steady operation writes nothing to the metadata store. Rates are over the last
// seconds, times are milliseconds since 1970. Format: models/agro.proto, message PeerReport; codec in
// models/codec.hpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/block_ref.hpp"
#include "core/uuid.hpp"

namespace agro {

/// Kinds of background work, and what a peer can be told to start (the peer operation `start`).
/// The numbers travel on the wire.
enum class WorkKind : std::uint8_t { rebalance = 1, scrub = 2, gc = 3 };

/// Blocks on their way to where the ring wants them.
struct RebalanceReport {
  bool running = false;
  /// Of the ring: all held here is where that ring wants it. 0 from when the ring changed, or a peer
  /// came or went, until all was looked at.
  std::uint64_t settled_version = 0;
  std::uint64_t blocks_left = 0;       // copies to make or to give up; an estimate while it looks
  std::uint64_t bytes_left = 0;
  std::uint64_t blocks_moved = 0;      // since the process started
  std::uint64_t bytes_moved = 0;
  std::uint64_t bytes_per_second = 0;  // now
  std::string problem;                 // why it does not get on; empty: it does
  /// When last all was looked at: blocks held here whose other owners were not all alive.
  std::uint64_t short_blocks = 0;

  bool operator==(const RebalanceReport&) const = default;
};

/// Blocks held here read and verified.
struct ScrubReport {
  bool running = false;
  std::uint64_t bytes_done = 0;  // of this pass, or the last one
  std::uint64_t bytes_total = 0;
  std::uint64_t bad_blocks = 0;  // found in this pass, or the last one
  std::uint64_t repaired_blocks = 0;
  std::uint64_t lost_blocks = 0;  // bad here, and no good copy could be reached
  std::int64_t started_unix_ms = 0;
  std::int64_t finished_unix_ms = 0;  // of the last whole pass; 0: none yet
  std::string problem;

  bool operator==(const ScrubReport&) const = default;
};

/// How far a scrub has come, so that a restart goes on and does not start again. Kept by the peer in
/// its data directory (docs/formats/store.md, "The file scrub").
struct ScrubState {
  ScrubReport report;
  std::optional<BlockRef> position;  // the last block it looked at; nothing: none of this pass yet

  bool operator==(const ScrubState&) const = default;
};

/// Blocks that no volume needs.
struct GcReport {
  bool running = false;
  std::uint64_t condemned_blocks = 0;  // waiting out their grace period
  std::uint64_t deleted_blocks = 0;    // since the process started
  std::uint64_t deleted_bytes = 0;
  std::int64_t finished_unix_ms = 0;   // of the last whole cycle; 0: none yet
  std::string problem;                 // why the last cycle deleted nothing; empty: it was whole

  bool operator==(const GcReport&) const = default;
};

struct PeerReport {
  PeerId id;
  std::uint64_t ring_version = 0;  // that it knows
  RebalanceReport rebalance;
  ScrubReport scrub;
  GcReport gc;
  std::string store_problem;  // why its store takes no writes; empty: it does

  bool operator==(const PeerReport&) const = default;
};

}  // namespace agro
