// Volume search: the volumes of a cluster, from the blocks on its peers alone, when the metadata are lost.
//
// Each volume's newest checkpoint that can be read whole says what it is; blocks of the same epoch past
// it are its log's tail, which the next opening replays.
// Invariants: nothing is written but fences, by fence_volumes(). What may be lost is said in `doubts`:
// a volume without doubts has every block that its checkpoint names.
// Threading: one loop. Source: DESIGN.md sections 3 and 4; docs/architecture.md, "When the metadata are lost".
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/env.hpp"
#include "block/inode.hpp"
#include "block/snapshot_note.hpp"
#include "distributor/distributor.hpp"
#include "models/records.hpp"

namespace agro {

/// Ids, epochs and ring versions that left no trace on any peer (failed openings, deleted volumes) are
/// surely fewer than this: what is minted after a rebuild starts so much above what was seen.
inline constexpr std::uint64_t kTracelessMax = std::uint64_t{1} << 20;

struct SearchedPeer {
  std::shared_ptr<Peer> peer;
  std::string place;                  // its directory or address
  const BlockStore* store = nullptr;  // where it is in this process: tells its fences
};

struct FoundVolume {
  VolumeId id;
  VolumeDescription description;  // of the checkpoint
  bool has_checkpoint = false;
  VolumeHead head;
  Epoch epoch;                     // above all that were ever minted
  std::uint64_t block_count = 0;   // distinct ones, of all types
  std::uint64_t tail_count = 0;    // blocks of the log past the checkpoint, up to the first gap
  bool deleted = false;            // a peer was told so
  std::vector<SnapshotRecord> snapshots;  // whole ones, by their notes
  std::vector<std::string> doubts; // what may be lost
};

struct FoundCluster {
  std::vector<FoundVolume> volumes;  // sorted by id
  std::uint32_t copy_count = 0;      // of most data blocks; 0: there are none
  VolumeId last_volume;              // the highest seen
};

class VolumeSearch {
 public:
  /// Shape: `ring` names the peers, `env` outlives it; stop() before it is destroyed.
  VolumeSearch(Env& env, std::uint32_t block_size, std::shared_ptr<const Ring> ring,
               std::vector<SearchedPeer> peers);
  VolumeSearch(const VolumeSearch&) = delete;
  VolumeSearch& operator=(const VolumeSearch&) = delete;

  /// Errors: those of Peer::list; every peer must answer.
  Task<FoundCluster> search();
  /// Tells all peers to refuse writers of before; who was told that a volume is deleted says so.
  Task<void> fence_volumes(FoundCluster& found);
  Awaitable<void> stop() { co_await distributor_.stop(); }

 private:
  /// A block, and how many peers have it.
  struct Seen {
    BlockRef ref;
    std::uint32_t copy_count = 0;
  };
  using SeenRange = std::span<const Seen>;

  Task<void> list_all();
  Task<FoundVolume> examine(SeenRange blocks);
  Task<void> find_checkpoint(SeenRange blocks, FoundVolume& volume);
  Task<bool> try_checkpoint(BlockRef ref, SeenRange blocks, FoundVolume& volume);
  Task<bool> load_checkpoint(BlockRef ref, Blockset& blockset, SeenRange blocks,
                             FoundVolume& volume);
  Task<void> find_snapshots(SeenRange blocks, FoundVolume& volume);
  Task<std::optional<SnapshotNote>> read_note(BlockRef ref, Blockset& blockset);
  Task<bool> has_all_of(SnapshotNote note, const FoundVolume& volume, Blockset& blockset, SeenRange blocks);
  static void follow_log(SeenRange blocks, FoundVolume& volume);
  void note_fences(FoundVolume& volume) const;

  Env& env_;
  std::vector<SearchedPeer> peers_;
  Distributor distributor_;
  BufferPool buffers_;
  std::unique_ptr<Blockset> with_crc_;
  std::unique_ptr<Blockset> plain_;
  std::vector<Seen> seen_;  // sorted by ref
};

}  // namespace agro
