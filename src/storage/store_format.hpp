// The bytes of a store file: superblock, log frames, index checkpoints.
//
// Invariants: every struct here is exactly what is on disk, little-endian, and carries its own crc;
// nothing decoded is trusted before that crc and the ranges hold.
// Format: docs/formats/store.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "core/block_ref.hpp"
#include "core/uuid.hpp"

namespace agro {

inline constexpr std::uint32_t kNoSlot = 0xFFFFFFFF;
/// Slots start after the two superblock pages.
inline constexpr std::uint64_t kSlotsOffset = 2 * std::uint64_t{kPageSize};

inline constexpr std::uint64_t kSuperblockMagic = 0x31304B4C424F4741;  // "AGOBLK01"
inline constexpr std::uint32_t kFrameMagic = 0x4D524641;               // "AFRM"
inline constexpr std::uint32_t kCheckpointMagic = 0x50434741;          // "AGCP"
inline constexpr std::uint32_t kStoreVersion = 2;
/// Still read; the superblocks say kStoreVersion from then on. It has no packed blocks.
inline constexpr std::uint32_t kStoreVersionOldest = 1;

/// Where the log goes on, and what its next frame must say.
struct LogPosition {
  std::uint64_t sequence = 1;   // of the next frame
  std::uint32_t slot = 0;       // it is here,
  std::uint32_t page = 0;       // at this page of the slot, or else
  std::uint32_t next_slot = 1;  // at the start of this one
  std::uint32_t previous_crc = 0;
  auto operator<=>(const LogPosition&) const = default;
};

/// Pages 0 and 1 of the file, the same twice; within one 512-byte sector, so never torn. What is behind self_crc is a
/// hint: older programs write zeros there, and nothing is lost when it is wrong.
struct Superblock {
  std::uint64_t magic = kSuperblockMagic;  //   0
  std::uint32_t version = kStoreVersion;   //   8
  std::uint32_t block_size = 0;            //  12  bytes, a power of two
  std::uint64_t generation = 0;            //  16  grows by one at each checkpoint
  Uuid cluster_id;                         //  24
  Uuid peer_id;                            //  40
  std::uint64_t log_sequence = 1;          //  56  LogPosition of the replay's start
  std::uint32_t log_slot = 0;              //  64
  std::uint32_t log_page = 0;              //  68
  std::uint32_t log_next_slot = 1;         //  72
  std::uint32_t log_previous_crc = 0;      //  76
  std::uint64_t checkpoint_records = 0;    //  80  in all slots of the checkpoint
  std::uint32_t checkpoint_slot = kNoSlot; //  88  the first; kNoSlot: an empty index
  std::uint32_t self_crc = 0;              //  92  crc32c of bytes [0, 92)
  std::uint32_t written_slots = 0;         //  96  so many, the first, were written when the store was made
  std::uint32_t reserved = 0;              // 100

  LogPosition log_start() const {
    return {log_sequence, log_slot, log_page, log_next_slot, log_previous_crc};
  }
  void set_log_start(const LogPosition& position);
};
static_assert(sizeof(Superblock) == 104 && offsetof(Superblock, written_slots) == 96 && offsetof(Superblock, self_crc) == 92);
static_assert(offsetof(Superblock, cluster_id) == 24 && offsetof(Superblock, log_sequence) == 56);
static_assert(std::is_trivially_copyable_v<Superblock>);
static_assert(std::has_unique_object_representations_v<Superblock>, "no hidden padding");

enum class RecordKind : std::uint8_t {
  put_slot = 1,    // a block in a slot of its own
  put_inline = 2,  // a block in the pages of a log slot
  remove = 3,
  fence = 4,  // volume and epoch of the ref; the rest zero
};

/// The data was durable before the record was written: replay needs no proof of it.
inline constexpr std::uint8_t kRecordDurable = 1;
/// The block's last page, less the zeros in it, is in the page before the block's first: a frame's header.
inline constexpr std::uint8_t kRecordPacked = 2;

/// What is left of a packed block's last page when the longest run of zeros in it is gone. The two ends lie
/// side by side at the end of the frame's header page, so that what was last is still where it was.
struct PackedTail {
  std::uint8_t head_words = 0;  // of 8 bytes, from the page's start
  std::uint8_t end_words = 0;   // up to the page's end
  bool operator==(const PackedTail&) const = default;

