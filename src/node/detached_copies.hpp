// Detached copies: takes back the record that a volume's blocks have few copies, when nobody has it open.
//
// While a volume is open its writer makes missing copies and clears the record (block/volume_copies).
// Of a detached one the peers make the copies (node/rebalancer), and nobody clears the record, so that
// the next loss of peers would refuse a volume that has everything. The coordinator does it here.
// Invariant: a record goes only when, after the volume was seen detached, every peer that is alive
// looked at all it holds and found every owner of every block alive and holding its copy, with every
// ring member alive; and the volume was not opened meanwhile (a transaction compares).
// Threading: one loop. Source: DESIGN.md section 5.
#pragma once

#include <map>
#include <set>

#include "base/env.hpp"
#include "node/cluster_client.hpp"

namespace agro {

class DetachedCopies {
 public:
  /// Shape: both outlive it.
  DetachedCopies(Env& env, ClusterClient& cluster) : env_(env), cluster_(cluster) {}

  /// One step; call it now and then. Asks nobody while there is no such record.
  /// Errors: those of Kv, and of peers that do not answer.
  Task<void> step();

 private:
  using VolumeEpochs = std::map<VolumeId, Epoch>;
  Task<VolumeEpochs> recorded();
  Task<void> tell_all_to_look();
  Task<bool> all_in_place();

  Env& env_;
  ClusterClient& cluster_;
  /// The volumes and epochs that the peers were told to look for; empty: not told.
  VolumeEpochs asked_about_;
  std::set<PeerId> asked_;
};

}  // namespace agro
