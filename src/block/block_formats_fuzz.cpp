// Fuzzes the decoders of what a volume keeps in blocks: segments, INode roots, directories, pages.
//
// The first byte chooses the decoder. INodes are read through a real blockset from a cluster in a map,
// sealed with right checksums, so that the bytes reach the decoders.
#include <cstdint>
#include <memory>

#include "block/inode.hpp"
#include "block/memory_backend.hpp"
#include "block/segment.hpp"
#include "block/snapshot_note.hpp"
#include "sim/sim_loop.hpp"

namespace agro {
namespace {

constexpr VolumeId kVolume{7};

SharedBytes sealed(const Blockset& blockset, const BlockRef& ref, ConstBytes payload) {
  auto buffer = std::make_shared<AlignedBuffer>(kBlockSizeMin);
  std::memcpy(buffer->data(), payload.data(), payload.size());
  const auto size = static_cast<std::uint32_t>(payload.size());
  const std::uint32_t block_size = blockset.seal(ref, buffer->bytes(), size);
  return {buffer, buffer->bytes().first(block_size)};
}

/// The input is a root; the inode block that it may name holds the same bytes.
void load_inode(ConstBytes payload) {
  SimLoop loop;
  MemoryBlocks blocks;
  MemoryBackend backend(blocks, loop.clock(), 1, kBlockSizeMin);
  const std::unique_ptr<Blockset> blockset =
      make_blockset(*parse_blockset_spec("crc,base"), backend);
  BufferPool buffers(kBlockSizeMin, 1);
  for (std::uint64_t index = 1; index <= 2; ++index) {
    const BlockRef ref{kVolume, {1}, index, BlockType::inode};
    blocks.blocks.emplace(ref, sealed(*blockset, ref, payload));
  }
  Inode inode(kVolume, *blockset, buffers, {});  // it is only read
  VolumeMap map(4096);
  const auto meta = loop.run(inode.load_root({kVolume, {1}, 1, BlockType::inode}));
  if (meta.has_value()) (void)loop.run(inode.load_pages(map));
}

void run(std::uint8_t decoder, ConstBytes bytes) {
  switch (decoder % 5) {
    case 0: {
      const Result<SegmentView> view = decode_segment(bytes);
      if (!view.has_value()) return;
      for (const SegmentExtent& extent : view->extents) {
        if (extent.kind == static_cast<std::uint16_t>(ExtentKind::data)) {
          (void)view->sector(extent.sector + extent.count - 1)[kSectorSize - 1];
        }
      }
      return;
    }
    case 1: {
      ExtentMap map(3000);
      if (!map.decode_page(bytes.size() % 3, bytes).has_value()) return;
      std::vector<MapRun> runs;
      map.runs_of_page(static_cast<std::uint32_t>(bytes.size() % 3), runs);
      return;
    }
    case 2: {
      BlockTable table;
      if (table.decode_page(0, bytes).has_value()) table.finish_decode();
      return;
    }
    case 4: {
      const Result<SnapshotNote> note = decode_snapshot_note(bytes);
      if (note.has_value()) AGRO_ASSERT(encode_snapshot_note(*note).size() == bytes.size());
      return;
    }
    default: load_inode(bytes.first(std::min<std::size_t>(bytes.size(), 32768)));
  }
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  agro::run(data[0], agro::ConstBytes(reinterpret_cast<const std::byte*>(data + 1), size - 1));
  return 0;
}
