// The cluster report as JSON: what `agroctl status --json` prints and /api/v1 answers.
//
// Invariants: field names stay; sizes are in bytes, times ISO 8601 in UTC, unknown is null.
#pragma once

#include <nlohmann/json.hpp>

#include "node/cluster_report.hpp"

namespace agro {

using Json = nlohmann::ordered_json;

/// Everything: health, problems, cluster, ring, peers, volumes.
Json status_json(const ClusterReport& report);
/// Its parts, as /api/v1/peers, ring and volumes give them.
Json peers_json(const ClusterReport& report);
Json ring_json(const ClusterReport& report);
Json volumes_json(const ClusterReport& report);
/// Background work: what each peer does, and deleted volumes that are still being removed.
Json work_json(const ClusterReport& report);

}  // namespace agro
