// Mutants: known failings of storage systems, re-created one at a time, to prove that the simulator
// would notice them.
//
// Each is one line at the place where the failing would be, `if (AGRO_MUTANT(kTrimNotReplayed)) ...`.
// Invariants: in a normal build AGRO_MUTANT is the constant false, and nothing of this is in the
// program. In one with -DAGRO_MUTANTS=ON it is true for the one mutant that choose_mutant() named;
// none at first. Threading: chosen before the loop runs. Source: docs/internals/mutants.md.
#pragma once

#include <array>

namespace agro {

enum class Mutant : int {
  kNone = 0,
  kFlushWithoutReplica = 1,
  kSyncSkipped = 2,
  kFewerCopiesSucceed = 3,
  kGcWithoutListing = 4,
  kBadChecksumReturned = 5,
  kGivenUpUnconfirmed = 6,
  kFenceForgotten = 7,
  kEpochUnchecked = 8,
  kReplayPastGap = 9,
  kTooManyMissing = 10,
  kTrimNotReplayed = 11,
  kFreedBeforeCommit = 12,
  kIndexBeforeData = 13,
  kLeaseExpiryIgnored = 14,
  kAckOutOfOrder = 15,
  kNoOtherReplica = 16,
  kFreedBeforeDurable = 17,
};

struct MutantInfo {
  Mutant mutant;
  const char* name;
  const char* recreates;
};

inline constexpr std::array<MutantInfo, 17> kMutants{{
    {Mutant::kFlushWithoutReplica, "flush-without-replica", "a flush is acknowledged though a replica's write failed"},
    {Mutant::kSyncSkipped, "sync-skipped", "a peer replies without having synced"},
    {Mutant::kFewerCopiesSucceed, "fewer-copies-succeed", "fewer copies than asked for are reported as success"},
    {Mutant::kGcWithoutListing, "gc-without-listing", "a failed listing of volumes counts as one of no volumes"},
    {Mutant::kBadChecksumReturned, "bad-checksum-returned", "data that does not verify is returned"},
    {Mutant::kGivenUpUnconfirmed, "given-up-unconfirmed", "a peer deletes its copy before the owners have theirs"},
    {Mutant::kFenceForgotten, "fence-forgotten", "a fence does not survive the peer's restart"},
    {Mutant::kEpochUnchecked, "epoch-unchecked", "a peer takes blocks of fenced epochs"},
    {Mutant::kReplayPastGap, "replay-past-gap", "recovery replays what lies beyond a gap in the log"},
    {Mutant::kTooManyMissing, "too-many-missing", "recovery goes on with too many peers missing"},
    {Mutant::kTrimNotReplayed, "trim-not-replayed", "recovery brings trimmed data back"},
    {Mutant::kFreedBeforeCommit, "freed-before-commit", "blocks go before the checkpoint that needs them no more is there"},
    {Mutant::kIndexBeforeData, "index-before-data", "a store's index record is durable before the block it names"},
    {Mutant::kLeaseExpiryIgnored, "lease-expiry-ignored", "a client that was paused goes on though its lease has ended"},
    {Mutant::kAckOutOfOrder, "ack-out-of-order", "a flush is acknowledged while earlier blocks are on their way"},
    {Mutant::kNoOtherReplica, "no-other-replica", "a bad copy is an error though others are good"},
    {Mutant::kFreedBeforeDurable, "freed-before-durable", "blocks go before what replaced them is durable"},
}};

#ifdef AGRO_MUTANTS
inline constexpr bool kHasMutants = true;
inline Mutant chosen_mutant = Mutant::kNone;
inline void choose_mutant(Mutant mutant) { chosen_mutant = mutant; }
#define AGRO_MUTANT(name) (::agro::chosen_mutant == ::agro::Mutant::name)
#else
inline constexpr bool kHasMutants = false;
inline void choose_mutant(Mutant /*mutant*/) {}
#define AGRO_MUTANT(name) (static_cast<void>(::agro::Mutant::name), false)
#endif

}  // namespace agro
