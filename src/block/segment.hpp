// Segment: the payload of one data block: sectors of a volume and what they are.
//
//   [0, 4096 * sector_count)   sectors, in the order they were written
//   then                       extent_count SegmentExtents
//   last 16 bytes              SegmentFooter
// Extents apply in order: a later one wins. A trim or zero extent has no sectors; it is a tombstone
// without which replay would bring old data back.
// Format: docs/formats/segment.md. Source: DESIGN.md section 3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"

namespace agro {

/// Bytes of a sector, the unit of the extent map.
inline constexpr std::uint32_t kSectorSize = kPageSize;

enum class ExtentKind : std::uint16_t {
  data = 1,  // `sector` says where in the segment
  hole = 2,  // trimmed: reads as zeros, nothing allocated
  zero = 3,  // written as zeros: reads as zeros, counts as allocated
};

/// docs/formats/segment.md, "Extents".
struct SegmentExtent {
  std::uint64_t lba;     //  0  first sector of the volume
  std::uint32_t count;   //  8  sectors
  std::uint16_t kind;    // 12  ExtentKind
  std::uint16_t sector;  // 14  data: first sector in this segment; else 0
};
static_assert(sizeof(SegmentExtent) == 16 && offsetof(SegmentExtent, sector) == 14);
static_assert(std::has_unique_object_representations_v<SegmentExtent>, "no hidden padding");

struct SegmentFooter {
  std::uint32_t magic;         //  0  kSegmentMagic
  std::uint16_t version;       //  4  1
  std::uint16_t flags;         //  6  kSegmentByCleaner
  std::uint32_t sector_count;  //  8
  std::uint32_t extent_count;  // 12
};
static_assert(sizeof(SegmentFooter) == 16 && offsetof(SegmentFooter, extent_count) == 12);
static_assert(std::has_unique_object_representations_v<SegmentFooter>, "no hidden padding");
inline constexpr std::uint32_t kSegmentMagic = 0x31474553;  // "SEG1"
inline constexpr std::uint16_t kSegmentByCleaner = 1;

/// A decoded segment; the sectors stay where they are.
struct SegmentView {
  ConstBytes sectors;
  std::vector<SegmentExtent> extents;
  std::uint16_t flags = 0;

  std::uint32_t sector_count() const {
    return static_cast<std::uint32_t>(sectors.size() / kSectorSize);
  }
  ConstBytes sector(std::uint32_t index) const {
    return sectors.subspan(std::size_t{index} * kSectorSize, kSectorSize);
  }
};

/// Shape: `payload` outlives the view. Errors: corrupt (counts that do not fit, an extent outside
/// the segment or beyond 2^52 sectors, an unknown kind).
Result<SegmentView> decode_segment(ConstBytes payload);

/// Collects sectors and extents into a buffer until it is full.
class SegmentBuilder {
 public:
  /// Shape: `buffer` holds at least `payload_capacity` bytes, and the trailer of the blockset.
  SegmentBuilder(std::shared_ptr<AlignedBuffer> buffer, std::uint32_t payload_capacity);

  bool empty() const { return extents_.empty(); }
  std::uint32_t sector_count() const { return sector_count_; }
  /// Whether another extent of any kind, with at least one sector, fits.
  bool has_room() const { return room_sectors() > 0; }
  /// How many sectors fit as one further extent.
  std::uint32_t room_sectors() const;

  /// Appends sectors and returns the index of the first.
  /// Shape: whole sectors, at most room_sectors() of them.
  std::uint32_t add_data(std::uint64_t lba, ConstBytes data);
  /// Appends a hole or zero extent. Shape: has_room().
  void add_marker(std::uint64_t lba, std::uint32_t count, ExtentKind kind);

  /// A sector that was added, to read or to overwrite before sealing.
  MutableBytes sector(std::uint32_t index, std::uint32_t count = 1) {
    return buffer_->bytes().subspan(std::size_t{index} * kSectorSize,
                                    std::size_t{count} * kSectorSize);
  }
  const std::vector<SegmentExtent>& extents() const { return extents_; }

  /// Writes extent table and footer after the sectors; returns the payload's size.
  std::uint32_t finish(std::uint16_t flags);
  const std::shared_ptr<AlignedBuffer>& buffer() const { return buffer_; }

 private:
  std::shared_ptr<AlignedBuffer> buffer_;
  std::uint32_t payload_capacity_;
  std::uint32_t sector_count_ = 0;
  std::vector<SegmentExtent> extents_;
};

}  // namespace agro
