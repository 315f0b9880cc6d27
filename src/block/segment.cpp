#include "block/segment.hpp"

#include <algorithm>
#include <array>

namespace agro {
namespace {

constexpr std::uint64_t kLbaLimit = std::uint64_t{1} << 52;
constexpr std::uint32_t kSectorCountMax = 65535;

bool extent_is_sound(const SegmentExtent& extent, std::uint32_t sector_count) {
  if (extent.count == 0 || extent.lba >= kLbaLimit || extent.count > kLbaLimit - extent.lba) {
    return false;
  }
  switch (static_cast<ExtentKind>(extent.kind)) {
    case ExtentKind::data: return std::uint64_t{extent.sector} + extent.count <= sector_count;
    case ExtentKind::hole:
    case ExtentKind::zero: return extent.sector == 0;
  }
  return false;
}

}  // namespace

Result<SegmentView> decode_segment(ConstBytes payload) {
  if (payload.size() < sizeof(SegmentFooter)) return fail(Errc::corrupt, "segment too short");
  const auto footer = load<SegmentFooter>(payload.last(sizeof(SegmentFooter)));
  if (footer.magic != kSegmentMagic || footer.version != 1) {
    return fail(Errc::corrupt, "not a segment of version 1");
  }
  const std::uint64_t expected_size = std::uint64_t{footer.sector_count} * kSectorSize +
                                      std::uint64_t{footer.extent_count} * sizeof(SegmentExtent) +
                                      sizeof(SegmentFooter);
  if (expected_size != payload.size()) return fail(Errc::corrupt, "segment counts do not fit");
  SegmentView view;
  view.flags = footer.flags;
  view.sectors = payload.first(std::size_t{footer.sector_count} * kSectorSize);
  view.extents.resize(footer.extent_count);
  const ConstBytes table = payload.subspan(view.sectors.size());
  for (std::uint32_t index = 0; index < footer.extent_count; ++index) {
    view.extents[index] = load<SegmentExtent>(table.subspan(index * sizeof(SegmentExtent)));
    if (!extent_is_sound(view.extents[index], footer.sector_count)) {
      return fail(Errc::corrupt, "segment extent out of range");
    }
  }
  return view;
}

SegmentBuilder::SegmentBuilder(std::shared_ptr<AlignedBuffer> buffer,
                               std::uint32_t payload_capacity)
    : buffer_(std::move(buffer)), payload_capacity_(payload_capacity) {
  AGRO_ASSERT(buffer_->size() >= payload_capacity);
}

std::uint32_t SegmentBuilder::room_sectors() const {
  const std::size_t taken = std::size_t{sector_count_} * kSectorSize +
                            (extents_.size() + 1) * sizeof(SegmentExtent) + sizeof(SegmentFooter);
  if (taken + kSectorSize > payload_capacity_) return 0;
  const auto room = static_cast<std::uint32_t>((payload_capacity_ - taken) / kSectorSize);
  return std::min(room, kSectorCountMax - sector_count_);
}

std::uint32_t SegmentBuilder::add_data(std::uint64_t lba, ConstBytes data) {
  const auto count = static_cast<std::uint32_t>(data.size() / kSectorSize);
  AGRO_ASSERT(data.size() % kSectorSize == 0);
  AGRO_ASSERT(count > 0);
  AGRO_ASSERT(count <= room_sectors());
  const std::uint32_t first = sector_count_;
  std::memcpy(buffer_->data() + std::size_t{first} * kSectorSize, data.data(), data.size());
  sector_count_ += count;
  if (!extents_.empty()) {
    SegmentExtent& last = extents_.back();
    const bool continues = last.kind == static_cast<std::uint16_t>(ExtentKind::data) &&
                           last.lba + last.count == lba && last.sector + last.count == first;
    if (continues) {
      last.count += count;
      return first;
    }
  }
  extents_.push_back({lba, count, static_cast<std::uint16_t>(ExtentKind::data),
                      static_cast<std::uint16_t>(first)});
  return first;
}

void SegmentBuilder::add_marker(std::uint64_t lba, std::uint32_t count, ExtentKind kind) {
  AGRO_ASSERT(has_room());
  AGRO_ASSERT(kind != ExtentKind::data);
  extents_.push_back({lba, count, static_cast<std::uint16_t>(kind), 0});
}

std::uint32_t SegmentBuilder::finish(std::uint16_t flags) {
  std::size_t position = std::size_t{sector_count_} * kSectorSize;
  const std::size_t table_size = extents_.size() * sizeof(SegmentExtent);
  AGRO_ASSERT(position + table_size + sizeof(SegmentFooter) <= payload_capacity_);
  if (table_size > 0) std::memcpy(buffer_->data() + position, extents_.data(), table_size);
  position += table_size;
  const SegmentFooter footer{kSegmentMagic, 1, flags, sector_count_,
                             static_cast<std::uint32_t>(extents_.size())};
  store(buffer_->bytes().subspan(position), footer);
  return static_cast<std::uint32_t>(position + sizeof footer);
}

}  // namespace agro
