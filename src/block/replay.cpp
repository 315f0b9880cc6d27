#include "block/replay.hpp"

#include <fmt/format.h>

#include "base/mutant.hpp"

namespace agro {

Result<std::vector<SectorRange>> ranges_of_segment(ConstBytes payload) {
  AGRO_TRY(const SegmentView view, decode_segment(payload));
  std::vector<SectorRange> ranges;
  for (const SegmentExtent& extent : view.extents) ranges.push_back({extent.lba, extent.count});
  return ranges;
}

Result<void> replay_segment(VolumeMap& map, const BlockRef& ref, std::uint32_t size,
                            ConstBytes payload) {
  Result<SegmentView> view = decode_segment(payload);
  if (!view) return fail(with_context(std::move(view).error(), "block " + ref.to_string()));
  const BlockId id = map.add_open_block(ref.epoch);
  for (const SegmentExtent& extent : view->extents) {
    const auto kind = static_cast<ExtentKind>(extent.kind);
    if (AGRO_MUTANT(kTrimNotReplayed) && kind != ExtentKind::data) continue;
    if (extent.lba + extent.count > map.map().sector_count()) {
      return fail(Errc::corrupt,
                  fmt::format("block {}: an extent beyond the volume's end", ref.to_string()));
    }
    switch (kind) {
      case ExtentKind::data:
        map.assign(extent.lba, extent.count, id, extent.sector);
        break;
      case ExtentKind::hole:
        map.assign(extent.lba, extent.count, kHoleBlock, 0);
        break;
      case ExtentKind::zero:
        map.assign(extent.lba, extent.count, kZeroBlock, 0);
        break;
    }
  }
  map.seal_block(id, ref.index, view->sector_count(), size);
  map.set_durable(id);
  return {};
}

}  // namespace agro
