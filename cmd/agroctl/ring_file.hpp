// Ring file: a ring as JSON, for `agroctl ring manual-change`; `ring get --json` prints one.
#pragma once

#include <string>
#include <string_view>

#include "base/result.hpp"
#include "models/ring_spec.hpp"

namespace agro {

/// Shape: an object of kind, replication, members (id, weight, zone, rack, host) and, of a placement
/// ring, group_count and overrides (group, members); what else it has is passed over.
/// Errors: invalid_argument, naming the field.
Result<RingSpec> parse_ring_json(std::string_view text);

/// Reads a file, or standard input ("-"). Errors also: not_found; io_error.
Result<RingSpec> read_ring_file(const std::string& path);

}  // namespace agro