  /// Whether a block is packed at all.
  bool is_some() const { return head_words != 0 || end_words != 0; }
  std::uint32_t head_size() const { return head_words * 8U; }
  std::uint32_t end_size() const { return end_words * 8U; }
  std::uint32_t size() const { return head_size() + end_size(); }
  std::uint16_t code() const { return static_cast<std::uint16_t>(head_words | end_words << 8); }
  static PackedTail of_code(std::uint16_t code) {
    return {static_cast<std::uint8_t>(code & 0xFF), static_cast<std::uint8_t>(code >> 8)};
  }
};

/// One change of the index, or one entry of a checkpoint.
struct StoreRecord {
  std::uint64_t type_volume = 0;  //  0  (type << 40) | volume
  std::uint64_t epoch = 0;        //  8
  std::uint64_t index = 0;        // 16
  std::uint32_t slot = 0;         // 24
  std::uint32_t size = 0;         // 28  bytes of the block
  std::uint32_t data_crc = 0;     // 32  crc32c of them; with kRecordDurable the PackedTail's code, or 0
  std::uint16_t page = 0;         // 36  within the slot
  RecordKind kind{};              // 38
  std::uint8_t flags = 0;         // 39
  bool operator==(const StoreRecord&) const = default;

  BlockRef ref() const { return decode_block_ref(std::as_bytes(std::span(this, 1))); }
  void set_ref(const BlockRef& ref) {
    encode_block_ref(ref, std::as_writable_bytes(std::span(this, 1)));
  }
  bool is_put() const { return kind == RecordKind::put_slot || kind == RecordKind::put_inline; }
  bool is_durable() const { return (flags & kRecordDurable) != 0; }
  bool is_packed() const { return (flags & kRecordPacked) != 0; }
  /// A block whose bytes are in the frame of this record.
  bool is_carried() const { return kind == RecordKind::put_inline && !is_durable(); }
  /// Pages of the file from `page` on that the block has for itself.
  std::uint32_t own_pages() const;
};
static_assert(sizeof(StoreRecord) == 40 && offsetof(StoreRecord, flags) == 39);
static_assert(std::has_unique_object_representations_v<StoreRecord>, "no hidden padding");

/// The first page of a log frame: this, the records, zeros, a PackedTail's bytes. The inline pages follow.
struct FrameHeader {
  std::uint32_t magic = kFrameMagic;   //  0
  std::uint32_t self_crc = 0;          //  4  crc32c of bytes [8, 4096) of the page
  std::uint64_t sequence = 0;          //  8  grows by one a frame, for ever
  std::uint64_t group_sequence = 0;    // 16  of the first frame that shares this one's sync
  std::uint64_t session = 0;           // 24  a random number of this opening of the store
  std::uint32_t previous_crc = 0;      // 32  self_crc of the frame before
  std::uint32_t next_slot = 0;         // 36  where the log goes on after this slot
  std::uint16_t record_count = 0;      // 40
  std::uint16_t inline_page_count = 0; // 42
  std::uint32_t slot = 0;              // 44  where this frame lies,
  std::uint32_t page = 0;              // 48  so that one copied elsewhere is not one
  std::uint16_t tail_code = 0;         // 52  PackedTail of the first inline block; 0: it is not packed
  std::uint16_t reserved = 0;          // 54

