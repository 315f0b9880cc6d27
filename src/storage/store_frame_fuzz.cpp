// Any bytes as a frame: a clear error or a value in range, never a crash.
#include <algorithm>
#include <cstring>

#include "base/crc32c.hpp"
#include "storage/store_format.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;
  const StoreShape shape{.block_size = 64 * 1024, .slot_count = 100};
  AlignedBuffer page(kPageSize);
  std::memset(page.data(), 0, page.size());
  std::memcpy(page.data(), data, std::min<std::size_t>(size, page.size()));
  // With its checksum put right, so that the rest is looked at too.
  for (const bool repaired : {false, true}) {
    if (repaired) store(page.bytes().subspan(4), crc32c(page.bytes().subspan(8)));
    const auto header = load<FrameHeader>(page.bytes());
    const Result<Frame> frame = decode_frame(page.bytes(), header.slot, header.page, shape);
    if (!frame.has_value()) continue;
    AGRO_ASSERT(frame->records.size() == frame->header.record_count);
    AGRO_ASSERT(frame->header.next_slot < shape.slot_count);
    for (const StoreRecord& record : frame->records) AGRO_ASSERT(record_fits(record, shape));
  }
  return 0;
}
