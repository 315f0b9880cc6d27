// INode: a persisted checkpoint of a volume, as pages in blocks of type inode.
//
// A root block names the directory pages, a directory page the pages of 512 map or table pages; a
// checkpoint writes the pages that changed, the directories above them and a new root, so its cost
// follows what changed. Blocks whose pages are mostly superseded are rewritten in passing.
// Invariants: blocks of the committed INode are never changed or deleted until a newer one has been
// committed: what becomes garbage is handed out by take_garbage() for deletion after the commit.
// Threading: one loop. Format: docs/formats/inode.md. Source: DESIGN.md section 3.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/async.hpp"
#include "block/volume_map.hpp"
#include "blockset/blockset.hpp"
#include "core/block_ref.hpp"
#include "core/lineage.hpp"

namespace agro {

/// The volume as its record in the MDS describes it, so that a volume can be known by its blocks
/// alone. All empty: it was written before roots said so.
struct VolumeDescription {
  std::string name;
  std::string block_spec;
  std::uint32_t replication = 0;  // its own copies; 0: what the ring says
  std::vector<VolumeAncestor> ancestors = {};

  bool operator==(const VolumeDescription&) const = default;
};

/// What the root says about the volume as a whole.
struct InodeMeta {
  VolumeId volume;
  std::uint64_t size_bytes = 0;
  std::uint64_t covered_sequence = 0;  // every block of the log up to here is in the map
  Epoch epoch;                         // of the writer
  VolumeDescription description = {};
};

/// docs/formats/inode.md, "Locations". Length 0: the page is empty and has no bytes.
struct PageLocation {
  std::uint32_t slot = 0;    //  0  inode block, index into the root's list
  std::uint32_t offset = 0;  //  4  in its payload
  std::uint32_t length = 0;  //  8
  std::uint32_t zero = 0;    // 12
};
static_assert(sizeof(PageLocation) == 16);
static_assert(std::has_unique_object_representations_v<PageLocation>, "no hidden padding");

/// The pages of one volume's INode: where they lie, reading all of them, writing changed ones.
class Inode {
 public:
  static constexpr std::uint32_t kPagesPerDirectory = 512;

  /// How a sealed block of the INode is stored.
  using Writer = std::function<Task<void>(BlockRef, SharedBytes)>;

  /// Without a writer it can only be read.
  Inode(Lineage lineage, Blockset& blockset, BufferPool& buffers, Writer writer = {})
      : lineage_(std::move(lineage)), blockset_(blockset), buffers_(buffers), writer_(std::move(writer)) {}

  /// Whether a payload of a block of type inode is a root, by its first bytes.
  static bool is_root(ConstBytes payload);

  /// Reads root, directories and pages into `map`, which is new and of the root's size.
  /// Errors: corrupt, not_found, unavailable, with what was read in the text.
  Task<InodeMeta> load_root(BlockRef root);
  Task<void> load_pages(VolumeMap& map);
  /// Instead of load_pages(): reads directories and the table; the map's pages are absent, to be
  /// read one by one when they are needed. Errors: as above.
  Task<void> load_directories(VolumeMap& map);

  /// Where a page lies now: who finds another place after a wait has read an old page.
  struct PageAt {
    BlockRef block;
    std::uint32_t block_size = 0;  // payload bytes
    std::uint32_t offset = 0;
    std::uint32_t length = 0;
    bool operator==(const PageAt&) const = default;
  };
  /// Shape: the page has bytes, and was written or read by load_directories().
  PageAt page_at(PageKey key) const;
  /// The bytes of a page. Errors: as above; not_found also when it moved meanwhile.
  Task<std::vector<std::byte>> read_page(PageAt at);

  /// After load_root(), instead of load_pages(): every block that this INode needs, sorted: data blocks
  /// of its table, the blocks of its pages, its root. Reads no more than the table. Errors: as above.
  Task<std::vector<BlockRef>> load_needed_blocks();

  /// Pages that lie in mostly superseded blocks: mark them dirty before a checkpoint.
  std::vector<PageKey> pages_to_move() const;