  PackedTail tail() const { return PackedTail::of_code(tail_code); }
};
static_assert(sizeof(FrameHeader) == 56 && offsetof(FrameHeader, tail_code) == 52 && offsetof(FrameHeader, slot) == 44);
static_assert(std::has_unique_object_representations_v<FrameHeader>, "no hidden padding");

inline constexpr std::size_t kFrameRecordsMax =
    (kPageSize - sizeof(FrameHeader)) / sizeof(StoreRecord);
static_assert(kFrameRecordsMax == 101);
/// A block is packed only if its tail leaves room for its own record.
inline constexpr std::size_t kPackedTailMax = kPageSize - sizeof(FrameHeader) - sizeof(StoreRecord);

/// The first page of a checkpoint slot: this, then zeros. The records follow in the next pages.
struct CheckpointHeader {
  std::uint32_t magic = kCheckpointMagic;  //  0
  std::uint32_t self_crc = 0;              //  4  crc32c of bytes [8, 48)
  std::uint64_t generation = 0;            //  8  of the superblock that names it
  std::uint32_t next_slot = kNoSlot;       // 16
  std::uint32_t record_count = 0;          // 20
  std::uint32_t records_crc = 0;           // 24  crc32c of the records
  std::uint32_t chain_index = 0;           // 28  0, 1, ... along the chain
  std::uint64_t reserved[2] = {};          // 32
};
static_assert(sizeof(CheckpointHeader) == 48 && offsetof(CheckpointHeader, chain_index) == 28);
static_assert(std::has_unique_object_representations_v<CheckpointHeader>, "no hidden padding");

inline std::uint32_t pages_of(std::uint64_t size) {
  return static_cast<std::uint32_t>((size + kPageSize - 1) / kPageSize);
}
inline std::uint32_t StoreRecord::own_pages() const { return pages_of(size) - (is_packed() ? 1 : 0); }
inline std::uint32_t checkpoint_records_max(std::uint32_t block_size) {
  return (block_size - kPageSize) / static_cast<std::uint32_t>(sizeof(StoreRecord));
}

/// What decoded numbers must fit.
struct StoreShape {
  std::uint32_t block_size = 0;
  std::uint32_t slot_count = 0;  // slots that the file holds
  std::uint32_t pages_per_slot() const { return block_size / kPageSize; }
};

/// Fills a page. Shape: `page` is kPageSize.
void encode_superblock(Superblock superblock, MutableBytes page);
/// Errors: corrupt; not_supported (a newer version).
Result<Superblock> decode_superblock(ConstBytes page);

struct Frame {
  FrameHeader header;
  std::vector<StoreRecord> records;
};
/// The tail of a block of whole pages, two or more, if no more than `size_max` bytes of its last page are
/// left; else none.
PackedTail find_tail(ConstBytes block, std::size_t size_max);
/// Makes the last page of a packed block of its frame's header page. Shape: both are kPageSize.
void unpack_tail(PackedTail tail, ConstBytes header_page, MutableBytes out);
/// Fills a page and returns its self_crc. Shape: `page` is kPageSize; at most kFrameRecordsMax, fewer beside a
/// tail; `packed` is the block of the header's tail, empty when it has none.
std::uint32_t encode_frame(FrameHeader header, std::span<const StoreRecord> records,
                           MutableBytes page, ConstBytes packed = {});
/// The header of an intact frame that was written to this place; nothing else is said about its
/// fields. Errors: corrupt.
Result<FrameHeader> decode_frame_header(ConstBytes page, std::uint32_t slot,
                                        std::uint32_t page_index);
/// The whole frame, each record in range. Errors: corrupt.
Result<Frame> decode_frame(ConstBytes page, std::uint32_t slot, std::uint32_t page_index,
                           const StoreShape& shape);

/// Fills the header page of a checkpoint slot. Shape: `records` are the bytes that follow it.
void encode_checkpoint(CheckpointHeader header, ConstBytes records, MutableBytes page);
struct CheckpointPart {
  CheckpointHeader header;
  std::vector<StoreRecord> records;
};
/// Shape: `slot_bytes` is a whole slot. Errors: corrupt.
Result<CheckpointPart> decode_checkpoint(ConstBytes slot_bytes, const StoreShape& shape);

/// Whether a record's numbers make sense in a file of `shape`.
bool record_fits(const StoreRecord& record, const StoreShape& shape);

}  // namespace agro
