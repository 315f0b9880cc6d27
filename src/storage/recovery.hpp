// Reads a store file back: superblock, index checkpoint, log.
//
// Invariants: what was acknowledged is found or the open fails; what a crash left half written is
// dropped, and `restated` says what the log must be told about it before anything else.
// Format: docs/formats/store.md, "Recovery".
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/disk.hpp"
#include "storage/block_index.hpp"
#include "storage/slot_table.hpp"
#include "storage/store_format.hpp"

namespace agro {

struct RecoveredStore {
  Superblock superblock;
  bool superblocks_equal = true;  // else both must be written anew
  BlockIndex index;
  std::map<VolumeId, Epoch> fences;
  std::vector<std::uint32_t> checkpoint_slots;
  std::vector<std::uint32_t> log_slots;  // from the replay's start to the slot of `position`
  LogPosition position;
  std::uint64_t log_size = 0;  // bytes of the frames replayed
  /// The true state of refs whose last record was dropped.
  std::vector<StoreRecord> restated;
};

/// Both superblocks read, the better one chosen. `name` is for messages.
struct Superblocks {
  Superblock best;
  bool equal = true;
  bool blank = false;  // nothing was ever written here
};
/// Errors: corrupt, not_supported, io_error.
Task<Superblocks> read_superblocks(File& file, std::string name);

/// Everything after the superblock. Errors: corrupt, io_error.
Task<RecoveredStore> recover_store(File& file, Superblocks superblocks, std::string name);

struct SlotCounts {
  std::uint32_t grown = 0;      // that the file holds
  std::uint32_t max = 0;        // that the store may use
  std::uint32_t written = 0;    // so many, the first, were written, whatever is in them now
  std::uint32_t log_ahead = 0;  // free ones that are written ahead of the log
  std::uint32_t log_kept = 0;   // written ones that are left to the log, if more
};

/// The use of each slot, from what recovery found. Those of the log count as written.
/// Errors: corrupt; invalid_argument (the store holds more than it may use).
Result<SlotTable> recover_slots(const RecoveredStore& store, SlotCounts counts, const std::string& name);

/// Slots that a file of `size` bytes holds.
std::uint32_t slots_in(std::uint64_t size, std::uint32_t block_size);

}  // namespace agro
