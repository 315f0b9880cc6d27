// Replay: what a block of the log does to a map.
//
// Threading: none. Format: docs/formats/segment.md. Source: DESIGN.md section 3.
#pragma once

#include "block/segment.hpp"
#include "block/volume_map.hpp"

namespace agro {

/// The ranges of sectors that a segment changes, to load their pages. Errors: corrupt.
Result<std::vector<SectorRange>> ranges_of_segment(ConstBytes payload);

/// Applies the next block of the log, of `size` bytes. Shape: the pages of its ranges are loaded.
/// Errors: corrupt.
Result<void> replay_segment(VolumeMap& map, const BlockRef& ref, std::uint32_t size, ConstBytes payload);

}  // namespace agro