  /// Takes one page of a checkpoint; writes a block when enough have come together.
  Task<void> put_page(PageKey key, std::vector<std::byte> bytes, Epoch epoch);
  /// Writes what is left, the directories that changed and the root; returns the root's name.
  /// Errors of both: fenced, closed, and what the caller may retry by a new checkpoint of all pages
  /// it put since the last commit.
  Task<BlockRef> finish(InodeMeta meta);

  /// A block that is no part of the INode, but of its sequence of blocks: its name, then its writing.
  /// Shape: `payload` fits a block. Errors: fenced; closed; unavailable.
  BlockRef take_note_ref(Epoch epoch) { return {lineage_.self(), epoch, next_index_++, BlockType::inode}; }
  Task<void> write_note(BlockRef ref, std::vector<std::byte> payload);

  /// Forgets the places of map pages from `page_count` on: they are in no later INode.
  void cut_map(std::uint32_t page_count);

  /// Blocks that the INode of the last finish() does not need, for deletion after its commit.
  std::vector<BlockRef> take_garbage();

  BlockRef root() const { return root_; }
  /// As it was told, or as the root says.
  const Lineage& lineage() const { return lineage_; }
  /// Names of the blocks that make up the INode, without the root.
  std::vector<BlockRef> live_refs() const;
  std::uint64_t bytes_written() const { return bytes_written_; }

 private:
  struct InodeBlock {
    BlockRef ref;
    std::uint32_t size = 0;  // payload bytes; 0: the slot is free
    std::uint32_t live = 0;  // of them in use
  };
  /// Pages of one kind and their directories.
  struct Tree {
    std::vector<PageLocation> pages;
    std::vector<PageLocation> directories;
    std::set<std::uint32_t> changed_directories;
  };
  struct Staged {
    std::uint32_t tree;
    bool is_directory;
    std::uint32_t index;
    std::uint32_t offset;
    std::uint32_t length;
  };

  Task<void> stage(std::uint32_t tree, bool is_directory, std::uint32_t index,
                   std::vector<std::byte> bytes, Epoch epoch);
  Task<void> write_staged(Epoch epoch);
  void release(const PageLocation& location);
  std::uint32_t take_slot();
  Task<SharedBytes> read_payload(BlockRef ref);
  Task<std::vector<SharedBytes>> read_blocks();
  /// A page or directory of a tree: its number and where it lies.
  using Located = std::pair<std::uint32_t, PageLocation>;
  using Visit = std::function<Result<void>(std::uint32_t index, ConstBytes bytes)>;
  Task<void> visit_pages(std::vector<Located> pages, Visit visit);
  Task<void> visit_group(std::span<const Located> pages, const Visit& visit);
  Task<void> load_locations(PageKind kind);
  Task<void> load_table(BlockTable& table);
  Task<void> read_block_into(std::size_t slot, std::vector<SharedBytes>& payloads);
  Result<void> decode_root(ConstBytes payload, InodeMeta& meta);
  static Result<void> decode_ancestors(ConstBytes bytes, std::vector<VolumeAncestor>& ancestors);
  std::size_t root_size(const VolumeDescription& description) const;
  std::uint32_t encode_root(const InodeMeta& meta, MutableBytes out) const;
  Task<void> write_block(BlockRef ref, std::shared_ptr<AlignedBuffer> buffer,
                         std::uint32_t payload_size);

  Lineage lineage_;
  Blockset& blockset_;
  BufferPool& buffers_;
  Writer writer_;
  std::array<Tree, 2> trees_;  // by PageKind
  std::vector<InodeBlock> blocks_;
  std::vector<std::uint32_t> free_slots_;
  BlockRef root_;  // of the INode in memory; index 0: none
  std::uint64_t next_index_ = 1;
  std::shared_ptr<AlignedBuffer> staging_;
  std::uint32_t staging_size_ = 0;
  std::vector<Staged> staged_;
  std::vector<BlockRef> garbage_;
  std::uint64_t bytes_written_ = 0;
};

}  // namespace agro
